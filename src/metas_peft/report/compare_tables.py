"""The tables of a comparison, and their spelling as Markdown, LaTeX and CSV."""

import csv
import io
from collections.abc import Callable, Sequence
from typing import Any

from metas_peft import pareto
from metas_peft.core.cost import METRICS
from metas_peft.report.cells import Cell as TableCell
from metas_peft.report.cells import Column, Pairs, Table, table
from metas_peft.report.collect import Ratio
from metas_peft.report.compare import CellSummary, Chosen, MethodSummary, PairSummary, Spread, as_plain
from metas_peft.report.words import (
    METRIC_LABELS,
    NOTHING,
    bytes_text,
    metric_title,
    percent,
    quality_text,
    seconds_text,
    significant,
    units_for,
    verdict,
    whole_number,
)

_VOLUME_TITLES = {"useful": "Useful volume", "chance": "From chance", "budgets": "In budget"}
_HINDSIGHT = "chosen in evaluation"
Text = Callable[[float | None], str]


def cell_tables(summary: CellSummary) -> list[Table]:
    """All tables of a cell: volumes, members, pairs."""
    tables = [volumes_table(summary), members_table(summary)]
    return [*tables, pairs_table(summary)] if summary.pairs else tables


def volumes_table(summary: CellSummary) -> Table:
    """Hyper-volumes, measurements, errors and times of every method."""
    methods = summary.methods
    columns = _named(methods)
    columns.append((Column("Target", "measurements", "recorded"),
                    [TableCell(whole_number(m.measurements)) for m in methods]))  # fmt: skip
    origin = " / ".join(dict.fromkeys(o for metric in METRICS for o in summary.origins[metric]))
    for kind in pareto.VOLUMES:
        texts = [_text(m.volumes[kind], _volume) for m in methods]
        columns.append((Column(_VOLUME_TITLES[kind], "mean ± sd", origin), [TableCell(t) for t in texts]))
        if kind == "useful":
            columns.append((Column("Interval", "95 %", origin), [TableCell(_ends(m)) for m in methods]))
    for metric in METRICS:
        title = f"{METRIC_LABELS[metric]} error"
        cells = [TableCell(_text(m.error[metric], lambda v: significant(v, 2))) for m in methods]
        columns.append((Column(title, "%", "predicted"), cells))
    columns.append((Column("Tuning", "after the dense stage", "recorded"),
                    [TableCell(seconds_text(m.seconds.mean)) for m in methods]))  # fmt: skip
    return table(f"{summary.cell.title}: hyper-volumes", columns)


def members_table(summary: CellSummary) -> Table:
    """The best, the cheapest useful and the cheapest member of every method, beside the dense model."""
    methods = summary.methods
    points = [p for m in methods for e in m.entries for p in (*e.points, e.dense)]
    units = units_for(points)
    metric = summary.cell.quality_metric
    rows: list[tuple[str, str, Chosen | None, int]] = [("dense (reference)", "", None, 0)]
    for method in methods:
        rows += [
            (method.name, f"best quality, {_HINDSIGHT}", method.best, len(method.entries)),
            (method.name, f"cheapest within 5 points, {_HINDSIGHT}", method.useful, len(method.entries)),
            (method.name, "least energy", method.cheapest, len(method.entries)),
        ]

    def figure(chosen: Chosen | None, name: str) -> Spread:
        return (summary.dense if chosen is None else chosen.figures).get(name, Spread(None))

    def column(head: Column, name: str, text: Text) -> tuple[Column, list[TableCell]]:
        return head, [TableCell(_text(figure(chosen, name), text)) for _, _, chosen, _ in rows]

    title = metric_title(metric)
    columns: Pairs = [
        (Column("Method", is_number=False), [TableCell(name, tone="strong") for name, _, _, _ in rows]),
        (Column("Member", is_number=False), [TableCell(_which(rule, chosen, n)) for _, rule, chosen, n in rows]),
        column(Column(title, "", "evaluated"), "quality", lambda v: quality_text(v, metric)),
    ]
    if metric != "accuracy":
        columns.append(column(Column("Accuracy", "", "evaluated"), "accuracy", percent))
    for name, unit in units.items():
        head = Column(unit.label, unit.symbol, " / ".join(summary.origins[name]))
        columns.append(column(head, name, unit.text))
    columns.append(column(Column("FLOPs", "of dense", "counted"), "flops_fraction", lambda v: percent(v, 0)))
    columns.append(column(Column("Model", "", "counted"), "model_bytes", bytes_text))
    return table(f"{summary.cell.title}: members", columns)


