"""Runs beside each other: per backbone, task and device, what each method reached over its seeds.

run folders -> entries -> cells -> methods (mean, spread, interval) and pairs (ratio, tests)
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metas_peft import pareto
from metas_peft.conf.methods import OURS
from metas_peft.core.cost import METRICS
from metas_peft.core.errors import CheckpointError
from metas_peft.report.collect import Point
from metas_peft.report.compare_entries import Cell, Entry, find_runs, read_entries
from metas_peft.report.compare_statistics import (
    Bootstrap,
    Interval,
    Paired,
    as_json,
    mean_and_spread,
    paired,
    volumes,
    yardsticks,
)
from metas_peft.report.words import origins_of

SCHEMA_VERSION = 2  # 1 tested the difference between members that the same examples had chosen
DRAWS = 1000
SAME_BUDGET, SAME_MACHINE = 1.05, 1.1
FEW_SEEDS = 5
# What a member was chosen by. Runs keep no held-out quality of rivals' members by which all could be chosen alike.
BY_EVALUATION, BY_COST = "evaluation examples", "cost"


@dataclass(frozen=True)
class Spread:
    """Mean over seeds, and standard deviation between them; None where unknown, or of one seed."""

    mean: float | None
    sd: float | None = None

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Spread":
        """Of one value per seed."""
        return cls(*mean_and_spread(list(values)))


@dataclass(frozen=True)
class Chosen:
    """One member per seed, by a rule.

    Attributes:
        n: How many seeds have such a member.
        chosen_on: What the rule looks at. Qualities on the examples that chose flatter the member, and bear no test.
        figures: Mean and spread of its figures.
    """

    n: int
    chosen_on: str
    figures: Mapping[str, Spread]


@dataclass(frozen=True)
class MethodSummary:
    """What a method reached in a cell.

    Attributes:
        name: Method and variant.
        entries: One per seed, by seed.
        volumes: The three hyper-volumes.
        interval: Of the mean useful volume, over seeds and examples.
        best: The member of the best quality.
        useful: The cheapest member within five points of dense.
        cheapest: The member of the least energy, whatever its quality.
        measurements: On the target before evaluation, per seed; None where they differ or are not known.
        training: On the target while training, per seed.
        error: Of the surrogate by metric (percent).
        seconds: Of tuning.
        model_bytes: Size of the cheapest useful member.
    """

    name: str
    entries: tuple[Entry, ...]
    volumes: Mapping[str, Spread]
    interval: Interval
    best: Chosen
    useful: Chosen
    cheapest: Chosen
    measurements: int | None
    training: int | None
    error: Mapping[str, Spread]
    seconds: Spread

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the entries."""
        return tuple(e.seed for e in self.entries)


@dataclass(frozen=True)
class PairSummary:
    """A method beside another one, on the seeds that both have.

    Attributes:
        ours: Name of the first.
        theirs: Name of the second.
        ratio: Mean useful volume of the first over that of the second.
        volume: Tests of the difference between useful volumes.
        quality: Mean difference between the cheapest useful members' qualities, which chose them; None where a seed has
            none.
    """

    ours: str
    theirs: str
    ratio: Interval
    volume: Paired | None
    quality: float | None


@dataclass(frozen=True)
class CellSummary:
    """All methods of a cell."""

    cell: Cell
    dense: Mapping[str, Spread]
    methods: tuple[MethodSummary, ...]
    pairs: tuple[PairSummary, ...]
    origins: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...] = field(default=())


def compare(folders: Sequence[Path], *, draws: int = DRAWS, seed: int = 0) -> list[CellSummary]:
    """Compare finished runs.

    Args:
        folders: Folders of runs, or folders that hold them.
        draws: Draws of the bootstrap.
        seed: Seed of the draws.

    Returns:
        One summary per backbone, task, device and workload.

    Raises:
        CheckpointError: A folder holds no finished run, or one cannot be read.
    """
    entries = read_entries(find_runs(folders))
    cells = sorted({e.cell for e in entries})
    return [_cell(cell, [e for e in entries if e.cell == cell], draws, seed) for cell in cells]


