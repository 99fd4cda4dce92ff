"""One number per figure of a run, for searches and comparisons: what `evaluation.primary_metric` may name."""

from collections.abc import Mapping
from typing import Any

from metas_peft.core.cost import METRIC_NAMES, METRICS


def scalars(results: Mapping[str, Any]) -> dict[str, float | None]:
    """Figures of a run by name; None where the run does not have one.

    Qualities are those of the best member, costs those of the cheapest one (J, ms, W, FLOPs), of the front, or of
    the dense model where the method cuts nothing. The hyper-volume is the useful one, the surrogate's error the
    mean of its three (percent).

    Args:
        results: Content of `results.json`.
    """
    members = list(results["front"]) or [results["dense"]]
    found: dict[str, float | None] = {"quality": _most(members, "quality")}
    found["accuracy"] = _most([m.get("scores", {}) for m in members], "accuracy")
    for name in (*METRICS, "flops"):
        known = [m[name] for m in members if m.get(name) is not None]
        found[name] = min(known) if known else None
    errors = results.get("surrogate_error") or {}
    known = [errors[name] for name in METRIC_NAMES.values() if errors.get(name) is not None]
    found["surrogate_error"] = sum(known) / len(known) if known else None
    found["hypervolume"] = results["hypervolume"].get("useful")
    return found


def _most(rows: list[Mapping[str, Any]], name: str) -> float | None:
    known = [row[name] for row in rows if row.get(name) is not None]
    return max(known) if known else None
