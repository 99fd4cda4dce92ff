"""What a run found, as one structure and as the public `results.json`."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from metas_peft import pareto
from metas_peft.conf import METHODS, RunConfig
from metas_peft.conf.notices import budgets_at_odds
from metas_peft.core.records import (
    METRIC_NAMES,
    METRICS,
    BackboneShape,
    Candidate,
    Cost,
    Origin,
    PaperCost,
    ProfileRecord,
    Workload,
)
from metas_peft.costs import Counts, paper_cost
from metas_peft.devices import Device, SimulatedDevice, Specimen
from metas_peft.experiment.fronts import StoredMember
from metas_peft.experiment.pricing import LearntPool
from metas_peft.experiment.workbench import Score
from metas_peft.surrogate import Surrogate
from metas_peft.tasks import TaskData

SCHEMA_VERSION = 1
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
        score: Metrics of predicted classes, headline first.
        shape: Backbone.
        workload: What was measured.
        dense: The ungated model.
        fronts: Methods by name, the run's own first.
        answers: Predicted classes by method (and `dense`), (M, N).
        target: Measurements on the target.
        surrogate: Calibrated surrogate of the target, if the method uses one.
    """

    config: RunConfig
    task: TaskData
    score: Score
    shape: BackboneShape
    workload: Workload
    dense: StoredMember
    fronts: Mapping[str, MethodFront]
    answers: Mapping[str, np.ndarray]
    target: Measured
    surrogate: Surrogate | None
    labels: np.ndarray = field(repr=False)

    @property
    def main(self) -> MethodFront:
        """The front of the run's own method."""
        return next(iter(self.fronts.values()))

    def on(self, measured: Measured, surrogate: Surrogate) -> "Outcome":
        """The run's own front on another device."""
        return dataclasses.replace(self, target=measured, surrogate=surrogate, fronts={self.main.name: self.main})

    # ---- numbers

    def quality(self, method: str, index: int) -> dict[str, float]:
        """Scores of one member on the evaluation texts, headline first."""
        return self.score(self.answers[method][index].tolist(), self.labels.tolist())

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
        if budgets.relative is not None and dense is not None:
            for metric, value in dense.items():
                found[metric] = min(found.get(metric, np.inf), budgets.relative * value)
        return {metric: float(value) for metric, value in found.items()}

    def volumes(self, front: MethodFront) -> dict[str, float | None]:
        """The three hyper-volumes of a front."""
        arrays = self.arrays(front)
        if arrays is None:
            return {kind: None for kind in pareto.VOLUMES}
        return pareto.front_volumes(*arrays, self.yardstick(self.target), self.limits())

    def ratio(self, rival: MethodFront) -> dict[str, float | None] | None:
        """Useful volume of the run's method over a rival's, with a bootstrap interval over examples."""
        if self.task.quality_metric != "accuracy":
            return None  # the bootstrap is over right and wrong answers
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
        right = (self.answers[front.name] == self.labels[None]).astype(np.float64)
        dense = (self.answers["dense"][0] == self.labels).astype(np.float64)
        return pareto.Evaluated(right, arrays[1], dense, self.yardstick(self.target).dense_cost)

    def candidates(self) -> list[Candidate]:
        """The run's own front as records."""
        front = self.main
        found = []
        for index, member in enumerate(front.members):
            record = self.target.records[member.subnet.key]
            found.append(
                Candidate(
                    member.subnet,
                    self.headline(front.name, index),
                    self.task.quality_metric,
                    self.predicted(member) or Cost.uniform(float("nan")),
                    record.cost,
                    record.origin,
                    self.paper(member),
                    front.name,
                    self.config.training.seed,
                    member.name,
                )  # fmt: skip
            )
        return found


def _origins(origin: Cost[Origin | None]) -> dict[str, str | None]:
    return {METRIC_NAMES[m]: None if o is None else str(o) for m, o in origin.items()}