def _cell(cell: Cell, entries: Sequence[Entry], draws: int, seed: int) -> CellSummary:
    kept, notes = _once(entries)
    methods = sorted(dict.fromkeys(e.name for e in kept), key=lambda name: (not name.startswith(OURS), name))
    groups = {name: sorted((e for e in kept if e.name == name), key=lambda e: e.seed) for name in methods}
    bootstrap = Bootstrap(kept, draws=draws, seed=seed)
    known = yardsticks(kept)
    summaries = tuple(_method(name, group, known, bootstrap) for name, group in groups.items())
    pairs = tuple(_pair(summaries[0], other, known, bootstrap) for other in summaries[1:])
    if draws and any(not bootstrap.is_possible(group) for group in groups.values()):
        notes.append(
            f"Some runs have no answers to every example, or {cell.quality_metric} cannot be drawn again; their "
            "volumes have no interval."
        )
    notes += _doubts(kept, summaries)
    points = [p for e in kept for p in (*e.points, e.dense)]
    dense = {"quality": Spread.of(y.dense_quality for y in known.values())} | {
        m: Spread.of(float(y.dense_cost[i]) for y in known.values()) for i, m in enumerate(METRICS)
    }
    return CellSummary(cell, dense, summaries, pairs, {m: origins_of(points, m) for m in METRICS}, tuple(notes))


def _once(entries: Sequence[Entry]) -> tuple[list[Entry], list[str]]:
    """One entry per method and seed: a run of its own goes before a baseline within another run."""
    chosen: dict[tuple[str, int], Entry] = {}
    notes: list[str] = []
    for entry in sorted(entries, key=lambda e: not e.is_main):
        key = (entry.name, entry.seed)
        if key not in chosen:
            chosen[key] = entry
        else:
            left, taken = (e.run_id if e.is_main else f"the baseline in {e.run_id}" for e in (entry, chosen[key]))
            notes.append(f"{entry.name}, seed {entry.seed}: {left} is left out, {taken} is taken.")
    return list(chosen.values()), notes


def _doubts(entries: Sequence[Entry], summaries: Sequence[MethodSummary]) -> list[str]:
    """What readers of the table must know."""
    found = []
    least = min(len(s.entries) for s in summaries)
    if least < FEW_SEEDS:
        seeds = "1 seed" if least == 1 else f"{least} seeds"
        found.append(f"The method with the fewest has {seeds}: a spread over so few is a rough guess.")
    for seed in sorted({e.seed for e in entries}):
        dense = {round(e.dense.quality, 6) for e in entries if e.seed == seed}
        if len(dense) > 1:
            found.append(
                f"Seed {seed}: the runs' dense models differ (quality {min(dense):.4f} to {max(dense):.4f}); all are "
                "measured against their mean."
            )
        times = [t for e in entries if e.seed == seed and (t := e.dense.cost.latency_ms) is not None]
        if times and max(times) > SAME_MACHINE * min(times):
            found.append(
                f"Seed {seed}: the runs' dense models take {min(times):.3g} to {max(times):.3g} ms, as on different "
                "computers; all are measured against their mean, which is of neither."
            )
    named = {frozenset(e.limits) for e in entries}
    shared = frozenset.intersection(*named)
    spans = [[e.limits[m] for e in entries] for m in shared]
    # Relative budgets are fractions of each run's own measurement of the dense model.
    if len(named) > 1 or any(max(span) > SAME_BUDGET * min(span) for span in spans):
        found.append("The runs have different budgets; their volumes within budgets do not compare.")
    return found


def _method(
    name: str, entries: Sequence[Entry], known: Mapping[int, pareto.Yardstick], bootstrap: Bootstrap
) -> MethodSummary:
    of = [volumes(e, known.get(e.seed)) for e in entries]
    counted = {e.measurements for e in entries}
    training = {e.training for e in entries}
    return MethodSummary(
        name=name,
        entries=tuple(entries),
        volumes={kind: Spread.of(v[kind] for v in of) for kind in pareto.VOLUMES},
        interval=bootstrap.mean_volume(entries),
        best=_chosen(entries, BY_EVALUATION, lambda e: max(e.points, key=lambda p: p.quality, default=None)),
        useful=_chosen(entries, BY_EVALUATION, lambda e: _cheapest_useful(e, known.get(e.seed))),
        cheapest=_chosen(entries, BY_COST, _least_energy),
        measurements=counted.pop() if len(counted) == 1 else None,
        training=training.pop() if len(training) == 1 else None,
        error={m: Spread.of(e.error.get(m) for e in entries) for m in METRICS},
        seconds=Spread.of(e.seconds for e in entries),
    )


