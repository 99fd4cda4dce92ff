"""The table that ends a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from metas_peft.cli.output import show_table
from metas_peft.conf.schema import EvaluationConfig
from metas_peft.core.records import METRIC_NAMES, METRIC_UNITS

# Per-member figures; the others of `evaluation.metrics` belong to the run.
_MEMBER = ("quality", "accuracy", "energy_j", "latency_ms", "peak_power_w", "flops")


def show_results(results: Mapping[str, Any], wanted: EvaluationConfig, folder: Path) -> None:
    """Print the front beside the dense model, and the run's figures that `evaluation.metrics` names.

    Args:
        results: Content of `results.json`.
        wanted: Which figures to show.
        folder: The run's folder.
    """
    dense, front = results["dense"], results["front"]
    columns = [m for m in wanted.metrics if m in _MEMBER]
    if results["quality_metric"] == "accuracy" and "quality" in columns and "accuracy" in columns:
        columns.remove("accuracy")
    title = (
        f"{results['run_id']}: {results['method']}, {results['backbone']} on {results['task']} "
        f"({results['task_origin']} data), for {results['target_device']}"
    )
    rows = [[name, *(_cell(m, member, dense) for m in columns)] for name, member in _members(dense, front)]
    headings = ["model", *(_heading(m, results, [dense, *front]) for m in columns)]
    show_table(title, headings, rows, numeric=range(1, len(headings)))
    if wanted.primary_metric == "hypervolume" or "hypervolume" in wanted.metrics:
        _show_rivals(results)
    for line in [*_lines(results, wanted), *_elsewhere(results), *results["budgets"]["notes"]]:
        typer.echo(line)
    if (folder / "report.html").exists():
        typer.echo(f"Report: {_short(folder / 'report.html')}")


def _show_rivals(results: Mapping[str, Any]) -> None:
    """Print hyper-volumes beside those of the baselines."""
    rows = [
        [
            results["method"],
            "",
            str(results["measurements"]["training"] + results["measurements"]["calibration"]),
            _number(results["hypervolume"].get("useful"), ".4f"),
            "",
        ]
    ]
    for name, rival in results["baselines"].items():
        ratio = results["hypervolume_ratio"].get(name) or {}
        spread = f" [{_number(ratio.get('low'), '.2f')}, {_number(ratio.get('high'), '.2f')}]"
        rows.append(
            [
                rival["label"],
                rival["setting"],
                str(rival["target_measurements"]),
                _number(rival["hypervolume"].get("useful"), ".4f"),
                _number(ratio.get("ratio"), ".2f") + (spread if ratio.get("ratio") is not None else ""),
            ]
        )
    columns = ["method", "setting", "target measurements", "hyper-volume (useful)", "ours / theirs"]
    show_table("", columns, rows, numeric=(2, 3, 4))


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _elsewhere(results: Mapping[str, Any]) -> list[str]:
    """One line per further device: what the same front does there."""
    lines = []
    for device, there in results["retargets"].items():
        smallest = min(there["front"], key=lambda m: m["flops"])
        parts = [
            f"{METRIC_NAMES[metric]} {there['dense'][metric]:.3g} -> {smallest[metric]:.3g} {unit} "
            f"({smallest['origin'][METRIC_NAMES[metric]]})"
            for metric, unit in METRIC_UNITS.items()
            if there["dense"].get(metric) is not None and smallest.get(metric) is not None
        ]
        asked = there["measurements"]["calibration"]
        lines.append(f"On {device}, after {asked} measurements and no training, dense -> smallest: {', '.join(parts)}")
    return lines


def _members(dense: Mapping[str, Any], front: list[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    return [("dense", dense), *((m.get("name") or m["key"], m) for m in front)]


def _heading(metric: str, results: Mapping[str, Any], members: list[Mapping[str, Any]]) -> str:
    """Name, unit and origin of a column."""
    if metric == "quality":
        return str(results["quality_metric"])
    if metric not in METRIC_NAMES:
        return metric
    name = METRIC_NAMES[metric]
    origins = sorted({str(m["origin"][name]) for m in members})
    return f"{name} {METRIC_UNITS[metric]} ({'/'.join(origins)})"


def _cell(metric: str, member: Mapping[str, Any], dense: Mapping[str, Any]) -> str:
    value = member.get(metric)
    if metric == "accuracy" and value is None:
        return "-"
    if value is None:
        return "not measured"
    if metric in ("quality", "accuracy"):
        return f"{value:.3f}"
    return f"{value:.4g} ({value / dense[metric]:.0%})" if dense.get(metric) else f"{value:.4g}"


def _lines(results: Mapping[str, Any], wanted: EvaluationConfig) -> list[str]:
    """Figures of the whole run, the primary one first."""
    lines: dict[str, str] = {}
    if "hypervolume" in wanted.metrics or wanted.primary_metric == "hypervolume":
        volumes = ", ".join(
            f"{name} {value:.4f}" for name, value in results["hypervolume"].items() if value is not None
        )
        lines["hypervolume"] = f"Hyper-volume: {volumes}"
    error = results.get("surrogate_error")
    if error and ("surrogate_error" in wanted.metrics or wanted.primary_metric == "surrogate_error"):
        parts = ", ".join(f"{m} {error[m]:.1f} %" for m in METRIC_NAMES.values() if error.get(m) is not None)
        lines["surrogate_error"] = f"Surrogate error on the target: {parts}"
    if wanted.primary_metric in _MEMBER:
        lines[wanted.primary_metric] = _best(wanted.primary_metric, results)
    ordered = sorted(lines, key=lambda name: name != wanted.primary_metric)
    counted = results["measurements"]
    asked = (
        f"Measurements on the target: {counted['training']} while training, "
        f"{counted['calibration']} for calibration, {counted['evaluation']} for evaluation"
    )
    return [*(lines[name] for name in ordered), asked]


def _best(metric: str, results: Mapping[str, Any]) -> str:
    known = [(name, m[metric]) for name, m in _members(results["dense"], results["front"]) if m.get(metric) is not None]
    if not known:
        return f"{metric}: no member has it."
    more_is_better = metric in ("quality", "accuracy")
    name, value = (max if more_is_better else min)(known, key=lambda pair: pair[1])
    return f"Best {metric}: {value:.4g} by {name}"


def _short(path: Path) -> Path:
    """Relative to where the user stands, if it is below."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
