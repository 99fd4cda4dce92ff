"""The comparison as one HTML file: Pareto pictures and tables per backbone, task and device."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metas_peft import pareto
from metas_peft.core.files import write_json, write_text
from metas_peft.report.cells import Table
from metas_peft.report.collect import Point
from metas_peft.report.compare import CellSummary, MethodSummary, as_plain
from metas_peft.report.compare_tables import cell_tables, comma_separated, latex, markdown
from metas_peft.report.html import script_data, template
from metas_peft.report.style import DENSE, OURS, RIVALS, Figure, axis, base_layout, hover, line, note, plain
from metas_peft.report.words import (
    METRIC_LABELS,
    ORIGIN_MARKS,
    ORIGIN_MEANING,
    Unit,
    is_share,
    metric_name,
    metric_title,
    quality_text,
    units_for,
)

NAME = "comparison"
# Quality below dense that the pictures still show; points further down are reached by zooming out.
DEPTH = 0.13


def write_comparison(cells: Sequence[CellSummary], folder: Path) -> list[Path]:
    """Write `comparison.html`, `.md`, `.tex`, `.csv` and `.json` into a folder.

    Args:
        cells: What was compared.
        folder: Where to; made if absent.

    Returns:
        The files, the page first.
    """
    tables = all_tables(cells)
    texts = {"html": render(cells), "md": markdown(tables), "tex": latex(tables), "csv": comma_separated(cells)}
    paths = []
    for suffix, text in texts.items():
        paths.append(folder / f"{NAME}.{suffix}")
        write_text(paths[-1], text)
    write_json(folder / f"{NAME}.json", as_plain(cells))
    return [*paths, folder / f"{NAME}.json"]


def all_tables(cells: Sequence[CellSummary]) -> list[Table]:
    """The tables of all cells, in order."""
    return [t for summary in cells for t in cell_tables(summary)]


def render(cells: Sequence[CellSummary]) -> str:
    """The page as text."""
    figures = {f"cell-{i}": cell_figures(summary) for i, summary in enumerate(cells)}
    views = [
        {"id": f"cell-{i}", "cell": s.cell, "notes": s.notes, "figures": figures[f"cell-{i}"], "tables": cell_tables(s)}
        for i, s in enumerate(cells)
    ]
    context: dict[str, Any] = {
        "n_runs": len({e.run_id for s in cells for m in s.methods for e in m.entries}),
        "views": views,
        "origin_marks": ORIGIN_MARKS,
        "origin_meaning": ORIGIN_MEANING,
        "metric_labels": METRIC_LABELS,
        "data": script_data({"figures": figures, "gates": [], "file": NAME}),
    }
    return template("compare.html.j2", **context)


def cell_figures(summary: CellSummary) -> dict[str, Figure]:
    """Quality against each cost that has values, by metric name."""
    points = [p for m in summary.methods for e in m.entries for p in e.points]
    units = units_for([*points, *(e.dense for m in summary.methods for e in m.entries)])
    shown = [m for m in units if summary.origins[m] and summary.dense[m].mean is not None]
    return {metric: _figure(summary, units[metric], points) for metric in shown}


def _figure(summary: CellSummary, unit: Unit, points: Sequence[Point]) -> Figure:
    styles = [(OURS, "circle"), *RIVALS]
    data: list[Figure] = []
    for i, method in enumerate(summary.methods):
        color, symbol = styles[i % len(styles)]
        data += _method(summary, method, unit, color, symbol)
    dense = summary.dense
    x, y = (dense[unit.metric].mean or 0.0) * unit.factor, dense["quality"].mean or 0.0
    star = {"symbol": "star", "size": 17, "color": DENSE, "line": {"width": 1, "color": "#ffffff"}}
    text = f"<b>Dense model</b><br>{quality_text(y, summary.cell.quality_metric)}<br>{x:.4g} {unit.symbol}"
    data.append({"type": "scatter", "mode": "markers", "name": "Dense model, the reference", "x": [x], "y": [y],
                 "marker": star, **hover([text])})  # fmt: skip
    return {"data": data, "layout": _layout(summary, unit, points, x, y)}


def _method(summary: CellSummary, method: MethodSummary, unit: Unit, color: str, symbol: str) -> list[Figure]:
    """Every seed's members as markers, and the staircase of all seeds together."""
    known = [(e.seed, p) for e in method.entries for p in e.points if getattr(p.cost, unit.metric) is not None]
    known.sort(key=lambda row: getattr(row[1].cost, unit.metric))
    x = [getattr(p.cost, unit.metric) * unit.factor for _, p in known]
    y = [p.quality for _, p in known]
    texts = [
        f"<b>{plain(method.name)}</b>, seed {seed}<br>{plain(p.name)}<br>"
        f"{quality_text(p.quality, summary.cell.quality_metric)} {plain(metric_name(summary.cell.quality_metric))}<br>"
        f"{unit.text(getattr(p.cost, unit.metric))} {unit.symbol} "
        f"({plain(str(getattr(p.origin, unit.metric) or 'origin not noted'))})"
        for seed, p in known
    ]
    marker = {"symbol": symbol, "size": 9, "color": color, "opacity": 0.75, "line": {"width": 1, "color": "#ffffff"}}
    group = {"type": "scatter", "name": plain(method.name), "legendgroup": plain(method.name), "cliponaxis": False}
    markers = {**group, "x": x, "y": y, "mode": "markers", "marker": marker, **hover(texts)}
    if len(known) < 2:
        return [markers]
    best = pareto.non_dominated(np.column_stack([y, [-v for v in x]]))
    steps = {"x": [v for v, b in zip(x, best, strict=True) if b], "y": [v for v, b in zip(y, best, strict=True) if b]}
    style = {"mode": "lines", "line": {"color": color, "width": 1.5, "shape": "hv"}, "hoverinfo": "skip",
             "showlegend": False}  # fmt: skip
    return [{**group, **steps, **style}, markers]


