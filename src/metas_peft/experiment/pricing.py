"""From the pool and five measurements to a cost model of the target."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from metas_peft.conf import RunConfig, writable_or
from metas_peft.core.cost import Cost
from metas_peft.core.device import DeviceSpec
from metas_peft.core.errors import CheckpointError
from metas_peft.core.records import ProfileRecord
from metas_peft.core.shape import BackboneShape
from metas_peft.core.subnet import Subnet
from metas_peft.core.workload import Workload
from metas_peft.costs import SHAPES, Counts, paper_cost, random_prefixes
from metas_peft.devices import Device, Purpose, Specimen, open_device, resolve_pool
from metas_peft.surrogate import MetaTrained, MetaTraining, Surrogate, design, shipped, simulate_pool, train

logger = logging.getLogger(__name__)

MORE_TRIES = 2  # of a measurement that came out as invalid
CANDIDATES = 200  # gate configurations among which the calibration points are chosen
Opener = Callable[[Subnet], Callable[[Workload], Callable[[], object]]]


@dataclass(frozen=True)
class LearntPool:
    """A meta-trained surrogate and what it was learnt from.

    Attributes:
        trained: The surrogate before calibration.
        kept: Devices of the pool.
        dropped: Devices taken out because they are the target.
        notes: Sentences for the report.
    """

    trained: MetaTrained
    kept: list[str]
    dropped: list[str]
    notes: list[str]


def learn_pool(config: RunConfig, folder: Path, progress: bool) -> LearntPool:
    """The shipped surrogate, what the run file's checkpoint holds, or what the simulated pool teaches.

    The shipped one has seen no device, so that it serves every target; a run file that names another kind has it learnt
    on the pool. A checkpoint that is absent is written.

    Args:
        config: The run.
        folder: The run's folder.
        progress: Whether to show a bar.
    """
    from metas_peft.conf.notices import pool_names

    kept, dropped = resolve_pool(list(pool_names(config)), config.target)
    kinds = kinds_to_learn(config)
    notes: list[str] = []
    wanted = config.surrogate.checkpoint_path
    if wanted and meta_training(config) != MetaTraining():
        # A stored surrogate does not say what its training left out, and the next run would take it for a whole one.
        notes.append(f"{wanted} is neither read nor written: this run leaves out a part of the meta-training.")
        logger.warning(notes[-1])
        wanted = None
    path, notice = writable_or(folder, wanted) if wanted else (None, None)
    if notice:
        logger.warning(notice)
        notes.append(notice)
    for source in dict.fromkeys(p for p in (Path(wanted) if wanted else None, path) if p is not None):
        if source.exists():
            trained = MetaTrained.load(source)
            if set(trained.devices) in (set(), set(kept)) and set(kinds) <= set(trained.kinds):
                logger.info("The surrogate is read from %s.", source)
                return LearntPool(trained, list(trained.devices), dropped, notes)
            notes.append(
                f"{source} holds {', '.join(trained.kinds)} of {', '.join(trained.devices) or 'no device'}, this run's "
                f"pool is {', '.join(kept)}: {'a new one is learnt' if kinds else 'the shipped one is used'} and the "
                "file left as it is."
            )
            logger.warning(notes[-1])
            path = None
    if not kinds:
        trained = shipped()
        if path is not None:
            trained.save(path)
        return LearntPool(trained, [], dropped, notes)
    with tqdm(total=100, desc="surrogate", delay=2.0, leave=False, disable=not progress, dynamic_ncols=True) as bar:

        def report(part: float, offset: float, share: float) -> None:
            bar.update(round(offset + share * part) - bar.n)

        devices = [open_device(name) for name in kept]
        records = simulate_pool(
            devices, list(SHAPES.values()), records=config.surrogate.records, seed=config.training.seed,
            progress=lambda part: report(part, 0, 10),
        )  # fmt: skip
        trained = train(
            records, seed=config.training.seed, specs={d.spec.device_id: d.spec for d in devices},
            kinds=kinds, training=meta_training(config),
            progress=lambda part: report(part, 10, 90),
        )  # fmt: skip
    if path is not None:
        trained.save(path)
    return LearntPool(trained, kept, dropped, notes)


def kinds_to_learn(config: RunConfig) -> tuple[str, ...]:
    """Kinds that the pool must teach; none where the shipped surrogate is used."""
    wanted = config.surrogate
    if wanted.kind == "reference":
        return ("reference", "roofline")
    if wanted.kind == "roofline" or (wanted.kind == "auto" and wanted.calibration_method == "roofline"):
        return ("roofline",)
    return ()


def meta_training(config: RunConfig) -> MetaTraining:
    """How the source's network is trained, an ablation's changes included."""
    usual = MetaTraining(meta=config.surrogate.meta_learning)
    return usual if config.surrogate.mixup else dataclasses.replace(usual, mixup=0.0)


def kind_of(config: RunConfig, trained: MetaTrained) -> tuple[str, str]:
    """Which predictor is used, and why."""
    wanted = config.surrogate.kind
    if wanted == "auto" and config.surrogate.calibration_method == "roofline":
        return "roofline", "The run file asks for surrogate.calibration_method=roofline."
    if wanted != "auto":
        return wanted, f"The run file asks for surrogate.kind={wanted}."
    return trained.choose(), trained.why()


def calibration_subnets(shape: BackboneShape, workload: Workload, config: RunConfig) -> list[Subnet]:
    """The gate configurations to measure on a new device, chosen without labels."""
    samples = config.surrogate.calibration_samples
    if samples == 0:
        return []
    subnets = random_prefixes(shape, max(samples, min(CANDIDATES, _distinct(shape))), seed=config.training.seed + 11)
    papers = [paper_cost(shape, Counts.of(s, shape), workload) for s in subnets]
    chosen = design(papers, samples, config.surrogate.calibration_design, seed=config.training.seed)
    return [subnets[i] for i in chosen]


def _distinct(shape: BackboneShape) -> int:
    """Half of the prefix subnets that there are: so many a random draw finds in reasonable time."""
    per_layer = (shape.n_kv_heads + 1) * (shape.ffn_blocks + 1)
    return per_layer**shape.n_layers // 2


def measure(
    device: Device, subnets: Sequence[Subnet], shape: BackboneShape, workload: Workload, opener: Opener, *,
    purpose: Purpose, seed: int,
) -> list[ProfileRecord]:  # fmt: skip
    """Measure subnets on a device; `opener` builds the model where the device runs one.

    What the device itself calls invalid (its meter's reading; passes are always timed) is measured again, which counts.
    What stays so has a time, but neither energy nor power.
    """
    specimens = [Specimen(s, shape, opener(s)) for s in subnets]
    records = device.measure(specimens, workload, purpose=purpose, seed=seed)
    for _ in range(MORE_TRIES):
        invalid = [place for place, record in enumerate(records) if not record.is_valid]
        if not invalid:
            break
        logger.info("%d measurements are made again: %s", len(invalid), records[invalid[0]].why_invalid)
        again = device.measure([specimens[place] for place in invalid], workload, purpose=purpose, seed=seed)
        for place, record in zip(invalid, again, strict=True):
            records[place] = record
    return [record if record.is_valid else _time_alone(record) for record in records]


def _time_alone(record: ProfileRecord) -> ProfileRecord:
    """A record without the energy and power that do not count."""
    why = record.why_invalid.rstrip(".")
    logger.warning("%s on %s has no energy and power that count: %s.", record.subnet_key, record.device, why)
    return dataclasses.replace(
        record, cost=Cost(None, record.cost.latency_ms, None), origin=Cost(None, record.origin.latency_ms, None),
        mean_power_w=None, energy_above_idle_j=None, energy_std_j=None, energy_known_to_pct=None, is_valid=True,
        why_invalid="", source=f"{record.source} No energy or power: {why}.".strip(),
    )  # fmt: skip


def fit_surrogate(
    trained: MetaTrained, kind: str, records: Sequence[ProfileRecord], spec: DeviceSpec, config: RunConfig
) -> Surrogate:
    """Part C: the surrogate of one device from its calibration records; zero-shot without any."""
    if not records:
        return trained.zero_shot(kind, spec)
    # A kind may need no scale and shift after its fit; a run file that asks for them gets them.
    asked = True if config.surrogate.calibration_method == "linear_scale_shift" else None
    return trained.fit(kind, records, spec, scale_shift=asked)


def record_rows(records: Sequence[ProfileRecord]) -> list[dict[str, Any]]:
    """Records as JSON rows."""
    return [record.as_row() for record in records]


def records_from(rows: Sequence[dict[str, Any]]) -> list[ProfileRecord]:
    """Inverse of `record_rows`."""
    try:
        return [ProfileRecord.from_row(row) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"Stored measurements cannot be read ({error!r}). Delete the run's folder.") from error