def _cheapest_useful(entry: Entry, yardstick: pareto.Yardstick | None) -> Point | None:
    """The member with the least mean share of dense costs whose quality is within five points of dense."""
    costs = entry.costs()
    if yardstick is None or costs is None:
        return None
    shares = (costs / yardstick.dense_cost).mean(axis=1)
    good = [i for i, p in enumerate(entry.points) if p.quality >= yardstick.floor("useful")]
    return entry.points[min(good, key=lambda i: shares[i])] if good else None


def _least_energy(entry: Entry) -> Point | None:
    known = [(p.cost.energy_j, i) for i, p in enumerate(entry.points) if p.cost.energy_j is not None]
    return entry.points[min(known)[1]] if known else None


def _chosen(entries: Sequence[Entry], chosen_on: str, rule: Callable[[Entry], Point | None]) -> Chosen:
    points = [p for e in entries if (p := rule(e)) is not None]
    figures = {"quality": Spread.of(p.quality for p in points)}
    figures["accuracy"] = Spread.of(p.scores.get("accuracy") for p in points)
    figures |= {m: Spread.of(getattr(p.cost, m) for p in points) for m in METRICS}
    figures |= {n: Spread.of(p.counts.get(n) for p in points) for n in ("flops_fraction", "model_bytes")}
    return Chosen(len(points), chosen_on, figures)


def _pair(
    ours: MethodSummary, theirs: MethodSummary, known: Mapping[int, pareto.Yardstick], bootstrap: Bootstrap
) -> PairSummary:
    mine, other = {e.seed: e for e in ours.entries}, {e.seed: e for e in theirs.entries}
    seeds = sorted(mine.keys() & other.keys())
    ratio = bootstrap.ratio([mine[s] for s in seeds], [other[s] for s in seeds])
    volume = [(volumes(mine[s], known.get(s))["useful"], volumes(other[s], known.get(s))["useful"]) for s in seeds]
    points = [(_cheapest_useful(mine[s], known.get(s)), _cheapest_useful(other[s], known.get(s))) for s in seeds]
    of_volumes = _differences(volume)
    of_qualities = _differences([(a and a.quality, b and b.quality) for a, b in points])
    return PairSummary(
        ours.name,
        theirs.name,
        ratio,
        volume=None if of_volumes is None else paired(of_volumes),
        quality=None if of_qualities is None else sum(of_qualities) / len(of_qualities),
    )


def _differences(pairs: Sequence[tuple[float | None, float | None]]) -> list[float] | None:
    """First less second of each pair; None where there are no pairs, or one is not whole."""
    found = [a - b for a, b in pairs if a is not None and b is not None]
    return found if pairs and len(found) == len(pairs) else None


def as_plain(cells: Sequence[CellSummary]) -> dict[str, Any]:
    """The comparison as JSON."""
    if not cells:
        raise CheckpointError("There is nothing to compare.")
    return {"schema_version": SCHEMA_VERSION, "cells": [_plain_cell(c) for c in cells]}


def _plain_cell(summary: CellSummary) -> dict[str, Any]:
    def chosen(value: Chosen) -> dict[str, Any]:
        return {
            "n": value.n,
            "chosen_on": value.chosen_on,
            **{name: dataclasses.asdict(s) for name, s in value.figures.items()},
        }

    return {
        **dataclasses.asdict(summary.cell),
        "origin": {m: list(o) for m, o in summary.origins.items()},
        "dense": {name: dataclasses.asdict(s) for name, s in summary.dense.items()},
        "methods": [
            {
                "method": m.name,
                "seeds": list(m.seeds),
                "runs": [e.run_id for e in m.entries],
                "measurements": m.measurements,
                "measurements_training": m.training,
                "hypervolume": {kind: dataclasses.asdict(s) for kind, s in m.volumes.items()},
                "hypervolume_interval": dict(as_json(m.interval)),
                "best": chosen(m.best),
                "cheapest_useful": chosen(m.useful),
                "least_energy": chosen(m.cheapest),
                "surrogate_error": {metric: dataclasses.asdict(s) for metric, s in m.error.items()},
                "seconds": dataclasses.asdict(m.seconds),
                "front": [
                    {"seed": e.seed, "name": p.name, "quality": p.quality, **p.cost.as_dict()}
                    for e in m.entries
                    for p in e.points
                ],
            }
            for m in summary.methods
        ],
        "pairs": [
            {
                "ours": p.ours,
                "theirs": p.theirs,
                "ratio": dict(as_json(p.ratio)),
                "volume_test": p.volume and dataclasses.asdict(p.volume),
                "quality_difference": p.quality,
            }
            for p in summary.pairs
        ],
        "notes": list(summary.notes),
    }
