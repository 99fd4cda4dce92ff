"""Colours and the common parts of the interactive pictures.

Okabe and Ito's colours are told apart by most colour-blind readers; shapes repeat what colours say.
"""

import html
from collections.abc import Sequence
from typing import Any

from metas_peft.report.collect import Method

OURS = "#0072B2"
DENSE = "#1b1f24"
FITTED = "#D55E00"
BUDGET = "#a4480a"
INK, MUTED, GRID, EDGE = "#1b1f24", "#5b6570", "#e8ebee", "#c6ccd2"
RIVALS = (
    ("#D55E00", "square"),
    ("#009E73", "triangle-up"),
    ("#CC79A7", "diamond"),
    ("#E69F00", "pentagon"),
    ("#56B4E9", "hexagon"),
    ("#7F6A00", "cross"),
)
FONT = "Inter, system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

Figure = dict[str, Any]


def plain(text: str) -> str:
    """Text for Plotly, which would read `<b>` and its like as markup."""
    return html.escape(text, quote=False)


def style_of(baselines: Sequence[Method]) -> dict[str, tuple[str, str]]:
    """Colour and shape of each baseline by name: one colour per label, open shapes where "as described"."""
    labels = list(dict.fromkeys(b.label for b in baselines))
    styles: dict[str, tuple[str, str]] = {}
    for baseline in baselines:
        color, symbol = RIVALS[labels.index(baseline.label) % len(RIVALS)]
        styles[baseline.name] = (color, f"{symbol}-open" if baseline.setting == "as described" else symbol)
    return styles


def base_layout() -> Figure:
    """What all layouts share."""
    return {
        "font": {"family": FONT, "size": 13, "color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hovermode": "closest",
        "autosize": True,
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "#9aa3ab", "activecolor": OURS},
    }


def axis(title: str, span: list[float]) -> Figure:
    """An axis with its range; `title` is plain already."""
    return {
        "title": {"text": title, "font": {"size": 13, "color": INK}, "standoff": 10},
        "range": span,
        "gridcolor": GRID,
        "zeroline": False,
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": EDGE,
        "linecolor": EDGE,
        "showline": True,
        "tickfont": {"size": 12, "color": MUTED},
        "automargin": True,
    }


def hover(texts: list[str]) -> Figure:
    """Hover labels, dark on white."""
    label = {"bgcolor": "#ffffff", "bordercolor": EDGE, "font": {"color": INK}}
    return {"hovertext": texts, "hoverinfo": "text", "hoverlabel": label}


def line(
    *, x: tuple[float, float], y: tuple[float, float], dash: str, color: str = "#9aa3ab", width: float = 1
) -> Figure:
    """A line behind the points."""
    ends = {"x0": x[0], "x1": x[1], "y0": y[0], "y1": y[1]}
    return {"type": "line", **ends, "layer": "between", "line": {"color": color, "width": width, "dash": dash}}


def note(text: str, *, color: str = MUTED, **place: Any) -> Figure:
    """A word beside a line."""
    return {"text": plain(text), "showarrow": False, "font": {"size": 11, "color": color}, **place}
