"""Reads a run's files into frozen records that the report draws. Parts that a run did not write are empty here.

Only `dense` and `front` are needed; whatever else is missing becomes a sentence in the report, never an empty
picture. Numbers stay in J, ms and W; each keeps its origin.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metas_peft.control.tree import Controller
from metas_peft.core.cost import METRIC_NAMES, METRICS, Cost
from metas_peft.core.errors import CheckpointError

RESULTS_SCHEMA = 1


@dataclass(frozen=True)
class Point:
    """One model on one device: a member of a front, a baseline's, or the dense reference.

    `cost` is what the device showed, `origin` where each of its numbers comes from, `predicted` what the surrogate
    had said. `counts` holds whatever else was counted (FLOPs, bytes, kept units), by the name it has in the file.
    """

    key: str
    name: str
    quality: float
    cost: Cost[float | None]
    origin: Cost[str | None]
    predicted: Cost[float | None]
    counts: Mapping[str, float]
    heads: tuple[tuple[int, ...], ...] = ()
    ffn_blocks: tuple[tuple[int, ...], ...] = ()
    attention: tuple[int, ...] = ()
    ffn: tuple[int, ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Ratio:
    """Our volume over a rival's, with its interval; None where it is not defined or unbounded."""

    ratio: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Method:
    """A rival and its operating points."""

    name: str
    label: str
    setting: str
    target_measurements: int | None
    points: tuple[Point, ...]
    hypervolume: Mapping[str, float | None]
    ratio: Ratio | None
    seconds: float | None
    note: str


@dataclass(frozen=True)
class Calibration:
    """The few measurements that fitted the surrogate to a device, as pairs (predicted, on the device)."""

    method: str = ""
    design: str = ""
    pairs: tuple[tuple[Cost[float | None], Cost[float | None]], ...] = ()
    alpha: Cost[float | None] = field(default_factory=lambda: Cost.uniform(None))
    beta: Cost[float | None] = field(default_factory=lambda: Cost.uniform(None))


@dataclass(frozen=True)
class Target:
    """All fronts on one device: the run's own target or one that it was re-targeted to.

    Attributes:
        front: The run's own method.
        rivals: The baselines.
        limits: Budgets by metric, in absolute terms.
    """

    device: str
    dense: Point
    front: tuple[Point, ...]
    hypervolume: Mapping[str, float | None]
    measurements: Mapping[str, int]
    calibration: Calibration
    error: Cost[float | None]
    error_n: int | None
    rivals: tuple[Method, ...] = ()
    limits: Mapping[str, float] = field(default_factory=dict)
    error_against: str = ""
    meter: str = ""
    threads: int | None = None
    protocol: str = ""
    name: str = ""

    @property
    def points(self) -> tuple[Point, ...]:
        """Members and the dense reference."""
        return (*self.front, self.dense)


@dataclass(frozen=True)
class Run:
    """Everything that a report shows. `extra` holds the parts that tables print as they are."""

    run_id: str
    method: str
    backbone: str
    task: str
    is_synthetic: bool
    task_source: str
    quality_metric: str
    n_validation: int | None
    chance_quality: float | None
    seeds: tuple[int, ...]
    target: Target
    retargets: tuple[Target, ...]
    controller: Controller | None
    workload: str
    extra: Mapping[str, Any]

    @property
    def baselines(self) -> tuple[Method, ...]:
        """The rivals on the run's own target."""
        return self.target.rivals

    @property
    def label(self) -> str:
        """Name of the method for people."""
        return {"proposed": "MetaS-PEFT", "metas": "MetaS-PEFT"}.get(self.method.lower(), self.method)


def read_run(run_dir: Path) -> Run:
    """Read a run's folder.

    Args:
        run_dir: Folder with `results.json` and, where the run has a controller, `controller.json`.

    Raises:
        CheckpointError: `results.json` is missing, unreadable, of another schema version, or lacks `dense` or `front`;
            or `controller.json` is damaged.
    """
    path = run_dir / "results.json"
    data = _read_object(path, "Run `metas run` first, or name a folder that it wrote.")
    if data.get("schema_version") != RESULTS_SCHEMA:
        raise CheckpointError(
            f"{path} has schema version {data.get('schema_version')!r}, expected {RESULTS_SCHEMA}. "
            "Draw it with the version of MetaS-PEFT that wrote it, or run again."
        )
    missing = [name for name in ("dense", "front") if data.get(name) is None]
    if missing:
        raise CheckpointError(f"{path} has no {' and no '.join(missing)}; the run did not finish. Run it again.")
    try:
        return _run(data, _read_controller(run_dir / "controller.json"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} cannot be drawn: an entry is missing or of another kind ({error!r}).") from error


def _read_object(path: Path, advice: str) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"There is no {path}. {advice}") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({error}). {advice}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} does not hold an object. {advice}")
    return data


