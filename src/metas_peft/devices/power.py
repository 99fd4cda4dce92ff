"""Two sources of energy and power on this computer: a meter, or a model of the processor.

They are two classes so that no branch can mix them up: `MeteredPower` builds its figures from a `MeterReading` and is
the only place that says `measured`; `UtilisationModel` never sees a meter and always says `modelled`.

    prepare    cool down, then read the power at rest
    figures    passes back to back in a window of at least 20 update periods; longer until its energy is known to 0.5 %
    finish     cool down, then read the power at rest again: what changed meanwhile was not the passes
"""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from metas_peft.core.records import Origin
from metas_peft.core.units import S_PER_MS
from metas_peft.devices.host import Host
from metas_peft.devices.meters.base import KNOWN_TO_PCT, SHORTEST_WINDOW_S, EnergyCounter, MeterReading, PowerSampler
from metas_peft.devices.meters.track import EDGE_UPDATES
from metas_peft.devices.meters.window import Window

logger = logging.getLogger(__name__)

LONGEST_WINDOW_S = 30.0
IDLE_CHANGE = 0.2  # of the power at rest, beyond which before and after are not the same machine


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
    """Energy of a pass and its powers; None where the source cannot tell.

    `meter_gap_pct` is what the sampler integrates to by what the counter says, less one; `note` is for the record.
    """

    energy_j: float
    mean_power_w: float
    peak_power_w: float | None
    idle_power_w: float | None
    energy_above_idle_j: float | None
    sampling_period_ms: float | None
    origin: Origin
    meter_gap_pct: float | None = None
    note: str = ""


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

    @abstractmethod
    def finish(self) -> float | None:
        """Called once after the subjects have run; power at rest in W, None where it is not read."""


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

    def finish(self) -> float | None:
        """Nothing was read, so nothing can have changed."""
        return None

    def _power_w(self, processors: float) -> float:
        utilisation = min(1.0, max(0.0, processors / self._host.processors))
        return self._host.idle_w + (self._host.limit_w - self._host.idle_w) * utilisation


class MeteredPower(PowerSource):
    """Power read by a meter: passes run back to back in a window long enough for it.

    Args:
        counter: Gives the energy; None where there is only a sampler.
        sampler: Gives the peak, and the energy where there is no counter.
        clock_s: Monotonic clock.
        sleep: Waits for some seconds, for rest and cool-down.
        cool_down_s: Rest before the power at rest is read.
        background: Poll the meter in a thread; else between passes (fake clocks in tests).
    """

    def __init__(
        self,
        counter: EnergyCounter | None,
        sampler: PowerSampler | None,
        *,
        clock_s: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
        cool_down_s: float = 1.0,
        background: bool = True,
    ) -> None:
        meter = counter if counter is not None else sampler
        if meter is None:
            raise ValueError("A meter is a counter, a sampler, or both.")
        self.name = f"{meter.name} ({meter.boundary})"
        self.meters = (self.name,)
        self._counter = counter
        self._sampler = sampler
        self._clock_s = clock_s
        self._sleep = sleep
        self._cool_down_s = cool_down_s
        self._background = background
        shortest = [SHORTEST_WINDOW_S, meter.min_window_s + EDGE_UPDATES * meter.update_period_s]
        if sampler is not None and not sampler.is_derived:
            shortest.append(sampler.min_window_s)
        self._window_s = max(shortest)
        self._idle_w: float | None = None

    def prepare(self) -> None:
        """Read the power at rest."""
        self._idle_w = self._at_rest()

    def figures(self, run: Callable[[], object], pass_time: PassTime) -> PowerFigures:
        """Energy of the window by its passes."""
        window_s = self._window_s
        while True:
            reading, passes = self._busy(run, window_s)
            window_s *= 2
            if reading.known_to_pct <= KNOWN_TO_PCT or window_s > LONGEST_WINDOW_S:
                break
        note = f"energy known to {reading.known_to_pct:.1f} % in a window of {reading.duration_s:.1f} s"
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
            meter_gap_pct=reading.gap_pct,
            note=note,
        )

    def finish(self) -> float | None:
        """Read the power at rest once more."""
        before_w, after_w = self._idle_w, self._at_rest()
        if before_w is not None and abs(after_w - before_w) > IDLE_CHANGE * max(before_w, after_w):
            logger.warning(
                "%s: %.3g W at rest before the passes, %.3g W after. Something else began or ended meanwhile, or the "
                "device is still warm; energies above idle are worth less.",
                self.name,
                before_w,
                after_w,
            )
        return after_w

    def _busy(self, run: Callable[[], object], window_s: float) -> tuple[MeterReading, int]:
        """Passes back to back, and how many."""
        passes = 0
        with self._window() as window:
            end_s = self._clock_s() + window_s
            while passes == 0 or self._clock_s() < end_s:
                run()
                passes += 1
                if not self._background:
                    window.poll()
        return window.reading, passes

    def _at_rest(self) -> float:
        self._sleep(self._cool_down_s)
        with self._window() as window:
            if self._background:
                self._sleep(self._window_s)
            else:
                end_s = self._clock_s() + self._window_s
                while self._clock_s() < end_s:
                    self._sleep(self._window_s / 1000)
                    window.poll()
        return window.reading.mean_power_w

    def _window(self) -> Window:
        return Window(self._counter, self._sampler, clock_s=self._clock_s, background=self._background)
