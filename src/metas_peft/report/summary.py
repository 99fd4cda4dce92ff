"""What a reader should know first: the headline, a handful of numbers, and warnings."""

from collections.abc import Sequence
from dataclasses import dataclass

from metas_peft.report.collect import Method, Point, Run, Target
from metas_peft.report.words import (
    METRIC_LABELS,
    is_share,
    listed,
    metric_name,
    metric_title,
    origins_of,
    percent,
    quality_text,
    units_for,
    verdict,
)

# Half of the dense FLOPs; a member of 50.4 % is called half too.
HALF = 0.505


@dataclass(frozen=True)
class Tile:
    """One number with what it is, a second line, and its origin."""

    label: str
    value: str
    detail: str
    origin: str


def half_member(target: Target) -> Point | None:
    """The largest member with at most half of the dense FLOPs, else the one nearest to half.

    It is found by its counted costs alone, so that no evaluation example chooses what the headline shows.
    """
    known = [(f, p) for p in target.front if (f := flops_fraction(p, target.dense)) is not None]
    if not known:
        return None
    below = [entry for entry in known if entry[0] <= HALF]
    return max(below, key=lambda e: e[0])[1] if below else min(known, key=lambda e: abs(e[0] - 0.5))[1]


def half_rule(target: Target) -> str:
    """How the headline's member was chosen, in words."""
    member = half_member(target)
    share = None if member is None else flops_fraction(member, target.dense)
    rule = "nearest to half of the dense model’s FLOPs (none has less)"
    if share is not None and share <= HALF:
        rule = "the largest one with at most half of the dense model’s FLOPs"
    return f"Quality and costs are those of one member, {rule}; no evaluation example takes part in that choice."


def flops_fraction(point: Point, dense: Point) -> float | None:
    """A point's FLOPs over the dense model's, where both were counted."""
    if "flops_fraction" in point.counts:
        return point.counts["flops_fraction"]
    flops, whole = point.counts.get("flops"), dense.counts.get("flops")
    return flops / whole if flops is not None and whole else None


def headline(run: Run) -> list[str]:
    """What the run found, as sentences."""
    target, dense = run.target, run.target.dense
    member = half_member(target)
    if member is None:
        return ["This run wrote no front of smaller models, so there is nothing to set against the dense model yet."]
    count = len(target.front)
    shares = [
        f"{percent(value / whole, 0)} of the {METRIC_LABELS[metric].lower()}"
        for metric in ("latency_ms", "energy_j", "peak_power_w")
        if (value := getattr(member.cost, metric)) is not None and (whole := getattr(dense.cost, metric))
    ]
    n = f" on {run.n_validation} {'synthetic ' if run.is_synthetic else ''}examples" if run.n_validation else ""
    sentences = [
        f"One fine-tuning run gave {count} {'model' if count == 1 else 'models of different size'}. "
        f"The one with {percent(flops_fraction(member, dense), 0)} of the dense model’s computation reaches "
        f"{quality_text(member.quality, run.quality_metric)} {metric_name(run.quality_metric)}{n}, "
        f"the dense model {quality_text(dense.quality, run.quality_metric)}; "
        f"on {target.device} the smaller model takes {listed(shares)}."
        if shares
        else f"One fine-tuning run gave {count} models; none of them was run on {target.device}."
    ]
    calls = target.measurements
    if {"training", "calibration"} <= set(calls):
        sentences.append(
            f"Training took {_number(calls['training'])} on {target.device or 'the device'}; "
            f"calibration took {_number(calls['calibration'])}."
        )
    return sentences


def _number(count: int) -> str:
    return {0: "no measurement", 1: "one", 5: "five"}.get(count, str(count))


def tiles(run: Run) -> list[Tile]:
    """Quality and costs of the headline's member, our volume beside the strongest fair rival, and device calls."""
    target, dense, member = run.target, run.target.dense, half_member(run.target)
    shown: list[Tile] = []
    if member is not None:
        metric = metric_title(run.quality_metric)
        gap = f", {100 * (member.quality - dense.quality):+.1f} points".replace("-", "−")
        told = f"dense {quality_text(dense.quality, run.quality_metric)}" + (
            gap if is_share(run.quality_metric) else ""
        )
        shown.append(Tile(metric, quality_text(member.quality, run.quality_metric), told, "evaluated"))
        for name, unit in units_for(target.points).items():
            value, whole = getattr(member.cost, name), getattr(dense.cost, name)
            if value is not None and whole:
                detail = f"{unit.text(value)} of {unit.text(whole)} {unit.symbol}"
                origin = " / ".join(origins_of([member, dense], name))
                shown.append(Tile(unit.label, f"× {value / whole:.2f}", detail, origin))
    rival = _fair_rival(run.baselines)
    if rival is not None and rival.ratio is not None and rival.ratio.ratio is not None:
        origins = dict.fromkeys(o for m in METRIC_LABELS for o in origins_of(target.points, m))
        detail = f"over {rival.label}, {rival.setting}: {verdict(rival.ratio)}"
        shown.append(Tile("Useful volume", f"× {rival.ratio.ratio:.2f}", detail, " / ".join(origins)))
    calls = target.measurements
    if {"training", "calibration"} <= set(calls):
        most = max(run.baselines, key=lambda b: b.target_measurements or 0, default=None)
        other = f"; {most.label} {most.target_measurements}" if most and most.target_measurements else ""
        spent = calls["training"] + calls["calibration"]
        shown.append(
            Tile("Measurements", str(spent), f"on the target, {calls['training']} while training{other}", "recorded")
        )
    return shown


def _fair_rival(baselines: Sequence[Method]) -> Method | None:
    """Of the rivals in equal treatment the one with the largest useful volume."""
    fair = [b for b in baselines if b.setting == "equal treatment" and b.ratio is not None]
    return max(fair, key=lambda b: b.hypervolume.get("useful") or 0.0, default=None)


def warnings(run: Run) -> list[tuple[str, str]]:
    """Pairs of title and sentence that stand above everything else."""
    found: list[tuple[str, str]] = []
    if run.is_synthetic:
        found.append(
            (
                "Synthetic data",
                f"The task’s examples are generated: {run.task_source or 'source not noted'}. "
                "Every quality on this page is about generated text; it says nothing about real text.",
            )
        )
    estimated: list[str] = []
    for target in (run.target, *run.retargets):
        for origin, source in (("simulated", "a device simulator"), ("modelled", "a power model")):
            names = [
                label.lower() for metric, label in METRIC_LABELS.items() if origin in origins_of(target.points, metric)
            ]
            if names:
                estimated.append(f"{listed(names)} on {target.device} {'come' if names[1:] else 'comes'} from {source}")
    if estimated:
        told = "; ".join(estimated)
        found.append(("Not everything was measured", f"{told[0].upper()}{told[1:]}."))
    return found
