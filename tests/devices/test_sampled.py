"""Sensors of the moment and passes that repeat themselves: what samples in step with passes are worth."""

import math

import numpy as np
import pytest

from metas_peft.devices.meters.base import PowerSampler
from metas_peft.devices.meters.sampled import UNCOVERED, missing_s, sampled_stretch, unevenness
from metas_peft.devices.power import MeteredPower, MeterRules, PassTime


class Moment(PowerSampler):
    name, update_period_s = "moment", 0.05

    def read_w(self):
        raise AssertionError("not read here")


def passes(pass_s, until_s=40.0):
    return np.arange(0.0, until_s + pass_s, pass_s)


@pytest.mark.parametrize(
    ("pass_s", "seconds"), [(0.05, 30.0), (0.05005, 1.2), (0.05005, 30.0), (0.0505, 1.2), (0.1, 9.0)]
)
def test_samples_in_step_with_passes_do_not_cover_them(pass_s, seconds):
    times_s = np.arange(0.0, seconds, 0.05)
    assert unevenness(times_s, 0.05, passes(pass_s)) > UNCOVERED


@pytest.mark.parametrize(("pass_s", "seconds"), [(0.05005, 400.0), (0.0505, 30.0), (0.0137, 3.0), (0.031, 3.0)])
def test_samples_cover_passes_when_the_beat_has_passed_several_times(pass_s, seconds):
    times_s = np.arange(0.0, seconds, 0.05) + 1e-6
    assert unevenness(times_s, 0.05, passes(pass_s, seconds)) < UNCOVERED


def test_grid_of_the_sensor_counts_when_it_is_read_at_odd_times():
    """The sensor looks every 50 ms; that its value is fetched at random does not help."""
    times_s = np.sort(np.random.default_rng(0).uniform(0.0, 10.0, 200))
    assert unevenness(times_s, 0.05, passes(0.05)) == pytest.approx(1.0, abs=0.01)
    assert unevenness(times_s, 0.05, None) == 0.0


def test_slow_beat_is_scatter_although_successive_samples_hardly_differ():
    """A sine of the phase, seen through a beat of 5 s: each sample is within 4 W of the last, over 60 W in all."""
    times_s = np.arange(0.05, 16.0, 0.05)
    watts = 80.0 + 30.0 * np.sin(2 * math.pi * times_s / 5.05)
    stretch = sampled_stretch(times_s, watts, 0.0, 16.0, Moment(), passes_s=passes(0.0505))
    assert np.abs(np.diff(watts)).max() < 4.0
    assert stretch.sampling > 18.0 / 80.0 / math.sqrt(len(times_s))


def test_missing_time_is_what_is_beyond_the_usual_distance():
    times_s = np.delete(np.arange(0.0, 4.0, 0.05), slice(20, 26))
    assert missing_s(times_s, 0.0, 4.0) == pytest.approx(0.3)
    assert missing_s(times_s, 0.0, 4.0, edge_s=0.3) == 0.0
    assert missing_s(np.arange(0.0, 3.7, 0.05), 0.0, 4.0, edge_s=0.3) == pytest.approx(0.3)
    assert missing_s(np.arange(0.0, 4.0, 0.05), 0.0, 4.0) == 0.0


class Bench:
    """Passes of 110 W in their first half and 50 W in their second, read by a sensor that looks every 50 ms."""

    def __init__(self, pass_s):
        self.pass_s, self.now_s, self.poll_s = pass_s, 0.0, 0.0
        self.begun_s = math.inf
        self.rng = np.random.default_rng(5)
        bench = self

        class Sensor(PowerSampler):
            name, boundary, update_period_s = "sensor", "bench", 0.05

            def read_w(self):
                looked_s = math.floor(bench.now_s / 0.05) * 0.05
                if looked_s < bench.begun_s:
                    return 20.0
                return 110.0 if ((looked_s - bench.begun_s) / bench.pass_s) % 1.0 < 0.5 else 50.0

        self.power = MeteredPower(None, Sensor(), clock_s=lambda: self.now_s, sleep=self.sleep, background=False)
        opened = self.power._window
        self.power._window = lambda: self.note(opened())

    def note(self, window):
        self.window, self.poll_s = window, self.now_s
        return window

    def sleep(self, seconds):
        self.now_s += seconds

    def run(self):
        end_s = self.now_s + self.pass_s
        while self.poll_s < end_s:
            self.now_s = max(self.now_s, self.poll_s)
            self.window.poll()
            self.poll_s += self.rng.uniform(0.001, 0.003)
        self.now_s = end_s

    def figures(self, limit_s):
        self.power.prepare()
        self.begun_s = self.now_s
        times = [PassTime(self.pass_s * 1e3, self.pass_s * 1e3, 1.0)]
        return self.power.flight([self.run], times, MeterRules(0, 0.02, limit_s), np.random.default_rng(0)).figures[0]


@pytest.mark.parametrize("pass_s", [0.05, 0.05005, 0.0505, 0.1001])
def test_metered_passes_in_step_with_the_sensor_are_marked_invalid(pass_s):
    """Read without a look at the phases: -37.5 %, known to 0.0 %."""
    figures = Bench(pass_s).figures(limit_s=3.0)
    assert "fall in step" in figures.problem
    assert "energy not known" in figures.note


@pytest.mark.parametrize("pass_s", [0.0137, 0.031, 0.013, 0.007])
def test_metered_passes_out_of_step_are_known_as_well_as_is_said(pass_s):
    figures = Bench(pass_s).figures(limit_s=20.0)
    assert abs(figures.energy_j / (80.0 * pass_s) - 1.0) < figures.known_to < 0.15
