"""What a run leaves when it is through: results and tables."""

import contextlib
import importlib.metadata
from typing import Any

from metas_peft import __version__
from metas_peft.core.files import write_json
from metas_peft.experiment import results, tables
from metas_peft.experiment.fronts import DENSE
from metas_peft.experiment.outcome import Outcome
from metas_peft.experiment.pricing import LearntPool, kind_of
from metas_peft.experiment.state import RunState

PACKAGES = ("torch", "transformers", "peft", "accelerate", "numpy", "scikit-learn", "moocore")


def finish(
    state: RunState, outcome: Outcome, pool: LearntPool | None, controller: dict[str, Any] | None,
    retargets: dict[str, Any], seconds: float,
) -> None:  # fmt: skip
    """Write results and tables; the results last, since a folder that has them is finished.

    Args:
        state: The run.
        outcome: What it found.
        pool: What its surrogate was learnt from.
        controller: Facts of the controller, if there is one.
        retargets: Facts of the front on other devices.
        seconds: Wall time since this start of the run.
    """
    everything = results.results_block(
        # A pool may have been learnt for a rival alone; what is reported is the surrogate that predicted.
        outcome, pool=pool, choice=kind_of(state.config, pool.trained) if pool and outcome.surrogate else None,
        controller=controller, retargets=retargets, ledger_rows=state.ledger_rows, notes=state.notes,
        backbone=state.bench.backbone, backbone_source=state.bench.backbone_source, versions=_versions(),
        seconds=_seconds(state.stages.seconds, seconds),
    )  # fmt: skip
    adapter = state.dir / "adapter" / "adapter_model.safetensors"
    everything["adapter_bytes"] = adapter.stat().st_size if adapter.exists() else None
    tables.write_rows(state.dir / "front.parquet", tables.front_rows(everything))
    tables.write_rows(state.dir / "records.parquet", state.record_rows)
    tables.write_answers(state.dir / "answers.npz", outcome)
    tables.write_predictions(state.dir / "predictions.jsonl", outcome)
    write_json(state.dir / "results.json", everything)


def _seconds(took: dict[str, float], since_start: float) -> dict[str, float]:
    """Time of the parts of a run; stages of earlier starts count, so that their sum may exceed this start's."""
    return {
        "surrogate": sum(v for k, v in took.items() if k.startswith("surrogate")),
        "tuning": sum(v for k, v in took.items() if k == DENSE or k.startswith("tune-")),
        "evaluation": sum(v for k, v in took.items() if k in ("evaluate", "controller") or "measure" in k),
        "total": max(sum(took.values()), since_start),
    }


def _versions() -> dict[str, str]:
    found = {"metas-peft": __version__}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
