"""Tables behind the front: surrogate, calibration, budgets, and how often devices were asked."""

from collections.abc import Sequence

from metas_peft.core.cost import METRIC_NAMES, METRICS
from metas_peft.report.cells import Cell, Column, Pairs, Table, table
from metas_peft.report.collect import Run, Target
from metas_peft.report.words import (
    METRIC_LABELS,
    NOTHING,
    Unit,
    bytes_text,
    origins_of,
    percent,
    significant,
    units_for,
    whole_number,
)


def held_out_table(run: Run) -> Table | None:
    """Errors of the rivals for the surrogate, each pool device held out in turn; the least of a group is strong."""
    surrogate = run.extra["surrogate"]
    held_out = surrogate.get("held_out") or {}
    methods = list(dict.fromkeys(name for errors in held_out.values() for name in errors))
    if not methods:
        return None
    rows = [(metric, method) for metric in METRICS for method in methods]
    errors = {
        row: [(held_out[device].get(row[1]) or {}).get(METRIC_NAMES[row[0]]) for device in held_out] for row in rows
    }
    for row in rows:
        errors[row].append(_mean(errors[row]))
    first = [Cell(METRIC_LABELS[metric] if method == methods[0] else "", tone="strong") for metric, method in rows]
    used = surrogate.get("kind")
    names = [Cell(method.replace("_", " ") + (" (in use)" if method == used else "")) for _, method in rows]
    columns: Pairs = [(Column("Error of", is_number=False), first), (Column("predicted by", is_number=False), names)]
    for i, device in enumerate([*held_out, "mean"]):
        cells = [_least(errors[row][i], [errors[(row[0], m)][i] for m in methods]) for row in rows]
        columns.append((Column(device, "%", str(surrogate.get("origin") or "")), cells))
    return table("Mean absolute error on pool devices, each held out in turn and fitted with five samples", columns)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def _least(value: float | None, among: Sequence[float | None]) -> Cell:
    known = [v for v in among if v is not None]
    return Cell(significant(value, 2), tone="strong" if known and value == min(known) else "")


def budgets_table(run: Run) -> Table | None:
    """Which member meets which budget on the target, and which the surrogate said would."""
    limits = {m: v for m in METRICS if (v := (run.extra["budgets"].get("limits") or {}).get(m)) is not None}
    met = run.extra["budgets"].get("met") or {}
    if not limits or not met:
        return None
    units = units_for(run.target.points)
    columns: Pairs = [(Column("Member", is_number=False), [Cell(name, tone="strong") for name in met])]
    for metric, limit in limits.items():
        unit = units[metric]
        cells = [_met(entry.get(metric)) for entry in met.values()]
        origin = " / ".join(origins_of(run.target.front, metric))
        columns.append((Column(unit.label, f"≤ {unit.text(limit)} {unit.symbol}", origin, is_number=False), cells))
    said = run.extra["budgets"].get("met_predicted") or {}
    for metric in limits:
        cells = [_met((said.get(name) or {}).get(metric)) if said else Cell("") for name in met]
        columns.append((Column(units[metric].label, "foreseen", "predicted", is_number=False), cells))
    return table("Budgets", columns)


def _met(answer: bool | None) -> Cell:
    if answer is None:
        return Cell("not known", tone="muted")
    return Cell("✓ met", tone="good") if answer else Cell("✗ not met", tone="bad")


def ledger_table(run: Run) -> Table | None:
    """How often each device was asked, and what for; counted by the device layer itself."""
    rows = run.extra["ledger"] or []
    if not rows:
        return None
    # A zero in the ledger is a claim too: the three purposes of the contract always have a column.
    purposes = list(dict.fromkeys(["training", "calibration", "evaluation", *(str(row["purpose"]) for row in rows)]))
    devices = list(dict.fromkeys(str(row["device"]) for row in rows))
    counts = {(str(row["device"]), str(row["purpose"])): int(row["count"]) for row in rows}
    columns: Pairs = [(Column("Device", is_number=False), [Cell(d, tone="strong") for d in devices])]
    for purpose in purposes:
        cells = [
            Cell(whole_number(counts.get((d, purpose), 0)), tone="" if counts.get((d, purpose)) else "muted")
            for d in devices
        ]
        columns.append((Column(purpose, "calls", "recorded"), cells))
    return table("Measurement ledger", columns)


