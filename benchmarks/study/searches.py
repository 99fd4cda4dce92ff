"""The source's two searches at the scale of MiniLM: MetaS-PEFT for volume, EChorda for energy alone.

    python benchmarks/study/searches.py --data SENTENCES [--trials 20] [KEY=VALUE ...]

SENTENCES is what sentences.py beside this file writes. The source's own run files are searched as they are, but for
backbone and size of the data; gates, ranges and directions are theirs. All volumes are measured from the same dense
quality; EChorda's search is offered members down to a twentieth of the operations.
Resumable, on another machine too: every finished trial is a row of docs/benchmarks/study_searches.jsonl, and a search
whose folder is not there begins with those. A second process with the same command is a second worker; `--only EChorda`
gives one search a process of its own. docs/benchmarks/study_searches.json holds best trials, importance of keys, and
whether EChorda's search, whose objective has no floor of quality, ends in models that are no use.
"""

import argparse
import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock
from optuna.trial import TrialState, create_trial

from metas_peft import experiment
from metas_peft.conf import RunConfig
from metas_peft.conf.compose import load
from metas_peft.core.files import read_json, write_json, write_text
from metas_peft.report.scalars import scalars
from metas_peft.search import Search, Worker, open_search, summarise, write_best

ROOT = Path(__file__).resolve().parents[2]
RUNS = ROOT / "tests" / "data" / "runs"
DENSE = 0.87  # a round figure near the dense models of the study of methods; fixed, so that a search can be resumed
FILES: dict[str, dict[str, Any]] = {
    "proposed-iter1-Llama-2-7B-SST-2": {"method": "MetaS-PEFT", "own": (f"optuna.reference_quality={DENSE}",)},
    "comparative-1-iter1-Llama-2-7B-SST-2": {
        "method": "EChorda", "own": ("evaluation.operating_points=[0.67,0.5,0.34,0.26,0.1,0.05]",),
    },
}  # fmt: skip
# What a small model on a small machine needs; everything else is the source's.
SCALE = (
    "model.name=minilm",
    "model.peft.target_modules=all-linear",
    "dataset.train_limit=7000",
    "dataset.padding=longest",
    "training.gradient_accumulation_steps=1",
    "surrogate.checkpoint_path=null",
    "hardware_profiling.measurement_cache_dir=null",
    "controller.inputs=100",
)
USEFUL = 0.05
MEMBER = ("name", "quality", "flops_fraction", "energy_j", "latency_ms", "peak_power_w", "origin")
Figures = Mapping[str, float | None]


