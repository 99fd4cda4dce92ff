"""Several workers on one study, and workers that die."""

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
from optuna.trial import TrialState

from metas_peft.core.errors import OutOfMemoryError
from metas_peft.search import Worker, open_search, summarise
from metas_peft.search.lease import BEAT, WORKER, Owner
from metas_peft.search.worker import release

from .conftest import figures

# A worker as a process of its own: every run of a trial leaves a line in a file.
WORKER_SCRIPT = """
import json, os, sys, time
from pathlib import Path
from metas_peft.conf.compose import load
from metas_peft.conf.runfile import RunFile
from metas_peft.search import Worker, open_search

data, overrides, pause, runs = json.loads(sys.argv[1])
search = open_search(load(RunFile("study", data), overrides))

def evaluate(config, folder):
    with open(runs, "a") as file:
        file.write(json.dumps([os.getpid(), config.run_id, config.training.learning_rate]) + "\\n")
    time.sleep(pause)
    return {"hypervolume": -abs(config.training.learning_rate - 1e-3)}

Worker(search, evaluate, poll_s=0.2).run()
"""
SPACE = {"learning_rate": {"type": "loguniform", "low": 1e-5, "high": 1e-1}, "r": {"type": "int", "low": 2, "high": 16}}
N_TRIALS = 40


def settings(storage=None):
    return {"optuna": {"n_trials": N_TRIALS, "storage": storage, "sampler": "random", "search_space": SPACE}}


