"""Which worker runs a trial, and whether it still does.

    worker: claims a trial, counts up `beat` every few seconds, tells the result
    others: a trial is abandoned when its process is gone (same computer) or its beat stands still for three periods

Optuna 5 has heartbeats for databases inside `optimize` only; these work with every storage and with ask and tell.
Watchers compare a counter with their own clock, so computers need not agree on the time.
"""

import logging
import os
import platform
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

logger = logging.getLogger(__name__)

WORKER, BEAT = "worker", "beat"
MISSED_BEATS = 3
# Processes are told apart by when they started, in ticks or in seconds, whatever `_started` counts in.
START_TOLERANCE = 2.0
BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Owner:
    """A process that runs trials.

    Attributes:
        home: Computer, its start, and process namespace: where its number means something.
        pid: Process number.
        started: When it started, by a clock that nobody sets where the system has one.
    """

    home: str
    pid: int
    started: float

    @classmethod
    def here(cls) -> "Owner":
        """This process."""
        namespace = Path("/proc/self/ns/pid")
        scope = os.readlink(namespace) if namespace.exists() else ""
        # Many machines are called `localhost`, and the first namespace has the same number on all.
        boot = BOOT.read_text(encoding="ascii").strip() if BOOT.exists() else ""
        return cls(" ".join(f"{platform.node()} {boot} {scope}".split()), os.getpid(), _started(os.getpid()))

    def as_dict(self) -> dict[str, Any]:
        """As stored with the trial."""
        return {"home": self.home, "pid": self.pid, "started": self.started}

    @classmethod
    def of(cls, trial: FrozenTrial) -> "Owner | None":
        """Who runs a trial; None where nobody has claimed it yet."""
        data = trial.user_attrs.get(WORKER)
        return cls(**data) if isinstance(data, Mapping) else None

    def is_alive(self) -> bool | None:
        """Whether the process lives; None where that cannot be seen from here."""
        if self.home != Owner.here().home:
            return None
        try:
            process = psutil.Process(self.pid)
            same = abs(_started(self.pid) - self.started) <= START_TOLERANCE
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:
            return None


def _started(pid: int) -> float:
    """When a process started: in ticks since the computer did, else in seconds of a clock that may be set.

    Raises:
        psutil.NoSuchProcess: There is none.
    """
    try:
        # Behind the name, which may hold anything: state, parent, ...; proc(5), field 22.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return float(fields[19])
    except (OSError, IndexError, ValueError):
        return psutil.Process(pid).create_time()


class Lease:
    """Signs of life for a trial while the block runs.

    Args:
        storage: Optuna storage.
        trial_id: The storage's number of the trial.
        owner: This worker.
        every_s: Seconds between two signs.
    """

    def __init__(self, storage: Any, trial_id: int, owner: Owner, every_s: float) -> None:
        self._storage, self._trial_id, self._owner, self._every_s = storage, trial_id, owner, every_s
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name=f"lease-{trial_id}")

    def __enter__(self) -> "Lease":
        self._claim()
        self._storage.set_trial_user_attr(self._trial_id, BEAT, 0)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def hold(self) -> bool:
        """Whether the trial is still this worker's.

        One that lies in the queue or is nobody's was given back by a watcher whose look was too old, or while this
        worker was silent and nobody has begun it since: it is taken back.
        """
        try:
            trial = self._storage.get_trial(self._trial_id)
            owner = Owner.of(trial)
            if trial.state.is_finished() or owner not in (None, self._owner):
                return False
            # From the queue the storage hands a trial to one worker alone.
            if trial.state is TrialState.WAITING and not self._storage.set_trial_state_values(
                self._trial_id, TrialState.RUNNING
            ):
                return False
            if owner is None:
                self._claim()
        except UpdateFinishedTrialError:
            return False
        return True

    def _claim(self) -> None:
        self._storage.set_trial_user_attr(self._trial_id, WORKER, self._owner.as_dict())

    def _beat(self) -> None:
        count = 0
        while not self._done.wait(self._every_s):
            count += 1
            try:
                if not self.hold():
                    return  # another worker took it over; the beat is that one's
                self._storage.set_trial_user_attr(self._trial_id, BEAT, count)
            except UpdateFinishedTrialError:
                return  # and was quicker
            except Exception as error:
                # A storage that is away for a while must not kill the trial; others see the beat stand still.
                logger.warning("No sign of life could be given: %s", error)


def give_back(storage: Any, trial_id: int, owner: Owner | None) -> bool:
    """Put a running trial back into the queue; gives whether it was still `owner`'s to be put back.

    Optuna has no operation that does so on a condition. Between the look and the writing another watcher may have put
    the trial back and a new worker may have begun it. That one takes its trial back at its next beat (`Lease.hold`), or
    else the trial runs twice: a worker counts a result only while the trial is its own, and a trial finishes once.
    """
    present = storage.get_trial(trial_id)
    if present.state is not TrialState.RUNNING or Owner.of(present) != owner:
        return False
    try:
        # First nobody's: whoever takes it next has no lease at once, and must not be mistaken for the one who is gone.
        storage.set_trial_user_attr(trial_id, WORKER, None)
        storage.set_trial_state_values(trial_id, TrialState.WAITING)
    except UpdateFinishedTrialError:
        return False
    return True


class Watch:
    """Finds running trials whose worker is gone.

    Args:
        grace_s: Seconds without a sign after which a worker that cannot be seen counts as gone.
    """

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._seen: dict[int, tuple[Any, float]] = {}

    def is_abandoned(self, trial: FrozenTrial) -> bool:
        """Whether nobody runs a trial any more; ask again and again."""
        owner = Owner.of(trial)
        alive = owner.is_alive() if owner else None
        if alive is not None:
            return not alive
        sign, now = (trial.user_attrs.get(WORKER), trial.user_attrs.get(BEAT)), time.monotonic()
        before, since = self._seen.get(trial.number, (None, now))
        if before != sign or trial.number not in self._seen:
            self._seen[trial.number] = (sign, now)
            return False
        return now - since > self._grace_s