def main(arguments: list[str] | None = None) -> None:
    """Search what is missing, and summarise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with sst2/; else METAS_DATA or the hub")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--output", type=Path, default=ROOT / "outputs" / "study")
    parser.add_argument("--record", type=Path, default=ROOT / "docs" / "benchmarks")
    parser.add_argument("--only", choices=[rule["method"] for rule in FILES.values()], help="one of the two searches")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings of every run, for a quick look")
    args = parser.parse_args(arguments)
    if args.data:
        os.environ["METAS_DATA"] = args.data
    # A quick look must not pass for the study, nor its numbers stand beside it.
    kind = "" if not args.overrides else "_with_overrides"
    record = Record(args.record / f"study_searches{kind}.jsonl", args.output / "searches.lock")
    for name, rule in FILES.items():
        if args.only not in (None, rule["method"]):
            continue
        options = [*SCALE, *rule["own"], f"output_dir={args.output}", f"optuna.n_trials={args.trials}", *args.overrides]
        search = open_search(load(RUNS / f"{name}.yaml", options))
        record.bring_back(search, name)

        def evaluate(config: RunConfig, folder: Path, search: Search = search, name: str = name) -> Figures:
            record.note(search, name)  # what was told to the study since
            results = read_json(experiment.run(config, folder, progress=False) / "results.json")
            return scalars(results, config.optuna.reference_quality)

        Worker(search, evaluate).run()
        record.note(search, name)
        write_best(search)
        path = args.record / f"study_searches{kind}.json"
        with record.lock:
            found = read_json(path)["searches"] if path.exists() else {}
            found[name] = record.summary(search, name)
            write_json(path, {
                "command": "python benchmarks/study/searches.py --data SENTENCES",
                "overrides": {name: [*SCALE, *rule["own"], *args.overrides] for name, rule in FILES.items()},
                "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
                "searches": found,
            })  # fmt: skip


class Record:
    """Finished trials of all searches, a JSON line each.

    Args:
        path: The file. Workers take turns at it by a lock beside the trials.
        lock: Path of the lock.
    """

    def __init__(self, path: Path, lock: Path) -> None:
        lock.parent.mkdir(parents=True, exist_ok=True)
        self._path, self.lock = path, FileLock(lock)

    def rows(self, name: str | None = None) -> list[dict[str, Any]]:
        """Those of one search, or all."""
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        return [row for row in map(json.loads, lines) if name in (None, row["search"])]

    def note(self, search: Search, name: str) -> None:
        """Add the finished trials that have no row yet."""
        with self.lock:
            rows = self.rows()
            there = {row["number"] for row in rows if row["search"] == name}
            for trial in search.trials():
                path = search.run_folder(trial.number, 0) / "results.json"
                if trial.state is not TrialState.COMPLETE or trial.number in there or not path.exists():
                    continue
                results = read_json(path)
                rows.append({
                    "search": name, "number": trial.number, "params": dict(trial.params), "values": trial.values,
                    "settings": settings_of(search), "seconds": results["seconds"]["total"],
                    "dense_quality": results["dense"]["quality"], "dense_energy_j": results["dense"]["energy_j"],
                    "chance_quality": results["chance_quality"],
                    "front": [{key: member[key] for key in MEMBER} for member in results["front"]],
                })  # fmt: skip
            write_text(self._path, "".join(json.dumps(row) + "\n" for row in rows))

    def bring_back(self, search: Search, name: str) -> None:
        """Give a study that has no trial yet those of the record; a number that has no row is run again."""
        with self.lock:
            rows = {row["number"]: row for row in self.rows(name)}
            if search.trials() or not rows:
                return
            others = [n for n, row in rows.items() if row["settings"] != settings_of(search)]
            if others:
                raise SystemExit(
                    f"{self._path} holds trials {others} of {name} with other settings. Delete their lines, or name "
                    "another --record."
                )
            for number in range(max(rows) + 1):
                row = rows.get(number)
                if row is None:
                    search.study.add_trial(create_trial(state=TrialState.WAITING))
                    continue
                search.study.add_trial(
                    create_trial(params=row["params"], distributions=dict(search.space), values=row["values"])
                )

    def summary(self, search: Search, name: str) -> dict[str, Any]:
        """Of a search, with the seconds of trials that ran elsewhere."""
        rows = {row["number"]: row for row in self.rows(name)}
        found = summarise(search)
        for trial in (*found["trials"], *found["best"]):
            if trial["number"] in rows:
                trial["seconds"] = rows[trial["number"]]["seconds"]
        return {**found, "collapse": collapse(search, list(rows.values()))}


def settings_of(search: Search) -> str:
    """A digest of what may not change while the study lives."""
    known = json.dumps(search.study.user_attrs, sort_keys=True)
    return hashlib.sha256(known.encode()).hexdigest()[:12]


def collapse(search: Search, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Whether the optimum is a model of any use, and the cheapest model of some use in any trial.

    Of use is what comes within five points of the study's dense model: a trial's own may be badly trained. Operating
    points bound how small a member gets, so a collapse shows in quality, not in a cost of zero.
    """
    best, *_ = search.best()
    useful = [
        {"trial": row["number"], **figures(member, row)}
        for row in rows
        for member in row["front"]
        if member["quality"] >= DENSE - USEFUL and member["energy_j"] is not None
    ]
    (row,) = (row for row in rows if row["number"] == best.number)
    cheapest = figures(min(row["front"], key=lambda m: m["energy_j"]), row)
    return {
        "best_trial": best.number,
        "its_cheapest_member": cheapest,
        "is_of_use": cheapest["quality"] >= DENSE - USEFUL,
        "is_above_chance": cheapest["quality"] > cheapest["chance_quality"],
        "cheapest_of_use": min(useful, key=lambda m: m["energy_j"], default=None),
    }


def figures(member: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """A member beside its run's dense model and the level of guessing."""
    beside = {key: row[key] for key in ("dense_quality", "chance_quality")}
    return {**member, "energy_over_dense": member["energy_j"] / row["dense_energy_j"], **beside}


if __name__ == "__main__":
    main()
