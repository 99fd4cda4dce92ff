"""What a pool taught, and how it becomes the surrogate of one device.

Records of a pool --train--> MetaTrained --fit(five records of the target)--> Surrogate --bind--> Counts to Cost.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from metas_peft.core.cost import Cost
from metas_peft.core.device import DeviceSpec
from metas_peft.core.errors import CalibrationError, CheckpointError, UnknownNameError, nearest
from metas_peft.core.records import ProfileRecord
from metas_peft.surrogate import checkpoint
from metas_peft.surrogate.assess import Errors, Scope, mean_error
from metas_peft.surrogate.calibrate import MIN_RECORDS, check_measured, fit_scale_shift
from metas_peft.surrogate.features import COLUMNS, Table, usable
from metas_peft.surrogate.fitted import CalibrationPoint, Surrogate, finish
from metas_peft.surrogate.kinds import PredictorKind
from metas_peft.surrogate.metas import MetasKind
from metas_peft.surrogate.reference import ReferenceKind
from metas_peft.surrogate.roofline import RooflineKind

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 2
# Every kind of predictor that a checkpoint may hold; a new kind is one line here and one in `training.train`.
KINDS: dict[str, type[PredictorKind]] = {"metas": MetasKind, "reference": ReferenceKind, "roofline": RooflineKind}
# A calibration record so many times beyond what was learnt from is worth a warning.
FAR = 100


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
        ranges: Least and largest of each column that was learnt from, by name; empty if nobody wrote them down.
    """

    kinds: Mapping[str, PredictorKind]
    devices: tuple[str, ...]
    n_records: int
    errors: Mapping[Scope, Mapping[str, Mapping[str, Errors]]]
    seed: int
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)

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
        where = f"{len(self.errors[scope])} held-out pool devices" if self.devices else "devices it had not seen"
        return f"{chosen} has the smallest mean error of the learnt kinds on {where} ({listing}).{admission}"

    def fit(
        self,
        kind: str,
        records: Sequence[ProfileRecord],
        spec: DeviceSpec | None = None,
        *,
        scale_shift: bool | None = None,
    ) -> Surrogate:
        """Fit to one device from a handful of its records.

        Args:
            kind: One of `kinds`; `choose` says which did better.
            records: Calibration records of the target; five are usual. Two or more for a scale and a shift, one for a
                kind that needs none.
            spec: The target's spec sheet, where known; gives the power cap.
            scale_shift: Whether a scale and a shift per metric follow the fit; absent, what the kind needs.

        Raises:
            CalibrationError: Too few usable records, a metric never measured, a cost that is negative or not
                finite, records of several devices, or of a device in the pool.
            UnknownNameError: No such kind.
        """
        chosen = self._kind(kind)
        valid = usable(records)
        if len(valid) < len(records):
            logger.warning("%d of %d calibration records are invalid.", len(records) - len(valid), len(records))
        table = Table.of(valid, CalibrationError)
        with_shift = not chosen.scales_itself if scale_shift is None else scale_shift
        check_measured(table.costs, MIN_RECORDS if with_shift else 1)
        if len(table.devices) != 1:
            raise CalibrationError(
                f"Calibration records of {len(table.devices)} devices ({', '.join(table.devices)}) given; "
                "a surrogate is fitted to one. Give the records of the target alone."
            )
        self._guard({*table.devices, *([] if spec is None else [spec.device_id])})
        self._warn_outside(table)
        predictor = chosen.fit(table, spec)
        columns = torch.from_numpy(table.features)
        with torch.no_grad():
            raw = predictor(columns)
            shift = fit_scale_shift(raw.numpy(), table.costs) if with_shift else None
            cap = None if spec is None else spec.power_cap_w
            final = finish(raw, shift, cap)
        points = tuple(
            CalibrationPoint(record.subnet_key, Cost(*before), Cost(*after), record.cost)
            for record, before, after in zip(valid, raw.tolist(), final.tolist(), strict=True)
        )
        return Surrogate(kind, table.devices[0], self.devices, cap, shift, points, predictor)

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
            "ranges": {name: list(pair) for name, pair in self.ranges.items()},
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
            ranges = {name: (low, high) for name, (low, high) in card.get("ranges", {}).items()}
            return cls(kinds, tuple(card["devices"]), card["n_records"], card["errors"], card["seed"], ranges)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{path} is incomplete ({type(error).__name__}: {error}). Delete it to have it written anew."
            ) from error

    def _warn_outside(self, table: Table) -> None:
        """Name columns of calibration records that lie far outside what was learnt from."""
        for name, (low, high) in self.ranges.items():
            values = table.features[:, COLUMNS.index(name)]
            values = values[values > 0]
            if len(values) and (values.max() > FAR * high or values.min() * FAR < low):
                logger.warning(
                    "%s of the calibration records reaches from %.3g to %.3g, but was learnt between %.3g and %.3g: "
                    "more than %d times outside. Expect larger errors.",
                    name, values.min(), values.max(), low, high, FAR,
                )  # fmt: skip

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
