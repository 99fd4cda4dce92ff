"""Intervals around medians, played through with measurements that stop when they seem to know enough."""

import math

import numpy as np
import pytest

from metas_peft.devices.median import FEWEST_TRIALS, FEWEST_WINDOWS, trials_known_to, windows_known_to

TOLERANCE = 0.02


def covered_pct(draw, known_to, fewest, runs, most, seed=0):
    """Runs that look after every round and stop at the tolerance: how often the true median, 1, is in the interval."""
    rng = np.random.default_rng(seed)
    inside = 0
    for _ in range(runs):
        samples = draw(rng, most)
        n = fewest
        while (known := known_to(samples[:n])) > TOLERANCE and n < most:
            n += 1
        median = np.median(samples[:n])
        inside += abs(median - 1.0) <= known * median
    return 100.0 * inside / runs


def normal(spread):
    return lambda rng, n: np.exp(rng.normal(0.0, spread, n))


def long_tailed(spread):
    """Never much faster, sometimes much slower."""
    return lambda rng, n: 1.0 + rng.exponential(spread, n) - spread * math.log(2.0)


@pytest.mark.parametrize("draw", [normal, long_tailed])
@pytest.mark.parametrize("spread", [0.005, 0.02, 0.04])
def test_trials_hold_the_median_in_95_of_100_runs_that_stop_when_they_know_enough(draw, spread):
    assert 93.0 <= covered_pct(draw(spread), trials_known_to, FEWEST_TRIALS, runs=600, most=150)


@pytest.mark.parametrize("spread", [0.005, 0.01, 0.02])
def test_windows_hold_the_median_in_95_of_100_runs_that_stop_when_they_know_enough(spread):
    assert 93.0 <= covered_pct(normal(spread), windows_known_to, FEWEST_WINDOWS, runs=600, most=60)


@pytest.mark.parametrize("n", [7, 8, 12, 20, 60, 199, 201, 400])
def test_interval_of_a_fixed_number_of_trials_is_not_much_too_wide_either(n):
    rng = np.random.default_rng(n)
    inside = 0
    for samples in np.exp(rng.normal(0.0, 0.05, (600, n))):
        median = np.median(samples)
        inside += abs(median - 1.0) <= trials_known_to(samples) * median
    assert 93.0 <= 100.0 * inside / 600 <= 99.8


def test_too_few_know_nothing():
    assert FEWEST_TRIALS >= 6
    assert trials_known_to(np.ones(FEWEST_TRIALS - 1)) == math.inf
    assert trials_known_to(np.ones(FEWEST_TRIALS)) == 0.0
    assert windows_known_to(np.ones(FEWEST_WINDOWS - 1)) == math.inf
    assert windows_known_to(np.ones(FEWEST_WINDOWS)) == 0.0
