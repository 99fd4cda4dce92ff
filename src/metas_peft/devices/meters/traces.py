"""Recordings made of formulas, whose energy is known exactly, and the things that go wrong with meters.

The power of a machine at work: rest, then passes (a square wave on a slope), then rest again. Its energy is an
integral that paper can do. A trace is what a meter with an update period, and perhaps an averaging sensor, would have
shown of it; the functions below then break the meter in one way each.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np

from metas_peft.devices.meters.replay import Trace

Array = np.ndarray

MOST_W = 500.0  # the machine of the formulas cannot draw more


@dataclass(frozen=True)
class Course:
    """Power over time.

    Attributes:
        idle_w: Power at rest, before and after the work.
        work_w: Mean power of the work in its middle.
        swing_w: Amplitude of the square wave of passes.
        pass_s: Period of the square wave.
        slope_w_per_s: How the power of the work rises.
        rest_s: Rest before the work, and after it.
        work_s: How long the work takes.
    """

    idle_w: float = 20.0
    work_w: float = 80.0
    swing_w: float = 30.0
    pass_s: float = 0.02
    slope_w_per_s: float = 0.0
    rest_s: float = 1.0
    work_s: float = 4.0

    @property
    def start_s(self) -> float:
        """When the work begins."""
        return self.rest_s

    @property
    def end_s(self) -> float:
        """When it ends."""
        return self.rest_s + self.work_s

    def power_w(self, time_s: Array) -> Array:
        """Power at some times."""
        since = np.clip(time_s - self.start_s, 0.0, self.work_s)
        wave = np.where((since / self.pass_s) % 1.0 < 0.5, self.swing_w, -self.swing_w)
        work = self.work_w + self.slope_w_per_s * (since - self.work_s / 2) + wave
        return np.where((time_s >= self.start_s) & (time_s < self.end_s), work, self.idle_w)

    def energy_j(self, time_s: Array) -> Array:
        """Energy from time 0 to some times: the integral of `power_w`, in closed form."""
        since = np.clip(time_s - self.start_s, 0.0, self.work_s)
        rest = np.minimum(time_s, self.start_s) + np.maximum(time_s - self.end_s, 0.0)
        phase = (since / self.pass_s) % 1.0
        wave = self.swing_w * self.pass_s * np.where(phase < 0.5, phase, 1.0 - phase)
        ramp = self.slope_w_per_s * (since**2 - self.work_s * since) / 2
        return self.idle_w * rest + self.work_w * since + ramp + wave

    def work_j(self) -> float:
        """Energy of the work."""
        edges = self.energy_j(np.array([self.start_s, self.end_s]))
        return float(edges[1] - edges[0])


def record(
    course: Course,
    *,
    poll_s: float = 0.005,
    counter_period_s: float | None = 0.1,
    sampler_period_s: float | None = 0.05,
    averaging_s: float = 0.0,
    first_j: float = 1234.5,
    step_j: float = 0.001,
) -> Trace:
    """What meters show of a course.

    Args:
        course: The power.
        poll_s: Time between two readings.
        counter_period_s: Update period of the energy counter; None without one.
        sampler_period_s: Update period of the power sampler; None without one.
        averaging_s: Time over which the sampler averages.
        first_j: What the counter shows at time 0.
        step_j: Resolution of the counter.
    """
    times_s = np.arange(0.0, course.end_s + course.rest_s, poll_s)
    energy_j = power_w = None
    if counter_period_s is not None:
        # The counter shows the energy up to its last update, which fell somewhere between two polls.
        updated_s = np.floor((times_s + 0.37 * counter_period_s) / counter_period_s) * counter_period_s
        updated_s = (updated_s - 0.37 * counter_period_s).clip(0.0)
        energy_j = np.floor((first_j + course.energy_j(updated_s)) / step_j) * step_j
    if sampler_period_s is not None:
        updated_s = np.floor(times_s / sampler_period_s + 1e-9) * sampler_period_s
        if averaging_s > 0:
            earlier_s = updated_s - averaging_s
            before_j = np.where(earlier_s < 0, course.idle_w * earlier_s, course.energy_j(earlier_s.clip(0.0)))
            power_w = (course.energy_j(updated_s) - before_j) / averaging_s
        else:
            power_w = course.power_w(updated_s)
    return Trace(
        meter="formula",
        times_s=times_s,
        energy_j=energy_j,
        power_w=power_w,
        start_s=course.start_s,
        end_s=course.end_s,
        counter_period_s=counter_period_s or 0.1,
        sampler_period_s=sampler_period_s or 0.05,
        averaging_s=averaging_s,
        pass_s=course.pass_s if course.swing_w else 0.0,
        max_power_w=MOST_W,
        expected_j=course.work_j(),
    )


def wrap_around(trace: Trace, range_j: float, *, is_known: bool = True) -> Trace:
    """The counter starts again at zero whenever it reaches its range."""
    return dataclasses.replace(trace, energy_j=_energy(trace) % range_j, wrap_j=range_j if is_known else None)


def restart(trace: Trace, at_s: float, range_j: float | None = None) -> Trace:
    """The counter's driver is loaded again: it starts at zero."""
    energy_j = _energy(trace)
    after = trace.times_s >= at_s
    lost_j = energy_j[after][0]
    return dataclasses.replace(trace, energy_j=np.where(after, energy_j - lost_j, energy_j), wrap_j=range_j)


def stuck(trace: Trace, from_s: float) -> Trace:
    """The counter moves no more."""
    energy_j = _energy(trace)
    return dataclasses.replace(trace, energy_j=np.minimum(energy_j, energy_j[trace.times_s >= from_s][0]))


def zero_update(trace: Trace, at_s: float, range_j: float | None = None) -> Trace:
    """One reading of the counter is zero."""
    index = int(np.flatnonzero(trace.times_s >= at_s)[0])
    energy_j = _energy(trace).copy()
    energy_j[index] = 0.0
    return dataclasses.replace(trace, energy_j=energy_j, wrap_j=range_j)


def no_answer(trace: Trace, from_s: float, to_s: float) -> Trace:
    """Neither meter answers for a while."""
    gone = (trace.times_s >= from_s) & (trace.times_s < to_s)
    return dataclasses.replace(
        trace,
        energy_j=None if trace.energy_j is None else np.where(gone, np.nan, trace.energy_j),
        power_w=None if trace.power_w is None else np.where(gone, np.nan, trace.power_w),
    )


def missing_readings(trace: Trace, from_s: float, to_s: float) -> Trace:
    """Nobody read the meters for a while."""
    keep = (trace.times_s < from_s) | (trace.times_s >= to_s)
    return dataclasses.replace(
        trace,
        times_s=trace.times_s[keep],
        energy_j=None if trace.energy_j is None else trace.energy_j[keep],
        power_w=None if trace.power_w is None else trace.power_w[keep],
    )


def clock_jump(trace: Trace, at_s: float, by_s: float) -> Trace:
    """The clock is set forward, or back, by a time server."""
    shift = by_s * (trace.times_s >= at_s)
    return dataclasses.replace(trace, times_s=trace.times_s + shift, end_s=trace.end_s + max(by_s, 0.0))


def _energy(trace: Trace) -> Array:
    if trace.energy_j is None:
        raise ValueError("This recording has no counter.")
    return trace.energy_j
