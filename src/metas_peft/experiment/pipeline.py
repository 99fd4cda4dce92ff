"""The walk of one run: pool, data, calibration, tuning, measuring, controller, other devices, results."""

import contextlib
import dataclasses
import importlib.metadata
import logging
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import transformers

from metas_peft import __version__
from metas_peft.conf import METHODS as METHOD_TABLE
from metas_peft.conf import CostTerm, RunConfig, dump, to_dict, writable_or
from metas_peft.conf.notices import device_id, notices
from metas_peft.control.features import self_information
from metas_peft.core.cost import METRICS
from metas_peft.core.errors import CalibrationError, CheckpointError, RunFileError
from metas_peft.core.files import write_json, write_text
from metas_peft.core.protocols import CostModel
from metas_peft.core.records import ProfileRecord
from metas_peft.core.subnet import Subnet
from metas_peft.devices import LOCAL, Device, Ledger, Purpose, open_device
from metas_peft.experiment import results, tables
from metas_peft.experiment.cache import MeasurementCache
from metas_peft.experiment.control import Asked, build_controller, texts_to_record
from metas_peft.experiment.fronts import MODELS, StoredMember, answers, store_front, tune
from metas_peft.experiment.outcome import Measured, MethodFront, Outcome
from metas_peft.experiment.pricing import (
    LearntPool,
    calibration_subnets,
    fit_surrogate,
    kind_of,
    learn_pool,
    measure,
    record_rows,
    records_from,
)
from metas_peft.experiment.stages import Stages
from metas_peft.experiment.workbench import Workbench, set_threads
from metas_peft.surrogate import MetaTrained, Surrogate
from metas_peft.tuning.budgets import Limits
from metas_peft.tuning.context import TuningContext
from metas_peft.tuning.methods import TunedFront

logger = logging.getLogger(__name__)

PACKAGES = ("torch", "transformers", "peft", "accelerate", "numpy", "scikit-learn", "moocore")
DENSE, STATIC = "dense", "static-lora"


def run(config: RunConfig, run_dir: Path, *, bench: Workbench | None = None, progress: bool = True) -> Path:
    """Run an experiment, or go on with one that was interrupted.

    Args:
        config: What to do.
        run_dir: The run's folder; the run files' contract names what is in it afterwards.
        bench: Model and data, if they are not those that the run file names.
        progress: Whether progress bars are shown on standard error.

    Returns:
        `run_dir`.

    Raises:
        MetasPeftError: In one sentence, what went wrong; finished stages stay and are not repeated.
    """
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return _Experiment(config, run_dir, bench, progress).run()


