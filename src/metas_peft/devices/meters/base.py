"""Two kinds of meters, and the window in which they are read.

An energy counter only ever grows; a power sampler tells the power of the moment. A window is opened, work is done,
the window is closed: the counter is read at its two edges, the sampler in a thread in between.

        open                                                     close
    ----|==== pass ==== pass ==== pass ==== ... ==== pass =======|----> time
        ^ counter          ^     ^     ^     ^  sampler          ^ counter

A window must hold many update periods of its counter, or the step of the counter shows in the result: `MIN_UPDATES`
of them keep that error below 5 %. A counter that falls or stands still is refused, never turned into a number.
"""

import math
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType

from metas_peft.core.errors import MeasurementError, MetasPeftError
from metas_peft.core.units import MS_PER_S

MIN_UPDATES = 20
# No package or board that the project measures draws more; a reading above it is a broken counter.
IMPLAUSIBLE_W = 20_000.0


class EnergyCounter(ABC):
    """A cumulative energy meter.

    Attributes:
        name: What records call it.
        boundary: What it includes, for people.
        update_period_s: Time between two steps of the counter.
    """

    name: str
    boundary: str
    update_period_s: float

    @abstractmethod
    def read_j(self) -> Mapping[str, float]:
        """Energy in J since some fixed moment, by rail; the rails add up without overlap.

        Raises:
            MeterUnavailableError: The meter does not answer.
        """

    @property
    def min_window_s(self) -> float:
        """Shortest window whose energy is worth having."""
        return MIN_UPDATES * self.update_period_s


class PowerSampler(ABC):
    """A meter of the power of the moment.

    Attributes:
        name: What records call it.
        update_period_s: Time between two values; reading faster gives the same one again.
    """

    name: str
    update_period_s: float

    @abstractmethod
    def read_w(self) -> float:
        """Power in W.

        Raises:
            MeterUnavailableError: The meter does not answer.
        """


class CounterPower(PowerSampler):
    """Power between two successive readings of an energy counter.

    Args:
        counter: The counter; not read by anybody else's window at the same time.
        period_s: Time between two readings, at least the counter's update period.
        clock_s: Monotonic clock.
    """

    def __init__(
        self, counter: EnergyCounter, period_s: float, clock_s: Callable[[], float] = time.perf_counter
    ) -> None:
        self.name = counter.name
        self.update_period_s = max(period_s, counter.update_period_s)
        self._counter = counter
        self._clock_s = clock_s
        self._last: tuple[float, float] | None = None

    def read_w(self) -> float:
        """Mean power since the last call; 0 for the first."""
        now_s, energy_j = self._clock_s(), sum(self._counter.read_j().values())
        last, self._last = self._last, (now_s, energy_j)
        if last is None or now_s <= last[0]:
            return 0.0
        return (energy_j - last[1]) / (now_s - last[0])


@dataclass(frozen=True)
class MeterReading:
    """What a window gave.

    Attributes:
        meter: Name of the energy counter.
        energy_j: Energy by rail.
        duration_s: Length of the window.
        peak_power_w: Highest sample, at least the mean; None without a sampler.
        sampling_period_ms: Time between two samples.
        n_samples: Samples taken.
    """

    meter: str
    energy_j: Mapping[str, float]
    duration_s: float
    peak_power_w: float | None = None
    sampling_period_ms: float | None = None
    n_samples: int = 0

    @property
    def total_j(self) -> float:
        """Energy of all rails."""
        return sum(self.energy_j.values())

    @property
    def mean_power_w(self) -> float:
        """Energy by time."""
        return self.total_j / self.duration_s


class Window:
    """Energy and peak power of what happens inside a `with` block; `reading` afterwards.

    Args:
        counter: Read at the edges.
        sampler: Read in a thread in between, every update period.
        clock_s: Monotonic clock.
    """

    def __init__(
        self,
        counter: EnergyCounter,
        sampler: PowerSampler | None = None,
        *,
        clock_s: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._counter = counter
        self._sampler = sampler
        self._clock_s = clock_s
        self._samples_w: list[float] = []
        self._trouble: list[MetasPeftError] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._reading: MeterReading | None = None

    @property
    def reading(self) -> MeterReading:
        """The result; there is none before the block has ended well."""
        if self._reading is None:
            raise MeasurementError(f"{self._counter.name}: the window was not closed, so there is no reading.")
        return self._reading

    def __enter__(self) -> "Window":
        if self._sampler is not None:
            self._sample(self._sampler)
            self._samples_w.clear()  # the first value of a counter's power has no past
            self._thread = threading.Thread(target=self._keep_sampling, args=(self._sampler,), daemon=True)
            self._thread.start()
        self._start_s, self._start_j = self._clock_s(), dict(self._counter.read_j())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            end = None if kind is not None else (dict(self._counter.read_j()), self._clock_s())
        finally:
            self._stop.set()
            if self._thread is not None:
                self._thread.join()
        if end is None:
            return
        if self._trouble:
            raise self._trouble[0]
        end_j, end_s = end
        self._reading = self._checked(end_j, end_s - self._start_s)

    def _keep_sampling(self, sampler: PowerSampler) -> None:
        while not self._stop.wait(sampler.update_period_s):
            if not self._sample(sampler):
                return

    def _sample(self, sampler: PowerSampler) -> bool:
        try:
            self._samples_w.append(sampler.read_w())
        except MetasPeftError as error:  # raised again when the window closes, in the caller's thread
            self._trouble.append(error)
            return False
        return True

    def _checked(self, end_j: Mapping[str, float], duration_s: float) -> MeterReading:
        name = self._counter.name
        if duration_s <= 0:
            raise MeasurementError(f"{name}: the clock did not advance over the window. Measure again.")
        energy_j = {rail: end_j[rail] - start for rail, start in self._start_j.items()}
        total_j = sum(energy_j.values())
        if min(energy_j.values()) < 0 or not math.isfinite(total_j):
            raise MeasurementError(f"{name}: the counter fell during a window (restart or wrap-around). Measure again.")
        if total_j == 0:
            raise MeasurementError(
                f"{name}: the counter stood still for {duration_s:.2f} s; it should move every "
                f"{self._counter.update_period_s:g} s. Use a longer window, or another meter."
            )
        if total_j / duration_s > IMPLAUSIBLE_W:
            raise MeasurementError(
                f"{name}: {total_j / duration_s:.0f} W over the window is not a power this kind of device can draw. "
                "The counter is broken; use another meter."
            )
        sampler, samples = self._sampler, self._samples_w
        if sampler is None or not samples:
            return MeterReading(name, energy_j, duration_s)
        peak_w = max(*samples, total_j / duration_s)
        return MeterReading(name, energy_j, duration_s, peak_w, sampler.update_period_s * MS_PER_S, len(samples))
