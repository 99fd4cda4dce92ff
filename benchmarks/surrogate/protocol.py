"""The protocol: who is held out, which five are measured, what is tested, how errors are told.

For each set and each seed 0-29: 60 % of its rows (at least ten) are candidates; five of them are chosen without
labels, at random or by design; all other rows of the set, candidates or not, are tested, without exclusions. Every
method sees the same draws, so that differences between methods are paired.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tracks import Track

from metas_peft.surrogate.design import d_optimal

SEEDS = 30
SAMPLES = 5
CANDIDATES = 0.6
DESIGNS = ("random", "quantiles", "d_optimal")


@dataclass(frozen=True)
class Draw:
    """Calibration rows and tested rows of one seed."""

    chosen: np.ndarray
    tested: np.ndarray


def draws(track: Track, name: str, design: str, *, seeds: int = SEEDS, samples: int = SAMPLES) -> list[Draw]:
    """The draws of a set, the same for every method.

    Args:
        track: The records.
        name: Of the set.
        design: `random`, `quantiles` (evenly spaced in the order of FLOPs) or `d_optimal`.
        seeds: How many.
        samples: Rows to calibrate on.
    """
    rows, base = track.rows(name), track.base()
    found = []
    for seed in range(seeds):
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        pool = np.sort(rng.permutation(rows)[: max(int(CANDIDATES * len(rows)), 2 * SAMPLES)])
        if design == "random":
            chosen = rng.choice(pool, samples, replace=False)
        elif design == "quantiles":
            order = pool[np.argsort(track.flops()[pool], kind="stable")]
            chosen = order[np.rint(np.linspace(0, len(pool) - 1, samples)).astype(int)]
        else:
            chosen = pool[d_optimal(base[pool], samples)]
        found.append(Draw(np.sort(chosen), np.setdiff1d(rows, chosen)))
    return found


def absolute_errors(predicted: np.ndarray, logs: np.ndarray) -> np.ndarray:
    """Absolute percentage errors from logarithms; a prediction e^20 off counts as that."""
    return 100 * np.abs(np.exp(np.clip(predicted - logs, -20, 20)) - 1)


def summary(errors: np.ndarray) -> dict[str, list[float]]:
    """Mean, median and 90th percentile per metric; NaN for what was not measured becomes None elsewhere.

    Args:
        errors: Shape (rows, 3).
    """
    return {
        "mean": errors.mean(0).tolist(),
        "median": np.median(errors, axis=0).tolist(),
        "p90": np.quantile(errors, 0.9, axis=0).tolist(),
    }


def paired(ours: np.ndarray, theirs: np.ndarray) -> dict[str, list[float]]:
    """Differences of mean errors on identical draws.

    Args:
        ours: Mean errors, shape (sets, seeds, 3).
        theirs: Of the method compared with, same shape.

    Returns:
        Mean gain (positive: ours is better), its standard error over seeds (each seed averaged over sets), and the
        standard error over sets (each set averaged over seeds).
    """
    gain = theirs - ours
    per_seed, per_set = gain.mean(0), gain.mean(1)
    return {
        "gain": per_seed.mean(0).tolist(),
        "se_seeds": (per_seed.std(0, ddof=1) / np.sqrt(len(per_seed))).tolist(),
        "se_sets": (per_set.std(0, ddof=1) / np.sqrt(len(per_set))).tolist(),
    }


def mean_over(values: Sequence[Sequence[float]]) -> list[float]:
    """Column means of a list of triples."""
    return np.mean(np.array(values, dtype=float), axis=0).tolist()
