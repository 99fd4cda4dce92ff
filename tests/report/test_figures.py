"""What the interactive pictures show, number by number."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metas_peft.control.tree import Controller
from metas_peft.report.collect import read_run
from metas_peft.report.figures import front_figures, hidden_below, parity_figures
from metas_peft.report.trees import draw_tree

Write = Callable[..., Path]


def test_front_figure_shows_every_point_in_its_display_unit(results: dict[str, Any], write_run: Write) -> None:
    run = read_run(write_run(results))
    figure = front_figures(run, run.target, run.baselines)["energy_j"]
    markers = {t["name"]: t for t in figure["data"] if "markers" in t["mode"]}
    assert len(markers) == 6
    ours = markers["MetaS-PEFT, this run"]
    assert ours["x"] == pytest.approx(sorted(1000 * p["energy_j"] for p in results["front"]))
    assert ours["y"] == [p["quality"] for p in sorted(results["front"], key=lambda p: p["energy_j"])]
    assert ours["error_y"]["array"][0] == pytest.approx(math.sqrt(0.8575 * 0.1425 / 872), rel=1e-3)
    assert len(markers["EChorda-style, as described"]["x"]) == 3
    assert markers["EChorda-style, as described"]["marker"]["symbol"].endswith("-open")
    assert "(mJ)" in figure["layout"]["xaxis"]["title"]["text"]


def test_staircase_leaves_dominated_points_out(results: dict[str, Any], write_run: Write) -> None:
    results["front"][4]["quality"] = 0.80  # worse than cheaper members
    run = read_run(write_run(results))
    data = front_figures(run, run.target)["latency_ms"]["data"]
    ours = [t for t in data if t["name"] == "MetaS-PEFT, this run"]
    stairs = next(t for t in ours if t["mode"] == "lines")
    markers = next(t for t in ours if "markers" in t["mode"])
    assert (len(stairs["x"]), len(markers["x"])) == (7, 8)
    assert stairs["y"] == sorted(stairs["y"])


def test_points_far_below_dense_are_counted_not_shown(results: dict[str, Any], write_run: Write) -> None:
    run = read_run(write_run(results))
    assert hidden_below(run) == 0
    low = front_figures(run, run.target, run.baselines)["latency_ms"]["layout"]["yaxis"]["range"][0]
    results["baselines"]["drop-top"]["front"][0]["quality"] = 0.51
    run = read_run(write_run(results))
    assert hidden_below(run) == 1
    assert front_figures(run, run.target, run.baselines)["latency_ms"]["layout"]["yaxis"]["range"][0] >= low


def test_budget_line_stands_on_the_target_only(results: dict[str, Any], write_run: Write) -> None:
    run = read_run(write_run(results))

    def texts(figure: dict[str, Any]) -> list[str]:
        return [a["text"] for a in figure["layout"]["annotations"]]

    assert "budget 8.00 ms" in texts(front_figures(run, run.target)["latency_ms"])
    assert not any("budget" in t for t in texts(front_figures(run, run.target)["peak_power_w"]))
    assert not any("budget" in t for t in texts(front_figures(run, run.retargets[0])["latency_ms"]))


def test_parity_figure_pairs_prediction_with_device(results: dict[str, Any], write_run: Write) -> None:
    run = read_run(write_run(results))
    figures = parity_figures(run.target)
    assert set(figures) == {"energy_j", "latency_ms", "peak_power_w"}
    identity, fitted, front = figures["latency_ms"]["data"]
    assert identity["x"] == identity["y"]
    assert front["x"] == [p["predicted"]["latency_ms"] for p in results["front"]]
    assert front["y"] == [p["latency_ms"] for p in results["front"]]
    assert fitted["y"] == [p["measured"]["latency_ms"] for p in results["calibration"]["points"]]
    assert len(fitted["x"]) == 5


def test_costs_under_short_names_are_read_too(results: dict[str, Any], write_run: Write) -> None:
    alpha = results["calibration"]["alpha"]
    results["calibration"]["alpha"] = {"energy": alpha["energy_j"], "latency": alpha["latency_ms"], "power": 1.0}
    run = read_run(write_run(results))
    assert run.target.calibration.alpha.latency_ms == alpha["latency_ms"]


def test_tree_is_drawn_without_overlap(controller: Controller) -> None:
    drawing = draw_tree(controller, {"25 %": 0.58})
    assert len(drawing.boxes) == 9
    assert len(drawing.edges) == 8
    rows: dict[float, list[float]] = {}
    for box in drawing.boxes:
        rows.setdefault(box.y, []).append(box.x)
        assert drawing.box_width / 2 <= box.x <= drawing.width - drawing.box_width / 2
    assert len(rows) == 4
    for xs in rows.values():
        gaps = [b - a for a, b in zip(sorted(xs), sorted(xs)[1:], strict=False)]
        assert all(gap >= drawing.box_width for gap in gaps)
    leaves = [b for b in drawing.boxes if b.is_leaf]
    assert [b.title for b in leaves if b.subtitle] == ["member 25 %"] * 2
    assert len({b.fill for b in leaves}) == 3
