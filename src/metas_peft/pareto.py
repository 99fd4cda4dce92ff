"""Dominance, normalisation and hyper-volume of (quality, energy, latency, peak power).

This module alone turns the four objectives into one sense: after `normalise` each lies in [0, 1] and higher is
better. A cost runs from the reference (0), which is the dense static-LoRA model on that device x 1.1, to nothing
at all (1); quality runs from a floor (0) to 1 (1). The volume is that of the union of the boxes between the origin
and the points, so it lies in [0, 1] too. Three floors, three volumes:

    useful    floor = dense quality - 0.05, the headline
    chance    floor = the quality of guessing
    budgets   floor as in useful, and only points inside every given budget count

Arrays have the letters `N` points, `K` objectives, `E` evaluation examples. NaN and infinity are refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import moocore  # pyright: ignore[reportMissingTypeStubs] -- ships none
import numpy as np

from metas_peft.core.cost import METRICS
from metas_peft.core.errors import InvalidRecordError, UsageError, nearest

REFERENCE_MARGIN = 1.1
USEFUL_MARGIN = 0.05
VOLUMES = ("useful", "chance", "budgets")


@dataclass(frozen=True)
class Yardstick:
    """What the axes are measured against, on one device.

    Attributes:
        dense_quality: Quality of the ungated static-LoRA model.
        dense_cost: Its energy (J), latency (ms) and peak power (W) on the device, shape (3,).
        chance_quality: Quality of guessing.
    """

    dense_quality: float
    dense_cost: np.ndarray
    chance_quality: float

    @property
    def reference(self) -> np.ndarray:
        """Costs from which on a point contributes nothing, shape (3,)."""
        return REFERENCE_MARGIN * np.asarray(self.dense_cost, dtype=np.float64)

    def floor(self, volume: str) -> float:
        """Quality at which the axis of `useful`, `chance` or `budgets` begins."""
        if volume not in VOLUMES:
            raise UsageError(f"Unknown volume {volume!r}: {nearest(volume, VOLUMES)}")
        return self.chance_quality if volume == "chance" else self.dense_quality - USEFUL_MARGIN


def non_dominated(points: np.ndarray) -> np.ndarray:
    """Which points no other point matches or beats everywhere.

    Args:
        points: Objectives, higher is better, shape (N, K).

    Returns:
        Mask (N,); of equal points the first stays.

    Raises:
        InvalidRecordError: A value is not finite.
    """
    points = _finite(points, "objective")
    if not len(points):
        return np.zeros(0, dtype=bool)
    return np.asarray(moocore.is_nondominated(points, maximise=True), dtype=bool)


def normalise(quality: np.ndarray, cost: np.ndarray, reference: np.ndarray, quality_floor: float) -> np.ndarray:
    """Four objectives in [0, 1], all higher is better.

    A value beyond its reference or below the floor becomes 0, and a point with a 0 has no volume.

    Args:
        quality: Fractions in [0, 1], shape (N,). (A correlation may be negative; it counts as below the floor.)
        cost: Energy (J), latency (ms), peak power (W), not negative, shape (N, 3).
        reference: Costs that map to 0, positive, shape (3,).
        quality_floor: Quality that maps to 0; below 1.

    Returns:
        (quality, energy, latency, peak power), shape (N, 4).

    Raises:
        InvalidRecordError: NaN, infinity, a negative cost, a quality above 1, or an axis without length.
    """
    quality = _finite(quality, "quality").reshape(-1)
    cost = _finite(cost, "cost").reshape(-1, len(METRICS))
    reference = _finite(reference, "reference cost").reshape(-1)
    if len(reference) != len(METRICS) or np.any(reference <= 0):
        raise InvalidRecordError(f"Reference costs {reference.tolist()} are not three positive numbers (J, ms, W).")
    if np.any(cost < 0) or np.any(quality > 1 + 1e-9):
        raise InvalidRecordError("A cost is negative or a quality above 1; costs are J, ms and W, quality a fraction.")
    if not quality_floor < 1:
        raise InvalidRecordError(f"The quality axis runs from {quality_floor} to 1 and so has no length.")
    gain = (quality - quality_floor) / (1.0 - quality_floor)
    return np.clip(np.column_stack([gain, 1.0 - cost / reference]), 0.0, 1.0)


def hypervolume(points: np.ndarray, reference: float | np.ndarray = 0.0) -> float:
    """Exact volume between a reference and a set of points.

    Args:
        points: Objectives, higher is better, shape (N, K). Points that do not exceed the reference in every
            objective contribute nothing.
        reference: Corner at which the volume begins, a scalar or shape (K,).

    Returns:
        The volume; 0 for no points. moocore's HV4D+ takes quadratic time in N at K = 4.

    Raises:
        InvalidRecordError: A value is not finite.
    """
    gains = _finite(points, "objective") - reference
    gains = gains[(gains > 0).all(axis=1)] if len(gains) else gains
    return float(moocore.hypervolume(gains, ref=0.0, maximise=True)) if len(gains) else 0.0


def volume(
    quality: np.ndarray,
    cost: np.ndarray,
    yardstick: Yardstick,
    kind: str = "useful",
    budgets: Mapping[str, float] | None = None,
) -> float:
    """One normalised volume of a front, in [0, 1].

    Args:
        quality: Shape (N,).
        cost: Energy (J), latency (ms), peak power (W), shape (N, 3).
        yardstick: Dense model and chance level on the same device.
        kind: One of `VOLUMES`.
        budgets: Upper limits by metric name (`energy_j`, `latency_ms`, `peak_power_w`); used by `budgets` only.
    """
    points = normalise(quality, cost, yardstick.reference, yardstick.floor(kind))
    if kind == "budgets":
        points = points[inside_budgets(cost, budgets or {})]
    return hypervolume(points)


def inside_budgets(cost: np.ndarray, budgets: Mapping[str, float]) -> np.ndarray:
    """Which points meet every given budget (a budget is met at equality), shape (N,)."""
    for name in budgets:
        if name not in METRICS:
            raise UsageError(f"Unknown budget {name!r}: {nearest(name, METRICS)}")
    limits = np.array([budgets.get(metric, np.inf) for metric in METRICS])
    return np.all(np.asarray(cost, dtype=np.float64).reshape(-1, len(METRICS)) <= limits, axis=1)


def front_volumes(
    quality: np.ndarray, cost: np.ndarray, yardstick: Yardstick, budgets: Mapping[str, float] | None = None
) -> dict[str, float | None]:
    """All three volumes of a front; `budgets` is None when no budget was given.

    Args:
        quality: Shape (N,).
        cost: Energy (J), latency (ms), peak power (W), shape (N, 3).
        yardstick: Dense model and chance level on the same device.
        budgets: Upper limits by metric name, any subset of the three.
    """
    return {
        kind: None if kind == "budgets" and not budgets else volume(quality, cost, yardstick, kind, budgets)
        for kind in VOLUMES
    }


@dataclass(frozen=True)
class Evaluated:
    """A method's operating points on the evaluation examples, for one seed.

    Attributes:
        correct: 1 where a point's answer is right, or its mark in [0, 1], shape (N, E); its mean over E is the quality.
        cost: Energy (J), latency (ms), peak power (W), shape (N, 3).
        dense_correct: The same for the dense model, which sets the floor, shape (E,).
        dense_cost: Shape (3,).
    """

    correct: np.ndarray
    cost: np.ndarray
    dense_correct: np.ndarray
    dense_cost: np.ndarray


@dataclass(frozen=True)
class RatioInterval:
    """Ratio of two methods' volumes with its bootstrap interval.

    Attributes:
        ratio: On all examples and seeds; None when the rival's volume is 0.
        low: Lower end; None when no draw was defined.
        high: Upper end; None when it is unbounded (the rival's volume is 0 in too many draws).
        draws: Bootstrap draws made.
        undefined: Draws left out because both volumes were 0.
    """

    ratio: float | None
    low: float | None
    high: float | None
    draws: int
    undefined: int


def bootstrap_ratio(
    ours: Sequence[Evaluated],
    theirs: Sequence[Evaluated],
    *,
    chance_quality: float,
    kind: str = "useful",
    budgets: Mapping[str, float] | None = None,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> RatioInterval:
    """Interval of mean volume of ours / mean volume of theirs, over seeds and evaluation examples.

    A draw takes as many seeds as there are and as many examples as there are, both with replacement and both
    *paired*: the same seeds and the same examples for the two methods and for the dense model, so that the floor
    moves with them. Volumes are averaged over the drawn seeds before the ratio is formed. Costs are not
    resampled. The generator is `numpy.random.default_rng(seed)`; the same arguments give the same interval.

    Args:
        ours: One entry per seed; all with the same E.
        theirs: The rival on the same seeds, in the same order, and on the same examples.
        chance_quality: Quality of guessing.
        kind: One of `VOLUMES`.
        budgets: As for `volume`.
        draws: Bootstrap draws.
        level: Coverage; the interval runs between the equal tails.
        seed: Seed of the draws.

    Raises:
        InvalidRecordError: The numbers of seeds or examples differ.
    """
    lengths = {len(run.dense_correct) for run in (*ours, *theirs)} | {run.correct.shape[1] for run in (*ours, *theirs)}
    if not ours or len(ours) != len(theirs) or len(lengths) != 1:
        raise InvalidRecordError(
            f"A paired bootstrap needs the same seeds and examples on both sides; seen {len(ours)} and {len(theirs)} "
            f"seeds with {sorted(lengths)} examples."
        )
    examples = lengths.pop()

    def mean_volume(runs: Sequence[Evaluated], seeds: np.ndarray, weight: np.ndarray) -> float:
        total = 0.0
        for index in map(int, seeds):
            run = runs[index]
            yardstick = Yardstick(float(run.dense_correct @ weight), run.dense_cost, chance_quality)
            total += volume(run.correct @ weight, run.cost, yardstick, kind, budgets)
        return total / len(seeds)

    every = np.arange(len(ours))
    even = np.full(examples, 1.0 / examples)
    rng = np.random.default_rng(seed)
    ratios: list[float] = []
    for _ in range(draws):
        seeds = rng.integers(len(ours), size=len(ours))
        weight = rng.multinomial(examples, even) / examples
        ratios.append(_ratio(mean_volume(ours, seeds, weight), mean_volume(theirs, seeds, weight)))
    defined = np.array([r for r in ratios if not np.isnan(r)])
    tails = ((1 - level) / 2, (1 + level) / 2)
    # Order statistics, not interpolation: a draw may be infinite.
    low, high = np.quantile(defined, tails, method="inverted_cdf") if len(defined) else (np.inf, np.inf)
    return RatioInterval(
        ratio=_or_none(_ratio(mean_volume(ours, every, even), mean_volume(theirs, every, even))),
        low=_or_none(low),
        high=_or_none(high),
        draws=draws,
        undefined=draws - len(defined),
    )


def _ratio(numerator: float, denominator: float) -> float:
    if denominator > 0:
        return numerator / denominator
    return float("inf") if numerator > 0 else float("nan")


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _finite(values: np.ndarray, what: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        bad = np.argwhere(~np.isfinite(array))[0].tolist()
        raise InvalidRecordError(f"A {what} is not finite ({array[tuple(bad)]} at {bad}); leave such a point out.")
    return array