def start(data, overrides, runs, pause=0.15):
    arguments = json.dumps([data, overrides, pause, str(runs)])
    return subprocess.Popen([sys.executable, "-c", WORKER_SCRIPT, arguments])


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def kill_one_of_two(data, overrides, runs):
    """Two workers; the second is killed while it runs a trial in the middle of the study. Gives its number."""
    from metas_peft.conf.compose import load
    from metas_peft.conf.runfile import RunFile

    search = open_search(load(RunFile("study", data), overrides))
    workers = [start(data, overrides, runs) for _ in range(2)]
    victim = None
    try:
        deadline = time.monotonic() + 60
        while victim is None:
            assert time.monotonic() < deadline, "the workers did not get half-way"
            running = [t for t in search.trials() if t.state is TrialState.RUNNING and t.number >= N_TRIALS // 3]
            mine = [t.number for t in running if (o := Owner.of(t)) and o.pid == workers[1].pid]
            if mine and any(pid == workers[1].pid and name == f"trial-{mine[0]:04d}" for pid, name, _ in lines(runs)):
                victim = mine[0]
            time.sleep(0.01)
        workers[1].send_signal(signal.SIGKILL)
        assert workers[1].wait(10) == -signal.SIGKILL
        assert workers[0].wait(60) == 0
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    return search, victim


def check_none_lost_none_double(search, victim, runs):
    trials = search.study.get_trials()
    assert summarise(search)["states"]["complete"] == N_TRIALS
    assert [t.number for t in search.trials()] == list(range(N_TRIALS))
    assert all(t.state is TrialState.COMPLETE for t in search.trials())
    assert len({tuple(t.params.items()) for t in search.trials()}) == N_TRIALS
    # What is no trial of the study was asked for by both at once and dropped before it ran.
    assert all(t.state is TrialState.FAIL for t in trials if t.number >= N_TRIALS)
    started = [name for _, name, _ in lines(runs)]
    assert len(set(started)) == N_TRIALS
    # Only the killed worker's trial ran twice, with the same values, in the same folder.
    assert sorted(n for n in set(started) if started.count(n) > 1) == [f"trial-{victim:04d}"]
    assert started.count(f"trial-{victim:04d}") == 2
    rates = {rate for _, name, rate in lines(runs) if name == f"trial-{victim:04d}"}
    assert rates == {search.trials()[victim].params["training.learning_rate"]}
    assert len({pid for pid, _, _ in lines(runs)}) == 2


def test_killed_worker_loses_no_trial_of_a_journal(tmp_path):
    runs = tmp_path / "runs.jsonl"
    data, overrides = settings(), ["run_id=study", f"output_dir={tmp_path}"]
    search, victim = kill_one_of_two(data, overrides, runs)
    check_none_lost_none_double(search, victim, runs)


def test_killed_worker_loses_no_trial_of_a_postgres_database(tmp_path, postgres):
    runs = tmp_path / "runs.jsonl"
    data, overrides = settings(postgres), ["run_id=study", f"output_dir={tmp_path}"]
    search, victim = kill_one_of_two(data, overrides, runs)
    check_none_lost_none_double(search, victim, runs)
    assert not (search.folder / "journal.log").exists()


@pytest.fixture
def postgres(tmp_path_factory):
    """URL of an empty PostgreSQL database, started for the test where that is possible."""
    pytest.importorskip("psycopg", reason="no driver: pip install metas-peft[databases]")
    found = [shutil.which("initdb"), *map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb"))]
    binaries = [Path(p).resolve().parent for p in found if p]
    if not binaries:
        pytest.skip("no PostgreSQL server is installed here (initdb was not found)")
    # PostgreSQL refuses to run for the super-user.
    user = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
    root = Path(tmp_path_factory.mktemp("pg")) if not user else Path("/tmp") / f"metas-pg-{os.getpid()}"
    root.mkdir(exist_ok=True)
    if user:
        os.chown(root, 65534, 65534)
    initdb, server = binaries[0] / "initdb", binaries[0] / "postgres"
    made = subprocess.run([initdb, "-D", root / "data", "-U", "metas", "-A", "trust"], capture_output=True, text=True,
                          cwd=root, **user)  # fmt: skip
    if made.returncode:
        shutil.rmtree(root, ignore_errors=True)
        pytest.skip(f"PostgreSQL cannot make a database here: {made.stderr.strip().splitlines()[-1:]}")
    process = subprocess.Popen(
        [server, "-D", root / "data", "-k", root, "-c", "listen_addresses=", "-c", "fsync=off"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=root, **user,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 20
        while not (root / ".s.PGSQL.5432").exists():
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.skip("the PostgreSQL server does not start here")
            time.sleep(0.1)
        time.sleep(0.5)
        yield f"postgresql://metas@/postgres?host={root}"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(10)
        shutil.rmtree(root, ignore_errors=True)


def claimed(search, owner):
    """A trial that a worker took and never finished."""
    trial = search.study.ask(dict(search.space))
    trial.set_user_attr(WORKER, owner.as_dict())
    trial.set_user_attr(BEAT, 3)
    return trial


def test_trial_of_a_silent_worker_elsewhere_is_run_again(search):
    study = search(n_trials=2, heartbeat_s=0.1)
    left = claimed(study, Owner("another computer", 1, 0.0))
    began = time.monotonic()
    assert Worker(study, figures, poll_s=0.05).run() == 2
    assert time.monotonic() - began > 0.3
    assert [t.state for t in study.trials()] == [TrialState.COMPLETE] * 2
    assert study.trials()[0].params == left.params
    assert Owner.of(study.trials()[0]) == Owner.here()


def test_trial_that_was_taken_over_is_not_taken_from_its_new_worker(search):
    """A third worker that saw the dead owner must not put the trial back while the second has no lease yet."""
    study = search(n_trials=1, heartbeat_s=60.0)
    claimed(study, replace(Owner.here(), pid=2**22 + 1))  # a process that does not exist
    (seen,) = study.trials()
    first, third = Worker(study, figures), Worker(study, figures)
    first._requeue_abandoned()
    taken = study.study.ask(dict(study.space))
    assert taken.number == seen.number
    release(study.storage, seen)  # the third worker looked before the first put it back
    third._requeue_abandoned()  # or looks only now
    assert study.trials()[0].state is TrialState.RUNNING


class Stopped(Exception):
    """What ends a worker in the middle of a trial."""


def test_trial_of_a_stopped_worker_is_not_taken_from_its_new_worker(search):
    """A third worker must not take the second, which has no lease yet, for the first, whose process has ended."""
    study = search(n_trials=1, heartbeat_s=60.0)

    def stop(config, folder):
        raise Stopped

    first, third = Worker(study, stop), Worker(study, figures)
    first._owner = replace(Owner.here(), pid=2**22 + 1)
    with pytest.raises(Stopped):
        first.run()
    assert study.study.ask(dict(study.space)).number == 0
    third._requeue_abandoned()
    assert [t.state for t in study.trials()] == [TrialState.RUNNING]


def test_stopped_worker_leaves_a_trial_that_was_taken_over_to_its_new_worker(search):
    study, other = search(n_trials=1), Owner("another computer", 1, 0.0)

    def stop(config, folder):
        study.storage.set_trial_user_attr(study.trials()[0]._trial_id, WORKER, other.as_dict())
        raise Stopped

    with pytest.raises(Stopped):
        Worker(study, stop).run()
    assert study.trials()[0].state is TrialState.RUNNING
    assert Owner.of(study.trials()[0]) == other


def put_back_by_an_old_look(study):
    """What a watcher writes that looked before another one put the trial back and a new worker began it."""
    trial = study.trials()[0]
    if trial.user_attrs.get("seen"):
        raise Stopped  # it runs once more
    study.storage.set_trial_user_attr(trial._trial_id, "seen", True)
    study.storage.set_trial_user_attr(trial._trial_id, WORKER, None)
    study.storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)


def test_worker_takes_its_trial_back_at_the_next_beat(search):
    study, seen = search(n_trials=1, heartbeat_s=0.05), []

    def waiting(config, folder):
        put_back_by_an_old_look(study)
        time.sleep(0.4)
        seen.append(study.trials()[0])
        return figures(config)

    assert Worker(study, waiting).run() == 1
    assert (seen[0].state, Owner.of(seen[0])) == (TrialState.RUNNING, Owner.here())
    assert study.trials()[0].state is TrialState.COMPLETE


def test_result_counts_when_an_old_look_put_the_trial_back_and_nobody_began_it(search):
    study, runs = search(n_trials=1, heartbeat_s=60.0), []

    def evaluate(config, folder):
        runs.append(config.run_id)
        put_back_by_an_old_look(study)
        return figures(config)

    assert Worker(study, evaluate).run() == 1
    assert runs == ["trial-0000"]


def test_beat_stops_when_another_worker_has_the_trial(search):
    study, other, beats = search(n_trials=1, heartbeat_s=0.05), Owner("another computer", 1, 0.0), []

    def overtaken(config, folder):
        trial_id = study.trials()[0]._trial_id
        study.storage.set_trial_user_attr(trial_id, WORKER, other.as_dict())
        time.sleep(0.2)
        for _ in range(2):
            beats.append(study.trials()[0].user_attrs[BEAT])
            time.sleep(0.2)
        study.study.tell(0, 0.125)
        return figures(config)

    assert Worker(study, overtaken).run() == 0
    assert beats[0] == beats[1]


def test_repeats_of_a_trial_that_another_worker_finished_do_not_end_the_worker(search):
    study = search(n_trials=1, repeats=2)

    def overtaken(config, folder):
        study.study.tell(0, 0.125)
        return figures(config)

    assert Worker(study, overtaken).run() == 0
    assert [t.value for t in study.trials()] == [0.125]


def begun(search, owner):
    """A trial whose worker is killed while it runs."""

    def killed(config, folder):
        # As a killed process leaves it: nothing is put back, and the owner is one that does not exist.
        study_trial = next(t for t in search.trials() if t.state is TrialState.RUNNING)
        search.storage.set_trial_user_attr(study_trial._trial_id, WORKER, owner.as_dict())
        raise Stopped

    with pytest.raises(Stopped):
        Worker(search, killed).run()


def test_trial_that_ends_every_worker_fails_after_three(search, caplog):
    study, dead = search(n_trials=2, heartbeat_s=60.0), replace(Owner.here(), pid=2**22 + 1)
    for _ in range(3):
        begun(study, dead)
    assert [t.state for t in study.trials()] == [TrialState.RUNNING]
    assert Worker(study, figures).run() == 2
    assert [t.state for t in study.trials()] == [TrialState.FAIL, TrialState.COMPLETE]
    assert "Trial 0 failed: it was begun 3 times" in caplog.text
    assert "Narrow the ranges" in summarise(study)["trials"][0]["error"]


def test_interrupted_trial_may_be_begun_again_and_again(search):
    study = search(n_trials=1)

    def interrupt(config, folder):
        raise KeyboardInterrupt

    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            Worker(study, interrupt).run()
    assert Worker(study, figures).run() == 1
    assert study.trials()[0].state is TrialState.COMPLETE


def test_trial_without_enough_memory_fails_and_leaves_none_occupied(search):
    study, left = search(n_trials=2), []

    class Model:
        def __init__(self):
            self.itself = self

    def evaluate(config, folder):
        if not left:
            model = Model()
            left.append(weakref.ref(model))
            raise OutOfMemoryError("The run needs more memory than there is.")
        left.append(left[0]() is None)
        return figures(config)

    gc.disable()
    try:
        assert Worker(study, evaluate).run() == 2
    finally:
        gc.enable()
    assert [t.state for t in study.trials()] == [TrialState.FAIL, TrialState.COMPLETE]
    assert left[1] is True


def test_trial_of_a_worker_that_gives_signs_is_left_alone(search):
    study = search(n_trials=1, heartbeat_s=0.2)
    trial = claimed(study, Owner("another computer", 1, 0.0))
    worker = Worker(study, figures)
    for beat in range(8):
        trial.set_user_attr(BEAT, beat)
        worker._requeue_abandoned()
        time.sleep(0.15)
    assert study.trials()[0].state is TrialState.RUNNING


def test_result_of_a_worker_that_was_given_up_does_not_count(search):
    study = search(n_trials=1)

    def overtaken(config, folder):
        (running,) = [t for t in study.trials() if t.state is TrialState.RUNNING]
        study.storage.set_trial_user_attr(running._trial_id, WORKER, Owner("another computer", 1, 0.0).as_dict())
        study.study.tell(running.number, 0.125)
        return figures(config)

    assert Worker(study, overtaken).run() == 0
    assert [t.value for t in study.trials()] == [0.125]


def test_trials_beyond_the_number_are_dropped(search):
    study = search(n_trials=3)
    for _ in range(3):
        trial = study.study.ask(dict(study.space))
        study.study.tell(trial, 0.5)
    late = study.study.ask(dict(study.space))  # another worker saw two trials a moment ago
    assert study.is_surplus(late)
    assert not search(n_trials=4).is_surplus(late)


def test_owner_knows_whether_it_lives():
    here = Owner.here()
    assert here.is_alive() is True
    assert Owner(here.home, here.pid, here.started - 100).is_alive() is False
    assert Owner("another computer", here.pid, here.started).is_alive() is None
