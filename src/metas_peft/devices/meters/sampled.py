"""From samples of power to energy: when a mean of them can be trusted, and how far.

A sampler that averages over the last w seconds is not integrated by trapezoids: w times the sum of its values at
t0 + w, t0 + 2w, ... is exactly the energy since t0, for any course of the power.

Samples of the moment know a mean as well as n random draws do, if they see all parts of a pass alike. A sensor whose
period is nearly a multiple of the passes' (or the other way round) sees them one after the other, so slowly that the
samples of a window may not differ at all:

    power     |~~|__|~~|__|~~|__|~~|__|~~|__|~~|__|     passes of 50.05 ms
    samples     x     x     x     x     x     x         every 50 ms: always the same part, until a second has passed

So the phases of the samples within their passes are compared with an even spread (Kuiper's statistic, the largest
excess or lack of samples in any part of a pass). Above `UNCOVERED` nothing is known of the mean, and a longer window is
needed; below, the error is at most about the scatter times that statistic. The moment at which a sensor looked is not
known to its update period, so both the time of the sample and the sensor's own grid are tried, and the worse counts.

Time in which no sample was taken, or by which a clock jumped, counts as not known.
"""

import math

import numpy as np

from metas_peft.core.errors import MeasurementError
from metas_peft.devices.meters.base import MIN_UPDATES, PowerSampler
from metas_peft.devices.meters.track import Stretch, check_clock, check_power

Array = np.ndarray

UNCOVERED = 0.25
HOLE = 2.0  # usual distances between two readings, beyond which one is missing


def sampled_stretch(
    times_s: Array,
    watts: Array,
    start_s: float,
    end_s: float,
    sampler: PowerSampler,
    *,
    needed: int = MIN_UPDATES,
    passes_s: Array | None = None,
) -> Stretch:
    """Energy of a window from samples of power.

    Args:
        times_s: When they were taken, shape (N,).
        watts: Their values, shape (N,).
        start_s: When the work began; it goes on until `end_s`.
        end_s: When it ended.
        sampler: For its period, averaging time and largest power.
        needed: Fewest samples.
        passes_s: When passes began and the last one ended, shape (M,); None where the work does not repeat itself.

    Raises:
        MeasurementError: The samples make no sense, or are too few.
    """
    name, width_s = sampler.name, sampler.averaging_s
    check_clock(name, times_s, sampler.update_period_s)
    check_samples(sampler, watts)
    begin_s = start_s + sampler.update_period_s
    inside = (times_s >= begin_s) & (times_s <= end_s)
    if np.count_nonzero(inside) < needed:
        raise MeasurementError(
            f"{name}: {np.count_nonzero(inside)} samples in a window of {end_s - start_s:.2f} s, {needed} are needed. "
            f"Measure for at least {sampler.min_window_s:.1f} s."
        )
    inner_s, inner_w = times_s[inside], watts[inside]
    timing = missing_s(times_s, start_s, end_s, sampler.update_period_s) / (end_s - start_s)
    if width_s <= 0:
        spread = unevenness(inner_s, sampler.update_period_s, passes_s)
        scatter = _scatter(inner_s, inner_w) / max(float(inner_w.mean()), 1e-12)
        return Stretch(
            float(inner_s[0]), float(inner_s[-1]), {name: float(np.trapezoid(inner_w, inner_s))}, inner_s, inner_w,
            timing=timing, sampling=1.0 if spread > UNCOVERED else scatter * max(1 / math.sqrt(len(inner_w)), spread),
        )  # fmt: skip
    count = int((inner_s[-1] - inner_s[0]) / width_s)
    if count < 1:
        raise MeasurementError(
            f"{name}: averages over {width_s:g} s, but the window was {end_s - start_s:.2f} s. Measure for at least "
            f"{sampler.min_window_s:.1f} s."
        )
    marks_s = inner_s[0] + width_s * np.arange(1, count + 1)
    means_w = np.asarray(np.interp(marks_s, inner_s, inner_w), dtype=np.float64)
    energy_j = count * width_s * float(np.mean(means_w))
    whole = inner_s >= inner_s[0] + width_s
    return Stretch(
        float(inner_s[0]), float(marks_s[-1]), {name: energy_j}, inner_s[whole] - width_s / 2, inner_w[whole],
        timing=timing,
    )  # fmt: skip


def check_samples(sampler: PowerSampler, watts: Array) -> None:
    """Samples of power that can be true.

    Raises:
        MeasurementError: One is negative, not finite or impossibly large.
    """
    for value in watts[~np.isfinite(watts) | (watts < 0)][:1]:
        raise MeasurementError(
            f"{sampler.name}: read {value:g} W; a power of 0 or more was expected. Check how the sensor is connected "
            "(a current measured backwards is negative)."
        )
    if len(watts):
        check_power(sampler.name, float(watts.max()), sampler.max_power_w)


def missing_s(times_s: Array, start_s: float, end_s: float, period_s: float = 0.0, edge_s: float = math.inf) -> float:
    """Time between start and end for which readings are missing, or by which the clock jumped.

    Args:
        times_s: When readings were taken, shape (N,).
        start_s: When the work began.
        end_s: When it ended.
        period_s: Shortest usual distance between two readings.
        edge_s: Only what is missing so close to start or end counts.
    """
    marks_s = np.concatenate([[start_s], times_s[(times_s > start_s) & (times_s < end_s)], [end_s]])
    gaps_s = np.diff(marks_s)
    usual_s = max(period_s, float(np.median(gaps_s)))
    counts = (gaps_s > HOLE * usual_s) & ((marks_s[:-1] < start_s + edge_s) | (marks_s[1:] > end_s - edge_s))
    return float((gaps_s[counts] - usual_s).sum())


def unevenness(times_s: Array, period_s: float, passes_s: Array | None) -> float:
    """How unevenly samples are spread over the phases of passes: 0 evenly, 1 all in the same phase; the worse guess.

    Args:
        times_s: When samples were taken, shape (N,).
        period_s: Update period of the sensor, on whose grid it may have looked instead.
        passes_s: When passes began and the last one ended, shape (M,); None where there are none.
    """
    if passes_s is None or len(passes_s) < 2:
        return 0.0
    return max(_kuiper(_phases(guess_s, passes_s)) for guess_s in (times_s, np.floor(times_s / period_s) * period_s))


def _phases(times_s: Array, passes_s: Array) -> Array:
    """Where within its pass each time lies, in [0, 1); times outside of all passes are left out."""
    within = times_s[(times_s >= passes_s[0]) & (times_s < passes_s[-1])]
    index = np.searchsorted(passes_s, within, side="right")
    return (within - passes_s[index - 1]) / (passes_s[index] - passes_s[index - 1])


def _kuiper(phases: Array) -> float:
    n = len(phases)
    if n == 0:
        return 1.0
    ordered, ranks = np.sort(phases), np.arange(1, n + 1) / n
    return float((ranks - ordered).max() + (ordered - ranks + 1 / n).max())


def _scatter(times_s: Array, watts: Array) -> float:
    """Standard deviation beside a trend: by successive differences, or about the line where a slow beat hides there."""
    since_s: Array = times_s - float(times_s.mean())
    slope, offset = np.polyfit(since_s, watts, 1)
    about_line = float(np.std(watts - offset - slope * since_s))
    return max(float(np.std(np.diff(watts))) / math.sqrt(2), about_line)
