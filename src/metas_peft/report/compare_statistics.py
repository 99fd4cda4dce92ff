"""Volumes on a common yardstick, their bootstrap over seeds and examples, and paired tests.

Every entry of a cell and seed is measured against one dense model: the mean of the runs' own ones. The bootstrap
draws seeds, and for each draw one set of examples that all methods and the dense models answer, so that the floor
moves with them. Methods with equally many seeds take the same ones. The generators are seeded; the same runs give the
same intervals.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from metas_peft import pareto
from metas_peft.conf import METHODS
from metas_peft.report.compare_entries import Answers, Entry
from metas_peft.tasks.metrics import MEANS, accuracy, matthews

LEVEL = 0.95
# Headline metrics that can be computed from a confusion of weighted examples; in [0, 1].
_SCORES = {"accuracy": accuracy, "matthews_correlation": lambda counts: max(0.0, matthews(counts))}
# Headline metrics that a bootstrap over examples can compute.
REDRAWN = tuple(dict.fromkeys((*_SCORES, *MEANS)))
MOST_SIGNS = 12
_FULL = METHODS["baseline"].label


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its interval; None where there is none, or where an end is unbounded."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Paired:
    """Tests of a difference over seeds: mean, and p-values of the t-test and of all sign changes (two-sided)."""

    n: int
    mean: float
    t_test: float | None
    sign_flips: float | None


def yardsticks(entries: Sequence[Entry]) -> dict[int, pareto.Yardstick]:
    """Seed -> the mean dense model of its runs; seeds whose dense costs are not known are left out."""
    found: dict[int, pareto.Yardstick] = {}
    for seed in sorted({e.seed for e in entries}):
        runs = list(_runs(entries, seed).values())
        costs = [c for e in runs if (c := e.dense_cost()) is not None]
        if len(costs) == len(runs):
            quality = float(np.mean([e.dense.quality for e in runs]))
            found[seed] = pareto.Yardstick(quality, np.mean(costs, axis=0), runs[0].chance)
    return found


def _runs(entries: Sequence[Entry], seed: int) -> dict[str, Entry]:
    """The own entry of each run of a seed, which has its dense model.

    The reference is tuned by adapters: fully fine-tuned models count only where there are no others.
    """
    own = [e for e in entries if e.seed == seed and e.is_main]
    return {e.run_id: e for e in [e for e in own if e.method != _FULL] or own}


def volumes(entry: Entry, yardstick: pareto.Yardstick | None) -> dict[str, float | None]:
    """The three volumes of an entry on a common yardstick."""
    costs = entry.costs()
    if yardstick is None or costs is None:
        return dict.fromkeys(pareto.VOLUMES)
    quality = np.array([p.quality for p in entry.points])
    return pareto.front_volumes(quality, costs, yardstick, entry.limits)


def quality_of(answers: np.ndarray, labels: np.ndarray, weight: np.ndarray, metric: str) -> np.ndarray:
    """Headline metric of each row of answers on weighted examples.

    Args:
        answers: Predicted classes, or marks of answers in [0, 1], (M, E).
        labels: True classes, (E,); not looked at where there are marks.
        weight: Weight of each example, (E,).
        metric: One of the known headline metrics.
    """
    if metric == "accuracy":
        return (answers == labels[None]) @ weight / weight.sum()
    if metric in MEANS:
        return answers @ weight / weight.sum()
    size = int(max(answers.max(), labels.max())) + 1
    pairs = labels[None] * size + answers
    score = _SCORES[metric]
    return np.array(
        [score(np.bincount(row, weights=weight, minlength=size * size).reshape(size, size)) for row in pairs]
    )


class Bootstrap:
    """Draws of seeds and examples, the same for every method of a cell.

    Args:
        entries: Entries of one cell.
        draws: Number of draws.
        seed: Seed of the draws.
    """

    def __init__(self, entries: Sequence[Entry], *, draws: int, seed: int) -> None:
        self._entries, self._draws, self._seed = entries, draws, seed
        self._metric = entries[0].cell.quality_metric
        self._yardsticks = yardsticks(entries)

    def is_possible(self, entries: Sequence[Entry]) -> bool:
        """Whether all answers are there, to the same examples."""
        if not self._draws or self._metric not in REDRAWN:
            return False
        if any(e.seed not in self._yardsticks or e.costs() is None for e in entries):
            return False
        involved = [*entries, *(e for s in {e.seed for e in entries} for e in _runs(self._entries, s).values())]
        known = [e.answers for e in involved]
        return all(a is not None and np.array_equal(a.labels, _labels(known)) for a in known)

    def mean_volume(self, entries: Sequence[Entry]) -> Interval:
        """Mean useful volume over seeds, with its interval."""
        exact = [volumes(e, self._yardsticks.get(e.seed))["useful"] for e in entries]
        if any(v is None for v in exact):
            return Interval(None)
        value = float(np.mean([v for v in exact if v is not None]))
        if not self.is_possible(entries):
            return Interval(value)
        found = np.array([self._mean(entries, seeds, weight) for seeds, weight in self.drawn(entries)])
        low, high = np.quantile(found, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
        return Interval(value, float(low), float(high))

    def ratio(self, ours: Sequence[Entry], theirs: Sequence[Entry]) -> Interval:
        """Mean useful volume of ours over theirs, on the seeds that both have.

        Args:
            ours: One entry per seed.
            theirs: The same seeds, in the same order.
        """
        mine = [volumes(e, self._yardsticks.get(e.seed))["useful"] for e in ours]
        other = [volumes(e, self._yardsticks.get(e.seed))["useful"] for e in theirs]
        if not ours or any(v is None for v in (*mine, *other)):
            return Interval(None)
        exact = _ratio(sum(v or 0.0 for v in mine), sum(v or 0.0 for v in other))
        if not self.is_possible([*ours, *theirs]):
            return Interval(_or_none(exact))
        found = [
            _ratio(self._mean(ours, seeds, weight), self._mean(theirs, seeds, weight))
            for seeds, weight in self.drawn(ours)
        ]
        defined = np.array([r for r in found if not math.isnan(r)])
        if not len(defined):
            return Interval(_or_none(exact))
        # Order statistics, not interpolation: a draw may be infinite.
        low, high = np.quantile(defined, ((1 - LEVEL) / 2, (1 + LEVEL) / 2), method="inverted_cdf")
        return Interval(_or_none(exact), _or_none(float(low)), _or_none(float(high)))

    def drawn(self, entries: Sequence[Entry]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Indices of entries (N,) and weights of examples (E,) of every draw.

        Args:
            entries: One per seed, with answers.
        """
        n, answers = len(entries), entries[0].answers
        assert answers is not None
        examples = len(answers.labels)
        # Two generators: how many seeds a method has must not change which examples a draw takes.
        which, weights = np.random.default_rng(self._seed).spawn(2)
        even = np.full(examples, 1.0 / examples)
        return [
            (which.integers(n, size=n), weights.multinomial(examples, even).astype(np.float64))
            for _ in range(self._draws)
        ]

    def _mean(self, entries: Sequence[Entry], seeds: np.ndarray, weight: np.ndarray) -> float:
        once = {int(i): self._volume(entries[int(i)], weight) for i in set(seeds.tolist())}
        return float(np.mean([once[int(i)] for i in seeds]))

    def _volume(self, entry: Entry, weight: np.ndarray) -> float:
        answers, costs = entry.answers, entry.costs()
        assert answers is not None
        assert costs is not None
        runs = _runs(self._entries, entry.seed).values()
        dense = [
            quality_of(e.answers.dense[None], e.answers.labels, weight, self._metric)[0] for e in runs if e.answers
        ]
        exact = self._yardsticks[entry.seed]
        yardstick = pareto.Yardstick(float(np.mean(dense)), exact.dense_cost, exact.chance_quality)
        quality = quality_of(answers.front, answers.labels, weight, self._metric)
        return pareto.volume(quality, costs, yardstick)


