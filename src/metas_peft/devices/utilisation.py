"""Energy and power where there is no meter: from the share of the processors that passes keep busy."""

from collections.abc import Sequence

import numpy as np

from metas_peft.core.cost import Origin
from metas_peft.core.units import S_PER_MS
from metas_peft.devices.host import Host
from metas_peft.devices.power import FlightPower, MeterRules, PassTime, PowerFigures, PowerSource, Run


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

    def flight(
        self, runs: Sequence[Run], times: Sequence[PassTime], rules: MeterRules, rng: np.random.Generator
    ) -> FlightPower:
        """Figures from processor time; no pass is run again."""
        return FlightPower(tuple(self._figures(time) for time in times))

    def _figures(self, pass_time: PassTime) -> PowerFigures:
        """Mean from processor time by wall time, peak from the busiest trial.

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
