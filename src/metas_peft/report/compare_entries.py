"""Finished runs as entries of a comparison: one method, one seed, one device.

A run gives its own method and its baselines, on its target and on every device that they were carried over to.
"""

import dataclasses
import json
import logging
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metas_peft.conf.methods import Method as MethodRow
from metas_peft.core.cost import METRICS
from metas_peft.core.errors import CheckpointError
from metas_peft.report.collect import Method, Point, Run, Target, read_run
from metas_peft.report.compare_variants import bearing, described, method_of, read_settings, variants

logger = logging.getLogger(__name__)

RESULTS, ANSWERS = "results.json", "answers.npz"


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
        examples: How many they are; 0 where a run does not say.
    """

    backbone: str
    task: str
    device: str
    quality_metric: str
    workload: str
    split: str
    examples: int = 0

    @property
    def title(self) -> str:
        """Such as `minilm on sst2, for pixel-8`."""
        parts = ("" if self.split == "validation" else self.split, f"{self.examples} examples" if self.examples else "")
        judged = ", ".join(part for part in parts if part)
        return f"{self.backbone} on {self.task}{f' ({judged})' if judged else ''}, for {self.device}"


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
    """All entries of some runs, each variant of a method in a cell named by the settings in which it differs.

    Raises:
        CheckpointError: A run cannot be read.
    """
    found: list[tuple[Entry, Mapping[str, Any]]] = []
    for path in run_dirs:
        run, settings, stored = read_run(path), read_settings(path), _answers(path)
        results = json.loads((path / RESULTS).read_text(encoding="utf-8"))
        if results.get("processes", 1) > 1:  # each had a batch of its own
            settings["processes"] = results["processes"]
        own = method_of(str(settings.get("method", "")), run.label)
        for target in (run.target, *run.retargets):
            found.append((_main(run, results, target, own, stored), bearing(settings, own)))
            for baseline in target.rivals:
                row = method_of(baseline.name, baseline.label)
                found.append((_baseline(run, results, target, baseline, row, stored), bearing(settings, row)))
    differing = variants([((entry.cell, entry.name), settings) for entry, settings in found])
    return [
        dataclasses.replace(entry, variant=", ".join(part for part in (entry.variant, which) if part))
        for (entry, _), which in zip(found, differing, strict=True)
    ]


def _main(
    run: Run, results: Mapping[str, Any], target: Target, row: MethodRow | None, stored: Mapping[str, np.ndarray]
) -> Entry:
    counted = target.measurements
    own = next((name for name in stored if name not in ("dense", "labels")), None)
    return Entry(
        cell=_cell(run, results, target),
        method=run.label,
        variant=described(results.get("setting"), row),
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
    run: Run, results: Mapping[str, Any], target: Target, baseline: Method, row: MethodRow | None,
    stored: Mapping[str, np.ndarray],
) -> Entry:  # fmt: skip
    return Entry(
        cell=_cell(run, results, target),
        method=baseline.label,
        variant=described(baseline.setting, row),
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
    return Cell(run.backbone, task, target.device, run.quality_metric, run.workload, split, run.n_validation or 0)


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
