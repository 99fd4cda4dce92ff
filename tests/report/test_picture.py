"""The still picture: valid SVG with every point in its place."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metas_peft.core.errors import CheckpointError
from metas_peft.report import write_picture

Write = Callable[..., Path]
SVG = "{http://www.w3.org/2000/svg}"


def drawn(run_dir: Path, metric: str = "latency_ms") -> ElementTree.Element:
    path = write_picture(run_dir, run_dir / "front.svg", metric)
    return ElementTree.fromstring(path.read_text(encoding="utf-8"))


def test_picture_places_our_members_left_to_right_and_upwards(results: dict[str, Any], write_run: Write) -> None:
    root = drawn(write_run(results))
    circles = [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in root.iter(f"{SVG}circle")]
    legend, *ours = circles
    assert len(ours) == 8
    assert ours == sorted(ours)
    assert [y for _, y in ours] == sorted((y for _, y in ours), reverse=True)
    # Positions are affine in the cost: thirds stay thirds.
    costs = sorted(p["latency_ms"] for p in results["front"])
    share = (ours[3][0] - ours[0][0]) / (ours[-1][0] - ours[0][0])
    assert share == pytest.approx((costs[3] - costs[0]) / (costs[-1] - costs[0]), abs=0.002)


def test_picture_names_axis_origin_and_data(results: dict[str, Any], write_run: Write) -> None:
    texts = [t.text for t in drawn(write_run(results)).iter(f"{SVG}text")]
    assert "Latency (ms), simulated" in texts
    assert "all-MiniLM-L6-v2 on pixel-8: sst2, synthetic data" in texts
    assert "EChorda-style, as described" in texts


def test_picture_escapes_names(results: dict[str, Any], write_run: Write) -> None:
    results["front"][0]["name"] = "<b>&"
    results["baselines"]["EChorda"]["label"] = '"><script>'
    texts = [t.text for t in drawn(write_run(results), "energy_j").iter(f"{SVG}text")]
    assert "<b>&" in texts
    assert '"><script>, equal treatment' in texts


def test_picture_without_that_cost_is_refused(results: dict[str, Any], write_run: Write) -> None:
    for entry in results["front"]:
        entry["peak_power_w"] = None
    with pytest.raises(CheckpointError, match="peak_power_w"):
        drawn(write_run(results), "peak_power_w")
