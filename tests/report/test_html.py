"""The page: whole, offline, escaped, honest about origins, and never empty where a part is missing."""

import copy
import json
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from metas_peft.control.tree import Controller
from metas_peft.core.errors import CheckpointError
from metas_peft.report import write_report

Write = Callable[..., Path]
SECTIONS = ["front", "members", "gates", "rivals", "surrogate", "controller", "budgets", "retargets", "ledger", "about"]


class Page(HTMLParser):
    """Tags with their attributes, and the text outside script and style."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.data: dict[str, Any] = {}
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside = dict(attrs).get("id") or tag

    def handle_endtag(self, tag: str) -> None:
        self.text += " " if tag in ("td", "th", "dd", "dt") else ""
        if tag in ("script", "style"):
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "report-data":
            self.data = json.loads(data)
        elif not self._inside:
            self.text += data

    def count(self, tag: str, name: str = "", value: str = "") -> int:
        return sum(t == tag and (not name or value in (a.get(name) or "").split()) for t, a in self.tags)


def page_of(run_dir: Path) -> Page:
    return Page(write_report(run_dir).read_text(encoding="utf-8"))


@pytest.fixture
def page(results: dict[str, Any], controller: Controller, write_run: Write) -> Page:
    return page_of(write_run(results, controller))


def test_report_has_every_section_and_no_empty_one(page: Page) -> None:
    assert [a["id"] for t, a in page.tags if t == "section" and "id" in a] == SECTIONS
    assert page.count("p", "class", "absent") == 1  # the one inside noscript
    # Front, three parities, and the front on the other device.
    assert page.count("div", "class", "plot") == 5
    assert page.count("svg", "class", "tree") == 1


def test_report_loads_nothing_and_holds_plotly_once(results: dict[str, Any], write_run: Write) -> None:
    text = write_report(write_run(results)).read_text(encoding="utf-8")
    page = Page(text)
    assert page.count("script") == 3
    assert text.count("plotly.js v") == 1
    assert not [t for t, a in page.tags if "src" in a or t in ("link", "iframe", "object", "img", "form")]
    assert {a["href"][:1] for t, a in page.tags if a.get("href")} == {"#"}
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in str(policy)


def test_report_states_the_finding_in_plain_words(page: Page) -> None:
    words = " ".join(page.text.replace("\u202f", " ").split())
    assert "One fine-tuning run gave 8 models of different size. The one with 50 % of the dense model’s" in words
    assert "88.1 % accuracy on 872 synthetic examples, the dense model 89.3 %" in words
    assert "Training took no measurement on pixel-8; calibration took five." in words


def test_report_flags_synthetic_data_and_estimated_costs(page: Page, results: dict[str, Any], write_run: Write) -> None:
    assert page.count("p", "class", "warning") == 2
    assert "Synthetic data." in page.text
    assert "Energy, latency and peak power on pixel-8 come from a device simulator" in page.text
    results["task_origin"] = "real"
    assert "Synthetic data." not in page_of(write_run(results)).text


def test_every_axis_of_a_cost_names_its_origin(page: Page) -> None:
    expected = {"front": {"simulated"}, "front-0": {"modelled", "measured"}}
    for group, origins in expected.items():
        titles = {k: f["layout"]["xaxis"]["title"]["text"] for k, f in page.data["figures"][group].items()}
        assert set(titles) == {"energy_j", "latency_ms", "peak_power_w"}
        assert {title.rsplit(", ", 1)[1] for title in titles.values()} == origins
    assert page.data["figures"]["front-0"]["latency_ms"]["layout"]["xaxis"]["title"]["text"].endswith("local, measured")
    for figure in page.data["figures"]["parity"].values():
        assert figure["layout"]["yaxis"]["title"]["text"].startswith("Simulated")


def test_badges_cover_the_cost_columns_of_every_table(page: Page) -> None:
    kinds = {k: page.count("span", "class", f"o-{k}") for k in ("simulated", "measured", "modelled", "unknown")}
    # pixel-8: 4 tiles, 3 member, 3 baseline and 4 volume columns, 3 fits, 1 controller row, 2 budgets, 1 legend.
    assert kinds["simulated"] == 21
    # local: 1 heading, 1 column and 1 fit are measured, 2 of each modelled; 2 times of the controller; legend.
    assert kinds["measured"] == 6
    assert kinds["modelled"] == 7
    assert kinds["unknown"] == 0


def test_mixed_origins_are_marked_cell_by_cell(results: dict[str, Any], write_run: Write) -> None:
    results["front"][0]["origin"] = {"energy": "modelled", "latency": "measured", "power": None}
    page = page_of(write_run(results))
    title = page.data["figures"]["front"]["latency_ms"]["layout"]["xaxis"]["title"]["text"]
    assert "measured" in title
    assert "simulated" in title
    assert page.count("span", "class", "o-unknown") > 0
    assert "origin not noted" in page.text


def test_gate_map_data_repeats_the_masks_largest_member_first(page: Page, results: dict[str, Any]) -> None:
    gates = page.data["gates"]
    assert [g["name"] for g in gates] == ["100 %", "80 %", "67 %", "60 %", "50 %", "42 %", "33 %", "25 %"]
    assert gates[-1]["heads"] == results["front"][0]["heads"]
    assert gates[-1]["attention"][-1] == 0


def poisoned(value: Any, text: str) -> Any:
    """The same results with markup in every free text and every name."""
    if isinstance(value, dict):
        free = ("baselines", "hypervolume_ratio", "met", "held_out", "retargets", "usage", "versions", "seconds")
        return {
            k: {f"{n}{text}": poisoned(inner, text) for n, inner in v.items()}
            if k in free and isinstance(v, dict)
            else poisoned(v, text)
            for k, v in value.items()
        }
    if isinstance(value, list):
        return [poisoned(v, text) for v in value]
    return value + text if isinstance(value, str) else value


def test_report_escapes_all_text(results: dict[str, Any], controller: Controller, write_run: Write) -> None:
    clean = page_of(write_run(results, controller))
    mark = "</script><script>alert('x')</script><img src=x onerror=alert(1)>\"'&"
    named = Controller(controller.tree, controller.members, controller.run, tuple(n + mark for n in controller.names))
    dirty = page_of(write_run(poisoned(results, mark), named))
    assert dirty.count("script") == clean.count("script") == 3
    assert dirty.count("img") == 0
    assert "<img src=x" in dirty.text  # shown as text
    for figure in dirty.data["figures"]["front"].values():
        shown = json.dumps([figure["layout"]["xaxis"]["title"], [t["name"] for t in figure["data"]]])
        assert "<img" not in shown
        assert "&lt;img" in shown


def minimal(results: dict[str, Any]) -> dict[str, Any]:
    bare = {k: results[k] for k in ("schema_version", "run_id", "dense")}
    bare["dense"] = {"quality": 0.9, "energy_j": None, "latency_ms": 12.0, "peak_power_w": None}
    return bare | {"front": []}


def test_report_says_what_is_missing_instead_of_drawing_nothing(results: dict[str, Any], write_run: Write) -> None:
    page = page_of(write_run(minimal(results)))
    # Front, gates, volumes, baselines, parity, held-out errors, tree, controller, budgets, devices, ledger, noscript.
    assert page.count("p", "class", "absent") == 12
    assert page.count("div", "class", "plot") == 0
    assert "wrote no front of smaller models" in page.text


@pytest.mark.parametrize(
    "part",
    ["baselines", "hypervolume", "hypervolume_ratio", "budgets", "surrogate", "surrogate_error", "calibration",
     "controller", "ledger", "retargets", "seconds", "notes", "versions", "measurements", "seeds", "n_validation",
     "chance_quality", "task_source"],
)  # fmt: skip
def test_report_is_drawn_without_any_optional_part(results: dict[str, Any], write_run: Write, part: str) -> None:
    without = copy.deepcopy(results)
    del without[part]
    assert page_of(write_run(without)).count("section") == len(SECTIONS) + 1
    assert page_of(write_run(results | {part: None})).count("section") == len(SECTIONS) + 1


def test_report_without_power_draws_the_other_costs(results: dict[str, Any], write_run: Write) -> None:
    for entry in (results["dense"], *results["front"], *(p for b in results["baselines"].values() for p in b["front"])):
        entry["peak_power_w"] = None
        entry["origin"] = {"energy": "simulated", "latency": "simulated", "power": None}
    page = page_of(write_run(results))
    assert set(page.data["figures"]["front"]) == {"energy_j", "latency_ms"}


def test_report_is_the_same_file_twice(results: dict[str, Any], controller: Controller, write_run: Write) -> None:
    first = write_report(write_run(results, controller)).read_bytes()
    assert write_report(write_run(results, controller)).read_bytes() == first


def test_degenerate_controller_is_admitted(results: dict[str, Any], write_run: Write) -> None:
    results["controller"] |= {"degenerate": True, "hypervolume_kept": None, "note": "The tree is degenerate."}
    text = " ".join(page_of(write_run(results)).text.split())
    assert re.search(r"Routing degenerate .*not degenerate ✗ not met", text)
    assert "Hyper-volume kept" not in text


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "There is no"), ("{", "cannot be read"), ("[]", "object"), ('{"schema_version": 9}', "schema version 9"),
     ('{"schema_version": 1, "dense": {"quality": 1}}', "no front"),
     ('{"schema_version": 1, "dense": {}, "front": []}', "cannot be drawn"),
     ('{"schema_version": 1, "dense": {"quality": 1}, "front": [3]}', "cannot be drawn")],
)  # fmt: skip
def test_broken_results_are_refused_and_leave_no_file(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        write_report(tmp_path)
    assert not list(tmp_path.glob("*report*"))


def test_report_imports_without_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import metas_peft.report; assert 'plotly' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
