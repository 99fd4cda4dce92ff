"""The page of a deployment: what was chosen for a device, how far predictions were off, whether the budgets hold."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metas_peft.core.cost import METRIC_NAMES, METRIC_UNITS, METRICS
from metas_peft.core.files import write_text
from metas_peft.report.cells import Cell, Column, Pairs, Table, table
from metas_peft.report.html import script_data, template
from metas_peft.report.style import BUDGET, FITTED, OURS, Figure, axis, base_layout, hover, line, note, plain
from metas_peft.report.summary import Tile
from metas_peft.report.words import (
    METRIC_LABELS,
    NOTHING,
    ORIGIN_MARKS,
    ORIGIN_MEANING,
    Unit,
    bytes_text,
    is_share,
    percent,
    quality_text,
    significant,
)

Row = Mapping[str, Any]


def write_deployment(result: Row, path: Path) -> Path:
    """Draw a deployment.

    Args:
        result: Content of `deployment.json`.
        path: The HTML file, written in one piece.

    Raises:
        OutputError: It cannot be written.
    """
    write_text(path, render_deployment(result))
    return path


def render_deployment(result: Row) -> str:
    """The page as text."""
    units = _units(result)
    figures = {"choice": {m: _figure(result, units[m]) for m in METRICS if _is_known(result, m)}}
    return template(
        "deployment.html.j2",
        result=result,
        workload=_workload(result["workload"]),
        tiles=_tiles(result, units),
        points=points_table(result),
        budgets=budgets_table(result),
        candidates=_candidates_table(result, units),
        size=bytes_text(result["chosen"]["export"]["size_bytes"]) if result["chosen"] else NOTHING,
        origin_marks=ORIGIN_MARKS,
        origin_meaning=ORIGIN_MEANING,
        metric_labels=METRIC_LABELS,
        figures=figures,
        data=script_data({"figures": figures, "gates": [], "file": f"{result['run_id']}-{result['device']}"}),
    )


def points_table(result: Row) -> Table:
    """Predicted against measured: the points that calibrated, then what was chosen."""
    units, rows = _units(result), list(result["points"])
    chosen = result["chosen"]
    is_verified = chosen is not None and chosen["measured"] is not None
    if is_verified:
        rows.append(chosen)
    names = [Cell(row["name"], tone="strong") for row in rows]
    kinds = [Cell("calibrates")] * len(result["points"]) + [Cell("chosen, verifies", tone="strong")] * is_verified
    columns: Pairs = [(Column("Configuration", is_number=False), names), (Column("It", is_number=False), kinds)]
    for metric, unit in units.items():
        if not _is_known(result, metric):
            continue
        columns += [
            (Column(unit.label, unit.symbol, "predicted"), [Cell(unit.text(row["predicted"][metric])) for row in rows]),
            (Column(unit.label, unit.symbol, _origin(rows, metric)),
             [Cell(unit.text(row["measured"][metric])) for row in rows]),
            (Column("off by", "%"), [Cell(_signed(row["error_pct"][metric])) for row in rows]),
        ]  # fmt: skip
    return table("Predicted against measured", columns)


def budgets_table(result: Row) -> Table | None:
    """Each budget, what was measured against it, and by how much it is held or missed."""
    budgets, chosen = result["budgets"], result["chosen"]
    if not budgets:
        return None
    units = _units(result)
    limits = [Cell(f"≤ {units[m].text(v)} {units[m].symbol}") for m, v in budgets.items()]
    columns: Pairs = [
        (Column("Budget", is_number=False), [Cell(METRIC_LABELS[m], tone="strong") for m in budgets]),
        (Column("Limit"), limits),
    ]
    if chosen is None:
        shortfall = result["shortfall"]
        columns += [
            (Column("Least of any member", "", "predicted"),
             [Cell(f"{units[m].text(shortfall['cheapest'][m])} {units[m].symbol}") for m in budgets]),
            (Column("Would do, the others kept", "", "predicted"),
             [Cell(_with_unit(units[m], shortfall["relaxed"].get(m))) for m in budgets]),
        ]  # fmt: skip
        return table("Budgets", columns)
    said = [_with_unit(units[m], chosen["predicted"][m]) for m in budgets]
    columns.append((Column("Predicted", "", "predicted"), [Cell(text) for text in said]))
    if chosen["measured"] is not None:
        measured = [_with_unit(units[m], chosen["measured"][m]) for m in budgets]
        origins = [str(chosen["origin"][METRIC_NAMES[m]] or "") for m in budgets]
        cells = [Cell(text, origin) for text, origin in zip(measured, origins, strict=True)]
        columns.append((Column("Found"), cells))
    columns.append((Column("Held", is_number=False), [_held(chosen["over_budget_pct"][m]) for m in budgets]))
    return table("Budgets", columns)


def _held(over: float | None) -> Cell:
    if over is None:
        return Cell("not known", tone="muted")
    if over > 0:
        return Cell(f"✗ {significant(over, 2)}\u202f% above", tone="bad")
    return Cell(f"✓ {significant(-over, 2)}\u202f% to spare", tone="good")


def _candidates_table(result: Row, units: Mapping[str, Unit]) -> Table:
    """Everything that could have been chosen."""
    rows = result["candidates"]
    key = result["chosen"]["key"] if result["chosen"] else None
    tones = ["strong" if row["key"] == key else "" for row in rows]
    quality = [quality_text(row["quality"], result["quality_metric"]) for row in rows]
    columns: Pairs = [
        (Column("Member", is_number=False), [Cell(r["name"], tone=t) for r, t in zip(rows, tones, strict=True)]),
        (Column("FLOPs", "", "counted"), [Cell(percent(row["flops_fraction"])) for row in rows]),
        (Column(result["quality_metric"].replace("_", " ").capitalize()), [Cell(text) for text in quality]),
        (Column("on", is_number=False), [Cell(row["quality_of"], tone="muted") for row in rows]),
    ]
    for metric, unit in units.items():
        cells = [Cell(unit.text(row["predicted"][metric])) for row in rows]
        columns.append((Column(unit.label, unit.symbol, "predicted"), cells))
    if result["budgets"]:
        inside = [Cell("✓ inside", tone="good") if r["inside"] else Cell("✗ outside", tone="muted") for r in rows]
        columns.append((Column("Budgets", is_number=False), inside))
    return table("What could be deployed", columns)


def _tiles(result: Row, units: Mapping[str, Unit]) -> list[Tile]:
    """The chosen member in a few numbers."""
    chosen = result["chosen"]
    if chosen is None:
        return []
    origin = "evaluated" if chosen["quality_of"] != "between neighbours" else ""
    tiles = [Tile(result["quality_metric"].replace("_", " ").capitalize(),
                  quality_text(chosen["quality"], result["quality_metric"]), f"on {chosen['quality_of']}"
                  if origin else "between its neighbours on the path; not evaluated itself", origin)]  # fmt: skip
    for metric, unit in units.items():
        if not _is_known(result, metric):
            continue
        limit = result["budgets"].get(metric)
        detail = f"predicted {unit.text(chosen['predicted'][metric])}"
        detail += "" if limit is None else f", budget {unit.text(limit)}"
        measured = chosen["measured"]
        shown = chosen["predicted"] if measured is None else measured
        told = "predicted" if measured is None else str(chosen["origin"][METRIC_NAMES[metric]] or "")
        tiles.append(Tile(unit.label, _with_unit(unit, shown[metric]), detail, told))
    return tiles


def _figure(result: Row, unit: Unit) -> Figure:
    """Expected quality against one cost: all candidates, the measured points, the chosen one, the budget."""
    metric, rows, by_key = unit.metric, result["candidates"], {r["key"]: r for r in result["candidates"]}

    def text(row: Row, value: float | None, said: str) -> str:
        quality = quality_text(by_key[row["key"]]["quality"], result["quality_metric"]) if row["key"] in by_key else ""
        return f"<b>{plain(row['name'])}</b><br>{quality}<br>{unit.text(value)} {unit.symbol} ({said})"

    def series(name: str, shown: Sequence[tuple[Row, float]], said: str, marker: Figure, **more: Any) -> Figure:
        return {
            "type": "scatter", "name": name, "mode": "markers", "cliponaxis": False, "marker": marker,
            "x": [v * unit.factor for _, v in shown], "y": [by_key[r["key"]]["quality"] for r, _ in shown],
            **hover([text(r, v, said) for r, v in shown]), **more,
        }  # fmt: skip

    predicted = [(r, r["predicted"][metric]) for r in rows if r["predicted"][metric] is not None]
    measured = [(r, r["measured"][metric]) for r in result["points"] if r["key"] in by_key and r["measured"][metric]]
    data = [
        series("Could be deployed (predicted)", predicted, "predicted", {"size": 8, "color": "#9cc8e2"}),
        series(f"The {len(result['points'])} that calibrate", measured, _origin(result["points"], metric),
               {"size": 11, "symbol": "square-open", "color": FITTED, "line": {"width": 2}}),
    ]  # fmt: skip
    chosen = result["chosen"]
    if chosen is not None:
        value = (chosen["measured"] or chosen["predicted"])[metric]
        said = "predicted" if chosen["measured"] is None else str(chosen["origin"][METRIC_NAMES[metric]])
        star = {"size": 18, "symbol": "star", "color": OURS, "line": {"width": 1, "color": "#ffffff"}}
        if value is not None:
            data.append(series(f"Chosen: {plain(chosen['name'])}", [(chosen, value)], said, star))
    return {"data": data, "layout": _layout(result, unit, data)}


def _layout(result: Row, unit: Unit, data: Sequence[Figure]) -> Figure:
    limit = result["budgets"].get(unit.metric)
    xs = [v for d in data for v in d["x"]] + ([] if limit is None else [limit * unit.factor])
    ys = [v for d in data for v in d["y"]]
    pad_x, pad_y = 0.06 * (max(xs) - min(xs) or max(xs)), 0.12 * (max(ys) - min(ys) or 0.01)
    bottom, top = min(ys) - pad_y, max(ys) + pad_y
    quality = axis(plain(result["quality_metric"].replace("_", " ").capitalize()), [bottom, top])
    shown = limit is not None
    x = (limit or 0.0) * unit.factor
    return {
        **base_layout(),
        "xaxis": axis(plain(f"{unit.label} ({unit.symbol}) on {result['device']}"),
                      [max(0.0, min(xs) - pad_x), max(xs) + pad_x]),
        "yaxis": quality | ({"tickformat": ".1%"} if is_share(result["quality_metric"]) else {}),
        "shapes": [line(x=(x, x), y=(bottom, top), dash="dash", color=BUDGET, width=1.5)] if shown else [],
        "annotations": [note("budget", x=x, y=top, xanchor="left", yanchor="top", color=BUDGET)] if shown else [],
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 12}},
        "margin": {"l": 60, "r": 16, "t": 12, "b": 52},
    }  # fmt: skip


def _units(result: Row) -> dict[str, Unit]:
    """J and W, or mJ and mW where all values are below 0.1."""
    units: dict[str, Unit] = {}
    for metric in METRICS:
        values = [r["predicted"][metric] for r in result["candidates"] if r["predicted"][metric] is not None]
        small = metric != "latency_ms" and bool(values) and max(values) < 0.1
        symbol = METRIC_UNITS[metric]
        units[metric] = Unit(metric, 1e3 if small else 1.0, f"m{symbol}" if small else symbol)
    return units


def _is_known(result: Row, metric: str) -> bool:
    return any(row["measured"][metric] is not None for row in result["points"])


def _origin(rows: Sequence[Row], metric: str) -> str:
    return " / ".join(dict.fromkeys(str(o) for r in rows if (o := r["origin"][METRIC_NAMES[metric]]) is not None))


def _with_unit(unit: Unit, value: float | None) -> str:
    return NOTHING if value is None else f"{unit.text(value)} {unit.symbol}"


def _signed(value: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{value:+.1f}".replace("-", "−")


def _workload(workload: Row) -> str:
    batch = f"batch {workload['batch_size']}"
    return f"{workload['phase']} of {workload['seq_len']} tokens, {batch}, {workload['param_bits']}-bit weights"
