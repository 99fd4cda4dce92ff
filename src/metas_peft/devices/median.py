"""How well the median of repeated measurements is known, when measuring goes on until it is known well enough.

Whoever looks after every round and stops at the first interval that is narrow enough stops too often at one that is
narrow by chance: intervals of 95 % would then hold the true median in 85 to 90 % of the cases. So each look asks for
more than 95 %, such that 95 % are left at the end; the tests play it through.

* **Trials** of a few passes come in dozens and have outliers: the interval between two order statistics, which is right
  for any distribution. Below seven trials there is none at this level.
* **Windows** of a meter are few, and each the mean of many passes: Student's t, wider by the ratio of the errors of a
  median and a mean.
"""

import functools
import importlib
import math
from typing import Any

import numpy as np

Array = np.ndarray

TRIAL_LEVEL = 0.98  # of one look
WINDOW_LEVEL = 0.97
FEWEST_TRIALS = 7  # 2 x 0.5^7 is the first below 1 - TRIAL_LEVEL
FEWEST_WINDOWS = 3
NORMAL_ABOVE = 200  # trials; from here on the normal distribution gives the same ranks
NORMAL_QUANTILE = 2.326  # two-sided TRIAL_LEVEL
MEDIAN_BY_MEAN = 1.25  # standard error of a median by that of a mean, many normal samples


def trials_known_to(samples: Array) -> float:
    """Half width of the interval around the median of trials, shape (N,), as a fraction of it; inf below seven."""
    n = len(samples)
    if n < FEWEST_TRIALS:
        return math.inf
    ordered = np.sort(samples)
    low = _low_rank(n)
    return float((ordered[n - 1 - low] - ordered[low]) / 2 / np.median(ordered))


def windows_known_to(samples: Array) -> float:
    """Half width of the interval around the median of windows, shape (N,), as a fraction of it; inf below three."""
    n = len(samples)
    if n < FEWEST_WINDOWS:
        return math.inf
    error = MEDIAN_BY_MEAN * float(np.std(samples, ddof=1)) / math.sqrt(n)
    return _student(n) * error / float(np.median(samples))


@functools.cache
def _low_rank(n: int) -> int:
    """Index of the smaller of the two order statistics: the largest that keeps the level."""
    if n > NORMAL_ABOVE:
        return math.floor((n - NORMAL_QUANTILE * math.sqrt(n)) / 2)
    chance, below, rank = 0.5**n, 0.0, -1
    for count in range(n // 2):
        below += chance
        if 2 * below > 1 - TRIAL_LEVEL:
            break
        rank = count
        chance *= (n - count) / (count + 1)
    return rank


@functools.cache
def _student(n: int) -> float:
    # Not at the top: SciPy takes its time, and most who import this never read a meter.
    special: Any = importlib.import_module("scipy.special")
    return float(special.stdtrit(n - 1, 0.5 + WINDOW_LEVEL / 2))