def _labels(known: Sequence[Answers | None]) -> np.ndarray:
    return next((a.labels for a in known if a is not None), np.zeros(0))


def paired(differences: Sequence[float]) -> Paired:
    """Tests of differences between two methods on the same seeds.

    Args:
        differences: Ours less theirs, one per seed.
    """
    n, mean = len(differences), float(np.mean(differences))
    if n < 2:
        return Paired(n, mean, None, None)
    spread = float(np.std(differences, ddof=1))
    # Without spread the statistic is infinite (or nothing differs), and there is no distribution to speak of.
    if spread <= 1e-12 * max(1.0, abs(mean)):
        return Paired(n, mean, None, _sign_flips(differences))
    t = abs(mean) / (spread / math.sqrt(n))
    return Paired(n, mean, float(2 * special.stdtr(n - 1, -t)), _sign_flips(differences))


def _sign_flips(differences: Sequence[float]) -> float:
    """Share of sign changes that give a mean at least as far from 0: exact up to twelve seeds, else drawn."""
    values = np.asarray(differences)
    if len(values) <= MOST_SIGNS:
        signs = np.array(list(itertools.product((1, -1), repeat=len(values))))
    else:
        signs = np.random.default_rng(0).choice((1, -1), size=(20000, len(values)))
    means = np.abs((signs * values).mean(axis=1))
    return float((means >= abs(values.mean()) - 1e-12).mean())


def mean_and_spread(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean, and standard deviation between seeds (n - 1); None where nothing, or one seed, is known."""
    known = [v for v in values if v is not None]
    if not known:
        return None, None
    return float(np.mean(known)), float(np.std(known, ddof=1)) if len(known) > 1 else None


def as_json(interval: Interval) -> Mapping[str, float | None]:
    """An interval as plain values."""
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def _ratio(numerator: float, denominator: float) -> float:
    if denominator > 0:
        return numerator / denominator
    return math.inf if numerator > 0 else math.nan


def _or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
