"""One worker of a study: takes trials until there are enough, and takes over those of workers that died.

    abandoned trials go back to the queue -> ask -> (surplus? drop) -> run under a lease -> still ours? tell

A trial that is taken over keeps its number, its parameters and its folder, where the run goes on at the stage that
it had reached. The storage lets a trial finish once, so nothing is counted twice.
"""

import contextlib
import gc
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from metas_peft.conf import RunConfig
from metas_peft.core.errors import MetasPeftError
from metas_peft.search.lease import MISSED_BEATS, Lease, Owner, Watch, give_back
from metas_peft.search.study import SURPLUS, Search

logger = logging.getLogger(__name__)

# Runs one experiment in a folder and gives its figures by name; None where one is not known.
Evaluate = Callable[[RunConfig, Path], Mapping[str, float | None]]

ERROR, ATTEMPTS = "error", "attempts"
# A trial that has ended so many workers would end the others too.
MOST_ATTEMPTS = 3
KEPT_FILES = ("results.json", "answers.npz", "config.yaml", "log.txt")
# If the first trials all fail, so will the rest.
HOPELESS_AFTER = 3
POLL_S = 1.0


class Worker:
    """Runs trials of a study.

    Args:
        search: The study.
        evaluate: What a trial does.
        poll_s: Seconds between looks at the trials of others when nothing is left to take.
    """

    def __init__(self, search: Search, evaluate: Evaluate, *, poll_s: float = POLL_S) -> None:
        self.search, self._evaluate, self._poll_s = search, evaluate, poll_s
        self._owner = Owner.here()
        self._watch = Watch(MISSED_BEATS * search.config.optuna.heartbeat_s)

    def run(self) -> int:
        """Work until the study has its trials and none is running; gives how many this worker finished.

        Raises:
            MetasPeftError: The first trials of the study all failed.
        """
        finished, is_waiting = 0, False
        while True:
            self._requeue_abandoned()
            trials = self.search.trials()
            if len(trials) >= self.search.n_trials and not any(t.state is TrialState.WAITING for t in trials):
                running = [t.number for t in trials if t.state is TrialState.RUNNING]
                if not running:
                    return finished
                if not is_waiting:
                    logger.info("Waiting for trials %s of other workers.", running)
                    is_waiting = True
                time.sleep(self._poll_s)
                continue
            is_waiting = False
            trial = self.search.study.ask(dict(self.search.space))
            if self.search.is_surplus(trial):
                trial.set_user_attr(SURPLUS, True)
                self.search.study.tell(trial, state=TrialState.FAIL)
                continue
            finished += self._run(trial)
            self._give_up_if_hopeless()

    def _requeue_abandoned(self) -> None:
        for trial in self.search.trials():
            if trial.state is TrialState.RUNNING and self._watch.is_abandoned(trial):
                release(self.search.storage, trial)

    def _run(self, trial: optuna.Trial) -> bool:
        """Run one trial; gives whether its result went into the study."""
        search, number = self.search, trial.number
        logger.info("Trial %d: %s", number, ", ".join(f"{k}={v}" for k, v in trial.params.items()))
        lease = Lease(search.storage, trial._trial_id, self._owner, search.config.optuna.heartbeat_s)
        failure = None
        try:
            with lease:
                self._count_attempt(trial)
                state, values = self._values(trial)
        except MetasPeftError as error:
            state, values, failure = TrialState.FAIL, None, str(error)
            # As text: an error that a handler keeps would keep the models of its frames.
            logger.warning("Trial %d failed: %s", number, failure)
        except UpdateFinishedTrialError:
            logger.warning("Trial %d was taken over while we were silent, and is finished.", number)
            return False
        except BaseException as error:
            # Whatever stopped us (a key, a bug), the trial is nobody's now and waits for the next worker.
            if not isinstance(error, Exception):
                self._forget_attempt(trial)
            give_back(search.storage, trial._trial_id, self._owner)
            raise
        if not lease.hold():
            logger.warning("Trial %d was taken over while we were silent; its other run counts.", number)
            return False
        if failure is not None:
            # Models hang in cycles; what this trial filled must be free when the next one begins.
            gc.collect()
            with contextlib.suppress(UpdateFinishedTrialError):
                trial.set_user_attr(ERROR, failure)
        search.study.tell(trial, values, state=state, skip_if_finished=True)
        if state is TrialState.COMPLETE:
            figures = zip(search.objectives, values or [], strict=True)
            logger.info("Trial %d: %s", number, ", ".join(f"{name} {value:.6g}" for name, value in figures))
        self._prune_artefacts()
        return True

    def _count_attempt(self, trial: optuna.Trial) -> None:
        """Note that the trial is begun, before it can do harm.

        Raises:
            MetasPeftError: It was begun often enough.
        """
        attempts = trial.user_attrs.get(ATTEMPTS, 0)
        if attempts >= MOST_ATTEMPTS:
            raise MetasPeftError(
                f"it was begun {attempts} times and each time its worker ended before it did, as when the system kills "
                "a process for want of memory. Narrow the ranges of optuna.search_space that decide about memory "
                "(dataset.batch_size, model.peft.r), or start workers where there is more of it; log.txt in "
                f"{self.search.trial_folder(trial.number)} says how far it came."
            )
        trial.set_user_attr(ATTEMPTS, attempts + 1)

    def _forget_attempt(self, trial: optuna.Trial) -> None:
        """A person who interrupts a worker says nothing about the trial."""
        current = self.search.storage.get_trial(trial._trial_id)
        if Owner.of(current) == self._owner and not current.state.is_finished():
            trial.set_user_attr(ATTEMPTS, max(0, current.user_attrs.get(ATTEMPTS, 0) - 1))

    def _values(self, trial: optuna.Trial) -> tuple[TrialState, list[float] | None]:
        """Mean figures over the repeats, or the state of a trial that the pruner ended."""
        search, repeats = self.search, self.search.config.optuna.repeats
        sums = [0.0] * len(search.objectives)
        for repeat in range(repeats):
            config = search.trial_config(trial.number, trial.params, repeat)
            folder = search.run_folder(trial.number, repeat)
            folder.mkdir(parents=True, exist_ok=True)
            found = self._evaluate(config, folder)
            sums = [total + _figure(found, name, config) for total, name in zip(sums, search.objectives, strict=True)]
            if len(sums) == 1 and repeat + 1 < repeats:
                trial.report(sums[0] / (repeat + 1), step=repeat + 1)
                if trial.should_prune():
                    logger.info("Trial %d is pruned after %d of %d repeats.", trial.number, repeat + 1, repeats)
                    return TrialState.PRUNED, None
        return TrialState.COMPLETE, [total / repeats for total in sums]

    def _prune_artefacts(self) -> None:
        """Leave of finished trials what the run file wants kept."""
        keep = self.search.config.optuna.keep
        if keep == "all":
            return
        kept = {t.number for t in self.search.best()} if keep == "best" else set()
        for trial in self.search.trials():
            if trial.state.is_finished() and trial.number not in kept:
                _strip(self.search.trial_folder(trial.number))

    def _give_up_if_hopeless(self) -> None:
        trials = [t for t in self.search.trials() if t.state.is_finished()]
        if len(trials) >= HOPELESS_AFTER and all(t.state is TrialState.FAIL for t in trials):
            raise MetasPeftError(
                f"The first {len(trials)} trials all failed; the last one said: {trials[-1].user_attrs.get(ERROR)} "
                "Correct the run file and choose another run_id."
            )


def release(storage: Any, seen: FrozenTrial) -> None:
    """Put a trial whose worker is gone back into the queue, unless another worker has done so since it was seen."""
    if give_back(storage, seen._trial_id, Owner.of(seen)):
        logger.warning("The worker of trial %d is gone; the trial is run again.", seen.number)


def _figure(found: Mapping[str, float | None], name: str, config: RunConfig) -> float:
    value = found.get(name)
    if value is None or value != value:
        raise MetasPeftError(
            f"{config.run_id} gives no {name}, which the search is for; it gives "
            f"{', '.join(k for k, v in found.items() if v is not None)}."
        )
    return float(value)


def _strip(folder: Path) -> None:
    """Delete what a run wrote besides results, settings and log; empty folders go too."""
    if not folder.is_dir():
        return
    for entry in folder.iterdir():
        if entry.is_dir():
            if entry.name.startswith("repeat-"):
                _strip(entry)
            else:
                shutil.rmtree(entry, ignore_errors=True)
        elif entry.name not in KEPT_FILES:
            entry.unlink(missing_ok=True)
