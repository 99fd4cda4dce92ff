"""Finished runs as entries of a comparison: one method, one seed, one device.

A run gives its own method and its baselines, on its target and on every device that they were carried over to.
"""

import hashlib
import json
import logging
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from metas_peft.core.cost import METRICS
from metas_peft.core.errors import CheckpointError
from metas_peft.report.collect import Method, Point, Run, Target, read_run

logger = logging.getLogger(__name__)

RESULTS, ANSWERS, CONFIG = "results.json", "answers.npz", "config.yaml"
# Settings by which two runs of one method do not differ in kind: names, places, seeds, and what runs beside them.
_NOT_A_VARIANT = ("run_id", "output_dir", "retarget", "optuna", "threads", "controller", "report_to")


@dataclass(frozen=True, order=True)
class Cell:
    """What entries must share to be compared.

    Attributes:
        backbone: Backbone.
        task: Task; it says so where the data are generated.
        device: Target device.
        quality_metric: Headline metric.
        workload: What one pass is, in words.
        split: Examples that quality is of: `validation`, or `holdout` for trials of a search.
    """

    backbone: str
    task: str
    device: str
    quality_metric: str
    workload: str
    split: str

    @property
    def title(self) -> str:
        """Such as `minilm on sst2, for pixel-8`."""
        judged = "" if self.split == "validation" else f" ({self.split})"
        return f"{self.backbone} on {self.task}{judged}, for {self.device}"


@dataclass(frozen=True)
class Answers:
    """Predicted classes of a front (M, E) and of the dense model (E,), and the true ones (E,)."""

    front: np.ndarray
    dense: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Entry:
    """One method with one seed on one device.

    Attributes:
        cell: What it may be compared within.
        method: Label.
        variant: What sets it apart from other runs of the method; empty where nothing does.
        seed: Training seed.
        run_id: Run that it comes from.
        is_main: Whether it is the run's own method, not a baseline in it.
        points: Members of the front.
        dense: The ungated model of the run.
        chance: Quality of guessing.
        limits: Budgets by metric.
        measurements: Measurements on the target before evaluation.
        training: Measurements on the target while training; None for a baseline, whose ledger has but one sum.
        error: Mean absolute errors of the surrogate by metric (percent), where it was scored.
        seconds: Of tuning after the dense stage.
        answers: What was answered to every example, where the run wrote it.
    """

    cell: Cell
    method: str
    variant: str
    seed: int
    run_id: str
    is_main: bool
    points: tuple[Point, ...]
    dense: Point
    chance: float
    limits: Mapping[str, float]
    measurements: int | None
    training: int | None
    error: Mapping[str, float]
    seconds: float | None
    answers: Answers | None

    @property
    def name(self) -> str:
        """Method and variant."""
        return f"{self.method} ({self.variant})" if self.variant else self.method

    def costs(self) -> np.ndarray | None:
        """Energy (J), latency (ms), peak power (W) of the members, (M, 3); None where one is not known."""
        return _array([p.cost for p in self.points])

    def dense_cost(self) -> np.ndarray | None:
        """The same of the dense model, (3,)."""
        found = _array([self.dense.cost])
        return None if found is None else found[0]


def _array(costs: Sequence[Any]) -> np.ndarray | None:
    rows = [[getattr(cost, m) for m in METRICS] for cost in costs]
    if not rows or any(v is None for row in rows for v in row):
        return None
    return np.array(rows, dtype=np.float64)


def find_runs(folders: Iterable[Path]) -> list[Path]:
    """Folders of finished runs: those given, or those below them; trials of searches only where they are named.

    Raises:
        CheckpointError: A folder holds no finished run.
    """
    found: dict[Path, None] = {}
    for folder in folders:
        if (folder / RESULTS).is_file():
            found[folder] = None
            continue
        inside = sorted(path.parent for path in folder.rglob(RESULTS)) if folder.is_dir() else []
        here = [p for p in inside if not any(part.endswith(".sweep") for part in p.relative_to(folder).parts)]
        if not here:
            raise CheckpointError(f"{folder} holds no finished run; name folders that `metas run` wrote.")
        found |= dict.fromkeys(here)
    return list(found)


