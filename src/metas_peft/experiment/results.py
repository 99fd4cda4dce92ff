"""The public `results.json`, block by block."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metas_peft.conf import METHODS
from metas_peft.conf.notices import budgets_at_odds
from metas_peft.core.cost import METRIC_NAMES, METRICS, Cost, Origin
from metas_peft.core.launched import processes
from metas_peft.devices import SimulatedDevice
from metas_peft.experiment.outcome import MethodFront, Outcome
from metas_peft.experiment.pricing import LearntPool

SCHEMA_VERSION = 1
ONE_SEED = (
    "Intervals of volume ratios are over the evaluation examples of one training seed; the spread between seeds, which "
    "is often larger, is not in them."
)


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
        "method": surrogate.kind + (", scale and shift per metric" if surrogate.scale_shift is not None else ""),
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


def collapsed(outcome: Outcome) -> list[str]:
    """A sentence per method with members that give every text the same answer."""
    found = []
    for front in outcome.fronts.values():
        rows = [outcome.judge.written(row) or row.tolist() for row in outcome.answers[front.name]]
        names = [m.name for m, row in zip(front.members, rows, strict=True) if len(row) > 1 == len(set(row))]
        if names:
            found.append(
                f"{METHODS[front.name].label}: {', '.join(names)} {'answers' if len(names) == 1 else 'answer'} every "
                "text alike; such a member has learnt nothing, whatever its quality is."
            )
    return found


def counts(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Measurements by purpose, for the contract's three."""
    return {p: sum(r["count"] for r in rows if r["purpose"] == p) for p in ("training", "calibration", "evaluation")}


def rivals_block(outcome: Outcome) -> dict[str, Any]:
    """The rivals' fronts on the outcome's device, by method; `target_measurements` were made on it to tune them."""
    device = outcome.target.device.spec.device_id
    return {
        front.name: {
            "label": METHODS[front.name].label,
            "setting": METHODS[front.name].setting,
            "target_measurements": sum(r["count"] for r in front.ledger if r["device"] == device),
            "front": [member_row(outcome, front, i) for i in range(len(front.members))],
            "hypervolume": outcome.volumes(front),
            "seconds": front.seconds,
            "note": " ".join(front.notes),
        }
        for front in outcome.rivals
    }


def ratios_block(outcome: Outcome) -> dict[str, Any]:
    """Useful volume of the run's method over each rival's, where it can be told."""
    return {front.name: ratio for front in outcome.rivals if (ratio := outcome.ratio(front)) is not None}


def retarget_block(outcome: Outcome, ledger_rows: list[dict[str, Any]]) -> dict[str, Any]:
    """All fronts of the run on another device."""
    record = outcome.target.records[outcome.dense.subnet.key]
    return {
        "device": dataclasses.asdict(outcome.target.device.spec),
        "dense": dense_row(outcome),
        "front": [member_row(outcome, outcome.main, i) for i in range(len(outcome.main.members))],
        "baselines": rivals_block(outcome),
        "calibration": calibration_block(outcome),
        "measurements": counts(ledger_rows),
        "surrogate_error": surrogate_error(outcome),
        "hypervolume": outcome.volumes(outcome.main),
        "hypervolume_ratio": ratios_block(outcome),
        "budgets": budgets_block(outcome),
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
    target_id = outcome.target.device.spec.device_id
    ratios = ratios_block(outcome)
    if ratios:
        notes = [*notes, ONE_SEED]
    notes = [*notes, *collapsed(outcome)]
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": config.run_id,
        "method": METHODS[config.method].label,
        "setting": METHODS[config.method].setting,
        "front_kind": config.front,
        "processes": processes(),
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
        "evaluation_split": config.evaluation.split,
        "n_validation": len(outcome.task.validation),
        "n_train": len(outcome.task.train),
        "chance_quality": outcome.task.chance_quality,
        "measurements": counts([r for r in ledger_rows if r["device"] == target_id]),
        "dense": dense_row(outcome),
        "front": [member_row(outcome, main, i) for i in range(len(main.members))],
        "baselines": rivals_block(outcome),
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
            for front in outcome.rivals for row in front.ledger
        ],
        "retargets": retargets,
        "seconds": {**seconds, "method": main.seconds},
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
