"""The surrogate: meta-trained on a pool, fitted to a device by a handful of records, then a cost model.

Records of a pool --train--> MetaTrained --fit(five records of the target)--> Surrogate --bind--> Counts to Cost.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metas_peft.core.errors import CalibrationError, CheckpointError, InvalidRecordError, UnknownNameError, nearest
from metas_peft.core.protocols import CostModel
from metas_peft.core.records import (
    METRICS,
    PAPER_COSTS,
    BackboneShape,
    Cost,
    DeviceSpec,
    PaperCost,
    ProfileRecord,
    Workload,
)
from metas_peft.costs import paper_cost
from metas_peft.surrogate import checkpoint
from metas_peft.surrogate.assess import Errors, Scope, assess, assess_zero_shot, mean_error
from metas_peft.surrogate.calibrate import ScaleShift, check_measured, fit_scale_shift
from metas_peft.surrogate.features import Table, describe, usable
from metas_peft.surrogate.kinds import Predictor, PredictorKind
from metas_peft.surrogate.physics import project
from metas_peft.surrogate.reference import MetaTraining, ReferenceKind, meta_train
from metas_peft.surrogate.roofline import RooflineKind

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
# Every kind of predictor that a checkpoint may hold; a new kind is one line here and one in `train`.
KINDS: dict[str, type[PredictorKind]] = {"reference": ReferenceKind, "roofline": RooflineKind}


@dataclass(frozen=True)
class CalibrationPoint:
    """One of the measurements that fitted a surrogate.

    Attributes:
        key: Of the sub-network.
        raw: Predicted before scale and shift.
        predicted: Predicted by the finished surrogate.
        measured: What the device said; None where it was not measured.
    """

    key: str
    raw: Cost[float]
    predicted: Cost[float]
    measured: Cost[float | None]


@dataclass(frozen=True)
class Surrogate:
    """One device's cost model. Positive; energy / latency <= peak power <= cap; differentiable.

    Attributes:
        kind: Kind of predictor.
        device: Name of the device; empty if nothing is known of it.
        pool: Devices that it learnt from.
        power_cap_w: Limit of the device, None if unknown.
        scale_shift: Part C; None for a zero-shot surrogate.
        points: The measurements behind it.
        predictor: Columns to costs, before scale, shift and physics.
    """

    kind: str
    device: str
    pool: tuple[str, ...]
    power_cap_w: float | None
    scale_shift: ScaleShift | None
    points: tuple[CalibrationPoint, ...]
    predictor: Predictor

    @property
    def alpha(self) -> Cost[float]:
        """Scale per metric; 1 for a zero-shot surrogate."""
        return Cost.uniform(1.0) if self.scale_shift is None else Cost(*map(float, self.scale_shift.alpha))

    @property
    def beta(self) -> Cost[float]:
        """Shift per metric in J, ms, W; 0 for a zero-shot surrogate."""
        return Cost.uniform(0.0) if self.scale_shift is None else Cost(*map(float, self.scale_shift.beta))

    def predict(self, paper: PaperCost[Any], workload: Workload) -> Cost[Any]:
        """Costs of passes whose counts are known.

        Args:
            paper: Counted costs: numbers, numpy arrays or tensors of one shape (...).
            workload: What each pass processes.

        Returns:
            Energy (J), latency (ms), peak power (W) per batch, of the type and shape given; tensors keep gradients.
        """
        counted = [getattr(paper, name) for name in PAPER_COSTS]
        if any(isinstance(value, torch.Tensor) for value in counted):
            tensors = PaperCost(*(torch.as_tensor(value) for value in counted))
            costs = finish(self.predictor(describe(tensors, workload)), self.scale_shift, self.power_cap_w)
            return Cost(*(c.to(tensors.flops.dtype) for c in costs.unbind(-1)))
        tensors = PaperCost(*(torch.from_numpy(np.array(value, dtype=np.float64)) for value in counted))
        with torch.no_grad():
            costs = finish(self.predictor(describe(tensors, workload)), self.scale_shift, self.power_cap_w).numpy()
        is_scalar = all(np.ndim(value) == 0 and not isinstance(value, np.ndarray) for value in counted)
        return Cost(*(float(costs[..., m]) if is_scalar else costs[..., m] for m in range(costs.shape[-1])))

    def bind(self, shape: BackboneShape, workload: Workload) -> CostModel:
        """A cost model of sub-networks of one backbone under one workload: kept counts (..., L) to costs (...)."""
        return lambda counts: self.predict(paper_cost(shape, counts, workload), workload)


def finish(costs: torch.Tensor, scale_shift: ScaleShift | None, power_cap_w: float | None) -> torch.Tensor:
    """Scale, shift and physics; shape (..., 3)."""
    return project(costs if scale_shift is None else scale_shift.apply(costs), power_cap_w)


@dataclass(frozen=True)
class MetaTrained:
    """What a pool taught, ready to be fitted to any other device.

    Attributes:
        kinds: Predictor kinds by name.
        devices: Devices of the pool.
        n_records: Records learnt from.
        errors: Leave-one-device-out errors in percent: scope -> device -> method -> metric -> mape, median_ape,
            p90_ape, n_eval. Scope `setting`: calibrated and tested within one backbone and workload, as a run does;
            `device`: over everything that was run on the device; `zero_shot`: the same, from the spec sheet alone.
        seed: Of the training.
    """

    kinds: Mapping[str, PredictorKind]
    devices: tuple[str, ...]
    n_records: int
    errors: Mapping[Scope, Mapping[str, Mapping[str, Errors]]]
    seed: int

    def choose(self, scope: Scope = "setting") -> str:
        """The kind with the smaller mean error on held-out pool devices; the target plays no part."""
        return min(sorted(self.kinds), key=lambda kind: mean_error(self.errors[scope], kind))

    def why(self, scope: Scope = "setting") -> str:
        """The choice in one sentence, for reports; it admits when a humble rival was better."""
        methods = sorted({m for by_method in self.errors[scope].values() for m in by_method})
        figures = {method: mean_error(self.errors[scope], method) for method in methods}
        chosen = self.choose(scope)
        listing = ", ".join(f"{m} {e:.1f} %" for m, e in sorted(figures.items(), key=lambda item: item[1]))
        ahead = [m for m in methods if m not in self.kinds and figures[m] < figures[chosen]]
        admission = f" It does not beat {' and '.join(ahead)} there." if ahead else ""
        return (
            f"{chosen} has the smallest mean error of the learnt kinds on {len(self.errors[scope])} held-out pool "
            f"devices ({listing}).{admission}"
        )

    def fit(self, kind: str, records: Sequence[ProfileRecord], spec: DeviceSpec | None = None) -> Surrogate:
        """Fit to one device from a handful of its records.

        Args:
            kind: `reference` or `roofline`; `choose` says which did better.
            records: Calibration records of the target, two or more (five are usual).
            spec: The target's spec sheet, where known; gives the power cap.

        Raises:
            CalibrationError: Fewer than two usable records, a metric never measured, a cost that is negative or not
                finite, records of several devices, or of a device in the pool.
            UnknownNameError: No such kind.
        """
        chosen = self._kind(kind)
        valid = usable(records)
        if len(valid) < len(records):
            logger.warning("%d of %d calibration records are invalid.", len(records) - len(valid), len(records))
        table = Table.of(valid, CalibrationError)
        check_measured(table.costs)
        if len(table.devices) != 1:
            raise CalibrationError(
                f"Calibration records of {len(table.devices)} devices ({', '.join(table.devices)}) given; "
                "a surrogate is fitted to one. Give the records of the target alone."
            )
        self._guard({*table.devices, *([] if spec is None else [spec.device_id])})
        predictor = chosen.fit(table, spec)
        columns = torch.from_numpy(table.features)
        with torch.no_grad():
            raw = predictor(columns)
            scale_shift = fit_scale_shift(raw.numpy(), table.costs)
            cap = None if spec is None else spec.power_cap_w
            final = finish(raw, scale_shift, cap)
        points = tuple(
            CalibrationPoint(record.subnet_key, Cost(*before), Cost(*after), record.cost)
            for record, before, after in zip(valid, raw.tolist(), final.tolist(), strict=True)
        )
        return Surrogate(kind, table.devices[0], self.devices, cap, scale_shift, points, predictor)

    def zero_shot(self, kind: str, spec: DeviceSpec | None = None) -> Surrogate:
        """A surrogate for a device that was never measured: from the pool and, where known, the spec sheet.

        The roofline scales the pool's typical weights by peak rate, bandwidth and power cap; the reference starts from
        the pool's mean tag and level. Expect errors of a factor, not of per cent.
        """
        chosen = self._kind(kind)
        self._guard(set() if spec is None else {spec.device_id})
        device, cap = ("", None) if spec is None else (spec.device_id, spec.power_cap_w)
        return Surrogate(kind, device, self.devices, cap, None, (), chosen.zero_shot(spec))

    def save(self, path: Path) -> None:
        """Write to `*.safetensors`, or tensors only to `*.pt`.

        Raises:
            OutputError: The folder cannot be written.
        """
        tensors = {f"{name}/{key}": t for name, kind in self.kinds.items() for key, t in kind.tensors().items()}
        card = {
            "schema_version": SCHEMA_VERSION,
            "kinds": {name: kind.settings() for name, kind in self.kinds.items()},
            "devices": list(self.devices),
            "n_records": self.n_records,
            "errors": self.errors,
            "seed": self.seed,
        }
        checkpoint.write(path, tensors, card)

    @classmethod
    def load(cls, path: Path) -> "MetaTrained":
        """Inverse of `save`.

        Raises:
            CheckpointError: Absent, truncated, something else, of another schema version, or incomplete.
        """
        tensors, card = checkpoint.read(path, SCHEMA_VERSION)
        try:
            kinds = {
                name: KINDS[name].restore(
                    {key.removeprefix(f"{name}/"): t for key, t in tensors.items() if key.startswith(f"{name}/")},
                    settings,
                )
                for name, settings in card["kinds"].items()
            }
            return cls(kinds, tuple(card["devices"]), card["n_records"], card["errors"], card["seed"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{path} is incomplete ({type(error).__name__}: {error}). Delete it to have it written anew."
            ) from error

    def _kind(self, name: str) -> PredictorKind:
        if name not in self.kinds:
            raise UnknownNameError(f"Unknown surrogate kind {name!r}: {nearest(name, self.kinds)}")
        return self.kinds[name]

    def _guard(self, targets: set[str]) -> None:
        leaked = sorted(targets & set(self.devices))
        if leaked:
            raise CalibrationError(
                f"{', '.join(leaked)} is in the pool that this surrogate learnt from ({', '.join(self.devices)}); the "
                "target must be unseen. Train without it."
            )


def train(
    records: Sequence[ProfileRecord],
    *,
    seed: int,
    specs: Mapping[str, DeviceSpec] | None = None,
    target: str | None = None,
    networks: int = 2,
    training: MetaTraining | None = None,
    draws: int = 20,
    progress: Callable[[float], None] | None = None,
) -> MetaTrained:
    """Learn from a pool, and find out what it is worth on each pool device in turn.

    Args:
        records: Records of three devices or more; invalid ones are left out with a warning.
        seed: Of everything random.
        specs: Spec sheets of the pool's devices, by `device_id`, where known.
        target: The unseen device, if it is known already: only to make sure that it is not in the pool.
        networks: Networks of the reference kind (seeds), averaged when predicting.
        training: Settings of the meta-training.
        draws: Random draws of five calibration records per held-out device and scope.
        progress: Called with the finished part in [0, 1].

    Raises:
        InvalidRecordError: Too few devices, an impossible cost, or records of the target.
    """
    specs = specs or {}
    valid = usable(records)
    if len(valid) < len(records):
        logger.warning("%d of %d pool records are invalid and left out.", len(records) - len(valid), len(records))
    table = Table.of(valid, InvalidRecordError)
    if target is not None and target in table.devices:
        raise InvalidRecordError(
            f"The pool holds {int((table.device == table.devices.index(target)).sum())} records of {target}, which is "
            "the unseen target. Leave its records out of the pool."
        )
    for metric, count in zip(METRICS, np.isfinite(table.costs).sum(0), strict=True):
        if count == 0:
            raise InvalidRecordError(
                f"No record of the pool has {metric}; each metric must be measured somewhere. Add records that have it."
            )
    names = [table.devices[d] for d in table.present()]
    *held_out, reference = meta_train(
        table,
        [*names, None],
        seed=seed,
        n_seeds=networks,
        training=training,
        progress=None if progress is None else lambda part: progress(0.9 * part),
    )
    unseen = dict(zip(names, held_out, strict=True))

    def kinds_without(device: str) -> list[PredictorKind]:
        return [unseen[device], RooflineKind.learn(table.without(device), specs)]

    errors: dict[Scope, dict[str, dict[str, Errors]]] = {
        "zero_shot": assess_zero_shot(table, kinds_without, specs),
        "setting": assess(table, kinds_without, specs, scope="setting", draws=draws, seed=seed),
        "device": assess(table, kinds_without, specs, scope="device", draws=draws, seed=seed),
    }
    if progress is not None:
        progress(1.0)
    kinds: dict[str, PredictorKind] = {"reference": reference, "roofline": RooflineKind.learn(table, specs)}
    return MetaTrained(kinds, tuple(names), len(table), errors, seed)