def read_entries(run_dirs: Sequence[Path]) -> list[Entry]:
    """All entries of some runs, each variant of a method named by the settings in which it differs.

    Raises:
        CheckpointError: A run cannot be read.
    """
    runs = [(path, read_run(path)) for path in run_dirs]
    settings = {path: _settings(path) for path in run_dirs}
    variants = _variants([(run.label, settings[path]) for path, run in runs])
    entries: list[Entry] = []
    for path, run in runs:
        results = json.loads((path / RESULTS).read_text(encoding="utf-8"))
        variant = variants[run.label, _digest(settings[path])]
        stored = _answers(path)
        for target in (run.target, *run.retargets):
            entries.append(_main(run, results, target, variant, stored))
            # A baseline inherits the settings of the run it stands in, which may not be those of its own run file.
            entries += [_baseline(run, results, target, baseline, stored) for baseline in target.rivals]
    return entries


def _main(
    run: Run, results: Mapping[str, Any], target: Target, variant: str, stored: Mapping[str, np.ndarray]
) -> Entry:
    counted = target.measurements
    own = next((name for name in stored if name not in ("dense", "labels")), None)
    return Entry(
        cell=_cell(run, results, target),
        method=run.label,
        variant=variant,
        seed=run.seeds[0] if run.seeds else 0,
        run_id=run.run_id,
        is_main=True,
        points=target.front,
        dense=target.dense,
        chance=run.chance_quality or 0.0,
        limits=target.limits,
        measurements=counted.get("training", 0) + counted.get("calibration", 0) if counted else None,
        training=counted.get("training") if counted else None,
        error={m: v for m in METRICS if (v := getattr(target.error, m)) is not None},
        seconds=run.extra["seconds"].get("method"),
        answers=_answers_of(stored, own, len(target.front)),
    )


def _baseline(
    run: Run, results: Mapping[str, Any], target: Target, baseline: Method, stored: Mapping[str, np.ndarray]
) -> Entry:
    described = "" if baseline.setting in ("", "equal treatment") else baseline.setting
    return Entry(
        cell=_cell(run, results, target),
        method=baseline.label,
        variant=described,
        seed=run.seeds[0] if run.seeds else 0,
        run_id=run.run_id,
        is_main=False,
        points=baseline.points,
        dense=target.dense,
        chance=run.chance_quality or 0.0,
        limits=target.limits,
        measurements=baseline.target_measurements,
        training=None,
        error={},
        seconds=baseline.seconds,
        answers=_answers_of(stored, baseline.name, len(baseline.points)),
    )


def _cell(run: Run, results: Mapping[str, Any], target: Target) -> Cell:
    task = f"{run.task} (synthetic data)" if run.is_synthetic and "synthetic" not in run.task else run.task
    split = str(results.get("evaluation_split") or "validation")
    return Cell(run.backbone, task, target.device, run.quality_metric, run.workload, split)


def _answers(path: Path) -> dict[str, np.ndarray]:
    file = path / ANSWERS
    if not file.exists():
        return {}
    try:
        with np.load(file) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{file} is damaged ({error}). Run again, or delete it to go without.") from error


def _answers_of(stored: Mapping[str, np.ndarray], name: str | None, members: int) -> Answers | None:
    if name is None or not {name, "dense", "labels"} <= stored.keys() or len(stored[name]) != members:
        return None
    return Answers(stored[name], stored["dense"][0], stored["labels"])


def _settings(path: Path) -> dict[str, Any]:
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
            elif value is not None:  # a key that an older run did not know yet is one that nobody set
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


def _variants(runs: Sequence[tuple[str, dict[str, Any]]]) -> dict[tuple[str, str], str]:
    """(method, digest of settings) -> the settings in which it differs from other runs of the method."""
    named: dict[tuple[str, str], str] = {}
    for label in dict.fromkeys(label for label, _ in runs):
        distinct = {_digest(s): s for name, s in runs if name == label}
        keys = sorted({k for s in distinct.values() for k in s})
        differing = [k for k in keys if len({json.dumps(s.get(k)) for s in distinct.values()}) > 1]
        for digest, s in distinct.items():
            named[label, digest] = ", ".join(f"{k}={s.get(k)}" for k in differing)
    return named


def _digest(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