def _read_controller(path: Path) -> Controller | None:
    if not path.exists():
        return None
    return Controller.from_dict(_read_object(path, "Write the controller again."))


def _run(data: Mapping[str, Any], controller: Controller | None) -> Run:
    retargets = data.get("retargets") or {}
    return Run(
        run_id=str(data.get("run_id", "")),
        method=str(data.get("method", "MetaS-PEFT")),
        backbone=str(data.get("backbone", "")),
        task=str(data.get("task", "")),
        is_synthetic=data.get("task_origin") == "synthetic",
        task_source=str(data.get("task_source") or ""),
        quality_metric=str(data.get("quality_metric") or "quality"),
        n_validation=data.get("n_validation"),
        chance_quality=data.get("chance_quality"),
        seeds=tuple(data.get("seeds") or ()),
        target=_target(str(data.get("target_device", "")), data),
        retargets=tuple(_target(device, entry) for device, entry in retargets.items()),
        controller=controller,
        workload=_workload(data.get("workload") or {}),
        extra={
            name: data.get(name) or {}
            for name in ("budgets", "surrogate", "controller", "ledger", "seconds", "notes", "versions")
        },
    )


def _target(device: str, data: Mapping[str, Any]) -> Target:
    calibration = data.get("calibration") or {}
    error = data.get("surrogate_error") or {}
    spec = data.get("target_spec") or data.get("device") or {}
    return Target(
        device=device,
        dense=_point(data["dense"], "dense"),
        front=tuple(_point(entry, f"member {i}") for i, entry in enumerate(data.get("front") or ())),
        hypervolume=data.get("hypervolume") or {},
        measurements=data.get("measurements") or {},
        calibration=Calibration(
            method=str(calibration.get("method") or ""),
            design=str(calibration.get("design") or ""),
            pairs=tuple((_cost(p.get("predicted")), _cost(p.get("measured"))) for p in calibration.get("points") or ()),
            alpha=_cost(calibration.get("alpha")),
            beta=_cost(calibration.get("beta")),
        ),
        error=_cost(error),
        error_n=error.get("n"),
        rivals=tuple(_method(name, entry, data) for name, entry in (data.get("baselines") or {}).items()),
        limits=(data.get("budgets") or {}).get("limits") or {},
        error_against=str(error.get("against") or ""),
        meter=str(data.get("meter") or ""),
        threads=data.get("threads"),
        protocol=str(data.get("protocol") or ""),
        name=str(spec.get("name") or ""),
    )


def _method(name: str, entry: Mapping[str, Any], data: Mapping[str, Any]) -> Method:
    ratio = (data.get("hypervolume_ratio") or {}).get(name)
    return Method(
        name=name,
        label=str(entry.get("label") or name),
        setting=str(entry.get("setting") or ""),
        target_measurements=entry.get("target_measurements"),
        points=tuple(_point(p, f"{name} {i}") for i, p in enumerate(entry.get("front") or ())),
        hypervolume=entry.get("hypervolume") or {},
        ratio=None if not ratio else Ratio(ratio.get("ratio"), ratio.get("low"), ratio.get("high")),
        seconds=entry.get("seconds"),
        note=str(entry.get("note") or ""),
    )


def _point(entry: Mapping[str, Any], name: str) -> Point:
    known = {"quality", *METRICS}
    counts = {n: v for n, v in entry.items() if n not in known and _is_number(v)}
    return Point(
        key=str(entry.get("key") or ""),
        name=str(entry.get("name") or name),
        quality=float(entry["quality"]),
        cost=_cost(entry),
        origin=_cost(entry.get("origin")),
        predicted=_cost(entry.get("predicted")),
        counts=counts,
        heads=_mask(entry.get("heads")),
        ffn_blocks=_mask(entry.get("ffn_blocks")),
        attention=tuple(int(v) for v in entry.get("attention") or ()),
        ffn=tuple(int(v) for v in entry.get("ffn") or ()),
        scores={name: float(v) for name, v in (entry.get("scores") or {}).items() if _is_number(v)},
    )


def _workload(entry: Mapping[str, Any]) -> str:
    """What one pass is, in words; energy and latency are per pass."""
    if not entry:
        return ""
    words = [f"{entry.get('batch_size', 1)} × {entry.get('seq_len', '?')} tokens", str(entry.get("phase") or "")]
    words.append(f"{entry['param_bits']}-bit weights" if entry.get("param_bits") else "")
    words.append(f"adapter {entry['adapter']}" if entry.get("adapter") else "")
    return ", ".join(word for word in words if word)


def _cost(entry: Mapping[str, Any] | None) -> Cost[Any]:
    """Three values under their full (`energy_j`) or short (`energy`) names; None where absent."""
    entry = entry or {}
    return Cost(*(entry.get(m, entry.get(METRIC_NAMES[m])) for m in METRICS))


def _mask(rows: Sequence[Sequence[Any]] | None) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(v) for v in row) for row in rows or ())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
