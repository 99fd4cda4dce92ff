"""The settings of runs, and by which of them runs of one method differ: its variants."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from metas_peft.core.errors import CheckpointError

CONFIG = "config.yaml"
# Settings by which two runs of one method do not differ in kind: names, places, seeds, and what runs beside them.
_NOT_A_VARIANT = ("run_id", "output_dir", "retarget", "optuna", "threads", "controller", "report_to")


def read_settings(path: Path) -> dict[str, Any]:
    """Flat settings of a run that make it a variant of its method; empty where the run wrote none."""
    try:
        data = yaml.safe_load((path / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path / CONFIG} cannot be read ({error}).") from error
    flat: dict[str, Any] = {}

    def collect(node: Mapping[str, Any], prefix: str) -> None:
        for name, value in node.items():
            if isinstance(value, Mapping):
                collect(value, f"{prefix}{name}.")
            else:
                flat[f"{prefix}{name}"] = value

    collect({k: v for k, v in data.items() if k not in _NOT_A_VARIANT}, "")
    for name in ("training.seed", "evaluation.baselines", "evaluation.primary_metric", "evaluation.metrics",
                 "hardware_profiling.measurement_cache_dir", "surrogate.checkpoint_path", "dataset.path",
                 "model.architecture_notes"):  # fmt: skip
        flat.pop(name, None)
    # What a cell says already is no variant of a method within it.
    for name in ("model.name", "dataset.name", "dataset.source", "device", "hardware_profiling.target_device"):
        flat.pop(name, None)
    return flat


def variants(runs: Sequence[tuple[str, dict[str, Any]]]) -> dict[tuple[str, str], str]:
    """(method, digest of settings) -> the settings in which it differs from other runs of the method."""
    named: dict[tuple[str, str], str] = {}
    for label in dict.fromkeys(label for label, _ in runs):
        distinct = {digest(s): s for name, s in runs if name == label}
        keys = sorted({k for s in distinct.values() for k in s})
        differing = [k for k in keys if len({json.dumps(s.get(k)) for s in distinct.values()}) > 1]
        for key, s in distinct.items():
            named[label, key] = ", ".join(f"{k}={s.get(k)}" for k in differing)
    return named


def digest(settings: Mapping[str, Any]) -> str:
    """A name of settings, the same for the same ones."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
