"""The window in which meters are read while work is done.

        open                                                     close
    ----|==== pass ==== pass ==== pass ==== ... ==== pass =======|----> time
        . . . . . . . . . . counter polled  . . . . . . . . . . .
          ^     ^     ^     ^   sampler     ^     ^     ^     ^

A thread polls: the counter often enough to see when it steps, the sampler every update period. Whatever goes wrong in
the thread is raised in the caller's when the window closes. Whoever runs passes in the window says when each has ended,
so that samples that fall in step with them are noticed. What the polls mean is decided by `track` and `sampled`.
"""

import dataclasses
import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType

import numpy as np

from metas_peft.core.errors import MeasurementError, MetasPeftError
from metas_peft.devices.meters.base import LARGEST_GAP_PCT, EnergyCounter, MeterReading, PowerSampler, period_ms
from metas_peft.devices.meters.sampled import check_samples, sampled_stretch
from metas_peft.devices.meters.track import Stretch, as_arrays, check_clock, counter_stretch, fill_window

logger = logging.getLogger(__name__)

POLLS_PER_UPDATE = 20  # of a slow counter, so that the time of a step is known to a twentieth of its period
FASTEST_POLL_S = 0.005
POLLS_PER_SAMPLE = 4  # looks at whether a sample is due, so that it is at most a quarter of its period late
FAST_COUNTER_S = 0.02  # a counter that moves more often than this has stepped at every poll anyway
FEWEST_FOR_CHECK = 5
LONGEST_SLEEP_S = 0.05


def suspended_s() -> float:
    """How long this computer has slept since it was started, in s; 0 where it does not tell.

    The monotonic clock stands still meanwhile, but meters may go on or start again.
    """
    if sys.platform != "linux":
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


