"""The interactive pictures as plain Plotly data: `{"data": [...], "layout": {...}}`, ready for JSON.

Quality stands upright, costs lie flat, and every axis of a cost says where its numbers come from.
"""

import math
from collections.abc import Sequence

import numpy as np

from metas_peft import pareto
from metas_peft.core.cost import METRICS
from metas_peft.report.collect import Method, Point, Run, Target
from metas_peft.report.style import (
    BUDGET,
    DENSE,
    FITTED,
    MUTED,
    OURS,
    Figure,
    axis,
    base_layout,
    hover,
    line,
    note,
    plain,
    style_of,
)
from metas_peft.report.words import (
    Unit,
    is_share,
    metric_name,
    metric_title,
    origins_of,
    quality_text,
    significant,
    units_for,
)

# Quality below dense that the picture still shows; points further down are reached by zooming out.
DEPTH = 0.13


def axis_title(target: Target, unit: Unit, points: Sequence[Point]) -> str:
    """Such as `Latency (ms) on pixel-8, simulated`."""
    origins = " / ".join(origins_of(points, unit.metric)) or "not measured"
    return plain(f"{unit.label} ({unit.symbol}) on {target.device}, {origins}")


def front_figures(run: Run, target: Target, baselines: Sequence[Method] = ()) -> dict[str, Figure]:
    """Quality against each cost metric that has values, by metric name.

    Args:
        run: The run that the target belongs to.
        target: The front to draw.
        baselines: Rivals on the same device.
    """
    everything = [*target.points, *(p for b in baselines for p in b.points)]
    units = units_for(everything)
    shown = [m for m in METRICS if origins_of(target.front, m) and getattr(target.dense.cost, m) is not None]
    return {metric: _front_figure(run, target, baselines, units[metric], everything) for metric in shown}


def _front_figure(
    run: Run, target: Target, baselines: Sequence[Method], unit: Unit, everything: Sequence[Point]
) -> Figure:
    data: list[Figure] = []
    styles = style_of(baselines)
    for baseline in baselines:
        color, symbol = styles[baseline.name]
        name = baseline.label + (f", {baseline.setting}" if baseline.setting else "")
        marker = {"symbol": symbol, "size": 10, "color": color, "line": {"width": 1.6, "color": color}}
        data += _series(run, name, baseline.points, unit, marker, {"color": color, "width": 1, "dash": "dot"})
    marker = {"symbol": "star", "size": 17, "color": DENSE, "line": {"width": 1, "color": "#ffffff"}}
    data += _series(run, "Dense model, the reference", [target.dense], unit, marker, {})
    marker = {"symbol": "circle", "size": 12, "color": OURS, "line": {"width": 1.5, "color": "#ffffff"}}
    data += _series(run, f"{run.label}, this run", target.front, unit, marker, {"color": OURS, "width": 2}, labels=True)
    return {"data": data, "layout": _front_layout(run, target, unit, everything, _budget(run, target, unit))}


def _budget(run: Run, target: Target, unit: Unit) -> float | None:
    limit = (run.extra["budgets"].get("limits") or {}).get(unit.metric) if target is run.target else None
    return None if limit is None else limit * unit.factor


def _series(
    run: Run, name: str, points: Sequence[Point], unit: Unit, marker: Figure, stairs: Figure, labels: bool = False
) -> list[Figure]:
    """One method: markers, and a staircase through those that none of its other points beats in this picture."""
    known = [p for p in points if getattr(p.cost, unit.metric) is not None]
    known.sort(key=lambda p: getattr(p.cost, unit.metric))
    x = [getattr(p.cost, unit.metric) * unit.factor for p in known]
    y = [p.quality for p in known]
    texts = [
        f"<b>{plain(name)}</b><br>{plain(p.name)}<br>{quality_text(p.quality, run.quality_metric)} "
        f"{plain(metric_name(run.quality_metric))}<br>{unit.text(getattr(p.cost, unit.metric))} {unit.symbol} "
        f"({plain(str(getattr(p.origin, unit.metric) or 'origin not noted'))})"
        for p in known
    ]
    rank = 1 if labels else 2 if not stairs else 3
    group = {
        "type": "scatter",
        "name": plain(name),
        "legendgroup": plain(name),
        "legendrank": rank,
        "cliponaxis": False,
    }
    markers: Figure = {**group, "x": x, "y": y, "mode": "markers", "marker": marker, **hover(texts)}
    if labels:
        markers |= {
            "mode": "markers+text",
            "text": [plain(p.name) for p in known],
            "textposition": "top left",
            "textfont": {"size": 12, "color": OURS},
        }
        if is_share(run.quality_metric) and run.n_validation:
            errors = [math.sqrt(max(q * (1 - q), 0.0) / run.n_validation) for q in y]
            markers["error_y"] = {"type": "data", "array": errors, "thickness": 1, "width": 0, "color": "#9cc8e2"}
    if not stairs or len(known) < 2:
        return [markers]
    best = pareto.non_dominated(np.column_stack([y, [-v for v in x]]))
    steps = {"x": [v for v, b in zip(x, best, strict=True) if b], "y": [v for v, b in zip(y, best, strict=True) if b]}
    style = {"mode": "lines", "line": {**stairs, "shape": "hv"}, "hoverinfo": "skip", "showlegend": False}
    return [{**group, **steps, **style}, markers]


