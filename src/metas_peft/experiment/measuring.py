"""Stages that price and measure: the pool's surrogate, its calibration on a device, the members on a device."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metas_peft.conf.notices import device_id
from metas_peft.devices import Purpose
from metas_peft.experiment import results
from metas_peft.experiment.fronts import StoredMember
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
from metas_peft.experiment.state import RunState
from metas_peft.surrogate import MetaTrained, Surrogate


def open_pool(state: RunState, other: str | None = None) -> LearntPool:
    """The pool's surrogate, which has not seen the target.

    Args:
        state: The run.
        other: Target, if it is not the run's own.
    """
    stage, path, config = "surrogate", state.dir / "surrogate.safetensors", state.config
    if other is not None:
        stage = f"surrogate-for-{device_id(other)}"
        path = state.dir / f"{stage}.safetensors"
        surrogate = dataclasses.replace(config.surrogate, checkpoint_path=None)
        config = dataclasses.replace(config, device=other, surrogate=surrogate)
    learnt: list[MetaTrained] = []

    def compute(folder: Path) -> dict[str, Any]:
        pool = learn_pool(config, state.dir, state.progress)
        pool.trained.save(path)
        learnt.append(pool.trained)
        return {"kept": pool.kept, "dropped": pool.dropped, "notes": pool.notes}

    _, facts = state.stages.run(stage, compute)
    state.notes += facts["notes"]
    trained = learnt[0] if learnt else MetaTrained.load(path)
    return LearntPool(trained, facts["kept"], facts["dropped"], facts["notes"])


def calibrate(state: RunState, pool: LearntPool, target: str) -> Surrogate:
    """Part C on one device: the five measurements, made once and kept."""
    bench = state.bench

    def compute(folder: Path) -> dict[str, Any]:
        device = state.device(target)
        subnets = calibration_subnets(bench.shape, bench.workload, state.config)
        records = (
            measure(device, subnets, bench.shape, bench.workload, bench.open_subnet,
                    purpose=Purpose.CALIBRATION, seed=state.seed) if subnets else []
        )  # fmt: skip
        # What cannot be fitted is measured again by the next start, not found done.
        fit_surrogate(pool.trained, kind, records, device.spec, state.config)
        return {"records": record_rows(records)}

    kind, _ = kind_of(state.config, pool.trained)
    facts = state.measured_stage(f"calibrate-{device_id(target)}", compute, on=target)
    state.ledger_rows += facts["ledger"]
    return fit_surrogate(pool.trained, kind, records_from(facts["records"]), state.spec(target), state.config)


def measure_members(state: RunState, target: str, dense: StoredMember, fronts: Mapping[str, MethodFront]) -> Measured:
    """Measure the dense model and every member of every front on a device."""
    bench = state.bench
    members = [dense, *(m for front in fronts.values() for m in front.members)]
    unique = {m.subnet.key: m for m in members}

    def compute(folder: Path) -> dict[str, Any]:
        device = state.device(target)
        stored = {key: bench.open_stored(m.folder) for key, m in unique.items()}
        records = measure(device, [m.subnet for m in unique.values()], bench.shape, bench.workload,
                          lambda s: stored[s.key], purpose=Purpose.EVALUATION, seed=state.seed + 2)  # fmt: skip
        return {"records": record_rows(records)}

    facts = state.measured_stage(f"measure-{device_id(target)}", compute, on=target)
    state.ledger_rows += facts["ledger"]
    records = records_from(facts["records"])
    return Measured(state.device(target), dict(zip(unique, records, strict=True)), facts["ledger"])


def retarget_all(state: RunState, pool: LearntPool, outcome: Outcome) -> dict[str, Any]:
    """The same fronts on the run file's other devices; facts by device."""
    # By its canonical name, so that nothing is measured or counted twice.
    names = {device_id(name): name for name in state.config.retarget}
    names.pop(device_id(state.config.target), None)
    return {key: retarget(state, name, pool, outcome) for key, name in names.items()}


def retarget(state: RunState, name: str, pool: LearntPool, outcome: Outcome) -> dict[str, Any]:
    """The same fronts on another device, the rivals' included: five measurements, no training."""
    if device_id(name) in pool.kept:
        # The pool has seen this device: without it, the surrogate is trained again.
        pool = open_pool(state, name)
    before = len(state.ledger_rows)
    surrogate = calibrate(state, pool, name)
    measured = measure_members(state, name, outcome.dense, outcome.fronts)
    elsewhere = outcome.on(measured, surrogate)
    return results.retarget_block(elsewhere, state.ledger_rows[before:])
