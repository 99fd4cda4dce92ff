"""From readings of a counter to energy: what can be trusted is used, what cannot is refused with a reason.

    counter     ____/~~~~|____/~~~~|____/~~~~|      steps of an update period, seen by polls in between
    polls       . . . . . . . . . . . . . . . .
    window          [start                  end]
    stretch              |<------------->|          from the first step an update period after the start to the last

A counter's value is exact at its steps and old in between, so energy is taken between two steps and the time between
them with it. Passes run back to back in the window, so what is left out at its edges is filled with the mean power of
the stretch, or its trend where it rises. How well the energy is known follows: the time of a step is known to half a
poll, and power that swings more slowly than the meter steps makes the edges differ from the middle. A value that falls
is a wrap-around if the counter has a known range and the power that this would mean is possible, else a restart, which
is refused. A restart close to the end of the range looks like a wrap-around; so the energy of that step counts as not
known by as much as it differs from the steps beside it. A counter that stands still for ten periods is stuck; readings
that are missing for longer than that are a dropout, a sleep of the machine or a jump of its clock.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from metas_peft.core.errors import MeasurementError
from metas_peft.devices.meters.base import MIN_UPDATES, EnergyCounter

Array = np.ndarray

STUCK_UPDATES = 10
DROPOUT_UPDATES = 10
SHORTEST_DROPOUT_S = 0.5  # a busy processor may keep the thread that polls waiting for so long
STEPS_BESIDE = 5  # of a wrap-around, on either side
EDGE_UPDATES = 3  # at the edges of a window: one to settle, one to the next step, one before the end


@dataclass(frozen=True, eq=False)
class Stretch:
    """Part of a window whose energy is known.

    Attributes:
        start_s: When it begins.
        end_s: When it ends.
        energy_j: Energy by rail.
        course_s: Times in the stretch, shape (N,).
        course_w: Power about these times, shape (N,).
        timing: How far start and end may be off together, as a fraction of the length.
        sampling: How well the mean power is known from samples of the moment, as a fraction; 0 for means.
        wrapping: Energy that may be a restart's rather than a wrap-around's, as a fraction.
    """

    start_s: float
    end_s: float
    energy_j: Mapping[str, float]
    course_s: Array
    course_w: Array
    timing: float = 0.0
    sampling: float = 0.0
    wrapping: float = 0.0

    @property
    def duration_s(self) -> float:
        """Its length."""
        return self.end_s - self.start_s

    @property
    def mean_power_w(self) -> float:
        """Energy of all rails by time."""
        return sum(self.energy_j.values()) / self.duration_s


def fill_window(stretch: Stretch, start_s: float, end_s: float) -> tuple[dict[str, float], float]:
    """Energy of a whole window, and how well it is known.

    Args:
        stretch: The part whose energy is known.
        start_s: When the work began.
        end_s: When it ended.

    Returns:
        Energy by rail, and its standard uncertainty in percent.
    """
    mean_w, window_s = stretch.mean_power_w, end_s - start_s
    centre_s = 0.5 * (stretch.start_s + stretch.end_s)
    slope, residual_w = 0.0, 0.0
    if len(stretch.course_s) > 2 and mean_w > 0:
        slope, offset = np.polyfit(stretch.course_s - centre_s, stretch.course_w, 1)
        residual_w = float(np.std(stretch.course_w - offset - slope * (stretch.course_s - centre_s)))
    window_w = mean_w + float(slope) * (0.5 * (start_s + end_s) - centre_s)
    factor = window_w * window_s / (mean_w * stretch.duration_s) if mean_w > 0 else window_s / stretch.duration_s
    edges = residual_w * (window_s - stretch.duration_s) / (mean_w * window_s) if mean_w > 0 else 0.0
    known_to = float(np.linalg.norm([stretch.timing, stretch.sampling, stretch.wrapping, edges]))
    return {rail: energy_j * factor for rail, energy_j in stretch.energy_j.items()}, 100.0 * known_to


def counter_stretch(
    times_s: Array, energy_j: Mapping[str, Array], start_s: float, end_s: float, counter: EnergyCounter
) -> Stretch:
    """Energy of a window from polls of a counter.

    Args:
        times_s: When it was polled, shape (N,).
        energy_j: Values by rail, each of shape (N,).
        start_s: When the work began; it goes on until `end_s`.
        end_s: When it ended.
        counter: For its update period, range and largest power.

    Raises:
        MeasurementError: The readings make no sense, or are too few.
    """
    name, period_s = counter.name, counter.update_period_s
    check_clock(name, times_s, period_s)
    rails = {rail: _unwrapped(times_s, values, rail, counter) for rail, values in energy_j.items()}
    doubts_j = [_wrapping_j(times_s, energy_j[rail], values) for rail, values in rails.items()]
    total: Array = np.stack(list(rails.values())).sum(axis=0)
    changed = np.flatnonzero(np.diff(total) > 0) + 1
    # A step was made between two polls, at most an update period before the second of them.
    stepped_s = 0.5 * (times_s[changed] + np.maximum(times_s[changed - 1], times_s[changed] - period_s))
    inside = (stepped_s >= start_s + period_s) & (stepped_s <= end_s)
    _check_steps(counter, stepped_s[inside], start_s, end_s, float(np.median(np.diff(times_s))))
    steps, steps_s = changed[inside], stepped_s[inside]
    length_s = float(steps_s[-1] - steps_s[0])
    half_step_s = np.minimum(times_s[steps] - times_s[steps - 1], period_s)[[0, -1]] / 2
    stretch = Stretch(
        start_s=float(steps_s[0]),
        end_s=float(steps_s[-1]),
        energy_j={rail: float(values[steps[-1]] - values[steps[0]]) for rail, values in rails.items()},
        course_s=0.5 * (steps_s[1:] + steps_s[:-1]),
        course_w=np.diff(total[steps]) / np.diff(steps_s),
        timing=float(np.linalg.norm(half_step_s)) / math.sqrt(3) / length_s,
        wrapping=float(np.linalg.norm(doubts_j)) / max(float(total[steps[-1]] - total[steps[0]]), 1e-12),
    )
    check_power(name, stretch.mean_power_w, counter.max_power_w)
    return stretch


def check_clock(name: str, times_s: Array, period_s: float) -> None:
    """Readings in order of time and without holes.

    Raises:
        MeasurementError: Time went backwards, or nothing was read for too long.
    """
    steps = np.diff(times_s)
    if (steps < 0).any():
        raise MeasurementError(f"{name}: the clock went back by {-steps.min():.3f} s during a window. Measure again.")
    longest = max(DROPOUT_UPDATES * period_s, SHORTEST_DROPOUT_S)
    if len(steps) and steps.max() > longest:
        raise MeasurementError(
            f"{name}: no reading for {steps.max():.2f} s during a window, {longest:.2f} s are bearable. The meter "
            "dropped out, the clock jumped or the machine slept; check its connection and measure again."
        )


def _unwrapped(times_s: Array, values: Array, rail: str, counter: EnergyCounter) -> Array:
    """Values of a rail without wrap-around."""
    if not np.isfinite(values).all():
        raise MeasurementError(f"{counter.name}: rail {rail} gave {values[~np.isfinite(values)][0]}, not a number.")
    steps = np.diff(values)
    falls = np.flatnonzero(steps < 0)
    if not len(falls):
        return values
    range_j = counter.wrap_j().get(rail)
    if range_j is None:
        at = falls[0]
        raise MeasurementError(
            f"{counter.name}: the counter of rail {rail} fell from {values[at]:g} to {values[at + 1]:g} J during a "
            "window. It was started again, or its driver was; measure again."
        )
    for at in falls:
        through_j = steps[at] + range_j
        most_j = counter.max_power_w * max(times_s[at + 1] - times_s[at], counter.update_period_s)
        if not 0 <= through_j <= most_j:
            raise MeasurementError(
                f"{counter.name}: the counter of rail {rail} fell from {values[at]:g} to {values[at + 1]:g} J during a "
                f"window. Its range is {range_j:g} J, so this is no wrap-around but a restart; measure again."
            )
    gaps_s = np.diff(times_s)
    if gaps_s.max() * counter.max_power_w > range_j:
        raise MeasurementError(
            f"{counter.name}: {gaps_s.max():.2f} s between two readings; the counter could have wrapped around more "
            "than once. Measure when the machine is quieter."
        )
    return values + range_j * np.concatenate([[0], np.cumsum(steps < 0)])


def _wrapping_j(times_s: Array, values: Array, unwrapped: Array) -> float:
    """By how much the steps over a wrap-around differ from those beside them, by energy or by power, the worse."""
    falls = np.flatnonzero(np.diff(values) < 0) + 1
    changed = np.flatnonzero(np.diff(unwrapped) > 0) + 1
    if not len(falls) or len(changed) < 2:
        return 0.0
    steps_j, steps_s = np.diff(unwrapped[changed]), np.diff(times_s[changed])
    doubts_j: list[float] = []
    for at in np.flatnonzero(np.isin(changed[1:], falls)):
        beside = [i for i in range(max(0, at - STEPS_BESIDE), min(len(steps_j), at + STEPS_BESIDE + 1)) if i != at]
        if beside:
            like_j = np.median(steps_j[beside])
            power_w = np.median(steps_j[beside] / steps_s[beside])
            doubts_j.append(float(max(abs(steps_j[at] - like_j), abs(steps_j[at] - power_w * steps_s[at]))))
    return float(np.linalg.norm(doubts_j))


def _check_steps(counter: EnergyCounter, stepped_s: Array, start_s: float, end_s: float, poll_s: float) -> None:
    """Steps of a counter that are many enough and regular enough."""
    name, period_s = counter.name, counter.update_period_s
    stuck_s = STUCK_UPDATES * max(period_s, poll_s) + EDGE_UPDATES * period_s
    marks_s = np.concatenate([[start_s], stepped_s, [end_s]])
    if np.diff(marks_s).max() > stuck_s:
        raise MeasurementError(
            f"{name}: the counter stood still for {np.diff(marks_s).max():.2f} s; it should move every {period_s:g} s. "
            "Use another meter; if this one moves more slowly, it needs longer windows."
        )
    span_s = stepped_s[-1] - stepped_s[0] if len(stepped_s) else 0.0
    if span_s < (MIN_UPDATES - EDGE_UPDATES) * period_s:
        raise MeasurementError(
            f"{name}: the steps of the counter cover {span_s:.2f} s of a window of {end_s - start_s:.2f} s. Measure "
            f"for at least {counter.min_window_s:.1f} s."
        )


def check_power(name: str, watts: float, most_w: float) -> None:
    """A power that a device of this kind can draw.

    Raises:
        MeasurementError: It cannot.
    """
    if watts > most_w:
        raise MeasurementError(
            f"{name}: {watts:.0f} W is not a power this kind of device can draw ({most_w:.0f} W at most). The meter is "
            "broken; use another one."
        )


def as_arrays(polls: Sequence[tuple[float, Mapping[str, float]]]) -> tuple[Array, dict[str, Array]]:
    """Polls of a counter as arrays.

    Raises:
        MeasurementError: A rail is missing in some of them.
    """
    times_s = np.array([time_s for time_s, _ in polls])
    rails = list(polls[0][1])
    for _, values in polls:
        if list(values) != rails:
            raise MeasurementError(
                f"The meter gave the rails {', '.join(values)} after {', '.join(rails)}; a rail came or went. Measure "
                "again."
            )
    return times_s, {rail: np.array([values[rail] for _, values in polls]) for rail in rails}
