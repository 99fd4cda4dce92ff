"""Stages that train: the whole model, which every method starts from, and the front of each method."""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from metas_peft.conf import METHODS, Method, writable_or
from metas_peft.core.errors import CalibrationError
from metas_peft.core.launched import is_first
from metas_peft.core.protocols import CostModel
from metas_peft.core.records import ProfileRecord
from metas_peft.core.subnet import Subnet
from metas_peft.devices import Purpose
from metas_peft.experiment.cache import MeasurementCache
from metas_peft.experiment.fronts import DENSE, MODELS, StoredMember, store_front, tune
from metas_peft.experiment.limits import limits_of
from metas_peft.experiment.outcome import MethodFront
from metas_peft.experiment.pricing import LearntPool, measure, record_rows
from metas_peft.experiment.state import RunState
from metas_peft.surrogate import Surrogate
from metas_peft.tuning.context import TuningContext
from metas_peft.tuning.methods import TunedFront
from metas_peft.tuning.workers import agreed

logger = logging.getLogger(__name__)

STATIC = "static-lora"


class Training:
    """The shared start of all methods, made once.

    Args:
        state: The run.
        pool: Gives the prior of a model that a method fits to measurements of its own; None if no method needs one.
        cache: Keeps these measurements.
    """

    def __init__(self, state: RunState, pool: LearntPool | None, cache: MeasurementCache | None) -> None:
        self._state, self._pool, self._cache = state, pool, cache
        self._made: TuningContext | None = None

    def tune_dense(self) -> None:
        """Fine-tune the whole model: the teacher and the start of every method."""
        bench = self._state.bench

        def compute(folder: Path) -> dict[str, Any]:
            seconds = self._context(None).train_dense()
            bench.save_trained(folder / "trained.safetensors")
            return {"seconds": seconds}

        folder, _ = self._state.stages.run("dense", compute, trains=True)
        bench.load_trained(folder / "trained.safetensors")

    def tune(self, name: str, surrogate: Surrogate | None) -> MethodFront:
        """One method's front: trained, cut, stored.

        Args:
            name: Canonical name of the method.
            surrogate: Calibrated surrogate of the target, if the method is steered by it.
        """
        state, bench, method = self._state, self._state.bench, METHODS[name]
        is_main = name == state.method.name
        folder = state.dir if is_main else state.dir / "baselines" / method.name

        def compute(stage: Path) -> dict[str, Any]:
            started = time.monotonic()
            cost_model = surrogate.bind(bench.shape, bench.workload) if surrogate is not None else None
            taken: list[ProfileRecord] = []
            context = self._context(cost_model, taken, method)
            front = tune(context, method.runs_as, state.config.front)
            seconds = time.monotonic() - started
            if not is_first():
                return {"records": []}
            facts = store_front(front, bench, folder, name)
            if is_main and not state.method.trains_all:
                context.save_adapter(folder / "adapter")
            order = context.head_order.tolist()
            return {**facts, "seconds": seconds, "head_order": order, "records": record_rows(taken)}

        facts = state.measured_stage(f"tune-{method.name}", compute, on=state.config.target, trains=True)
        if is_main:
            state.ledger_rows += facts["ledger"]
        state.notes += [f"{method.label}: {note}" for note in facts["notes"]]
        members = [StoredMember.from_dict(m, folder / MODELS) for m in facts["members"]]
        return MethodFront(name, members, facts["seconds"], facts["ledger"], facts["notes"], facts["head_order"])

    def cut_dense(self) -> StoredMember:
        """The ungated static-LoRA model (or fully fine-tuned one), cut out like any member."""
        bench, trains_all = self._state.bench, self._state.method.trains_all
        folder = self._state.dir / DENSE

        def compute(stage: Path) -> dict[str, Any]:
            context = self._context(None)
            context.reset()
            member = context.cut(DENSE, Subnet.dense(bench.shape))
            return store_front(TunedFront([member]), bench, folder, "baseline" if trains_all else STATIC)

        _, facts = self._state.stages.run("dense-model", compute)
        return StoredMember.from_dict(facts["members"][0], folder / MODELS)

    def _context(
        self, cost_model: CostModel | None, taken: list[ProfileRecord] | None = None, method: Method | None = None
    ) -> TuningContext:
        """The shared start, handed to one method.

        Args:
            cost_model: Calibrated cost model of the target.
            taken: Receives the measurements that the method makes itself.
            method: The method, which budgets may ask for a member; None for the dense model.
        """
        state, bench = self._state, self._state.bench
        fit_on_target = self._fit_on_target([] if taken is None else taken)
        if self._made is None:
            self._made = TuningContext(
                adapted=bench.adapted, shape=bench.shape, data=bench.train, collator=bench.collator,
                settings=bench.loop_settings(), schedule=bench.schedule(), distillation=bench.distillation(),
                gates=bench.gate_settings(), workload=bench.workload, weights=bench.weights(), cost_model=None,
                fit_on_target=fit_on_target, target_samples=state.config.hardware_profiling.real_measurements_required,
                operating_points=state.config.evaluation.operating_points, seed=state.seed, progress=state.progress,
                form=bench.form,
            )  # fmt: skip
        self._made.cost_model = cost_model
        self._made.limits = self._made.limits_on = None
        if method is not None:
            self._made.limits = limits_of(state.config, method, cost_model, bench.shape)
            self._made.limits_on = lambda own: limits_of(state.config, method, own, bench.shape, is_checked=False)
        self._made.fit_on_target = fit_on_target
        return self._made

    def _fit_on_target(self, taken: list[ProfileRecord]) -> Callable[[Sequence[Subnet]], CostModel]:
        """How a method fits a cost model to measurements of its own, which are added to `taken`."""
        state, bench = self._state, self._state.bench

        def fit(subnets: Sequence[Subnet]) -> CostModel:
            if self._pool is None or self._cache is None:
                raise CalibrationError("A cost model of the target needs the pool's prior, but none was learnt.")
            records = agreed(self._measured(self._cache, subnets) if is_first() else [])
            taken.extend(records)
            spec = state.spec(state.config.target)
            return self._pool.trained.fit("roofline", records, spec).bind(bench.shape, bench.workload)

        return fit

    def _measured(self, cache: MeasurementCache, subnets: Sequence[Subnet]) -> list[ProfileRecord]:
        """Subnets measured on the target, or found in the cache; counted either way."""
        state, bench = self._state, self._state.bench
        device, seed = state.device(state.config.target), state.seed + 1
        before = state.ledger.count(device.spec.device_id, Purpose.CALIBRATION)
        records = cache.measure(
            subnets, bench.shape, bench.workload, device, seed,
            lambda missing: measure(device, missing, bench.shape, bench.workload, bench.open_subnet,
                                    purpose=Purpose.CALIBRATION, seed=seed),
        )  # fmt: skip
        # What an earlier or interrupted run measured for this method is no less a measurement of the target.
        counted = state.ledger.count(device.spec.device_id, Purpose.CALIBRATION) - before
        state.ledger.add(device.spec.device_id, Purpose.CALIBRATION, len(records) - counted)
        return records


def open_cache(state: RunState) -> MeasurementCache | None:
    """Where target measurements of methods are kept: the run file's folder, else the run's; None if none makes any."""
    if not state.fits_on_target:
        return None
    wanted = state.config.hardware_profiling.measurement_cache_dir or state.dir / "measurements"
    folder, notice = writable_or(state.dir, wanted)
    if notice:
        logger.warning(notice)
        state.notes.append(notice)
    folder.mkdir(parents=True, exist_ok=True)
    return MeasurementCache(folder)
