"""How far off every method is on devices it has never seen, from record files: what `metas surrogate evaluate` does."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from metas_peft.core.cost import METRIC_NAMES, METRICS
from metas_peft.core.device import DeviceSpec
from metas_peft.core.errors import CalibrationError, InvalidRecordError, UnknownNameError, nearest
from metas_peft.core.records import ProfileRecord
from metas_peft.surrogate.assess import RIVALS, Errors, calibrated, draw_samples, filled, percent_errors, summarise
from metas_peft.surrogate.features import Table, usable
from metas_peft.surrogate.kinds import Predictor, PredictorKind
from metas_peft.surrogate.meta import MIN_DEVICES, meta_train
from metas_peft.surrogate.rivals import pool_fits, rival
from metas_peft.surrogate.roofline import RooflineKind
from metas_peft.surrogate.shipped import shipped

logger = logging.getLogger(__name__)

METHODS = ("metas", "reference", "roofline", *RIVALS)
NETWORKS = 2


def evaluate(
    pool: Sequence[ProfileRecord],
    unseen: Sequence[ProfileRecord] = (),
    *,
    samples: int = 5,
    draws: int = 20,
    seed: int = 0,
    methods: Sequence[str] = METHODS,
    specs: Mapping[str, DeviceSpec] | None = None,
    progress: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Errors on unseen devices, each fitted from a few random records of its own.

    Args:
        pool: Records to learn from.
        unseen: Records of devices to test on; if there are none, each device of the pool is left out in turn.
        samples: Calibration records per draw.
        draws: Random draws per device.
        seed: Of draws and training.
        methods: Names out of `METHODS`.
        specs: Spec sheets by device, where known.
        progress: Called with the finished part in [0, 1].

    Returns:
        `devices`: device -> method -> metric -> errors in percent; `noise_floor`: device -> metric -> percent;
        `settings`; `skipped`: sentences.

    Raises:
        UnknownNameError: No such method.
        InvalidRecordError: A device is in the pool and among the unseen ones, or the pool is too small.
    """
    specs = specs or {}
    for method in methods:
        if method not in METHODS:
            raise UnknownNameError(f"Unknown method {method!r}: {nearest(method, METHODS)}")
    table = Table.of(usable(pool), InvalidRecordError)
    tested = Table.of(usable(unseen), InvalidRecordError) if unseen else table
    if unseen:
        both = sorted(set(table.devices) & set(tested.devices))
        if both:
            raise InvalidRecordError(
                f"{', '.join(both)} is in the pool and among the unseen devices; what is tested must be unseen. Leave "
                "its records out of one of them."
            )
    names = [tested.devices[d] for d in tested.present()]
    learners = _learners(table, names, bool(unseen), methods, specs, seed, progress)
    found: dict[str, dict[str, Errors]] = {}
    skipped: list[str] = []
    for number, name in enumerate(names):
        own = tested.take(tested.device == tested.devices.index(name))
        rest = table if unseen else table.without(name)
        try:
            found[name] = _device(own, rest, learners[name], methods, specs.get(name), samples, draws, [seed, number])
        except CalibrationError as error:
            skipped.append(f"{name}: {error}")
            logger.warning("%s is left out: %s", name, error)
        if progress is not None:
            progress(0.7 + 0.3 * (number + 1) / len(names))
    return {
        "devices": found,
        "noise_floor": noise_floor(unseen or pool),
        "settings": {
            "calibration_samples": samples, "draws": draws, "seed": seed, "methods": list(methods),
            "pool": [table.devices[d] for d in table.present()], "leave_one_out": not unseen,
        },
        "skipped": skipped,
    }  # fmt: skip


def _learners(
    table: Table, names: Sequence[str], all_pool: bool, methods: Sequence[str], specs: Mapping[str, DeviceSpec],
    seed: int, progress: Callable[[float], None] | None,
) -> dict[str, list[PredictorKind]]:  # fmt: skip
    """Kinds per tested device that never saw it, the roofline always among them."""
    kinds: dict[str, list[PredictorKind]] = {}
    for name in names:
        kinds[name] = [RooflineKind.learn(table if all_pool else table.without(name), specs)]
    if "metas" in methods:
        for own in kinds.values():
            own.append(shipped().kinds["metas"])
    if "reference" in methods:
        if len(table.present()) < MIN_DEVICES:
            raise InvalidRecordError(
                f"The pool holds {len(table.present())} device(s); the source's network needs {MIN_DEVICES}. Add "
                "records of more devices, or leave `reference` out of the methods."
            )
        hidden: list[str | None] = [None] if all_pool else list(names)
        report = None if progress is None else lambda part: progress(0.7 * part)
        trained = meta_train(table, hidden, seed=seed, n_seeds=NETWORKS, progress=report)
        for number, name in enumerate(names):
            kinds[name].append(trained[0 if all_pool else number])
    return kinds


def _device(
    own: Table, rest: Table, kinds: Sequence[PredictorKind], methods: Sequence[str], spec: DeviceSpec | None,
    samples: int, draws: int, seed: list[int],
) -> dict[str, Errors]:  # fmt: skip
    """Errors of all methods on one device."""
    measured = np.isfinite(np.atleast_2d(own.costs)).sum(axis=0) > 0
    if not measured[1]:
        raise CalibrationError("latency was never measured on this device. Measure it.")
    whole = filled(own)
    roofline = next(k for k in kinds if isinstance(k, RooflineKind))
    pool = pool_fits(roofline, filled(rest)) if "log_affine" in methods else []
    errors: dict[str, list[np.ndarray]] = {method: [] for method in methods}
    for chosen, tested in draw_samples(whole, "device", samples, draws, np.random.default_rng(seed)):
        context, columns = whole.take(chosen), torch.from_numpy(own.features[tested])
        predictors: dict[str, Predictor] = {k.name: calibrated(k, context, spec) for k in kinds if k.name in methods}
        predictors |= {r: rival(r, context, pool) for r in RIVALS if r in methods}
        truth = np.where(measured, own.costs[tested], np.nan)
        with torch.no_grad():
            for method, predictor in predictors.items():
                errors[method].append(percent_errors(predictor(columns).numpy(), truth))
    if not any(errors.values()):
        raise CalibrationError(
            f"{len(own)} usable records are too few: {samples} calibrate, at least one more is tested. Measure more."
        )
    return {method: summarise(np.concatenate(e)) for method, e in errors.items() if e}


def noise_floor(records: Sequence[ProfileRecord]) -> dict[str, dict[str, float]]:
    """How well a device's readings are known, in percent, where its records tell.

    Latency only: the half width of the interval around the median where the protocol gave one, else the standard
    deviation of single passes by the root of their number.
    """
    found: dict[str, list[float]] = {}
    for record in records:
        latency, spread = record.cost.latency_ms, record.latency_std_ms
        if record.known_to_pct is not None:
            found.setdefault(record.device, []).append(record.known_to_pct)
        elif spread is not None and latency:
            found.setdefault(record.device, []).append(100 * spread / latency / np.sqrt(max(record.n_repeats, 1)))
    return {device: {METRIC_NAMES[METRICS[1]]: float(np.median(v))} for device, v in found.items()}
