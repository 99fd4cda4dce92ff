"""Two sources of energy and power on this computer: a meter, or a model of the processor.

They are two classes so that no branch can mix them up: `MeteredPower` builds its figures from a `MeterReading` and is
the only place that says `measured`; `UtilisationModel` never sees a meter and always says `modelled`.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from metas_peft.core.records import Origin
from metas_peft.core.units import S_PER_MS
from metas_peft.devices.host import Host
from metas_peft.devices.meters.base import EnergyCounter, PowerSampler, Window

SHORTEST_WINDOW_S = 0.5


@dataclass(frozen=True)
class PassTime:
    """Time of a pass as the protocol found it.

    Attributes:
        latency_ms: Wall time.
        cpu_ms: Processor time.
        peak_processors: Most processors in use during a trial.
    """

    latency_ms: float
    cpu_ms: float
    peak_processors: float


@dataclass(frozen=True)
class PowerFigures:
    """Energy of a pass and its powers; None where the source cannot tell."""

    energy_j: float
    mean_power_w: float
    peak_power_w: float | None
    idle_power_w: float | None
    energy_above_idle_j: float | None
    sampling_period_ms: float | None
    origin: Origin


class PowerSource(ABC):
    """Where energy and power of a pass come from.

    Attributes:
        name: What records call it.
        meters: Names of the meters behind it.
    """

    name: str
    meters: tuple[str, ...]

    @abstractmethod
    def prepare(self) -> None:
        """Called once before the subjects of a measurement run."""

    @abstractmethod
    def figures(self, run: Callable[[], object], pass_time: PassTime) -> PowerFigures:
        """Energy and power of a pass that takes `pass_time`."""


class UtilisationModel(PowerSource):
    """Power between idle and limit in proportion to the share of the processors in use. A model, not a meter.

    Args:
        host: The computer, with its range of power.
    """

    meters = ()

    def __init__(self, host: Host) -> None:
        self.name = f"utilisation model ({host.power_note})"
        self._host = host

    def prepare(self) -> None:
        """Nothing to prepare."""

    def figures(self, run: Callable[[], object], pass_time: PassTime) -> PowerFigures:
        """Mean from processor time by wall time, peak from the busiest trial; the pass is not run again.

        While a pass runs at all it keeps one processor busy: other programs lower the share that a whole trial gets,
        not the power of the moment. So the peak is at least that of one busy processor.
        """
        host = self._host
        mean_w = self._power_w(pass_time.cpu_ms / pass_time.latency_ms)
        peak_w = max(mean_w, self._power_w(max(1.0, pass_time.peak_processors)))
        seconds = pass_time.latency_ms * S_PER_MS
        return PowerFigures(
            energy_j=mean_w * seconds,
            mean_power_w=mean_w,
            peak_power_w=peak_w,
            idle_power_w=host.idle_w,
            energy_above_idle_j=(mean_w - host.idle_w) * seconds,
            sampling_period_ms=None,
            origin=Origin.MODELLED,
        )

    def _power_w(self, processors: float) -> float:
        utilisation = min(1.0, max(0.0, processors / self._host.processors))
        return self._host.idle_w + (self._host.limit_w - self._host.idle_w) * utilisation


class MeteredPower(PowerSource):
    """Power read by a meter: passes run back to back in a window long enough for the counter.

    Args:
        counter: Read at the edges of the window.
        sampler: Read within the window, for the peak.
        clock_s: Monotonic clock.
        sleep: Waits for some seconds, for the idle window.
    """

    def __init__(
        self,
        counter: EnergyCounter,
        sampler: PowerSampler | None,
        *,
        clock_s: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.name = f"{counter.name} ({counter.boundary})"
        self.meters = (self.name,)
        self._counter = counter
        self._sampler = sampler
        self._clock_s = clock_s
        self._sleep = sleep
        self._window_s = max(counter.min_window_s, SHORTEST_WINDOW_S)
        self._idle_w: float | None = None

    def prepare(self) -> None:
        """Read the power at rest."""
        with Window(self._counter, clock_s=self._clock_s) as window:
            self._sleep(self._window_s)
        self._idle_w = window.reading.mean_power_w

    def figures(self, run: Callable[[], object], pass_time: PassTime) -> PowerFigures:
        """Energy of the window by its passes."""
        passes = 0
        with Window(self._counter, self._sampler, clock_s=self._clock_s) as window:
            end_s = self._clock_s() + self._window_s
            while passes == 0 or self._clock_s() < end_s:
                run()
                passes += 1
        reading = window.reading
        energy_j = reading.total_j / passes
        idle_j = None if self._idle_w is None else self._idle_w * reading.duration_s / passes
        return PowerFigures(
            energy_j=energy_j,
            mean_power_w=reading.mean_power_w,
            peak_power_w=reading.peak_power_w,
            idle_power_w=self._idle_w,
            energy_above_idle_j=None if idle_j is None else energy_j - idle_j,
            sampling_period_ms=reading.sampling_period_ms,
            origin=Origin.MEASURED,
        )
