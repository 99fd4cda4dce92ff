"""Tables: numbers, origins, verdicts; on the page and in the terminal."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from metas_peft.report import baseline_table, front_table, read_run, volume_table
from metas_peft.report.cells import Table
from metas_peft.report.comparison import baselines_table, members_table, volumes_table
from metas_peft.report.details import budgets_table, controller_table, fit_table, held_out_table, ledger_table
from metas_peft.report.words import (
    bytes_text,
    listed,
    percent,
    quality_text,
    seconds_text,
    significant,
    units_for,
)

Write = Callable[..., Path]


def column(table: Table, title: str) -> list[str]:
    index = [c.title for c in table.columns].index(title)
    return [row[index].text.replace("\u202f", " ") for row in table.rows]


def test_members_table_lists_dense_first_then_by_size(results: dict[str, Any], write_run: Write) -> None:
    run = read_run(write_run(results))
    table = members_table(run, run.target)
    assert column(table, "Member")[:3] == ["dense (reference)", "100 %", "80 %"]
    assert len(table.rows) == 9
    assert column(table, "Energy")[0] == "42.7"
    assert column(table, "Accuracy")[0] == "89.3 %"


def test_every_number_column_has_an_origin_in_head_or_cells(results: dict[str, Any], write_run: Write) -> None:
    results["front"][2]["origin"] = {"energy": "modelled", "latency": "measured", "power": "imported"}
    results["surrogate"]["origin"] = "simulated"
    run = read_run(write_run(results))
    tables = [members_table(run, t) for t in (run.target, *run.retargets)]
    tables += [baselines_table(run), volumes_table(run)]
    tables += [t for t in (held_out_table(run), ledger_table(run)) if t is not None]
    assert len(tables) == 6
    checked = 0
    for table in tables:
        for i, head in enumerate(table.columns):
            if head.is_number:
                assert head.origin or all(row[i].origin for row in table.rows), (table.title, head.title)
                checked += 1
    assert checked == 11 + 11 + 4 + 6 + 6 + 4
    mixed = next(i for i, c in enumerate(tables[0].columns) if c.title == "Energy")
    assert {row[mixed].origin for row in tables[0].rows} == {"simulated", "modelled"}


def test_volumes_table_reads_intervals_in_words(results: dict[str, Any], write_run: Write) -> None:
    results["hypervolume_ratio"]["drop-top"] = {"ratio": 0.8, "low": 0.7, "high": 0.9}
    run = read_run(write_run(results))
    table = volumes_table(run)
    words = ["", "no difference shown", "ours is larger", "ours is smaller", "ours is larger"]
    assert column(table, "In words") == words
    assert column(table, "Ours / theirs")[1:] == [
        "1.05 [0.98, 1.13]", "1.75 [1.42, 2.31]", "0.80 [0.70, 0.90]", "534 [201, ∞]"
    ]  # fmt: skip
    assert column(table, "Measurements") == ["5", "200", "200", "0", "0"]
    places = [row[[c.title for c in table.columns].index("Ours / theirs")].interval for row in table.rows]
    assert places[0] is None
    assert places[4] is None  # beyond the common axis
    for low, middle, high, one in (p for p in places if p is not None):
        assert 0 <= low <= middle <= high <= 1
        assert 0 < one < 1
    # Our smaller volume lies left of the mark, the larger one right of it.
    assert places[3] is not None
    assert places[3][2] < places[3][3]
    assert places[2] is not None
    assert places[2][0] > places[2][3]


def test_held_out_table_marks_the_least_error_and_averages(results: dict[str, Any], write_run: Write) -> None:
    results["surrogate"]["held_out"] = {
        "a": {"roofline": {"energy": 2.0, "latency": 3.0, "power": 1.0}, "reference": {"energy": 4.0, "latency": 2.0}},
        "b": {"roofline": {"energy": 4.0, "latency": 5.0, "power": 1.0}, "reference": {"energy": 8.0, "latency": 2.0}},
    }
    table = held_out_table(read_run(write_run(results)))
    assert table is not None
    assert column(table, "predicted by")[:2] == ["roofline (in use)", "reference"]
    assert column(table, "mean") == ["3.0", "6.0", "4.0", "2.0", "1.0", "–"]
    assert [row[-1].tone for row in table.rows] == ["strong", "", "", "strong", "strong", ""]


def test_budgets_ledger_fit_and_controller_tables(results: dict[str, Any], write_run: Write) -> None:
    run = read_run(write_run(results))
    budgets, ledger, fit, controller = (
        budgets_table(run),
        ledger_table(run),
        fit_table(run.target),
        controller_table(run),
    )
    assert budgets is not None
    assert column(budgets, "Latency") == ["✓ met"] * 5 + ["✗ not met"] * 3
    assert ledger is not None
    assert column(ledger, "training") == ["0", "0", "0"]
    assert column(ledger, "pool") == ["0", "2 400", "0"]
    assert fit is not None
    assert column(fit, "Shift") == ["0.40 mJ", "0.31 ms", "−0.050 W"]
    assert controller is not None
    assert column(controller, "Held") == ["✓ met", "", "✓ met", "", "✗ not met", "", "✓ met"]


def test_terminal_tables_print_origins_and_no_markup(results: dict[str, Any], write_run: Write) -> None:
    results["front"][0]["name"] = "[red]25 %[/red]"
    run = read_run(write_run(results))
    console = Console(width=130, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for table in (front_table(run), front_table(run, run.retargets[0]), baseline_table(run), volume_table(run)):
        console.print(table)
    text = console.export_text()
    assert "[red]25 %[/red]" in text
    for word in ("simulated", "measured", "modelled", "evaluated", "1.05 [0.98, 1.13]", "EChorda-style"):
        assert word in text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0123456, "0.0123"), (0.5, "0.500"), (74.13, "74.1"), (1234.5, "1 234"), (0, "0"), (None, "–"),
     (-0.05, "−0.0500"), (999.6, "1 000"), (0.000012345, "0.0000123")],
)  # fmt: skip
def test_significant_keeps_three_digits(value: float | None, text: str) -> None:
    assert significant(value).replace("\u202f", " ") == text


def test_words_for_people() -> None:
    assert seconds_text(8.0) == "8.0\u202fs"
    assert seconds_text(391.0) == "6\u202fmin 31\u202fs"
    assert bytes_text(612_000) == "612\u202fkB"
    assert percent(-0.012) == "−1.2\u202f%"
    assert quality_text(0.634, "matthews_correlation") == "0.634"
    assert quality_text(0.634, "accuracy") == "63.4\u202f%"
    assert listed(["a", "b", "c"]) == "a, b and c"


def test_units_switch_to_thousandths_only_when_all_are_small(results: dict[str, Any], write_run: Write) -> None:
    run = read_run(write_run(results))
    assert [u.symbol for u in units_for(run.target.points).values()] == ["mJ", "ms", "W"]
    assert [u.symbol for u in units_for(run.retargets[0].points).values()] == ["J", "ms", "W"]
