"""One number per figure of a run, for searches and comparisons: what `evaluation.primary_metric` may name."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metas_peft import pareto
from metas_peft.core.cost import METRIC_NAMES, METRICS


def scalars(results: Mapping[str, Any], reference_quality: float | None = None) -> dict[str, float | None]:
    """Figures of a run by name; None where the run does not have one.

    Qualities are those of the best member, costs those of the cheapest one (J, ms, W, FLOPs), of the front, or of
    the dense model where the method cuts nothing. The hyper-volume is the useful one, the surrogate's error the
    mean of its three (percent).

    Args:
        results: Content of `results.json`.
        reference_quality: Quality of the dense model that the hyper-volume is measured from; by default the run's own.
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
    if reference_quality is not None and found["hypervolume"] is not None:
        found["hypervolume"] = _volume(results, reference_quality)
    return found


def _volume(results: Mapping[str, Any], reference_quality: float) -> float:
    def costs(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
        return np.array([[row[m] for m in METRICS] for row in rows])

    yardstick = pareto.Yardstick(reference_quality, costs([results["dense"]])[0], results["chance_quality"] or 0.0)
    quality = np.array([row["quality"] for row in results["front"]])
    return pareto.volume(quality, costs(results["front"]), yardstick, "useful")


def _most(rows: list[Mapping[str, Any]], name: str) -> float | None:
    known = [row[name] for row in rows if row.get(name) is not None]
    return max(known) if known else None