def pairs_table(summary: CellSummary) -> Table:
    """The first method beside each other one."""
    pairs = summary.pairs
    return table(
        f"{summary.cell.title}: {pairs[0].ours} beside the others, on the seeds that both have",
        [
            (Column("Beside", is_number=False), [TableCell(p.theirs, tone="strong") for p in pairs]),
            (Column("Useful volume", "ours / theirs"), [TableCell(_times(p.ratio.value)) for p in pairs]),
            (Column("Interval", "95 %"), [TableCell(_between(p)) for p in pairs]),
            (Column("In words", is_number=False), [TableCell(_verdict(p)) for p in pairs]),
            (Column("Seeds"), [TableCell(whole_number(p.volume.n if p.volume else None)) for p in pairs]),
            (Column("Difference", "of volumes"), [TableCell(_signed(p.volume and p.volume.mean)) for p in pairs]),
            (Column("t-test", "p"), [TableCell(_p(p.volume and p.volume.t_test)) for p in pairs]),
            (Column("Sign flips", "p"), [TableCell(_p(p.volume and p.volume.sign_flips)) for p in pairs]),
            (Column("Quality", f"difference, cheapest useful, {_HINDSIGHT}"),
             [TableCell(_signed(p.quality)) for p in pairs]),
        ],
    )  # fmt: skip


def _named(methods: Sequence[MethodSummary]) -> Pairs:
    return [
        (Column("Method", is_number=False), [TableCell(m.name, tone="strong") for m in methods]),
        (Column("Seeds"), [TableCell(str(len(m.entries))) for m in methods]),
    ]


def _which(rule: str, chosen: Chosen | None, n: int) -> str:
    return rule if chosen is None or chosen.n == n else f"{rule} ({chosen.n} of {n} seeds)"


def _text(spread: Spread, text: Text) -> str:
    if spread.mean is None:
        return NOTHING
    return text(spread.mean) if spread.sd is None else f"{text(spread.mean)} ± {text(spread.sd)}"


def _volume(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.4f}"


def _ends(method: MethodSummary) -> str:
    low, high = method.interval.low, method.interval.high
    return NOTHING if low is None or high is None else f"{low:.4f} to {high:.4f}"


def _times(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}" if value < 10 else significant(value)


def _between(pair: PairSummary) -> str:
    if pair.ratio.low is None:
        return NOTHING
    return f"{_times(pair.ratio.low)} to {'∞' if pair.ratio.high is None else _times(pair.ratio.high)}"


def _verdict(pair: PairSummary) -> str:
    if pair.volume is None:
        return "no seed with both volumes"
    return verdict(Ratio(pair.ratio.value, pair.ratio.low, pair.ratio.high))


def _signed(value: float | None) -> str:
    return NOTHING if value is None else f"{value:+.4f}".replace("-", "−")


def _p(value: float | None) -> str:
    return NOTHING if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


# ---- spellings


def markdown(tables: Sequence[Table]) -> str:
    """Tables in GitHub's Markdown, one heading each."""
    return "\n".join(_markdown(t) for t in tables)


def _markdown(drawn: Table) -> str:
    def escaped(text: str) -> str:
        return text.replace("|", "\\|")

    heads = [escaped(_head(c)) for c in drawn.columns]
    sides = ["---:" if c.is_number else "---" for c in drawn.columns]
    rows = [[escaped(c.text) for c in row] for row in drawn.rows]
    lines = ["| " + " | ".join(cells) + " |" for cells in (heads, sides, *rows)]
    return f"### {drawn.title}\n\n" + "\n".join(lines) + "\n"


def latex(tables: Sequence[Table]) -> str:
    """Tables as `table` environments that need no package besides booktabs."""
    return "\n".join(_latex(t) for t in tables)


_LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
          "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": "$-$", "–": "--", "∞": r"$\infty$",
          "×": r"$\times$", "\u202f": r"\,", "<": "$<$", ">": "$>$"}  # fmt: skip


def _latex(drawn: Table) -> str:
    def escaped(text: str) -> str:
        return "".join(_LATEX.get(c, c) for c in text)

    sides = "".join("r" if c.is_number else "l" for c in drawn.columns)
    rows = [" & ".join(escaped(c.text) for c in row) + r" \\" for row in drawn.rows]
    return "\n".join(
        [r"\begin{table}", r"\centering", rf"\caption{{{escaped(drawn.title)}}}", rf"\begin{{tabular}}{{{sides}}}",
         r"\toprule", " & ".join(escaped(_head(c)) for c in drawn.columns) + r" \\", r"\midrule", *rows,
         r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
    )  # fmt: skip


def _head(column: Column) -> str:
    """Title with unit and origin: a number must not lose them on the way to a paper."""
    return ", ".join(part for part in (column.title, column.unit, column.origin) if part)


def comma_separated(cells: Sequence[CellSummary]) -> str:
    """One row per method of every cell, in plain units: J, ms, W, seconds, bytes, fractions."""
    rows = [_flat(c, m) for c in as_plain(cells)["cells"] for m in c["methods"]]
    names = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _flat(cell: dict[str, Any], method: dict[str, Any]) -> dict[str, Any]:
    row = {k: v for k, v in cell.items() if isinstance(v, str)}
    row |= {f"origin_{m}": " / ".join(o) for m, o in cell["origin"].items()}
    row |= {"method": method["method"], "n_seeds": len(method["seeds"])}

    def add(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                add(f"{prefix}_{name}", inner)
        elif value is not None:
            row[prefix] = value

    for name, value in method.items():
        if name not in ("method", "seeds", "runs", "front"):
            add(name, value)
    return row
