"""From five measurements to what every candidate will cost, with the upper ends of what may be expected."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metas_peft.core.cost import METRICS, Cost, PaperCost
from metas_peft.core.device import DeviceSpec
from metas_peft.core.records import ProfileRecord
from metas_peft.core.subnet import Subnet
from metas_peft.core.units import S_PER_MS
from metas_peft.costs import Counts, paper_cost
from metas_peft.deploy.candidates import FinishedRun
from metas_peft.surrogate import Surrogate, shipped

MADE_UP_W = 1.0  # stands in for power that nobody measured, so that latency can be fitted alone
PEAK_OVER_MEAN = 1.5


@dataclass(frozen=True)
class Costing:
    """A fitted surrogate, and which of its outputs rest on measurements.

    Attributes:
        surrogate: Fitted to the device.
        known: Metrics that were measured at least once; the others are made up and never shown.
    """

    surrogate: Surrogate
    known: tuple[str, ...]

    def predict(self, run: FinishedRun, subnets: Sequence[Subnet]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Costs of subnets.

        Args:
            run: Gives backbone and workload.
            subnets: N of them.

        Returns:
            Predicted energy (J), latency (ms), peak power (W), and the ends between which a reading lies in about four
            cases of five, each of shape (N, 3). All three are the same where the surrogate gives no interval.
        """
        counted = paper_cost(run.shape, Counts.stack(list(subnets), run.shape), run.workload)
        size = (len(subnets),)
        paper = PaperCost(*(np.broadcast_to(np.asarray(v, float), size).copy() for v in dataclasses.astuple(counted)))
        middle = _columns(self.surrogate.predict(paper, run.workload))
        if not self.surrogate.gives_interval:
            return middle, middle, middle
        low, high = self.surrogate.interval(paper, run.workload)
        return middle, _columns(low), _columns(high)


def fit_costing(records: Sequence[ProfileRecord], spec: DeviceSpec | None) -> Costing:
    """Calibrate the shipped surrogate; it has seen no device, so that none can leak.

    Args:
        records: The five.
        spec: Spec sheet of the device, where known.

    Raises:
        CalibrationError: The records cannot carry a fit.
    """
    trained = shipped()
    known = tuple(m for m in METRICS if any(getattr(r.cost, m) is not None for r in records))
    fitted = trained.fit(trained.choose(), [_completed(r, known) for r in records], spec)
    return Costing(fitted, known)


def _completed(record: ProfileRecord, known: Sequence[str]) -> ProfileRecord:
    """A record with made-up numbers in the metrics that no record has."""
    cost = record.cost
    if len(known) == len(METRICS) or cost.latency_ms is None:
        return record
    seconds = cost.latency_ms * S_PER_MS
    if cost.energy_j is not None:
        mean_w = cost.energy_j / seconds
    else:
        mean_w = MADE_UP_W if cost.peak_power_w is None else cost.peak_power_w / PEAK_OVER_MEAN
    made_up = {"energy_j": mean_w * seconds, "peak_power_w": mean_w * PEAK_OVER_MEAN}
    values = {m: getattr(cost, m) if m in known else made_up[m] for m in METRICS}
    return dataclasses.replace(record, cost=Cost[float | None].of(values))


def _columns(cost: Cost[np.ndarray]) -> np.ndarray:
    return np.stack([np.asarray(v, float) for _, v in cost.items()], axis=-1)
