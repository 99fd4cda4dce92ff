"""What a deployment found, as the plain data of `deployment.json`."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metas_peft.conf.notices import budgets_at_odds
from metas_peft.conf.schema import BudgetsConfig
from metas_peft.core.cost import METRIC_NAMES, METRICS, Origin
from metas_peft.core.records import ProfileRecord
from metas_peft.deploy.budgets import in_words
from metas_peft.deploy.candidates import Candidate, FinishedRun
from metas_peft.deploy.choosing import Choice, Shortfall
from metas_peft.deploy.deciding import Decision
from metas_peft.deploy.sources import Format, Source

SCHEMA_VERSION = 1
SHEET = "verify.csv"


@dataclass(frozen=True)
class Request:
    """What is wanted.

    Attributes:
        run: Finished run.
        budgets: Upper limits by metric; none asks for the best member.
        out: Folder to write; an earlier deployment in it is replaced.
        kind: Format of the exported model.
        seed: Of everything random.
    """

    run: FinishedRun
    budgets: Mapping[str, float]
    out: Path
    kind: Format = "hf"
    seed: int = 0


@dataclass(frozen=True)
class Findings:
    """What a deployment tells.

    Attributes:
        request: What is wanted.
        source: Who measured.
        decision: What was decided, and what it rests on.
    """

    request: Request
    source: Source
    decision: Decision

    def common(self) -> dict[str, Any]:
        """What is told whether or not anything fits."""
        run, limits, decision = self.request.run, self.request.budgets, self.decision
        first = decision.measured[0]
        rows = [row for row in self.source.ledger.rows() if row["device"] == self.source.device]
        return {
            "schema_version": SCHEMA_VERSION,
            "run_id": run.run_id,
            "run": str(run.folder),
            "backbone": run.shape.model_id,
            "task": run.results.get("task"),
            "task_origin": run.results.get("task_origin"),
            "quality_metric": run.quality_metric,
            "device": self.source.device,
            "device_name": None if self.source.spec is None else self.source.spec.name,
            "runtime": first.runtime,
            "threads": first.threads,
            "meter": first.meter,
            "workload": dataclasses.asdict(run.workload),
            "budgets": dict(limits),
            "surrogate": decision.costing.surrogate.kind,
            "measurements": {
                purpose: sum(r["count"] for r in rows if r["purpose"] == purpose)
                for purpose in ("training", "calibration", "evaluation")
            },
            "points": self._points(),
            "candidates": [
                self._candidate(c, middle, top)
                for c, middle, top in zip(run.candidates, decision.middle, decision.high, strict=True)
            ],
            "notes": [*run.notes, *_at_odds(limits)],
        }  # fmt: skip

    def _points(self) -> list[dict[str, Any]]:
        points, costing = self.decision.points, self.decision.costing
        predicted, _, _ = costing.predict(self.request.run, [c.subnet for c in points])
        return [
            {
                "key": c.subnet.key,
                "name": c.name,
                "flops_fraction": c.flops_fraction,
                "predicted": self._told(row),
                "measured": record.cost.as_dict(),
                "origin": _origins(record),
                "error_pct": _errors(self._told(row), record),
            }
            for c, row, record in zip(points, predicted, self.decision.measured, strict=True)
        ]

    def _candidate(self, candidate: Candidate, middle: np.ndarray, top: np.ndarray) -> dict[str, Any]:
        predicted = self._told(middle)
        return {
            **_facts(candidate),
            "predicted": predicted,
            "upper": self._told(top),
            "inside": all((predicted[m] or 0.0) <= limit for m, limit in self.request.budgets.items()),
        }

    def nothing(self, shortfall: Shortfall) -> dict[str, Any]:
        """Where no candidate is predicted inside the budgets."""
        failure = shortfall.sentence(self.request.budgets)
        return {"chosen": None, "shortfall": dataclasses.asdict(shortfall), "failure": failure}

    def chosen(self, choice: Choice, facts: Mapping[str, Any], record: ProfileRecord | None) -> dict[str, Any]:
        """What was chosen.

        Args:
            choice: The candidate.
            facts: Of what was exported.
            record: Measured after the choice; None where somebody else must do it first.
        """
        decision, at = self.decision, choice.index
        middle, low, high = decision.middle[at], decision.low[at], decision.high[at]
        predicted, budgets = self._told(middle), self.request.budgets
        found = record.cost if record is not None and record.is_valid else None
        over = {m: None if found is None else _over(getattr(found, m), v) for m, v in budgets.items()}
        modelled = _modelled(record)
        chosen = {
            **_facts(self.request.run.candidates[choice.index]),
            "inside_by": choice.by,
            "predicted": predicted,
            "interval_80": {
                m: [float(low[i]), float(high[i])] if m in self.decision.costing.known else None
                for i, m in enumerate(METRICS)
            },
            "measured": None if record is None else record.cost.as_dict(),
            "origin": None if record is None else _origins(record),
            "error_pct": None if record is None else _errors(predicted, record),
            "over_budget_pct": over,
            "met": {m: None if value is None or m in modelled else value <= 0 for m, value in over.items()},
            "export": dict(facts),
        }
        return {"chosen": chosen, "shortfall": None, "failure": self._failure(chosen, record)}

    def _failure(self, chosen: Mapping[str, Any], record: ProfileRecord | None) -> str:
        """Why the budgets do not hold when measured; empty if they do."""
        name, budgets = chosen["name"], self.request.budgets
        if record is None:
            return (
                f"{name} is exported but not verified: nobody has measured it on {self.source.device} since it was "
                f"chosen. Fill in {self.request.out / SHEET} and give it as one more --records."
            )
        if not record.is_valid:
            return f"{name} is exported, but its verification is invalid ({record.why_invalid}). Deploy again."
        unknown = [m for m, over in chosen["over_budget_pct"].items() if over is None]
        if unknown:
            return f"{' and '.join(unknown)} of {name} was not measured in the verification. Measure it."
        guessed = [m for m in chosen["over_budget_pct"] if m in _modelled(record)]
        if guessed:
            return (
                f"{' and '.join(guessed)} of {name} is modelled, not measured: nobody knows whether the budget "
                "holds. Use a meter (`metas devices check` lists them), or leave the budget out."
            )
        missed = [
            f"{m} {getattr(record.cost, m):.4g} is {over:.1f} % above {budgets[m]:.4g}"
            for m, over in chosen["over_budget_pct"].items() if over > 0
        ]  # fmt: skip
        if not missed:
            return ""
        return (
            f"{name} was predicted inside {in_words(budgets)} but measured outside: {', '.join(missed)}. Relax the "
            "budget by as much, or ask for that much less to get a smaller member."
        )

    def _told(self, row: np.ndarray) -> dict[str, float | None]:
        """Predicted costs by metric; None where nothing was measured to rest on."""
        return {m: float(row[i]) if m in self.decision.costing.known else None for i, m in enumerate(METRICS)}


def _at_odds(limits: Mapping[str, float]) -> list[str]:
    energy_j, latency_ms, peak_power_w = (limits.get(m) for m in METRICS)
    return budgets_at_odds(BudgetsConfig(energy_j=energy_j, latency_ms=latency_ms, peak_power_w=peak_power_w))


def _facts(candidate: Candidate) -> dict[str, Any]:
    return {
        "key": candidate.subnet.key,
        "name": candidate.name,
        "quality": candidate.quality,
        "quality_of": candidate.quality_of,
        "flops_fraction": candidate.flops_fraction,
    }


def _origins(record: ProfileRecord) -> dict[str, str | None]:
    return {METRIC_NAMES[m]: None if o is None else str(o) for m, o in record.origin.items()}


def _modelled(record: ProfileRecord | None) -> list[str]:
    """Metrics that a model gave in the place of a meter."""
    return [] if record is None else [m for m, o in record.origin.items() if o is Origin.MODELLED]


def _errors(predicted: Mapping[str, float | None], record: ProfileRecord) -> dict[str, float | None]:
    """Prediction over measurement, less one, in percent."""
    pairs = {m: (predicted[m], getattr(record.cost, m)) for m in METRICS}
    return {m: None if said is None or not seen else 100 * (said / seen - 1) for m, (said, seen) in pairs.items()}


def _over(value: float | None, limit: float) -> float | None:
    """Above a limit, in percent; negative below it."""
    return None if value is None else 100 * (value / limit - 1)
