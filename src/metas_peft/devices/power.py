"""Two sources of energy and power on this computer: a meter, or a model of the processor (`utilisation`).

They are two classes so that no branch can mix them up: `MeteredPower` builds its figures from a `MeterReading` and is
the only place that says `measured`; `UtilisationModel` never sees a meter and always says `modelled`.

    prepare    cool down, then read the power at rest
    flight     passes back to back in windows of at least 20 update periods, in rounds against the anchor (`metering`)
    finish     cool down, then read the power at rest again: what changed meanwhile was not the passes

Energy and latency of a record are both on the anchor's scale, and its mean power is the one by the other; where the
windows themselves read another mean, passes took another time in them than when they were timed, and the record says
so. The peak is the highest of all windows, and no less than the mean unless the two contradict each other.
"""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from metas_peft.core.cost import Origin
from metas_peft.core.units import S_PER_MS
from metas_peft.devices.metering import Energy, EnergyScale, MeteredRounds, known_words
from metas_peft.devices.meters.base import SHORTEST_WINDOW_S, EnergyCounter, MeterReading, PowerSampler
from metas_peft.devices.meters.track import EDGE_UPDATES
from metas_peft.devices.meters.window import Window

logger = logging.getLogger(__name__)

MEAN_GAP = 0.1  # between energy by latency and the mean power of the windows, beyond which the record says so
IDLE_CHANGE = 0.2  # of the power at rest, beyond which before and after are not the same machine


Run = Callable[[], object]


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

    `known_to` is the half width of the 95 % interval of the energy, as a fraction of it, `std_j` its spread over
    `n_windows` windows; `meter_gap_pct` is what the sampler integrates to by what the counter says, less one; `note` is
    for the record, and `problem` says why it is not valid.
    """

    energy_j: float
    mean_power_w: float
    peak_power_w: float | None
    idle_power_w: float | None
    energy_above_idle_j: float | None
    sampling_period_ms: float | None
    origin: Origin
    std_j: float | None = None
    known_to: float | None = None
    n_windows: int | None = None
    meter_gap_pct: float | None = None
    note: str = ""
    problem: str = ""


@dataclass(frozen=True)
class FlightPower:
    """Figures of each subject of a flight, and the anchor's energy: now, and the scale; None without a meter."""

    figures: tuple[PowerFigures, ...]
    anchor_j: float | None = None
    scale: EnergyScale | None = None


@dataclass(frozen=True)
class MeterRules:
    """How far a flight is read: which subject is the anchor, how well, how long, and on which scale if there is one."""

    anchor: int
    tolerance: float
    limit_s: float
    scale: EnergyScale | None = None


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
    def flight(
        self, runs: Sequence[Run], times: Sequence[PassTime], rules: MeterRules, rng: np.random.Generator
    ) -> FlightPower:
        """Energy and power of passes.

        Args:
            runs: Functions that run one pass each, N of them.
            times: What the protocol found of each, on the scale of time.
            rules: Anchor, scale, tolerance, limit.
            rng: Decides the order in which a meter reads them.
        """

    @abstractmethod
    def finish(self) -> float | None:
        """Called once after the subjects have run; power at rest in W, None where it is not read."""


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

    def flight(
        self, runs: Sequence[Run], times: Sequence[PassTime], rules: MeterRules, rng: np.random.Generator
    ) -> FlightPower:
        """Figures from windows of the meter, in rounds."""
        rounds = MeteredRounds(len(runs), rules.anchor, rules.tolerance, rules.scale)
        rounds.run(
            lambda index, seconds: self._busy(runs[index], seconds), self._window_s, rules.limit_s, self._clock_s, rng
        )
        figures = tuple(self._figures(rounds.energy(index), time) for index, time in enumerate(times))
        return FlightPower(figures, rounds.anchor_j, rounds.scale)

    def _figures(self, energy: Energy, pass_time: PassTime) -> PowerFigures:
        readings = [take.reading for take in energy.takes]
        seconds = pass_time.latency_ms * S_PER_MS
        mean_w = energy.energy_j / seconds
        peak_w = max((r.peak_power_w for r in readings if r.peak_power_w is not None), default=None)
        contradiction = _contradiction(mean_w, readings)
        if peak_w is not None and not contradiction:
            peak_w = max(peak_w, mean_w)
        gaps = [r.gap_pct for r in readings if r.gap_pct is not None]
        return PowerFigures(
            energy_j=energy.energy_j,
            mean_power_w=mean_w,
            peak_power_w=peak_w,
            idle_power_w=self._idle_w,
            energy_above_idle_j=None if self._idle_w is None else energy.energy_j - self._idle_w * seconds,
            sampling_period_ms=readings[-1].sampling_period_ms,
            origin=Origin.MEASURED,
            std_j=energy.std_j,
            known_to=energy.known_to,
            n_windows=len(readings) - energy.left_out,
            meter_gap_pct=float(np.median(gaps)) if gaps else None,
            note=_note(energy, max(r.duration_s for r in readings)) + contradiction,
            problem=energy.problem,
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
                window.passed()
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


def _note(energy: Energy, longest_s: float) -> str:
    text = (
        f"energy {known_words(energy.known_to)} from {len(energy.takes)} windows of up to {longest_s:.1f} s against "
        "the anchor's"
    )
    if energy.is_cut_short:
        text += ", stopped at the time limit"
    if energy.left_out:
        text += f", {energy.left_out} left out because the anchor's energy moved"
    return text


def _contradiction(mean_w: float, readings: Sequence[MeterReading]) -> str:
    """What to say where energy by latency is not the power that was read."""
    read_w = float(np.median([r.mean_power_w for r in readings]))
    if abs(read_w - mean_w) <= MEAN_GAP * mean_w:
        return ""
    return (
        f"; the windows read {read_w:.3g} W, energy by latency is {mean_w:.3g} W: passes took another time in them "
        "than when they were timed"
    )