def member_row(outcome: Outcome, front: MethodFront, index: int) -> dict[str, Any]:
    """One member as the contract's row."""
    member = front.members[index]
    record = outcome.target.records[member.subnet.key]
    paper, predicted = outcome.paper(member), outcome.predicted(member)
    plans, shape = member.subnet.layers, outcome.shape
    grid = np.zeros((shape.n_layers, shape.n_kv_heads), dtype=int)
    for i, plan in enumerate(plans):
        if plan.attention:
            order = front.head_order[i] if front.head_order else range(shape.n_kv_heads)
            grid[i, [order[h] for h in plan.heads]] = 1
    dense_flops = outcome.paper(outcome.dense).flops
    scores = outcome.quality(front.name, index)
    return {
        "key": member.subnet.key,
        "name": member.name,
        "quality": next(iter(scores.values())),
        "scores": scores,
        **record.cost.as_dict(),
        "origin": _origins(record.origin),
        "flops": paper.flops,
        "flops_fraction": paper.flops / dense_flops,
        "weight_bytes": paper.weight_bytes,
        "predicted": None if predicted is None else predicted.as_dict(),
        "kept_layers": record.kept_layers,
        "kept_heads": record.kept_heads,
        "kept_ranks": record.kept_ranks,
        "kept_ffn": record.kept_ffn,
        "heads": grid.tolist(),
        "ffn_blocks": [[int(b in p.ffn_blocks and p.ffn) for b in range(shape.ffn_blocks)] for p in plans],
        "attention": [int(p.attention) for p in plans],
        "ffn": [int(p.ffn) for p in plans],
        "masked_vs_compact": member.gap,
        "model_bytes": member.model_bytes,
    }


def dense_row(outcome: Outcome) -> dict[str, Any]:
    """The ungated model."""
    record = outcome.target.records[outcome.dense.subnet.key]
    paper, predicted = outcome.paper(outcome.dense), outcome.predicted(outcome.dense)
    scores = outcome.quality("dense", 0)
    return {
        "quality": next(iter(scores.values())),
        "scores": scores,
        **record.cost.as_dict(),
        "origin": _origins(record.origin),
        "flops": paper.flops,
        "weight_bytes": paper.weight_bytes,
        "model_bytes": outcome.dense.model_bytes,
        "predicted": None if predicted is None else predicted.as_dict(),
    }


def surrogate_error(outcome: Outcome) -> dict[str, float | int | str | None]:
    """Mean absolute percentage error over members that calibration did not see."""
    errors: dict[str, list[float]] = {m: [] for m in METRICS}
    seen = {p.key for p in outcome.surrogate.points} if outcome.surrogate else set()
    count = 0
    for member in (outcome.dense, *outcome.main.members):
        predicted, truth = outcome.predicted(member), outcome.truth(member)
        if member.subnet.key in seen or predicted is None or truth is None:
            continue
        count += 1
        for metric, value in truth.items():
            errors[metric].append(abs(getattr(predicted, metric) / value - 1) * 100)
    against = "noise-free simulator" if isinstance(outcome.target.device, SimulatedDevice) else "measurement"
    means = {METRIC_NAMES[m]: float(np.mean(e)) if e else None for m, e in errors.items()}
    return {**means, "n": count, "against": against}


def calibration_block(outcome: Outcome) -> dict[str, Any] | None:
    """The measurements that fitted the surrogate, and the fit."""
    surrogate = outcome.surrogate
    if surrogate is None:
        return None
    return {
        "method": f"{surrogate.kind}, scale and shift per metric",
        "design": outcome.config.surrogate.calibration_design,
        "points": [
            {"key": p.key, "predicted": p.predicted.as_dict(), "measured": p.measured.as_dict()}
            for p in surrogate.points
        ],
        "alpha": surrogate.alpha.as_dict(),
        "beta": surrogate.beta.as_dict(),
    }


def budgets_block(outcome: Outcome) -> dict[str, Any]:
    """Which members meet which budgets, by measurement and by prediction."""
    limits = outcome.limits()

    def met(cost: Cost[Any] | None) -> dict[str, bool | None]:
        values = {m: None if cost is None else getattr(cost, m) for m in limits}
        return {m: None if v is None else bool(v <= limits[m]) for m, v in values.items()}

    members = outcome.main.members
    measured = {m.name: met(outcome.target.records[m.subnet.key].cost) for m in members}
    notes = list(budgets_at_odds(outcome.config.budgets))
    if limits and not any(all(row.values()) for row in measured.values()):
        failing = [m for m in limits if not any(row[m] for row in measured.values())]
        notes.append(
            "No member meets all budgets together"
            + (f"; none meets {', '.join(failing)} at all" if failing else "")
            + ". Relax a budget or ask for smaller operating points."
        )
    predicted = {m.name: met(outcome.predicted(m)) for m in members}
    return {"limits": limits, "met": measured, "met_predicted": predicted, "notes": notes}