def fit_table(target: Target) -> Table | None:
    """Scale and shift of the calibration, and the error afterwards, per metric."""
    calibration, units = target.calibration, units_for(target.points)
    known = [m for m in METRICS if getattr(calibration.alpha, m) is not None or getattr(target.error, m) is not None]
    if not known:
        return None
    n = f"n = {target.error_n}" if target.error_n else "front"
    return table(
        "Calibration: device ≈ scale × surrogate + shift",
        [
            (Column("Metric", is_number=False), [Cell(METRIC_LABELS[m], tone="strong") for m in known]),
            (Column("Scale"), [Cell(significant(getattr(calibration.alpha, m))) for m in known]),
            (Column("Shift"), [Cell(_shift(units[m], getattr(calibration.beta, m))) for m in known]),
            (Column("Mean error after", f"%, {n}"), [Cell(significant(getattr(target.error, m), 2)) for m in known]),
            (Column("Device numbers are", is_number=False),
             [Cell("", " / ".join(origins_of(target.front, m))) for m in known]),
        ],
    )  # fmt: skip


def _shift(unit: Unit, value: float | None) -> str:
    return NOTHING if value is None else f"{significant(value * unit.factor, 2)} {unit.symbol}"


def controller_table(run: Run) -> Table | None:
    """The controller's figures beside the bounds that the method's source gives."""
    facts = run.extra["controller"]
    if not facts:
        return None
    origins = dict.fromkeys(o for m in METRICS for o in origins_of(run.target.points, m))

    def held(name: str, good: bool | None) -> Cell:
        return Cell("") if facts.get(name) is None or good is None else _met(good)

    def value(name: str) -> float:
        return float(facts.get(name) or 0.0)

    rows = [
        ("Size with the table of members", _with(facts.get("bytes"), "bytes"), "counted", "≤ 1,024 bytes",
         held("bytes", value("bytes") <= 1024)),
        ("C header", bytes_text(facts.get("c_header_bytes")), "counted", "", Cell("")),
        ("One decision, features included", _with(facts.get("decision_us"), "µs"), "measured", "< 40 µs",
         held("decision_us", value("decision_us") < 40)),
        ("The bare tree", _with(facts.get("tree_us"), "µs"), "measured", "", Cell("")),
        ("Hyper-volume kept, against the policy", percent(facts.get("hypervolume_kept")), " / ".join(origins),
         "≥ 99 %", held("hypervolume_kept", value("hypervolume_kept") >= 0.99)),
        ("Inputs on which tree and policy agree", percent(facts.get("agreement")), "evaluated", "", Cell("")),
        ("Routing", "degenerate" if facts.get("degenerate") else "at least two members with 10 % each", "evaluated",
         "not degenerate", held("degenerate", not facts.get("degenerate"))),
    ]  # fmt: skip
    rows = [row for row in rows if row[1] != NOTHING]
    columns: Pairs = [
        (Column("Figure", is_number=False), [Cell(row[0], tone="strong") for row in rows]),
        (Column("Value", is_number=False), [Cell(row[1], row[2]) for row in rows]),
        (Column("Bound of the source", is_number=False), [Cell(row[3]) for row in rows]),
        (Column("Held", is_number=False), [row[4] for row in rows]),
    ]
    return table("The controller", columns)


def usage_table(run: Run) -> Table | None:
    """Share of the evaluation inputs that the tree sends to each member."""
    usage = run.extra["controller"].get("usage") or {}
    if not usage:
        return None
    shares = [Cell(percent(share, 0), interval=(0.0, share, share, 0.0)) for share in usage.values()]
    members = [Cell(name, tone="strong") for name in usage]
    return table("Where inputs go", [(Column("Member", is_number=False), members),
                                     (Column("Inputs", "", "evaluated"), shares)])  # fmt: skip


def _with(value: float | None, unit: str) -> str:
    return NOTHING if value is None else f"{significant(value)} {unit}"