def _front_layout(run: Run, target: Target, unit: Unit, everything: Sequence[Point], budget: float | None) -> Figure:
    dense = target.dense
    reference = getattr(dense.cost, unit.metric) * unit.factor * pareto.REFERENCE_MARGIN
    floor = dense.quality - pareto.USEFUL_MARGIN
    costs = [getattr(p.cost, unit.metric) for p in everything]
    xs = [c * unit.factor for c in costs if c is not None] + [reference, *([] if budget is None else [budget])]
    xs = [v for v in xs if v <= 1.3 * reference]
    ys = [p.quality for p in everything if p.quality >= dense.quality - DEPTH]
    left = 0.0 if min(xs) < 0.4 * max(xs) else min(xs) - 0.12 * (max(xs) - min(xs))
    bottom, top = min([*ys, floor]) - 0.009, min(max(ys) + 0.016, 1.005)
    shapes = [
        line(x=(left, reference), y=(dense.quality, dense.quality), dash="dot"),
        line(x=(left, reference), y=(floor, floor), dash="dash"),
        line(x=(reference, reference), y=(bottom, top), dash="dash"),
    ]
    notes = [
        note("dense quality", x=left, y=dense.quality, xanchor="left", yanchor="bottom"),
        note("dense − 5 points: useful from here up", x=left, y=floor, xanchor="left", yanchor="top"),
        note("dense × 1.1", x=reference, y=bottom, xanchor="right", yanchor="bottom", textangle=-90),
    ]
    if budget is not None and budget <= max(xs):
        shapes.append(line(x=(budget, budget), y=(bottom, top), dash="solid", color=BUDGET, width=2))
        text = f"budget {significant(budget)} {unit.symbol}"
        notes.append(note(text, x=budget, y=bottom, xanchor="left", yanchor="bottom", color=BUDGET))
    quality = axis(plain(metric_title(run.quality_metric)), [bottom, top])
    return {
        **base_layout(),
        "xaxis": axis(axis_title(target, unit, everything), [left, max(*xs, reference) * 1.02]),
        "yaxis": quality | ({"tickformat": ".0%"} if is_share(run.quality_metric) else {}),
        "shapes": shapes,
        "annotations": notes,
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 12}},
        "margin": {"l": 60, "r": 16, "t": 12, "b": 52},
    }


def hidden_below(run: Run) -> int:
    """Points of any method that lie below what the front's picture shows at first."""
    everything = [*run.target.front, *(p for b in run.baselines for p in b.points)]
    return sum(p.quality < run.target.dense.quality - DEPTH for p in everything)


def parity_figures(target: Target) -> dict[str, Figure]:
    """The surrogate's prediction against the device, one square picture per metric that has both."""
    units = units_for(target.points)
    figures: dict[str, Figure] = {}
    for metric in METRICS:
        front = _pairs([(p.name, p.predicted, p.cost) for p in target.front], metric)
        numbered = enumerate(target.calibration.pairs, start=1)
        fitted = _pairs([(f"calibration {i}", said, seen) for i, (said, seen) in numbered], metric)
        if front:
            figures[metric] = _parity_figure(target, units[metric], front, fitted)
    return figures


_Row = tuple[str, float, float]


def _pairs(rows: Sequence[tuple[str, object, object]], metric: str) -> list[_Row]:
    values = [(name, getattr(said, metric), getattr(seen, metric)) for name, said, seen in rows]
    return [(name, a, b) for name, a, b in values if a is not None and b is not None]


def _parity_figure(target: Target, unit: Unit, front: list[_Row], fitted: list[_Row]) -> Figure:
    values = [v * unit.factor for _, said, seen in (*front, *fitted) for v in (said, seen)]
    # At least a tenth of the middle to either side: noise on a constant must not look like a trend.
    middle = (min(values) + max(values)) / 2
    half = max(0.58 * (max(values) - min(values)), 0.1 * abs(middle), 1e-9)
    span = [middle - half, middle + half]

    def series(name: str, rows: list[_Row], marker: Figure) -> Figure:
        texts = [
            f"<b>{plain(label)}</b><br>predicted {unit.text(said)}, device {unit.text(seen)} {unit.symbol}"
            + (f"<br>error {100 * (said / seen - 1):+.1f} %" if seen else "")
            for label, said, seen in rows
        ]
        x, y = [said * unit.factor for _, said, _ in rows], [seen * unit.factor for _, _, seen in rows]
        trace: Figure = {"type": "scatter", "mode": "markers", "name": name, "x": x, "y": y, "marker": marker}
        return trace | {"cliponaxis": False} | hover(texts)

    identity = {"type": "scatter", "mode": "lines", "x": span, "y": span, "hoverinfo": "skip", "name": "identity"}
    origins = " / ".join(origins_of(target.front, unit.metric)).capitalize()
    open_square = {"symbol": "square-open", "size": 9, "color": FITTED, "line": {"width": 1.6}}
    circle = {"symbol": "circle", "size": 10, "color": OURS, "line": {"width": 1, "color": "#ffffff"}}
    return {
        "data": [
            identity | {"line": {"color": MUTED, "width": 1, "dash": "dot"}},
            series("Used for the fit", fitted, open_square),
            series("Members of the front", front, circle),
        ],
        "layout": {
            **base_layout(),
            "xaxis": axis(f"Predicted ({unit.symbol})", span),
            "yaxis": axis(plain(f"{origins} ({unit.symbol})"), span),
            "showlegend": False,
            "margin": {"l": 56, "r": 10, "t": 8, "b": 46},
        },
    }