def _layout(summary: CellSummary, unit: Unit, points: Sequence[Point], dense_x: float, dense_y: float) -> Figure:
    reference, floor = dense_x * pareto.REFERENCE_MARGIN, dense_y - pareto.USEFUL_MARGIN
    xs = [getattr(p.cost, unit.metric) * unit.factor for p in points if getattr(p.cost, unit.metric) is not None]
    xs = [v for v in [*xs, reference] if v <= 1.3 * reference]
    ys = [p.quality for p in points if p.quality >= dense_y - DEPTH]
    left = 0.0 if min(xs) < 0.4 * max(xs) else min(xs) - 0.12 * (max(xs) - min(xs))
    bottom, top = min([*ys, floor]) - 0.009, min(max([*ys, dense_y]) + 0.016, 1.005)
    origin = " / ".join(summary.origins[unit.metric])
    title = plain(f"{unit.label} ({unit.symbol}) on {summary.cell.device}, {origin}")
    quality = axis(plain(metric_title(summary.cell.quality_metric)), [bottom, top])
    return {
        **base_layout(),
        "xaxis": axis(title, [left, max(xs) * 1.02]),
        "yaxis": quality | ({"tickformat": ".0%"} if is_share(summary.cell.quality_metric) else {}),
        "shapes": [
            line(x=(left, reference), y=(dense_y, dense_y), dash="dot"),
            line(x=(left, reference), y=(floor, floor), dash="dash"),
            line(x=(reference, reference), y=(bottom, top), dash="dash"),
        ],
        "annotations": [
            note("dense quality", x=left, y=dense_y, xanchor="left", yanchor="bottom"),
            note("dense − 5 points: useful from here up", x=left, y=floor, xanchor="left", yanchor="top"),
            note("dense × 1.1", x=reference, y=bottom, xanchor="right", yanchor="bottom", textangle=-90),
        ],
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 12}},
        "margin": {"l": 60, "r": 16, "t": 12, "b": 52},
    }
