"""The source's study at the scale of MiniLM: methods and their rivals, a simulated phone and this computer.

    python benchmarks/study/methods.py sst2.yaml --data FOLDER [KEY=VALUE ...]     # described, one_run, cola too

FOLDER holds sst2/ and cola/ with train and validation files. The matrices beside this file say what is run. Resumable,
on another machine too: results and answers of a finished cell are kept in docs/benchmarks/study/NAME, and what is there
is not run again; a cell that was interrupted goes on at its stage. After every cell the summary
docs/benchmarks/study_NAME.json is written again: volumes, quality at each operating point paired with every rival's,
and the source's hypotheses beside what was found.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy import special

from metas_peft import experiment, pareto
from metas_peft.conf import dump, to_dict
from metas_peft.conf.compose import load
from metas_peft.conf.plan import read_plan
from metas_peft.conf.runfile import RunFile
from metas_peft.core.cost import METRICS
from metas_peft.core.files import read_json, replacing, write_json, write_text
from metas_peft.report import write_report
from metas_peft.report.compare import as_plain, compare
from metas_peft.report.compare_page import write_comparison
from metas_peft.report.compare_statistics import REDRAWN, quality_of

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULTS, ANSWERS, CONFIG = "results.json", "answers.npz", "config.yaml"
OURS, RIVAL = "MetaS-PEFT", "EChorda-style"
PARITY = 0.98
BUDGETS = (0.4, 0.6, 0.8)
DRAWS = 2000  # of the bootstrap over seeds and examples
# Why an error against values of this origin says nothing of a device.
NOT_REAL = {
    "simulated": "The device is a simulator, whose physics resemble the surrogate's own.",
    "modelled": "What it is compared with is modelled from processor time, not measured.",
    None: "Where the values come from is not known.",
}
# Half of the layers have 50.005 % of the operations, the head's included.
NEARLY = 1e-3


def main(arguments: list[str] | None = None) -> None:
    """Run what is missing, and summarise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("matrix", help="a file, or the name of one beside this script")
    parser.add_argument("--data", help="folder with sst2/ and cola/; else METAS_DATA or the hub")
    parser.add_argument("--output", type=Path, default=ROOT / "outputs" / "study")
    parser.add_argument("--record", type=Path, default=ROOT / "docs" / "benchmarks")
    parser.add_argument("--iterations", type=int, nargs="+", help="only these, so that processes can share a study")
    parser.add_argument("--summarise", action="store_true", help="run nothing, summarise what is there")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings of every run, for a quick look")
    args = parser.parse_intermixed_args(arguments)
    if args.data:
        os.environ["METAS_DATA"] = args.data
    matrix = HERE / args.matrix  # an absolute path stays as it is
    cells = read_plan(matrix if matrix.exists() else Path(args.matrix))
    args.name = matrix.stem
    # A quick look must not pass for the study, nor its numbers stand beside it.
    kind = "" if not args.overrides else "_with_overrides"
    for cell in cells:
        kept = kept_in(args, kind) / cell.name
        is_asked = not args.summarise and cell.iteration in (args.iterations or [cell.iteration])
        config = config_of(cell, args)
        if not is_asked or is_finished(kept, config):
            continue
        folder = args.output / args.name / cell.name
        experiment.run(config, folder)
        write_report(folder)
        keep(folder, kept, config)
        summarise(args, cells, kind)
        print(f"{cell.name}: {read_json(kept / RESULTS)['hypervolume']}", flush=True)
    summarise(args, cells, kind)


def kept_in(args: argparse.Namespace, kind: str) -> Path:
    """Folder of the finished cells."""
    return args.record / f"study{kind}" / args.name


def is_finished(kept: Path, config: Any) -> bool:
    """Whether a cell is kept; one of other settings is an error. A key that is newer than the cell is none."""
    if not (kept / RESULTS).exists():
        return False
    then, now = yaml.safe_load((kept / CONFIG).read_text()), to_dict(config)
    changed = sorted(name for name in then if name in now and not _agree(then[name], now[name]))
    if changed:
        raise SystemExit(
            f"{kept} was run with other settings ({', '.join(changed)} changed). Delete it, or name another --record."
        )
    return True