def counts(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Measurements by purpose, for the contract's three."""
    return {p: sum(r["count"] for r in rows if r["purpose"] == p) for p in ("training", "calibration", "evaluation")}


def retarget_block(outcome: Outcome, ledger_rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The run's front on another device."""
    record = outcome.target.records[outcome.dense.subnet.key]
    return {
        "device": dataclasses.asdict(outcome.target.device.spec),
        "dense": dense_row(outcome),
        "front": [member_row(outcome, outcome.main, i) for i in range(len(outcome.main.members))],
        "calibration": calibration_block(outcome),
        "measurements": counts(ledger_rows),
        "surrogate_error": surrogate_error(outcome),
        "hypervolume": outcome.volumes(outcome.main),
        "meter": record.meter,
        "threads": record.threads,
        "protocol": record.source,
    }


def results_block(
    outcome: Outcome, *, pool: LearntPool | None, choice: tuple[str, str] | None, controller: dict[str, Any] | None,
    retargets: dict[str, Any], ledger_rows: list[dict[str, Any]], notes: list[str], backbone: str, backbone_source: str,
    versions: dict[str, str], seconds: dict[str, float],
) -> dict[str, Any]:  # fmt: skip
    """The contents of `results.json`."""
    config, main = outcome.config, outcome.main
    rivals = [front for name, front in outcome.fronts.items() if name != main.name]
    target_id = outcome.target.device.spec.device_id
    ratios = {front.name: ratio for front in rivals if (ratio := outcome.ratio(front)) is not None}
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": config.run_id,
        "method": METHODS[config.method].label,
        "front_kind": config.front,
        "backbone": backbone,
        "backbone_source": backbone_source,
        "architecture_notes": config.model.architecture_notes,
        "task": outcome.task.name,
        "task_origin": outcome.task.origin,
        "task_source": outcome.task.source,
        "target_device": target_id,
        "target_spec": dataclasses.asdict(outcome.target.device.spec),
        "workload": dataclasses.asdict(outcome.workload),
        "seeds": [config.training.seed],
        "versions": versions,
        "quality_metric": outcome.task.quality_metric,
        "n_validation": len(outcome.task.validation),
        "n_train": len(outcome.task.train),
        "chance_quality": outcome.task.chance_quality,
        "measurements": counts([r for r in ledger_rows if r["device"] == target_id]),
        "dense": dense_row(outcome),
        "front": [member_row(outcome, main, i) for i in range(len(main.members))],
        "baselines": {
            front.name: {
                "label": METHODS[front.name].label,
                "setting": "equal treatment",
                "target_measurements": sum(r["count"] for r in front.ledger),
                "front": [member_row(outcome, front, i) for i in range(len(front.members))],
                "hypervolume": outcome.volumes(front),
                "seconds": front.seconds,
                "note": " ".join(front.notes),
            }
            for front in rivals
        },
        "hypervolume": outcome.volumes(main),
        "hypervolume_ratio": ratios,
        "budgets": budgets_block(outcome),
        "surrogate": None if pool is None or choice is None else {
            "kind": choice[0],
            "why": choice[1],
            "pool": pool.kept,
            "dropped": pool.dropped,
            "n_records": pool.trained.n_records,
            "held_out": _held_out(pool),
        },
        "surrogate_error": surrogate_error(outcome),
        "calibration": calibration_block(outcome),
        "controller": controller,
        "ledger": ledger_rows + [
            {**row, "purpose": f"{row['purpose']} ({METHODS[front.name].label})"}
            for front in rivals for row in front.ledger
        ],
        "retargets": retargets,
        "seconds": seconds,
        "notes": notes,
    }  # fmt: skip


def _held_out(pool: LearntPool) -> dict[str, Any]:
    """Mean errors on held-out pool devices, device -> method -> metric in percent."""
    return {
        device: {
            method: {metric: numbers["mape"] for metric, numbers in metrics.items()}
            for method, metrics in methods.items()
        }
        for device, methods in pool.trained.errors["setting"].items()
    }
