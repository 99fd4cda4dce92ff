"""Tables of operating points and volumes: our front, the rivals, and how much each of them covers."""

import math
from collections.abc import Callable, Iterable, Sequence

from metas_peft.core.cost import METRICS
from metas_peft.report.cells import Cell, Column, Pairs, Table, table
from metas_peft.report.collect import Method, Point, Run, Target
from metas_peft.report.words import (
    NOTHING,
    Unit,
    bytes_text,
    metric_title,
    origins_of,
    percent,
    quality_text,
    seconds_text,
    significant,
    units_for,
    verdict,
    whole_number,
)


def _cost_columns(points: Sequence[Point], units: dict[str, Unit]) -> Pairs:
    columns: Pairs = []
    for metric, unit in units.items():
        origins = origins_of(points, metric)
        shared = origins[0] if len(origins) == 1 else ""
        cells = [
            Cell(
                unit.text(getattr(p.cost, metric)),
                "" if shared or getattr(p.cost, metric) is None else getattr(p.origin, metric) or "origin not noted",
            )
            for p in points
        ]
        columns.append((Column(unit.label, unit.symbol, shared), cells))
    return columns


def _quality_column(run: Run, points: Iterable[Point]) -> tuple[Column, list[Cell]]:
    title = metric_title(run.quality_metric)
    return Column(title, "", "evaluated"), [Cell(quality_text(p.quality, run.quality_metric)) for p in points]


def _accuracy_column(run: Run, points: Iterable[Point]) -> tuple[Column, list[Cell]]:
    """Accuracy beside another headline metric; empty, and so left out, where accuracy is the headline."""
    wanted = run.quality_metric != "accuracy"
    return Column("Accuracy", "", "evaluated"), [
        Cell(percent(p.scores.get("accuracy") if wanted else None)) for p in points
    ]


def members_table(run: Run, target: Target) -> Table:
    """Every member of the front on one device, the dense reference first."""
    points = [target.dense, *sorted(target.front, key=lambda p: -p.counts.get("flops", 0.0))]
    names = [Cell(p.name if p is not target.dense else "dense (reference)", tone="strong") for p in points]

    def counted(title: str, name: str, text: Callable[[float | None], str]) -> tuple[Column, list[Cell]]:
        return Column(title, "", "counted"), [Cell(text(p.counts.get(name))) for p in points]

    whole = target.dense.counts.get("flops")
    shares = [p.counts.get("flops_fraction", p.counts["flops"] / whole if whole and "flops" in p.counts else None)
              for p in points]  # fmt: skip
    return table(
        f"Members of the front on {target.device}",
        [
            (Column("Member", is_number=False), names),
            _quality_column(run, points),
            _accuracy_column(run, points),
            *_cost_columns(points, units_for(points)),
            (Column("FLOPs", "of dense", "counted"), [Cell(percent(s, 0)) for s in shares]),
            counted("Layers", "kept_layers", whole_number),
            counted("Heads", "kept_heads", whole_number),
            counted("FFN blocks", "kept_ffn", whole_number),
            counted("Ranks", "kept_ranks", whole_number),
            counted("Model", "model_bytes", bytes_text),
            (Column("Cut vs. masked", "max |Δ|", "evaluated"),
             [Cell(_tiny(p.counts.get("masked_vs_compact"))) for p in points]),
        ],
    )  # fmt: skip


def baselines_table(run: Run) -> Table:
    """Every operating point of every rival."""
    rows = [(b, p) for b in run.baselines for p in sorted(b.points, key=lambda p: -(p.cost.latency_ms or 0.0))]
    points = [p for _, p in rows]
    return table(
        f"Operating points of the baselines on {run.target.device}",
        [
            (Column("Method", is_number=False), [Cell(b.label, tone="strong") for b, _ in rows]),
            (Column("Setting", is_number=False), [Cell(b.setting) for b, _ in rows]),
            (Column("Point", is_number=False), [Cell(p.name) for p in points]),
            _quality_column(run, points),
            *_cost_columns(points, units_for([*points, *run.target.points])),
        ],
    )


def volumes_table(run: Run) -> Table:
    """Hyper-volumes of all methods, and ours over each rival's with its interval."""
    methods: list[Method | None] = [None, *run.baselines]
    origins = [set(origins_of(run.target.points, m)) for m in METRICS]
    origin = " / ".join(sorted(set().union(*origins)))
    ends = _ends(run.baselines)

    def of(method: Method | None, name: str) -> Cell:
        value = (method.hypervolume if method else run.target.hypervolume).get(name)
        return Cell(NOTHING if value is None else f"{value:.4f}", tone="strong" if method is None else "")

    return table(
        "Hyper-volume: how much of (quality, energy, latency, peak power) a method covers",
        [
            (Column("Method", is_number=False),
             [Cell(m.label if m else f"{run.label} (this run)", tone="strong") for m in methods]),
            (Column("Setting", is_number=False), [Cell(m.setting if m else "") for m in methods]),
            (Column("Measurements", "on target", "recorded"), [Cell(whole_number(_asked(run, m))) for m in methods]),
            *((Column(title, "", origin), [of(m, name) for m in methods])
              for title, name in (("Useful", "useful"), ("From chance", "chance"), ("In budget", "budgets"))),
            (Column("Ours / theirs", "95 % interval", origin), [_ratio_cell(m, ends) for m in methods]),
            (Column("In words", is_number=False), [Cell(verdict(m.ratio) if m else "") for m in methods]),
            # What each method took after the dense model that all of them start from.
            (Column("Tuning", "after the dense stage", "recorded"),
             [Cell(seconds_text(m.seconds if m else run.extra["seconds"].get("method"))) for m in methods]),
        ],
    )  # fmt: skip


def _asked(run: Run, method: Method | None) -> int | None:
    if method is not None:
        return method.target_measurements
    calls = run.target.measurements
    return calls["training"] + calls["calibration"] if {"training", "calibration"} <= set(calls) else None


def _ends(baselines: Sequence[Method]) -> tuple[float, float]:
    """Both ends of the common, logarithmic axis of ratios; a ratio beyond 4 does not stretch it."""
    seen = [v for b in baselines if b.ratio for v in (b.ratio.low, b.ratio.ratio, b.ratio.high) if v is not None]
    inside = [v for v in seen if 0.25 <= v <= 4.0]
    return min([0.9, *inside]) / 1.05, max([1.1, *inside]) * 1.05


def _ratio_cell(method: Method | None, ends: tuple[float, float]) -> Cell:
    if method is None or method.ratio is None:
        return Cell("")
    ratio = method.ratio
    if ratio.ratio is None:
        return Cell("not defined", tone="muted")
    tone = {"ours is larger": "good", "ours is smaller": "bad"}.get(verdict(ratio), "")
    text = f"{_times(ratio.ratio)} [{_times(ratio.low)}, {_times(ratio.high) if ratio.high is not None else '∞'}]"
    if ratio.low is None or not ends[0] <= ratio.ratio <= ends[1]:
        return Cell(text, tone=tone)

    def place(value: float) -> float:
        share = math.log(max(value, 1e-9) / ends[0]) / math.log(ends[1] / ends[0])
        return min(1.0, max(0.0, share))

    high = ends[1] if ratio.high is None else ratio.high
    return Cell(text, tone=tone, interval=(place(ratio.low), place(ratio.ratio), place(high), place(1.0)))


def _times(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}" if value < 10 else significant(value)


def _tiny(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.1e}".replace("e-0", "e-")