def _agree(then: Any, now: Any) -> bool:
    if isinstance(then, dict) and isinstance(now, dict):
        return all(_agree(then[name], now[name]) for name in then if name in now)
    return then == (list(now) if isinstance(now, tuple) else now)


def keep(folder: Path, kept: Path, config: Any) -> None:
    """Settings, answers, and results on one line of a finished cell; the results last, because they say that it is."""
    results = read_json(folder / RESULTS)
    results |= {"task_source": without_folder(results["task_source"]), "commit": commit()}
    write_text(kept / CONFIG, dump(config))
    with replacing(kept / ANSWERS) as path:
        shutil.copyfile(folder / ANSWERS, path)
    write_text(kept / RESULTS, json.dumps(results) + "\n")


def commit() -> str | None:
    """The code that ran, as far as git knows; `-dirty` where files were changed since."""
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return asked.stdout.strip() or None


def without_folder(source: str) -> str:
    """`local:FOLDER/sst2` as `local:sst2`: where somebody keeps the data says nothing of the figures."""
    kind, _, place = source.partition(":")
    return f"{kind}:{Path(place).name}" if kind == "local" else source


def summarise(args: argparse.Namespace, cells: list[Any], kind: str) -> None:
    """Compare what is finished and put the source's hypotheses beside it."""
    folders = [kept_in(args, kind) / c.name for c in cells]
    folders = [folder for folder in folders if (folder / RESULTS).exists()]
    if not folders:
        raise SystemExit(f"{kept_in(args, kind)} holds no finished cell. Run without --summarise first.")
    runs = [read_json(folder / RESULTS) for folder in folders]
    compared = compare(folders)
    write_comparison(compared, args.output / f"comparison-{args.name}")
    plain = as_plain(compared)
    for cell in plain["cells"]:
        for method in cell["methods"]:
            del method["front"]  # in the cells
    write_json(args.record / f"study_{args.name}{kind}.json", {
        "command": f"python benchmarks/study/methods.py {args.name}.yaml --data FOLDER",
        "overrides": args.overrides,
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "versions": runs[-1]["versions"],
        "commits": sorted({run["commit"] for run in runs if run["commit"]}),
        "finished": len(folders),
        "planned": len(cells),
        "volume_in_budget": {f"{f:g}": in_budget(runs, f) for f in BUDGETS},
        "at_points": at_points(folders, config_of(cells[0], args).evaluation.operating_points),
        "hypotheses": hypotheses(plain["cells"], runs, len(folders) == len(cells)),
        "comparison": plain,
    })  # fmt: skip


def config_of(cell: Any, args: argparse.Namespace) -> Any:
    """A cell's settings."""
    return load(RunFile(cell.name, cell.data), args.overrides)


def in_budget(runs: Sequence[dict[str, Any]], fraction: float) -> dict[str, dict[str, float]]:
    """Device -> method -> mean volume of what holds a fraction of the dense model's energy and latency.

    (Peak power hardly falls with the model on these devices: a budget of it is held by all or by none.)
    """
    found: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        for device, entry in {run["target_device"]: run, **run["retargets"]}.items():
            dense = entry["dense"]
            yardstick = pareto.Yardstick(dense["quality"], np.array([dense[m] for m in METRICS]), run["chance_quality"])
            limits = {m: fraction * dense[m] for m in ("energy_j", "latency_ms")}
            fronts = {OURS: entry["front"], **{n: b["front"] for n, b in entry["baselines"].items()}}
            for method, front in fronts.items():
                quality = np.array([row["quality"] for row in front])
                costs = np.array([[row[m] for m in METRICS] for row in front])
                volume = pareto.front_volumes(quality, costs, yardstick, limits)["budgets"] or 0.0
                found.setdefault(device, {}).setdefault(method, []).append(volume)
    return {d: {m: float(np.mean(values)) for m, values in methods.items()} for d, methods in found.items()}


