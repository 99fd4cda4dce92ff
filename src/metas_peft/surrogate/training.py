"""Learning from a pool, and finding out what that is worth: the one place that knows every kind of predictor."""

import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from metas_peft.core.cost import METRICS, PAPER_COSTS
from metas_peft.core.device import DeviceSpec
from metas_peft.core.errors import InvalidRecordError
from metas_peft.core.records import ProfileRecord
from metas_peft.surrogate.assess import Errors, Scope, assess, assess_zero_shot
from metas_peft.surrogate.episodes import MetaTraining
from metas_peft.surrogate.features import COLUMNS, Table, usable
from metas_peft.surrogate.kinds import PredictorKind
from metas_peft.surrogate.meta import MIN_DEVICES, meta_train
from metas_peft.surrogate.model import MetaTrained
from metas_peft.surrogate.roofline import RooflineKind
from metas_peft.surrogate.shipped import shipped

logger = logging.getLogger(__name__)


def train(
    records: Sequence[ProfileRecord],
    *,
    seed: int,
    specs: Mapping[str, DeviceSpec] | None = None,
    target: str | None = None,
    kinds: Sequence[str] = ("reference", "roofline"),
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
        kinds: What to learn: `reference`, `roofline`; `metas` is the shipped one, which learns nothing here but is
            assessed with the others. `roofline` is always among them.
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
    if len(names) < MIN_DEVICES:
        raise InvalidRecordError(
            f"The pool holds {len(names)} device(s) ({', '.join(names)}); learning with one device left out needs at "
            f"least {MIN_DEVICES}. Add records of more devices."
        )
    ready: list[PredictorKind] = [shipped().kinds["metas"]] if "metas" in kinds else []
    whole, unseen = list(ready), {name: list(ready) for name in names}
    if "reference" in kinds:
        *held_out, reference = meta_train(
            table,
            [*names, None],
            seed=seed,
            n_seeds=networks,
            training=training,
            progress=None if progress is None else lambda part: progress(0.9 * part),
        )
        whole.append(reference)
        for name, kind in zip(names, held_out, strict=True):
            unseen[name].append(kind)
    whole.append(RooflineKind.learn(table, specs))
    for name in names:
        unseen[name].append(RooflineKind.learn(table.without(name), specs))

    errors: dict[Scope, dict[str, dict[str, Errors]]] = {
        "zero_shot": assess_zero_shot(table, unseen.__getitem__, specs),
        "setting": assess(table, unseen.__getitem__, specs, scope="setting", draws=draws, seed=seed),
        "device": assess(table, unseen.__getitem__, specs, scope="device", draws=draws, seed=seed),
    }
    if progress is not None:
        progress(1.0)
    return MetaTrained({kind.name: kind for kind in whole}, tuple(names), len(table), errors, seed, _ranges(table))


def _ranges(table: Table) -> dict[str, tuple[float, float]]:
    """Least and largest of each counted column, zeros apart."""
    found: dict[str, tuple[float, float]] = {}
    for name in PAPER_COSTS:
        values = table.features[:, COLUMNS.index(name)]
        values = values[values > 0]
        if len(values):
            found[name] = (float(values.min()), float(values.max()))
    return found
