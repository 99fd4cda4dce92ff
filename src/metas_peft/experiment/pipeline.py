"""The walk of one run: pool, data, calibration, tuning, measuring, controller, other devices, results.

Each stage computes its files or finds them, so that a run that was interrupted goes on where it stopped. Several
processes of a launcher share the training; all else is the first one's.
"""

import time
from collections.abc import Mapping
from pathlib import Path

import torch
import transformers

from metas_peft.conf import METHODS, CostTerm, RunConfig
from metas_peft.core.errors import OutOfMemoryError
from metas_peft.core.launched import is_first
from metas_peft.experiment.asking import control, evaluate
from metas_peft.experiment.finishing import finish
from metas_peft.experiment.fronts import StoredMember
from metas_peft.experiment.limits import limits_of
from metas_peft.experiment.measuring import calibrate, measure_members, open_pool, retarget_all
from metas_peft.experiment.outcome import MethodFront, Outcome
from metas_peft.experiment.pricing import LearntPool
from metas_peft.experiment.state import RunState
from metas_peft.experiment.training import Training, open_cache
from metas_peft.experiment.workbench import Workbench
from metas_peft.surrogate import Surrogate
from metas_peft.tuning.kernels import keep_kernels
from metas_peft.tuning.workers import alone, joined


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
    keep_kernels()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        with joined():
            _walk(RunState.open(config, run_dir, bench, progress and is_first()))
    except (torch.OutOfMemoryError, MemoryError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise OutOfMemoryError(
            f"The run needs more memory than there is: {said}. Lower dataset.batch_size (and raise "
            "training.gradient_accumulation_steps by as much) or dataset.max_length, or name a smaller backbone."
        ) from error
    return run_dir


def _walk(state: RunState) -> None:
    """One stage after the other; each gets what those before it found."""
    started = time.monotonic()
    config, bench = state.config, state.bench
    state.begin()

    cache = open_cache(state)
    pool = open_pool(state) if state.uses_surrogate or state.fits_on_target else None
    surrogate = calibrate(state, pool, config.target) if state.uses_surrogate and pool else None
    if surrogate is not None:
        # Budgets that nothing can hold are told before anything is trained.
        limits_of(config, state.method, surrogate.bind(bench.shape, bench.workload), bench.shape)

    training = Training(state, pool, cache)
    training.tune_dense()
    fronts = {state.method.name: training.tune(state.method.name, surrogate)}
    for name in state.rivals:
        shares = METHODS[name].cost_term is CostTerm.SURROGATE
        fronts[name] = training.tune(name, surrogate if shares else None)
    if is_first():
        with alone():
            _judge(state, pool, surrogate, training.cut_dense(), fronts, started)


def _judge(
    state: RunState,
    pool: LearntPool | None,
    surrogate: Surrogate | None,
    dense: StoredMember,
    fronts: Mapping[str, MethodFront],
    started: float,
) -> None:
    """What comes after all training: answers, measurements, controller, other devices, results."""
    config, bench = state.config, state.bench
    answers = evaluate(state, dense, fronts)
    target = measure_members(state, config.target, dense, fronts)
    outcome = Outcome(
        config=config, task=bench.task, judge=bench.judge, shape=bench.shape, workload=bench.workload,
        dense=dense, fronts=fronts, answers=answers, target=target, surrogate=surrogate,
    )  # fmt: skip

    controller = control(state, outcome)
    retargets = retarget_all(state, pool, outcome) if pool is not None and state.uses_surrogate else {}
    finish(state, outcome, pool, controller, retargets, time.monotonic() - started)