def at_points(folders: Sequence[Path], points: Sequence[float]) -> dict[str, dict[str, Any]]:
    """Operating point -> method -> mean quality and size, and by how much ours is better (95 % interval).

    Of each method the largest member within the point counts. Answers to the same examples are paired; the interval is
    by bootstrap over seeds and examples, of the task's headline metric.
    """
    runs = [(read_json(f / RESULTS), np.load(f / ANSWERS)) for f in folders]
    labels, metric = [answers["labels"] for _, answers in runs], runs[0][0]["quality_metric"]
    found: dict[str, dict[str, Any]] = {}
    for point in points:
        given: dict[str, list[np.ndarray]] = {}
        rows: dict[str, list[dict[str, Any]]] = {}
        for results, answers in runs:
            fronts = {OURS: results["front"], **{n: b["front"] for n, b in results["baselines"].items()}}
            for name, front in fronts.items():
                inside = [i for i, row in enumerate(front) if row["flops_fraction"] <= point + NEARLY]
                if inside:
                    best = max(inside, key=lambda i, front=front: front[i]["flops_fraction"])
                    given.setdefault(name, []).append(answers[name][best])
                    rows.setdefault(name, []).append(front[best])
        if len(given.get(OURS, ())) < len(runs):
            continue  # ours has no member as small in some run
        found[f"{point:g}"] = {
            name: {
                "quality": [row["quality"] for row in rows[name]],
                "mean_quality": mean([row["quality"] for row in rows[name]]),
                "flops_fraction": mean([row["flops_fraction"] for row in rows[name]]),
                **({} if name == OURS else {"better_by": gain(given[OURS], given[name], labels, metric)}),
            }
            for name in rows
            if len(rows[name]) == len(runs)
        }
    return found


def gain(
    ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray], labels: Sequence[np.ndarray], metric: str
) -> dict[str, Any] | None:
    """By how much ours is better in a metric, with its interval; None where it cannot be drawn again.

    Args:
        ours: Answers of one member per seed, (E,) each.
        theirs: The same of a rival's, to the same examples.
        labels: True classes per seed.
        metric: Headline metric of the task.
    """
    if metric not in REDRAWN or not all(np.array_equal(labels[0], row) for row in labels):
        return None
    rows, seeds, examples = np.array([*ours, *theirs]), len(ours), len(labels[0])

    def differences(weight: np.ndarray) -> np.ndarray:
        quality = quality_of(rows, labels[0], weight, metric)
        return quality[:seeds] - quality[seeds:]

    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(DRAWS):
        which = rng.integers(seeds, size=seeds)
        weight = np.bincount(rng.integers(examples, size=examples), minlength=examples).astype(float)
        drawn.append(differences(weight)[which].mean())
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"metric": metric, "mean": float(differences(np.ones(examples)).mean()), "low": float(low),
            "high": float(high)}  # fmt: skip


def hypotheses(cells: list[dict[str, Any]], runs: list[dict[str, Any]], is_whole: bool) -> list[dict[str, Any]]:
    """What the source expects, what was found, and in plain words what that says."""
    tuned_for = [c for c in cells if c["device"] == runs[0]["target_device"]]
    found = [parity(c, is_whole) for c in tuned_for if RIVAL in {m["method"] for m in c["methods"]}]
    for device in (runs[0]["target_device"], *runs[0]["retargets"]):
        found += surrogate_errors(device, [r if device == r["target_device"] else r["retargets"][device] for r in runs])
    controllers = [c for r in runs if (c := r["controller"])]
    slowest = max((c["decision_us"] for c in controllers), default=None)
    kept = [c["hypervolume_kept"] for c in controllers if c["hypervolume_kept"] is not None]
    alone = sum(c["degenerate"] for c in controllers)
    found.append(judged("One decision of the tree takes less than 40 us.", {"slowest_us": slowest},
                        None if slowest is None else slowest < 40, "On this computer's processor."))  # fmt: skip
    found.append(judged(
        "The tree keeps at least 99 % of the volume.",
        {"mean": mean(kept), "least": min(kept, default=None), "runs": len(kept), "sending_everything_to_one": alone},
        None if not kept or alone == len(kept) else mean(kept) >= 0.99,
        f"In the mean over runs; {alone} of {len(controllers)} trees send all to one member, which says nothing.",
    ))  # fmt: skip
    found.append({
        "hypothesis": "95.0 % at 5.9 J, 74 ms and 10.4 W, against 94.6 % at 6.3 J, 78 ms and 11.2 W for EChorda.",
        "found": None,
        "verdict": "not testable here",
        "because": "The figures are of a model of seven billion parameters on a phone; and 5.9 J in 74 ms are 80 W.",
    })  # fmt: skip
    return found


