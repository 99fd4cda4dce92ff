"""What a run found, as one structure from which all tables and volumes are computed."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from metas_peft import pareto
from metas_peft.conf import RunConfig
from metas_peft.core.cost import METRICS, Cost, PaperCost
from metas_peft.core.records import ProfileRecord
from metas_peft.core.shape import BackboneShape
from metas_peft.core.workload import Workload
from metas_peft.costs import Counts, paper_cost
from metas_peft.devices import Device, SimulatedDevice, Specimen
from metas_peft.experiment.fronts import StoredMember
from metas_peft.surrogate import Surrogate
from metas_peft.tasks import Task, TaskData
from metas_peft.tasks.metrics import MEANS

BOOTSTRAP_DRAWS = 1000


@dataclass(frozen=True)
class MethodFront:
    """A tuned method.

    Attributes:
        name: Canonical name.
        members: Operating points, largest first.
        seconds: Of its tuning, the shared dense stage left out.
        ledger: Measurements made while it was tuned.
        notes: Sentences for the report.
        head_order: Head of the published backbone at each place of the ordered one, (L, G).
    """

    name: str
    members: list[StoredMember]
    seconds: float
    ledger: list[dict[str, Any]]
    notes: list[str]
    head_order: list[list[int]]


@dataclass(frozen=True)
class Measured:
    """Measurements of members on one device.

    Attributes:
        device: The device.
        records: Record of each subnet, by key.
        ledger: What was counted.
    """

    device: Device
    records: Mapping[str, ProfileRecord]
    ledger: list[dict[str, Any]]

    def cost(self, key: str) -> Cost[float] | None:
        """Measured cost of a subnet; None unless all three metrics are known."""
        cost = self.records[key].cost
        if any(value is None for _, value in cost.items()):
            return None
        return cost.map(lambda v: float(v or 0.0))


@dataclass(frozen=True)
class Outcome:
    """Everything that tables and volumes are computed from.

    Attributes:
        config: The run.
        task: Its data.
        judge: The task itself, which judges predictions.
        shape: Backbone.
        workload: What was measured.
        dense: The ungated model.
        fronts: Methods by name, the run's own first.
        answers: Predictions by method (and `dense`), (M, N).
        target: Measurements on the target.
        surrogate: Calibrated surrogate of the target, if the method uses one.
    """

    config: RunConfig
    task: TaskData
    judge: Task
    shape: BackboneShape
    workload: Workload
    dense: StoredMember
    fronts: Mapping[str, MethodFront]
    answers: Mapping[str, np.ndarray]
    target: Measured
    surrogate: Surrogate | None

    @property
    def main(self) -> MethodFront:
        """The front of the run's own method."""
        return next(iter(self.fronts.values()))

    @property
    def rivals(self) -> list[MethodFront]:
        """The other fronts."""
        return [front for front in self.fronts.values() if front.name != self.main.name]

    def on(self, measured: Measured, surrogate: Surrogate) -> "Outcome":
        """The same fronts on another device."""
        return dataclasses.replace(self, target=measured, surrogate=surrogate)

    # ---- numbers

    def quality(self, method: str, index: int) -> dict[str, float]:
        """Scores of one member on the evaluation texts, headline first."""
        return self.judge.score(self.answers[method][index], self.task.validation.references)

    def marks(self, method: str) -> np.ndarray:
        """How good each member's answer to each evaluation text is, (M, N) in [0, 1]."""
        return np.stack([self.judge.marks(row, self.task.validation.references) for row in self.answers[method]])

    def given(self, method: str) -> np.ndarray:
        """What each member's answer to each evaluation text comes to, (M, N)."""
        return np.stack([self.judge.given(row) for row in self.answers[method]])

    def headline(self, method: str, index: int) -> float:
        """Headline metric of one member."""
        return next(iter(self.quality(method, index).values()))

    def paper(self, member: StoredMember) -> PaperCost[float]:
        """Counted costs of a member."""
        counted = paper_cost(self.shape, Counts.of(member.subnet, self.shape), self.workload)
        return PaperCost(**{f.name: float(getattr(counted, f.name)) for f in dataclasses.fields(counted)})

    def predicted(self, member: StoredMember) -> Cost[float] | None:
        """What the calibrated surrogate says of a member."""
        if self.surrogate is None:
            return None
        cost_model = self.surrogate.bind(self.shape, self.workload)
        return cost_model(Counts.of(member.subnet, self.shape)).map(lambda v: float(np.asarray(v)))

    def truth(self, member: StoredMember) -> Cost[float] | None:
        """What a prediction is scored against: a simulator's noise-free value, else the measurement."""
        device = self.target.device
        if isinstance(device, SimulatedDevice):
            return device.truth([Specimen(member.subnet, self.shape)], self.workload)[0]
        return self.target.cost(member.subnet.key)

    def yardstick(self, measured: Measured) -> pareto.Yardstick:
        """The dense model on a device, and the level of guessing."""
        cost = measured.cost(self.dense.subnet.key)
        if cost is None:
            raise ValueError("the dense model's cost is not known on this device")
        return pareto.Yardstick(
            self.headline("dense", 0), np.array([v for _, v in cost.items()]), self.task.chance_quality
        )

    def arrays(self, front: MethodFront) -> tuple[np.ndarray, np.ndarray] | None:
        """Quality (N,) and measured costs (N, 3) of a front; None unless all are known."""
        costs = [self.target.cost(m.subnet.key) for m in front.members]
        if any(cost is None for cost in costs) or self.target.cost(self.dense.subnet.key) is None:
            return None
        quality = [self.headline(front.name, i) for i in range(len(front.members))]
        return np.array(quality), np.array([[v for _, v in c.items()] for c in costs if c is not None])

    def limits(self) -> dict[str, float]:
        """Budgets in absolute terms; a relative one is a fraction of the dense model's measured cost."""
        budgets, dense = self.config.budgets, self.target.cost(self.dense.subnet.key)
        found = {m: v for m in METRICS if (v := getattr(budgets, m)) is not None}
        if dense is not None:
            for metric, fraction in budgets.fractions().items():
                found[metric] = min(found.get(metric, np.inf), fraction * getattr(dense, metric))
        return {metric: float(value) for metric, value in found.items()}

    def volumes(self, front: MethodFront) -> dict[str, float | None]:
        """The three hyper-volumes of a front."""
        arrays = self.arrays(front)
        if arrays is None:
            return {kind: None for kind in pareto.VOLUMES}
        return pareto.front_volumes(*arrays, self.yardstick(self.target), self.limits())

    def ratio(self, rival: MethodFront) -> dict[str, float | None] | None:
        """Useful volume of the run's method over a rival's, with a bootstrap interval over examples."""
        if self.task.quality_metric not in MEANS:
            return None  # the bootstrap draws examples and takes the mean of their marks
        ours, theirs = self._evaluated(self.main), self._evaluated(rival)
        if ours is None or theirs is None:
            return None
        interval = pareto.bootstrap_ratio(
            [ours],
            [theirs],
            chance_quality=self.task.chance_quality,
            draws=BOOTSTRAP_DRAWS,
            seed=self.config.training.seed,
        )
        return {"ratio": interval.ratio, "low": interval.low, "high": interval.high}

    def _evaluated(self, front: MethodFront) -> pareto.Evaluated | None:
        arrays = self.arrays(front)
        if arrays is None:
            return None
        marks, dense = self.marks(front.name), self.marks("dense")[0]
        return pareto.Evaluated(marks, arrays[1], dense, self.yardstick(self.target).dense_cost)
