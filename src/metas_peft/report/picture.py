"""A still picture of the front as SVG, for a README; drawn by hand, so that no browser is needed."""

import math
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np

from metas_peft import pareto
from metas_peft.core.errors import CheckpointError
from metas_peft.core.files import write_text
from metas_peft.report.collect import Point, Run, read_run
from metas_peft.report.style import DENSE, EDGE, FONT, GRID, INK, MUTED, OURS, RIVALS
from metas_peft.report.words import Unit, is_share, metric_title, origins_of, percent, units_for

WIDTH, HEIGHT = 760, 460
_LEFT, _RIGHT, _BOTTOM = 66, 20, 56
_LEGEND_TOP, _LEGEND_ROW = 54, 21
# Quality below dense that the picture shows.
_DEPTH = 0.13


def write_picture(run_dir: Path, path: Path, metric: str = "latency_ms") -> Path:
    """Draw the front of a run into an SVG file, in one piece.

    Args:
        run_dir: Folder with `results.json`.
        path: Where the picture goes.
        metric: Cost on the horizontal axis: `energy_j`, `latency_ms` or `peak_power_w`.
    """
    write_text(path, render_picture(read_run(Path(run_dir)), metric))
    return path


def render_picture(run: Run, metric: str = "latency_ms") -> str:
    """The picture as SVG text.

    Raises:
        CheckpointError: No member has that cost.
    """
    methods = _methods(run, metric)
    everything = [p for _, _, _, points in methods for p in points]
    if not origins_of(run.target.front, metric) or getattr(run.target.dense.cost, metric) is None:
        raise CheckpointError(f"Run {run.run_id!r} has no {metric} of its front and dense model, so nothing to draw.")
    unit = units_for(everything)[metric]
    legend, rows = _legend(methods)
    frame = _Frame(run, unit, everything, top=_LEGEND_TOP + rows * _LEGEND_ROW)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="{escape(FONT, {chr(34): "&quot;"})}" font-size="13" fill="{INK}" role="img">',
        f"<title>{escape(_title(run))}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        _text(_LEFT, 28, _title(run), size=16, weight=650),
        *legend,
        *frame.axes(),
    ]
    for _, color, symbol, points in methods:
        parts += _series(frame, points, color, symbol, labels=points is run.target.front)
    return "\n".join([*parts, "</svg>"]) + "\n"


_Series = tuple[str, str, str, Sequence[Point]]


def _methods(run: Run, metric: str) -> list[_Series]:
    """Rivals first, ours last and so on top; one colour per label, points without the metric left out."""
    labels = list(dict.fromkeys(b.label for b in run.baselines))
    rivals: list[_Series] = []
    for baseline in run.baselines:
        color, symbol = RIVALS[labels.index(baseline.label) % len(RIVALS)]
        hollow = "-open" if baseline.setting == "as described" else ""
        name = baseline.label + (f", {baseline.setting}" if baseline.setting else "")
        points = [p for p in baseline.points if getattr(p.cost, metric) is not None]
        rivals.append((name, color, symbol + hollow, points))
    dense: _Series = ("Dense model", DENSE, "star", [run.target.dense])
    return [*rivals, dense, (run.label, OURS, "circle", run.target.front)]


def _title(run: Run) -> str:
    kind = ", synthetic data" if run.is_synthetic else ""
    return f"{run.backbone} on {run.target.device}: {run.task}{kind}"


