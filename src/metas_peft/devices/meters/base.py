"""Two kinds of meters: an energy counter only ever grows, a power sampler tells the power of the moment.

A meter's own file turns what its driver speaks (microjoules, registers, text) into J and W; nothing else knows the
driver. What can go wrong with a row of readings is the business of `track`.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from metas_peft.core.units import MS_PER_S

MIN_UPDATES = 20
SHORTEST_WINDOW_S = 0.5  # however fast the meter
# No package or board that the project measures draws more; a reading above it is a broken meter.
IMPLAUSIBLE_W = 20_000.0
# Integrated power that differs from the energy counter by more is worth a warning.
LARGEST_GAP_PCT = 10.0
# An energy is worth having when the window knows it this well.
KNOWN_TO_PCT = 0.5


class EnergyCounter(ABC):
    """A cumulative energy meter.

    Attributes:
        name: What records call it.
        boundary: What it includes, for people.
        update_period_s: Time between two steps of the counter.
        max_power_w: More than this cannot be; decides between a wrap-around and a restart.
    """

    name: str
    boundary: str
    update_period_s: float
    max_power_w: float = IMPLAUSIBLE_W

    @abstractmethod
    def read_j(self) -> Mapping[str, float]:
        """Energy in J since some fixed moment, by rail; the rails add up without overlap.

        Raises:
            MeterUnavailableError: The meter does not answer.
        """

    def wrap_j(self) -> Mapping[str, float]:
        """Where each rail starts again at zero, in J; none for a counter that does not, or whose driver sees to it."""
        return {}

    @property
    def min_window_s(self) -> float:
        """Shortest window whose energy is worth having."""
        return MIN_UPDATES * self.update_period_s


class PowerSampler(ABC):
    """A meter of the power of the moment.

    Attributes:
        name: What records call it.
        boundary: What it includes, for people.
        update_period_s: Time between two values; reading faster gives the same one again.
        averaging_s: Length of time that a value is the mean of; 0 for the power of the moment.
        is_derived: Whether it is computed from an energy counter, and so cannot check it.
        max_power_w: More than this cannot be.
    """

    name: str
    boundary: str = ""
    update_period_s: float
    averaging_s: float = 0.0
    is_derived: bool = False
    max_power_w: float = IMPLAUSIBLE_W

    @abstractmethod
    def read_w(self) -> float:
        """Power in W.

        Raises:
            MeterUnavailableError: The meter does not answer.
        """

    @property
    def min_window_s(self) -> float:
        """Shortest window whose integrated power is worth having."""
        return MIN_UPDATES * self.update_period_s + 2 * self.averaging_s


class CounterPower(PowerSampler):
    """Power between two successive readings of an energy counter.

    Args:
        counter: The counter; not read by anybody else's window at the same time.
        period_s: Time between two readings, at least the counter's update period.
        clock_s: Monotonic clock.
    """

    is_derived = True

    def __init__(
        self, counter: EnergyCounter, period_s: float, clock_s: Callable[[], float] = time.perf_counter
    ) -> None:
        self.name = counter.name
        self.boundary = counter.boundary
        self.max_power_w = counter.max_power_w
        self.update_period_s = max(period_s, counter.update_period_s)
        self.averaging_s = self.update_period_s
        self._counter = counter
        self._clock_s = clock_s
        self._last: tuple[float, Mapping[str, float]] | None = None

    def read_w(self) -> float:
        """Mean power since the last call; 0 for the first."""
        now_s, energy_j = self._clock_s(), self._counter.read_j()
        last, self._last = self._last, (now_s, energy_j)
        if last is None or now_s <= last[0]:
            return 0.0
        wrap_j, steps_j = self._counter.wrap_j(), {rail: now - last[1][rail] for rail, now in energy_j.items()}
        total_j = sum(step + wrap_j.get(rail, 0.0) if step < 0 else step for rail, step in steps_j.items())
        return total_j / (now_s - last[0])


@dataclass(frozen=True)
class MeterReading:
    """What a window gave.

    Attributes:
        meter: Name of the meter that gave the energy.
        energy_j: Energy in the window, by rail.
        duration_s: Length of the window.
        peak_power_w: Highest sample, at least the mean; None without a sampler.
        sampling_period_ms: Time between two samples.
        n_samples: Samples taken.
        gap_pct: Integrated power by the counter's energy, less one, in percent; None without both.
        known_to_pct: Standard uncertainty of the energy from the edges of the window and from sampling, in percent.
    """

    meter: str
    energy_j: Mapping[str, float]
    duration_s: float
    peak_power_w: float | None = None
    sampling_period_ms: float | None = None
    n_samples: int = 0
    gap_pct: float | None = None
    known_to_pct: float = 0.0

    @property
    def total_j(self) -> float:
        """Energy of all rails."""
        return sum(self.energy_j.values())

    @property
    def mean_power_w(self) -> float:
        """Energy by time."""
        return self.total_j / self.duration_s


def period_ms(sampler: PowerSampler) -> float:
    """What a peak of this sampler is the maximum over: its period, or its averaging time where that is longer."""
    return max(sampler.update_period_s, sampler.averaging_s) * MS_PER_S
