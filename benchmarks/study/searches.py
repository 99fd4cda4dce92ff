"""The source's two searches at the scale of MiniLM: MetaS-PEFT for volume, EChorda for energy alone.

    python benchmarks/study/searches.py --data SENTENCES [--trials 20] [KEY=VALUE ...]

SENTENCES is what sentences.py beside this file writes. The source's own run files are searched as they are, but for
backbone and size of the data; gates, ranges and directions are theirs. All volumes are measured from the same dense
quality; EChorda's search is offered members down to a twentieth of the operations.
Resumable, and a second process with the same command is a second worker. After the last trial
docs/benchmarks/study_searches.json holds best trials, importance of keys, and whether EChorda's search, whose objective
has no floor of quality, ends in models that are no use.
"""

import argparse
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metas_peft import experiment
from metas_peft.conf import RunConfig
from metas_peft.conf.compose import load
from metas_peft.core.files import read_json, write_json
from metas_peft.report.scalars import scalars
from metas_peft.search import Search, Worker, open_search, summarise, write_best

ROOT = Path(__file__).resolve().parents[2]
RUNS = ROOT / "tests" / "data" / "runs"
DENSE = 0.87  # a round figure near the dense models of the study of methods; fixed, so that a search can be resumed
FILES = {
    "proposed-iter1-Llama-2-7B-SST-2": (f"optuna.reference_quality={DENSE}",),
    "comparative-1-iter1-Llama-2-7B-SST-2": ("evaluation.operating_points=[0.67,0.5,0.34,0.26,0.1,0.05]",),
}
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


def main(arguments: list[str] | None = None) -> None:
    """Search what is missing, and summarise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with sst2/; else METAS_DATA or the hub")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--output", type=Path, default=ROOT / "outputs" / "study")
    parser.add_argument("--record", type=Path, default=ROOT / "docs" / "benchmarks")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings of every run, for a quick look")
    args = parser.parse_args(arguments)
    if args.data:
        os.environ["METAS_DATA"] = args.data
    found: dict[str, Any] = {}
    kind = "" if not args.overrides else "_with_overrides"
    for name, own in FILES.items():
        options = [*SCALE, *own, f"output_dir={args.output}", f"optuna.n_trials={args.trials}", *args.overrides]
        search = open_search(load(RUNS / f"{name}.yaml", options))
        Worker(search, evaluate).run()
        write_best(search)
        found[name] = {**summarise(search), "collapse": collapse(search)}
        write_json(args.record / f"study_searches{kind}.json", {
            "command": "python benchmarks/study/searches.py --data SENTENCES",
            "overrides": {name: [*SCALE, *own, *args.overrides] for name, own in FILES.items()},
            "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
            "searches": found,
        })  # fmt: skip


def evaluate(config: RunConfig, folder: Path) -> Mapping[str, float | None]:
    """Run one experiment and give its figures."""
    results = read_json(experiment.run(config, folder, progress=False) / "results.json")
    return scalars(results, config.optuna.reference_quality)


def collapse(search: Search) -> dict[str, Any]:
    """Whether the optimum is a model of any use, and the cheapest model of some use in any trial.

    Of use is what comes within five points of the study's dense model: a trial's own may be badly trained. Operating
    points bound how small a member gets, so a collapse shows in quality, not in a cost of zero.
    """
    best, *_ = search.best()
    useful = []
    for trial in search.trials():
        path = search.run_folder(trial.number, 0) / "results.json"
        if trial.state.name != "COMPLETE" or not path.exists():
            continue
        results = read_json(path)
        rows = [m for m in results["front"] if m["quality"] >= DENSE - USEFUL and m["energy_j"] is not None]
        useful += [{"trial": trial.number, **figures(m, results)} for m in rows]
    results = read_json(search.run_folder(best.number, 0) / "results.json")
    cheapest = figures(min(results["front"], key=lambda m: m["energy_j"]), results)
    return {
        "best_trial": best.number,
        "its_cheapest_member": cheapest,
        "is_of_use": cheapest["quality"] >= DENSE - USEFUL,
        "is_above_chance": cheapest["quality"] > cheapest["chance_quality"],
        "cheapest_of_use": min(useful, key=lambda m: m["energy_j"], default=None),
    }


def figures(member: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, Any]:
    """A member beside its run's dense model and the level of guessing."""
    names = ("name", "quality", "flops_fraction", "energy_j", "latency_ms", "peak_power_w", "origin")
    row = {name: member[name] for name in names}
    row["energy_over_dense"] = member["energy_j"] / results["dense"]["energy_j"]
    return row | {"dense_quality": results["dense"]["quality"], "chance_quality": results["chance_quality"]}


if __name__ == "__main__":
    main()