def surrogate_errors(device: str, entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The source's three errors beside those on one device; judged only where the quantity is measured.

    The source speaks of devices that one can hold. What a simulator or a power model gives is no such thing.
    """
    against = entries[0]["surrogate_error"].get("against")
    found = []
    for metric, expected in (("energy", 2.4), ("latency", 3.1), ("power", 4.0)):
        errors = [e["surrogate_error"][metric] for e in entries if e["surrogate_error"].get(metric) is not None]
        origins = list(dict.fromkeys(e["dense"]["origin"][metric] for e in entries))
        why = next((NOT_REAL[o] for o in origins if o in NOT_REAL), None) or ("" if errors else "No run scored it.")
        low, high = interval_of_mean(errors)
        holds = None if why else True if high <= expected else False if low > expected else None
        found.append(judged(
            f"The surrogate's {metric} error on an unseen device is {expected} % ({device}).",
            {"mean_percent": mean(errors), "low": low, "high": None if np.isinf(high) else high,
             "runs": len(errors), "against": against, "origin": " / ".join(str(o) for o in origins)},
            holds,
            why or f"Measured on this computer; the interval over seeds {'holds' if holds is None else 'excludes'} it.",
            "not testable here" if why else "undecided",
        ))  # fmt: skip
    return found


def parity(cell: dict[str, Any], is_whole: bool) -> dict[str, Any]:
    """A few measurements reach what EChorda reaches with many; undecided while seeds are missing.

    Only of the device that the fronts were chosen for. On another one ours was calibrated again and EChorda's, which
    did not measure it at all, is merely the one chosen elsewhere: that says nothing of parity.
    """
    counted = {m["method"]: m["measurements"] for m in cell["methods"]}
    few, many = counted.get(OURS), counted.get(RIVAL)
    where = " / ".join(dict.fromkeys(o for origins in cell["origin"].values() for o in origins))
    ours, theirs = (
        f"{'some' if few is None else few} target measurements",
        "an unknown number" if many is None else many,
    )
    reach = f"reach at least {PARITY} of the volume that EChorda reaches with {theirs}"
    text = f"{cell['task']}, {cell['device']} ({where}): {ours} {reach}."
    pair = next((p for p in cell["pairs"] if p["theirs"] == RIVAL), None)
    ratio = pair["ratio"] if pair else {"value": None, "low": None, "high": None}
    if few is None or many is None:
        return judged(text, ratio, None, "The measurements are not known, or not the same in all seeds.")
    if ratio["value"] is None or ratio["low"] is None:
        return judged(text, ratio, None, "No interval could be formed.")
    if not is_whole:
        return judged(text, ratio, None, "Some seeds are still to be run.", "undecided")
    high = float("inf") if ratio["high"] is None else ratio["high"]
    if ratio["low"] > PARITY:
        return judged(text, ratio, True, f"The whole interval of the ratio lies above {PARITY}.")
    if high < PARITY:
        return judged(text, ratio, False, f"The whole interval of the ratio lies below {PARITY}.")
    return judged(text, ratio, None, f"The interval of the ratio holds {PARITY}: more seeds must decide.", "undecided")


def judged(
    text: str, found: Any, holds: bool | None, because: str, otherwise: str = "not testable here"
) -> dict[str, Any]:
    """One hypothesis with its verdict."""
    verdict = otherwise if holds is None else "confirmed" if holds else "refuted"
    return {"hypothesis": text, "found": found, "verdict": verdict, "because": because}


def interval_of_mean(values: Sequence[float]) -> tuple[float, float]:
    """Ends of the 95 % t-interval of what is no less than 0; of fewer than two values without bound."""
    if len(values) < 2:
        return 0.0, float("inf")
    half = special.stdtrit(len(values) - 1, 0.975) * np.std(values, ddof=1) / np.sqrt(len(values))
    return max(0.0, float(np.mean(values) - half)), float(np.mean(values) + half)


def mean(values: list[float]) -> float | None:
    """Mean of what is known."""
    return sum(values) / len(values) if values else None


if __name__ == "__main__":
    main()
