"""What a run shows when it ends: the report's own tables, and the figures that the run file names."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

from metas_peft.cli.output import print_rich
from metas_peft.conf.schema import EvaluationConfig
from metas_peft.core.cost import METRIC_NAMES, METRIC_UNITS, METRICS
from metas_peft.report import front_table, read_run, volume_table
from metas_peft.report.words import METRIC_LABELS, is_share, metric_name, metric_title


def show_results(folder: Path, results: Mapping[str, Any], wanted: EvaluationConfig) -> None:
    """Print the front on every device, volumes beside those of the baselines, and the run's own figures.

    Args:
        folder: The run's folder.
        results: Content of its `results.json`.
        wanted: Which figures to show, and which first.
    """
    run = read_run(folder)
    shown = {wanted.primary_metric, *wanted.metrics}
    without = tuple(METRIC_LABELS[m] for m in METRICS if m not in shown) + (() if "flops" in shown else ("FLOPs",))
    task = run.task if "synthetic" in run.task or not run.is_synthetic else f"{run.task} (synthetic data)"
    typer.echo(f"{run.run_id}: {run.label}, {run.backbone} on {task}, for {run.target.device}\n")
    print_rich(front_table(run, without=without))
    for target in run.retargets:
        print_rich(front_table(run, target, without=without))
    if "hypervolume" in shown:
        print_rich(volume_table(run))
    in_tables = {*METRICS, "hypervolume", "quality", results["quality_metric"]}
    lines = dict(_lines(results))
    for name in sorted(lines, key=lambda n: n != wanted.primary_metric):
        if name == wanted.primary_metric or name in shown - in_tables:
            typer.echo(lines[name])
    for line in _always(results):
        typer.echo(line)
    if (folder / "report.html").exists():
        typer.echo(f"Report: {_short(folder / 'report.html')}")


def _lines(results: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """A sentence for each figure that heads a run or is in no table."""
    members = [("dense", results["dense"]), *((m.get("name") or m["key"], m) for m in results["front"])]
    for metric in METRICS:
        known = [(name, m) for name, m in members if m.get(metric) is not None]
        if known:
            name, least = min(known, key=lambda pair, metric=metric: pair[1][metric])
            shown = f"{least[metric]:.4g} {METRIC_UNITS[metric]} ({least['origin'][METRIC_NAMES[metric]]})"
            yield metric, f"Least {METRIC_LABELS[metric].lower()}: {shown} by {name}"
    name, best = max(members, key=lambda pair: pair[1]["quality"])
    yield "quality", f"Best {metric_name(results['quality_metric'])}: {best['quality']:.4f} by {name}"
    accuracies = [(name, m["scores"]["accuracy"]) for name, m in members if "accuracy" in m.get("scores", {})]
    if accuracies:
        yield "accuracy", "Accuracy: " + ", ".join(f"{value:.4f} by {name}" for name, value in accuracies)
    volumes = [f"{name} {value:.4f}" for name, value in results["hypervolume"].items() if value is not None]
    if volumes:
        yield "hypervolume", f"Hyper-volume: {', '.join(volumes)}"
    error = results.get("surrogate_error") or {}
    errors = [f"{m} {error[m]:.1f} %" for m in METRIC_NAMES.values() if error.get(m) is not None]
    if errors:
        against = f" (against the {error['against']})" if error.get("against") else ""
        yield "surrogate_error", f"Surrogate error on the target: {', '.join(errors)}{against}"


def _always(results: Mapping[str, Any]) -> Iterator[str]:
    """What nobody should have to ask for: how sure quality is, device calls, budgets that are missed."""
    n, best = results.get("n_validation"), results["dense"]["quality"]
    if n and is_share(results["quality_metric"]) and 0 < best < 1:
        points = 100 * math.sqrt(best * (1 - best) / n)
        name = metric_title(results["quality_metric"])
        yield f"{name} is of {n} examples: one standard error is about {points:.1f} points"
    counted = results["measurements"]
    yield (
        f"Measurements on the target: {counted['training']} while training, "
        f"{counted['calibration']} for calibration, {counted['evaluation']} for evaluation"
    )
    yield from results["budgets"]["notes"]


def _short(path: Path) -> Path:
    """Relative to where the user stands, if it is below."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