class Window:
    """Energy and peak power of what happens inside a `with` block; `reading` afterwards.

    Args:
        counter: Gives the energy.
        sampler: Gives the peak; without a counter the energy, too.
        clock_s: Monotonic clock.
        background: Poll in a thread; else whoever does the work calls `poll`.
    """

    def __init__(
        self,
        counter: EnergyCounter | None,
        sampler: PowerSampler | None = None,
        *,
        clock_s: Callable[[], float] = time.perf_counter,
        background: bool = True,
    ) -> None:
        if counter is None and sampler is None:
            raise ValueError("A window needs a counter or a sampler.")
        self._counter = counter
        self._sampler = sampler
        self._clock_s = clock_s
        self._background = background
        self._polls: list[tuple[float, Mapping[str, float]]] = []
        self._samples: list[tuple[float, float]] = []
        self._passes_s: list[float] = []
        self._next_sample_s = 0.0
        self._trouble: MetasPeftError | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._reading: MeterReading | None = None

    @property
    def reading(self) -> MeterReading:
        """The result; there is none before the block has ended well."""
        if self._reading is None:
            raise MeasurementError("The window was not closed, so there is no reading of the meter.")
        return self._reading

    def __enter__(self) -> "Window":
        if self._sampler is not None and self._sampler.is_derived:
            self._sampler.read_w()  # the first value of a counter's power has no past
            self._next_sample_s = self._clock_s() + self._sampler.update_period_s
        self.poll()
        self._slept_s = suspended_s()
        self._start_s = self._clock_s()
        if self._background:
            self._thread = threading.Thread(target=self._keep_polling, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end_s = self._clock_s()
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if kind is not None:
            return
        if self._trouble is not None:
            raise self._trouble
        self.poll()
        self._reading = self._evaluated(end_s)

    def passed(self, at_s: float | None = None) -> None:
        """Note that a pass has ended, now or at some time."""
        self._passes_s.append(self._clock_s() if at_s is None else at_s)

    def poll(self) -> None:
        """Read the meters once, the sampler only when its next value is due.

        Raises:
            MeterUnavailableError: A meter does not answer.
        """
        if self._counter is not None:
            before_s = self._clock_s()
            values = dict(self._counter.read_j())
            self._polls.append((0.5 * (before_s + self._clock_s()), values))
        if self._sampler is not None and self._clock_s() >= self._next_sample_s:
            before_s = self._clock_s()
            watts = self._sampler.read_w()
            self._samples.append((0.5 * (before_s + self._clock_s()), watts))
            self._next_sample_s = before_s + self._sampler.update_period_s

    def _keep_polling(self) -> None:
        pause_s = poll_period_s(self._counter, self._sampler)
        # Uneven pauses: even ones could fall into step with the passes and always see the same part of them.
        rng = np.random.default_rng(0)
        while not self._stop.wait(pause_s * rng.uniform(0.7, 1.3)):
            try:
                self.poll()
            except MetasPeftError as error:  # raised again when the window closes, in the caller's thread
                self._trouble = error
                return

    def _evaluated(self, end_s: float) -> MeterReading:
        slept_s = suspended_s() - self._slept_s
        if slept_s > LONGEST_SLEEP_S:
            raise MeasurementError(f"The computer slept for {slept_s:.1f} s while the meter was read. Measure again.")
        if end_s <= self._start_s:
            raise MeasurementError("The clock did not advance while the meter was read. Measure again.")
        times_s = np.array([t for t, _ in self._samples])
        watts = np.array([w for _, w in self._samples])
        passes_s = np.array([self._start_s, *self._passes_s]) if self._passes_s else None
        return evaluate(self._counter, self._sampler, self._polls, times_s, watts, self._start_s, end_s, passes_s)


def evaluate(
    counter: EnergyCounter | None,
    sampler: PowerSampler | None,
    polls: list[tuple[float, Mapping[str, float]]],
    sample_times_s: np.ndarray,
    watts: np.ndarray,
    start_s: float,
    end_s: float,
    passes_s: np.ndarray | None = None,
) -> MeterReading:
    """What the readings of a window say.

    Args:
        counter: Where `polls` come from.
        sampler: Where samples come from.
        polls: Time and values by rail.
        sample_times_s: Times of the samples, shape (N,).
        watts: Their values, shape (N,).
        start_s: When the work began.
        end_s: When it ended.
        passes_s: When passes began and the last one ended, shape (M,); None where the work does not repeat itself.

    Raises:
        MeasurementError: The readings make no sense, or are too few.
    """
    if counter is None:
        if sampler is None:
            raise ValueError("Readings come from a counter or a sampler.")
        stretch = sampled_stretch(sample_times_s, watts, start_s, end_s, sampler, passes_s=passes_s)
        name = sampler.name
    else:
        stretch, name = counter_stretch(*as_arrays(polls), start_s, end_s, counter), counter.name
    energy_j, known_to_pct = fill_window(stretch, start_s, end_s)
    reading = MeterReading(name, energy_j, end_s - start_s, known_to_pct=known_to_pct)
    during = (sample_times_s >= start_s) & (sample_times_s <= end_s)
    if sampler is None or not during.any():
        return reading
    check_samples(sampler, watts)
    check_clock(sampler.name, sample_times_s[during], sampler.update_period_s)
    return dataclasses.replace(
        reading,
        peak_power_w=max(float(watts[during].max()), reading.mean_power_w),
        sampling_period_ms=period_ms(sampler),
        n_samples=int(during.sum()),
        gap_pct=None if counter is None else _gap_pct(stretch, sample_times_s, watts, start_s, end_s, counter, sampler),
    )


def poll_period_s(counter: EnergyCounter | None, sampler: PowerSampler | None) -> float:
    """Pause between two polls."""
    if counter is None:
        period_s = sampler.update_period_s / POLLS_PER_SAMPLE if sampler is not None else FAST_COUNTER_S
        return max(FASTEST_POLL_S, period_s)
    if counter.update_period_s <= FAST_COUNTER_S:
        return FAST_COUNTER_S
    return max(FASTEST_POLL_S, counter.update_period_s / POLLS_PER_UPDATE)


def _gap_pct(
    stretch: Stretch,
    times_s: np.ndarray,
    watts: np.ndarray,
    start_s: float,
    end_s: float,
    counter: EnergyCounter,
    sampler: PowerSampler,
) -> float | None:
    """By how much integrated power exceeds the counter's, both as mean power, in percent."""
    if sampler.is_derived or ((times_s >= start_s) & (times_s <= end_s)).sum() <= FEWEST_FOR_CHECK:
        return None
    integrated = sampled_stretch(times_s, watts, start_s, end_s, sampler, needed=FEWEST_FOR_CHECK)
    gap_pct = 100.0 * (integrated.mean_power_w / stretch.mean_power_w - 1.0)
    # Samples of the moment may scatter by themselves.
    if abs(gap_pct) > LARGEST_GAP_PCT + 200.0 * integrated.sampling:
        logger.warning(
            "%s says %.3g W, %s integrates to %.3g W (%+.0f %%): one of the two is wrong, or they do not cover the "
            "same parts.",
            counter.name,
            stretch.mean_power_w,
            sampler.name,
            integrated.mean_power_w,
            gap_pct,
        )
    return gap_pct