class _Frame:
    """Axes of the picture: places values and draws ticks, the useful floor, and titles."""

    def __init__(self, run: Run, unit: Unit, points: Sequence[Point], top: float) -> None:
        self.run, self.unit, self.top = run, unit, top
        dense = run.target.dense
        self.floor = dense.quality - pareto.USEFUL_MARGIN
        self.reference = getattr(dense.cost, unit.metric) * unit.factor * pareto.REFERENCE_MARGIN
        costs = [getattr(p.cost, unit.metric) for p in points]
        xs = [v for c in costs if c is not None and (v := c * unit.factor) <= 1.3 * self.reference] + [self.reference]
        ys = [p.quality for p in points if p.quality >= dense.quality - _DEPTH] + [self.floor]
        left = 0.0 if min(xs) < 0.4 * max(xs) else min(xs) - 0.12 * (max(xs) - min(xs))
        self.x_span, self.y_span = (left, max(xs) * 1.02), (min(ys) - 0.009, min(max(ys) + 0.014, 1.005))
        self.origin = " / ".join(origins_of(points, unit.metric))

    def x(self, value: float) -> float:
        low, high = self.x_span
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * (value - low) / (high - low)

    def y(self, value: float) -> float:
        low, high = self.y_span
        return HEIGHT - _BOTTOM - (HEIGHT - self.top - _BOTTOM) * (value - low) / (high - low)

    def holds(self, x: float, y: float) -> bool:
        return self.x_span[0] <= x <= self.x_span[1] and self.y_span[0] <= y <= self.y_span[1]

    def axes(self) -> list[str]:
        foot, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
        metric = self.run.quality_metric
        parts: list[str] = []
        for value in _ticks(*self.x_span):
            at = self.x(value)
            parts += [_rule(at, self.top, at, foot, GRID), _text(at, foot + 19, f"{value:g}", MUTED, 12, "middle")]
        for value in _ticks(*self.y_span):
            at = self.y(value)
            text = percent(value, 0 if round(value * 100, 6).is_integer() else 1) if is_share(metric) else f"{value:g}"
            parts += [_rule(_LEFT, at, right, at, GRID), _text(_LEFT - 9, at + 4, text, MUTED, 12, "end")]
        floor = self.y(self.floor)
        parts += [
            _rule(_LEFT, floor, right, floor, "#9aa3ab", dash="6 4"),
            _text(_LEFT + 5, floor + 15, "dense − 5 points: useful from here up", MUTED, 11),
            _rule(_LEFT, foot, right, foot, EDGE),
            _rule(_LEFT, self.top, _LEFT, foot, EDGE),
            _text((_LEFT + right) / 2, HEIGHT - 14, f"{self.unit.label} ({self.unit.symbol}), {self.origin}",
                  anchor="middle"),
            f'<g transform="translate(17 {(self.top + foot) / 2:.1f}) rotate(-90)">'
            f"{_text(0, 0, metric_title(metric), anchor='middle')}</g>",
        ]  # fmt: skip
        return parts


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers inside a span, five to nine of them."""
    rough = (high - low) / 7
    base = 10.0 ** math.floor(math.log10(rough))
    step = next(base * m for m in (1, 2, 2.5, 5, 10) if base * m >= rough)
    first = math.ceil(low / step - 1e-9)
    return [round(step * i, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _series(frame: _Frame, points: Sequence[Point], color: str, symbol: str, labels: bool) -> list[str]:
    metric, factor = frame.unit.metric, frame.unit.factor
    known = [(v * factor, p) for p in points if (v := getattr(p.cost, metric)) is not None]
    known = sorted(((x, p) for x, p in known if frame.holds(x, p.quality)), key=lambda e: e[0])
    parts: list[str] = []
    if len(known) > 1:
        best = pareto.non_dominated(np.array([[p.quality, -x] for x, p in known]))
        steps = [(frame.x(x), frame.y(p.quality)) for (x, p), keep in zip(known, best, strict=True) if keep]
        path = f"M{steps[0][0]:.1f} {steps[0][1]:.1f}" + "".join(f"H{x:.1f}V{y:.1f}" for x, y in steps[1:])
        style = 'stroke-width="2"' if labels else 'stroke-width="1" stroke-dasharray="2 3"'
        parts.append(f'<path d="{path}" fill="none" stroke="{color}" {style}/>')
    for x, point in known:
        at = (frame.x(x), frame.y(point.quality))
        parts.append(_marker(*at, symbol, color))
        if labels:
            parts.append(_text(at[0] - 8, at[1] - 9, point.name, OURS, 12, "end"))
    return parts


def _legend(methods: Sequence[_Series]) -> tuple[list[str], int]:
    """Names in rows, ours first, and the number of rows; widths are estimated, as no font can be asked."""
    parts: list[str] = []
    x, row = _LEFT + 6.0, 0
    for name, color, symbol, _ in reversed(methods):
        width = 36 + 6.2 * len(name)
        if x + width - 20 > WIDTH - _RIGHT and x > _LEFT + 6.0:
            x, row = _LEFT + 6.0, row + 1
        y = _LEGEND_TOP + row * _LEGEND_ROW
        parts += [_marker(x, y - 4, symbol, color), _text(x + 12, y, name, size=12)]
        x += width
    return parts, row + 1


def _marker(x: float, y: float, symbol: str, color: str) -> str:
    hollow = symbol.endswith("-open")
    shape = symbol.removesuffix("-open")
    style = f'fill="{"#ffffff" if hollow else color}" stroke="{color if hollow else "#ffffff"}" stroke-width="1.3"'
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5.5" {style}/>'
    corners = {"square": 4, "triangle-up": 3, "diamond": 4, "pentagon": 5, "hexagon": 6, "star": 10, "cross": 4}[shape]
    turn = math.pi / 4 if shape == "square" else 0.0
    radii = [8.5, 3.6] if shape == "star" else [6.3, 6.3]
    angles = [turn + 2 * math.pi * i / corners for i in range(corners)]
    spots = [(x + radii[i % 2] * math.sin(a), y - radii[i % 2] * math.cos(a)) for i, a in enumerate(angles)]
    return f'<polygon points="{" ".join(f"{px:.1f},{py:.1f}" for px, py in spots)}" {style}/>'


def _rule(x1: float, y1: float, x2: float, y2: float, color: str, dash: str = "") -> str:
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}"{dashes}/>'


def _text(
    x: float, y: float, text: str, color: str = INK, size: int = 13, anchor: str = "start", weight: int = 400
) -> str:
    bold = f' font-weight="{weight}"' if weight > 400 else ""
    style = f'font-size="{size}" text-anchor="{anchor}" fill="{color}"{bold}'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'
