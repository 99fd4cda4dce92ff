"""The settings of runs, and by which of them entries of one method differ: its variants.

Baselines inherit the settings of the run that they stand in, so they are told apart as runs are, by the settings that
have a bearing on the method.
"""

import hashlib
import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from metas_peft.conf.methods import METHODS, CostTerm, Method, Shape
from metas_peft.core.errors import CheckpointError

CONFIG = "config.yaml"
FAIR = METHODS["EChorda"].setting
# Settings by which two runs of one method do not differ in kind: names, places, seeds, and what runs beside them.
_NOT_A_VARIANT = ("run_id", "output_dir", "retarget", "optuna", "threads", "controller", "report_to")
_NAMES_AND_PLACES = (
    "training.seed", "evaluation.baselines", "evaluation.primary_metric", "evaluation.metrics",
    "hardware_profiling.measurement_cache_dir", "surrogate.checkpoint_path", "dataset.path", "model.architecture_notes",
    # What a cell says already is no variant of a method within it.
    "model.name", "dataset.name", "dataset.source", "device", "hardware_profiling.target_device",
)  # fmt: skip
_PREDICTED = (CostTerm.SURROGATE, CostTerm.TARGET)
# How a setting begins, and whether it bears on a method. The first that fits counts; what fits none bears on all.
_BEARING: tuple[tuple[str, Callable[[Method], bool]], ...] = (
    ("surrogate.calibration_", lambda m: m.cost_term is CostTerm.SURROGATE),
    ("surrogate.", lambda m: m.cost_term in _PREDICTED),  # samples of a target are fitted with the pool as a prior
    ("objective_weights.", lambda m: m.cost_term in _PREDICTED),
    ("hardware_profiling.real_measurements_required", lambda m: m.cost_term is CostTerm.TARGET),
    ("model.gating.", lambda m: m.shape is Shape.GATED),
    ("budgets.", lambda m: m.shape is not Shape.DENSE),
    ("front", lambda m: m.shape is not Shape.DENSE),
    # AdaLoRA is tuned with the dense stage's settings alone; so is everything else that removes nothing.
    ("training.distillation.", lambda m: m.shape is not Shape.DENSE),
    ("training.joint_steps", lambda m: m.shape is not Shape.DENSE),
    ("training.path_steps", lambda m: m.shape is not Shape.DENSE),
    ("training.gate_steps", lambda m: m.shape is not Shape.DENSE),
    ("evaluation.operating_points", lambda m: m.shape is not Shape.DENSE),
)


def read_settings(path: Path) -> dict[str, Any]:
    """Flat settings of a run by dotted name, the method's name among them; empty where the run wrote none.

    Raises:
        CheckpointError: The file cannot be read.
    """
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
            elif value is not None:  # a key that an older run did not know yet is one that nobody set
                flat[f"{prefix}{name}"] = value

    collect({k: v for k, v in data.items() if k not in _NOT_A_VARIANT}, "")
    return {name: value for name, value in flat.items() if name not in _NAMES_AND_PLACES}


def method_of(name: str, label: str) -> Method | None:
    """The row of a method by its name or, where that is none, in equal treatment by its label; None if not known."""
    if name in METHODS:
        return METHODS[name]
    rows = (METHODS[known] for known in METHODS)
    return next((row for row in rows if row.label == label and row.setting == FAIR), None)


def described(setting: str | None, method: Method | None) -> str:
    """How a method is treated where that is not equally; results of before it was stored leave it to the method."""
    known = setting or (method.setting if method else FAIR)
    return "" if known == FAIR else known


def bearing(settings: Mapping[str, Any], method: Method | None) -> dict[str, Any]:
    """The settings that make an entry a variant of its method; of a method that is not known, all.

    Args:
        settings: Of the run, by dotted name.
        method: Row of the method.
    """

    def bears(name: str) -> bool:
        rule = next((rule for start, rule in _BEARING if name.startswith(start)), None)
        return method is None or rule is None or rule(method)

    # The name says no more than the label and the setting do.
    return {name: value for name, value in settings.items() if name != "method" and bears(name)}


def variants(entries: Sequence[tuple[Hashable, Mapping[str, Any]]]) -> list[str]:
    """For each (name, settings) the settings in which it differs from others of that name; empty where in none."""
    distinct: dict[Hashable, dict[str, Mapping[str, Any]]] = {}
    for name, settings in entries:
        distinct.setdefault(name, {})[_digest(settings)] = settings
    differing = {name: _differing(list(known.values())) for name, known in distinct.items()}
    return [", ".join(f"{k}={settings.get(k)}" for k in differing[name]) for name, settings in entries]


def _differing(known: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = sorted({k for settings in known for k in settings})
    return [k for k in keys if len({json.dumps(settings.get(k)) for settings in known}) > 1]


def _digest(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
