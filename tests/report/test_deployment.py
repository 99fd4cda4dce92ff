"""The page of a deployment: its numbers, its verdict, and that it needs nothing from outside."""

import re
from pathlib import Path
from typing import Any

import pytest

from metas_peft.report.deployment import budgets_table, points_table, render_deployment, write_deployment


def row(name: str, latency_ms: float | None, quality: float, **more: Any) -> dict[str, Any]:
    predicted = {"energy_j": None, "latency_ms": latency_ms, "peak_power_w": None}
    measured = {"energy_j": None, "latency_ms": None if latency_ms is None else latency_ms * 1.02, "peak_power_w": None}
    return {
        "key": f"key-{name}", "name": name, "flops_fraction": 0.5, "quality": quality, "quality_of": "held-out texts",
        "predicted": predicted, "upper": predicted, "measured": measured, "inside": True,
        "origin": {"energy": None, "latency": "imported", "power": None},
        "error_pct": {"energy_j": None, "latency_ms": -2.0, "peak_power_w": None}, **more,
    }  # fmt: skip


@pytest.fixture
def result() -> dict[str, Any]:
    rows = [row(f"{p} %", p / 2, 0.8 + p / 1000) for p in (80, 60, 50, 40, 30)]
    chosen = row("50 %", 25.0, 0.85, inside_by="upper ends", over_budget_pct={"latency_ms": -15.0},
                 export={"format": "hf", "file": "model", "size_bytes": 5_000_000})  # fmt: skip
    return {
        "schema_version": 1, "run_id": "mine <b>", "run": "outputs/mine", "backbone": "minilm", "task": "sst2",
        "task_origin": "synthetic", "quality_metric": "accuracy", "device": "my-phone", "device_name": None,
        "runtime": "", "threads": None, "meter": "stopwatch",
        "workload": {"phase": "prefill", "batch_size": 1, "seq_len": 128, "param_bits": 32}, "surrogate": "metas",
        "budgets": {"latency_ms": 30.0}, "measurements": {"training": 0, "calibration": 5, "evaluation": 1},
        "points": rows, "candidates": rows, "chosen": chosen, "shortfall": None, "failure": "", "notes": [],
    }  # fmt: skip


def test_page_says_that_budgets_hold_and_by_how_much(result: dict[str, Any], tmp_path: Path) -> None:
    page = write_deployment(result, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "The budgets hold on the device." in page
    assert "15\u202f% to spare" in page
    assert "5 before the choice, 1 after it" in page
    assert "imported" in page
    assert "mine <b>" not in page
    assert "mine &lt;b&gt;" in page
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", page)


def test_page_says_what_would_do_where_nothing_fits(result: dict[str, Any]) -> None:
    nothing = result | {
        "chosen": None, "failure": "Nothing fits. What would do: latency_ms=16.",
        "shortfall": {name: {"latency_ms": v} for name, v in (("cheapest", 15.0), ("relaxed", 16.0), ("enough", 16.0))},
    }  # fmt: skip
    page = render_deployment(nothing)
    assert "Nothing fits on" in page
    assert "What would do: latency_ms=16." in page
    table = budgets_table(nothing)
    assert table is not None
    assert [cell.text for cell in table.rows[0]][-2:] == ["15.0 ms", "16.0 ms"]


def test_metrics_that_nobody_measured_are_in_no_table(result: dict[str, Any]) -> None:
    titles = [column.title for column in points_table(result).columns]
    assert "Latency" in titles
    assert "Energy" not in titles
    assert len(points_table(result).rows) == 6


def test_a_missed_budget_is_said_to_be_missed(result: dict[str, Any]) -> None:
    result["chosen"]["over_budget_pct"] = {"latency_ms": 4.2}
    result["failure"] = "50 % was predicted inside but measured outside."
    table = budgets_table(result)
    assert table is not None
    assert "✗ 4.2\u202f% above" in [cell.text for cell in table.rows[0]]
    assert "The budgets do not hold." in render_deployment(result)


def test_a_deployment_without_budgets_has_no_budget_table(result: dict[str, Any]) -> None:
    assert budgets_table(result | {"budgets": {}}) is None
    assert "No budget was given" in render_deployment(result | {"budgets": {}})