class _Experiment:
    """State of one run; each stage is a method that computes or finds its files."""

    def __init__(self, config: RunConfig, run_dir: Path, bench: Workbench | None, progress: bool) -> None:
        self.config, self.dir, self.progress = config, run_dir, progress
        self.method = METHOD_TABLE[config.method]
        self.base_method = "MetaS-PEFT" if self.method.name.startswith("ablation-") else self.method.name
        _check_budgets(config)
        self.seed = config.training.seed
        self.threads = set_threads(config.threads)
        self.notes = notices(config)
        for note in self.notes:
            logger.warning(note)
        # Wrong names, missing data and weights come to light here, before anything is written.
        self.bench = Workbench.load(config) if bench is None else bench
        self.notes += self.bench.form.notes
        # The same settings may name other texts or weights than last time; a resumed run must not mix them.
        self.stages = Stages(run_dir, to_dict(config) | {"contents": self.bench.digests()})
        self.ledger = Ledger()
        self.ledger_rows: list[dict[str, Any]] = []
        self.record_rows: list[dict[str, Any]] = []
        self._devices: dict[str, Device] = {}
        self._context: TuningContext | None = None
        self.cache: MeasurementCache | None = None
        # A device that cannot be opened, or has no meter, is told before hours of training.
        for name in (config.target, *config.retarget):
            self.device(name)

    def device(self, name: str) -> Device:
        """A device, opened once per run: `local` keeps its anchor, so that all its measurements share one scale."""
        key = device_id(name)
        if key not in self._devices:
            power = self.config.hardware_profiling.power
            options = {"threads": self.threads, "power": power} if key == LOCAL else {}
            self._devices[key] = open_device(name, ledger=self.ledger, **options)
        return self._devices[key]

    def measured_stage(self, name: str, compute: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        """A stage that may call devices: what the ledger counted meanwhile is kept with its facts."""

        def counted(folder: Path) -> dict[str, Any]:
            before = self.ledger.rows()
            facts = compute(folder)
            return {**facts, "ledger": _difference(self.ledger.rows(), before)}

        _, facts = self.stages.run(name, counted)
        return facts

    # ---- the walk

    def run(self) -> Path:
        started = time.monotonic()
        bench = self.bench
        self.stages.begin()
        write_text(self.dir / "config.yaml", dump(self.config))
        uses_surrogate = self.method.cost_term is CostTerm.SURROGATE
        if self.rivals_fit_models():
            self.cache = self.open_cache()
        pool = self.learn_pool() if uses_surrogate or self.rivals_fit_models() else None
        surrogate = self.calibrate(pool, self.config.target) if uses_surrogate and pool else None
        if surrogate is not None:
            self.limits(surrogate.bind(bench.shape, bench.workload))  # told before anything is trained
        self.tune_dense()
        fronts = {self.method.name: self.tune(self.method.name, pool, surrogate)}
        for name in self.rivals():
            shares = METHOD_TABLE[name].cost_term is CostTerm.SURROGATE
            fronts[name] = self.tune(name, pool, surrogate if shares else None)
        dense = self.dense_member()
        quality = self.evaluate(dense, fronts)
        target = self.measure_all(self.config.target, dense, fronts)
        outcome = Outcome(
            config=self.config, task=bench.task, judge=bench.judge, shape=bench.shape, workload=bench.workload,
            dense=dense, fronts=fronts, answers=quality, target=target, surrogate=surrogate,
        )  # fmt: skip
        controller = self.control(outcome)
        retargets = {}
        if pool is not None and uses_surrogate:
            # By its canonical name, so that nothing is measured or counted twice.
            names = {device_id(name): name for name in self.config.retarget}
            names.pop(device_id(self.config.target), None)
            retargets = {key: self.retarget(name, pool, outcome) for key, name in names.items()}
        self.finish(outcome, pool, controller, retargets, time.monotonic() - started)
        return self.dir

    def rivals(self) -> list[str]:
        """Baselines of the run file, under their canonical names, without the method itself."""
        names = [METHOD_TABLE.resolve(name) for name in self.config.evaluation.baselines]
        return [name for name in dict.fromkeys(names) if name != self.method.name]

    def rivals_fit_models(self) -> bool:
        """Whether the method or a rival fits a model to target measurements."""
        names = [self.method.name, *self.rivals()]
        return any(METHOD_TABLE[name].cost_term is CostTerm.TARGET for name in names)

    def learn_pool(self, other: str | None = None) -> LearntPool:
        """The pool's surrogate, which has not seen the target.

        Args:
            other: Target, if it is not the run's own.
        """
        stage, path, config = "surrogate", self.dir / "surrogate.safetensors", self.config
        if other is not None:
            stage = f"surrogate-for-{device_id(other)}"
            path = self.dir / f"{stage}.safetensors"
            surrogate = dataclasses.replace(config.surrogate, checkpoint_path=None)
            config = dataclasses.replace(config, device=other, surrogate=surrogate)
        kept: dict[str, Any] = {}

        def compute(folder: Path) -> dict[str, Any]:
            learnt = learn_pool(config, self.dir, self.progress)
            learnt.trained.save(path)
            kept["pool"] = learnt
            return {"kept": learnt.kept, "dropped": learnt.dropped, "notes": learnt.notes}

        _, facts = self.stages.run(stage, compute)
        self.notes += facts["notes"]
        trained = kept["pool"].trained if kept else MetaTrained.load(path)
        return LearntPool(trained, facts["kept"], facts["dropped"], facts["notes"])

    def calibrate(self, pool: LearntPool, target: str) -> Surrogate:
        """Part C on one device: the five measurements, made once and kept."""
        bench = self.bench

        def compute(folder: Path) -> dict[str, Any]:
            device = self.device(target)
            subnets = calibration_subnets(bench.shape, bench.workload, self.config)
            records = (
                measure(device, subnets, bench.shape, bench.workload, bench.open_subnet,
                        purpose=Purpose.CALIBRATION, seed=self.seed) if subnets else []
            )  # fmt: skip
            return {"records": record_rows(records)}

        facts = self.measured_stage(f"calibrate-{device_id(target)}", compute)
        self.ledger_rows += facts["ledger"]
        self.record_rows += facts["records"]
        kind, _ = kind_of(self.config, pool.trained)
        return fit_surrogate(pool.trained, kind, records_from(facts["records"]), self.device(target), self.config)

    def tune_dense(self) -> None:
        """Fine-tune the whole model: the teacher and the start of every method."""
        bench = self.bench

        def compute(folder: Path) -> dict[str, Any]:
            context = self.context(None)
            seconds = context.train_dense()
            bench.save_trained(folder / "trained.safetensors")
            return {"seconds": seconds}

        folder, _ = self.stages.run("dense", compute)
        bench.load_trained(folder / "trained.safetensors")

    def limits(self, cost_model: CostModel | None) -> Limits | None:
        """The budgets that a member is to hold, where the run file asks for one.

        Raises:
            BudgetInfeasibleError: No model can hold them.
        """
        budgets = self.config.budgets
        if budgets.mode == "report" or cost_model is None:
            return None
        absolute = {m: v for m in METRICS if (v := getattr(budgets, m)) is not None}
        limits = Limits.of(absolute, budgets.fractions(), cost_model, self.bench.shape)
        limits.check()
        return limits

    def context(
        self, cost_model: CostModel | None, pool: LearntPool | None = None,
        taken: list[ProfileRecord] | None = None, limits: Limits | None = None,
    ) -> TuningContext:  # fmt: skip
        """The shared start, handed to one method.

        Args:
            cost_model: Calibrated cost model of the target.
            pool: Gives the prior of a model that a method fits to measurements of its own.
            taken: Receives these measurements.
            limits: Budgets that a member is to hold.
        """
        bench = self.bench

        def fit_on_target(subnets: Sequence[Subnet]) -> CostModel:
            if pool is None or self.cache is None:
                raise CalibrationError("A cost model of the target needs the pool's prior, but none was learnt.")
            device, seed = self.device(self.config.target), self.seed + 1
            before = self.ledger.count(device.spec.device_id, Purpose.CALIBRATION)
            records = self.cache.measure(
                subnets, bench.shape, bench.workload, device.spec, seed,
                lambda missing: measure(device, missing, bench.shape, bench.workload, bench.open_subnet,
                                        purpose=Purpose.CALIBRATION, seed=seed),
            )  # fmt: skip
            # What an earlier or interrupted run measured for this method is no less a measurement of the target.
            counted = self.ledger.count(device.spec.device_id, Purpose.CALIBRATION) - before
            self.ledger.add(device.spec.device_id, Purpose.CALIBRATION, len(records) - counted)
            if taken is not None:
                taken.extend(records)
            return pool.trained.fit("roofline", records, device.spec).bind(bench.shape, bench.workload)

        if self._context is None:
            self._context = TuningContext(
                adapted=bench.adapted, shape=bench.shape, data=bench.train, collator=bench.collator,
                settings=bench.loop_settings(), schedule=bench.schedule(), distillation=bench.distillation(),
                gates=bench.gate_settings(), workload=bench.workload, weights=bench.weights(), cost_model=None,
                fit_on_target=fit_on_target, target_samples=self.config.hardware_profiling.real_measurements_required,
                operating_points=self.config.evaluation.operating_points, seed=self.seed, progress=self.progress,
                form=bench.form,
            )  # fmt: skip
        self._context.cost_model = cost_model
        self._context.limits = limits
        self._context.fit_on_target = fit_on_target
        return self._context

    def open_cache(self) -> MeasurementCache:
        """Where target measurements are kept: the run file's folder, else the run's own."""
        wanted = self.config.hardware_profiling.measurement_cache_dir or self.dir / "measurements"
        folder, notice = writable_or(self.dir, wanted)
        if notice:
            logger.warning(notice)
            self.notes.append(notice)
        folder.mkdir(parents=True, exist_ok=True)
        return MeasurementCache(folder)

    def tune(self, name: str, pool: LearntPool | None, surrogate: Surrogate | None) -> MethodFront:
        """One method's front: trained, cut, stored."""
        bench = self.bench
        is_main = name == self.method.name
        folder = self.dir if is_main else self.dir / "baselines" / METHOD_TABLE[name].name

        def compute(stage: Path) -> dict[str, Any]:
            started = time.monotonic()
            cost_model = surrogate.bind(bench.shape, bench.workload) if surrogate is not None else None
            taken: list[ProfileRecord] = []
            context = self.context(cost_model, pool, taken, self.limits(cost_model))
            front = tune(context, self.base_method if is_main else name, self.config.front)
            seconds = time.monotonic() - started
            facts = store_front(front, bench, folder, name)
            if is_main and not self.method.trains_all:
                context.save_adapter(folder / "adapter")
            order = context.head_order.tolist()
            return {**facts, "seconds": seconds, "head_order": order, "records": record_rows(taken)}

        facts = self.measured_stage(f"tune-{METHOD_TABLE[name].name}", compute)
        self.record_rows += facts["records"]
        if is_main:
            self.ledger_rows += facts["ledger"]
        self.notes += [f"{METHOD_TABLE[name].label}: {note}" for note in facts["notes"]]
        members = [StoredMember.from_dict(m, folder / MODELS) for m in facts["members"]]
        return MethodFront(name, members, facts["seconds"], facts["ledger"], facts["notes"], facts["head_order"])

    def dense_member(self) -> StoredMember:
        """The ungated static-LoRA model (or fully fine-tuned one), cut out like any member."""
        bench = self.bench
        folder = self.dir / DENSE

        def compute(stage: Path) -> dict[str, Any]:
            context = self.context(None)
            context.reset()
            member = context.cut(DENSE, Subnet.dense(bench.shape))
            return store_front(TunedFront([member]), bench, folder, "baseline" if self.method.trains_all else STATIC)

        _, facts = self.stages.run("dense-model", compute)
        return StoredMember.from_dict(facts["members"][0], folder / MODELS)

    def evaluate(self, dense: StoredMember, fronts: dict[str, MethodFront]) -> dict[str, np.ndarray]:
        """Answers of every member to the evaluation texts, by method; `dense` for the dense model."""
        path = self.dir / "stages" / "evaluate" / "answers.npz"

        def compute(folder: Path) -> dict[str, Any]:
            found = {
                DENSE: answers([dense], self.bench.validation, self.bench, title="evaluate", progress=self.progress)
            }
            for name, front in fronts.items():
                found[name] = answers(front.members, self.bench.validation, self.bench, title=f"evaluate {name}",
                                      progress=self.progress)  # fmt: skip
            np.savez_compressed(folder / "answers.npz", allow_pickle=False, **found)
            return {}

        self.stages.run("evaluate", compute)
        try:
            with np.load(path) as stored:
                return {name: stored[name] for name in (DENSE, *fronts)}
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise CheckpointError(
                f"{path} is absent or damaged ({error}). Delete the run's folder and start over."
            ) from error

    def measure_all(self, target: str, dense: StoredMember, fronts: dict[str, MethodFront]) -> Measured:
        """Measure the dense model and every member of every front on a device."""
        bench = self.bench
        members = [dense, *(m for front in fronts.values() for m in front.members)]
        unique = {m.subnet.key: m for m in members}

        def compute(folder: Path) -> dict[str, Any]:
            device = self.device(target)
            stored = {key: bench.open_stored(m.folder) for key, m in unique.items()}
            records = measure(device, [m.subnet for m in unique.values()], bench.shape, bench.workload,
                              lambda s: stored[s.key], purpose=Purpose.EVALUATION, seed=self.seed + 2)  # fmt: skip
            return {"records": record_rows(records)}

        facts = self.measured_stage(f"measure-{device_id(target)}", compute)
        self.ledger_rows += facts["ledger"]
        self.record_rows += facts["records"]
        records = records_from(facts["records"])
        device = self.device(target)
        return Measured(device, dict(zip(unique, records, strict=True)), facts["ledger"])

    def control(self, outcome: Outcome) -> dict[str, Any] | None:
        """Part D, where there is a choice to make and every cost is known."""
        members = outcome.main.members
        costs = [outcome.target.cost(m.subnet.key) for m in members]
        dense_cost = outcome.target.cost(outcome.dense.subnet.key)
        if len(members) < 2 or dense_cost is None or any(cost is None for cost in costs):
            return None
        bench, config = self.bench, self.config.controller

        def compute(folder: Path) -> dict[str, Any]:
            chosen, kind = texts_to_record(bench, config.inputs, self.seed)
            texts, asked = bench.encode(chosen), [outcome.dense, *members]
            dense, *replies = answers(asked, texts, bench, title="controller", progress=self.progress)
            vocabulary = bench.network.config.get_text_config().vocab_size
            found, judge = outcome.answers, bench.judge
            return build_controller(
                members, [c for c in costs if c is not None], dense_cost,
                recorded=Asked.of(judge, texts, chosen.references, np.stack(replies), dense, kind),
                evaluated=Asked.of(
                    judge, bench.validation, bench.task.validation.references, found[self.method.name], found[DENSE][0]
                ),
                information=self_information(bench.train.prompts, vocabulary),
                max_length=self.config.dataset.max_length, depth=config.depth, seed=self.seed,
                run_id=self.config.run_id, folder=self.dir,
            )  # fmt: skip

        _, facts = self.stages.run("controller", compute)
        return facts

    def retarget(self, name: str, pool: LearntPool, outcome: Outcome) -> dict[str, Any]:
        """The same front on another device: five measurements, no training."""
        if device_id(name) in pool.kept:
            # The pool has seen this device: without it, the surrogate is trained again.
            pool = self.learn_pool(name)
        before = len(self.ledger_rows)
        surrogate = self.calibrate(pool, name)
        measured = self.measure_all(name, outcome.dense, {self.method.name: outcome.main})
        elsewhere = outcome.on(measured, surrogate)
        return results.retarget_block(elsewhere, self.ledger_rows[before:])

    def finish(
        self, outcome: Outcome, pool: LearntPool | None, controller: dict[str, Any] | None,
        retargets: dict[str, Any], seconds: float,
    ) -> None:  # fmt: skip
        """Write results and tables; the results last, since a folder that has them is finished."""
        took = self.stages.seconds
        total = sum(took.values())
        everything = results.results_block(
            # A pool may have been learnt for a rival alone; what is reported is the surrogate that predicted.
            outcome, pool=pool, choice=kind_of(self.config, pool.trained) if pool and outcome.surrogate else None,
            controller=controller,
            retargets=retargets, ledger_rows=self.ledger_rows, notes=self.notes, backbone=self.bench.backbone,
            backbone_source=self.bench.backbone_source, versions=_versions(),
            seconds={
                "surrogate": sum(v for k, v in took.items() if k.startswith("surrogate")),
                "tuning": sum(v for k, v in took.items() if k == DENSE or k.startswith("tune-")),
                "evaluation": sum(v for k, v in took.items() if k in ("evaluate", "controller") or "measure" in k),
                "total": max(total, seconds),
            },
        )  # fmt: skip
        adapter = self.dir / "adapter" / "adapter_model.safetensors"
        everything["adapter_bytes"] = adapter.stat().st_size if adapter.exists() else None
        tables.write_rows(self.dir / "front.parquet", tables.front_rows(everything))
        tables.write_rows(self.dir / "records.parquet", self.record_rows)
        tables.write_answers(self.dir / "answers.npz", outcome)
        tables.write_predictions(self.dir / "predictions.jsonl", outcome)
        write_json(self.dir / "results.json", everything)


def _check_budgets(config: RunConfig) -> None:
    """A budget that a member is to hold takes a limit, and a surrogate to predict with."""
    budgets = config.budgets
    if budgets.mode == "report":
        return
    if not budgets.fractions() and all(getattr(budgets, m) is None for m in METRICS):
        raise RunFileError(
            "budgets.mode=meet, but there is no budget. Set budgets.latency_ms, energy_j, peak_power_w or relative."
        )
    if METHOD_TABLE[config.method].cost_term is not CostTerm.SURROGATE:
        raise RunFileError(
            f"budgets.mode=meet takes a method that predicts costs on the target, but method={config.method} does not. "
            "Use method=MetaS-PEFT, or budgets.mode=report."
        )


def _difference(after: list[dict[str, Any]], before: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ledger rows that were added, with the counts that were added."""
    known = {(r["device"], r["purpose"]): r["count"] for r in before}
    grown = [{**r, "count": r["count"] - known.get((r["device"], r["purpose"]), 0)} for r in after]
    return [row for row in grown if row["count"]]


def _versions() -> dict[str, str]:
    found = {"metas-peft": __version__}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
