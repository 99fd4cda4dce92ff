"""Hyper-volumes against inclusion-exclusion, floors, budgets, operating points and bootstrap intervals."""

import itertools
import subprocess
import sys
import time

import numpy as np
import pytest

from metas_peft import pareto
from metas_peft.core.errors import InvalidRecordError, UsageError

DENSE = np.array([2.0, 100.0, 10.0])
YARDSTICK = pareto.Yardstick(dense_quality=0.9, dense_cost=DENSE, chance_quality=0.5)


def inclusion_exclusion(points: np.ndarray) -> float:
    """Volume of the union of boxes [0, p], summed over all subsets."""
    total = 0.0
    for size in range(1, len(points) + 1):
        for subset in itertools.combinations(range(len(points)), size):
            total += (-1) ** (size + 1) * float(np.prod(points[list(subset)].min(axis=0)))
    return total


def grid_sweep(points: np.ndarray) -> float:
    """Volume of the same union, cell by cell on the grid that the points span."""
    axes = [np.unique(np.concatenate([[0.0], points[:, k]])) for k in range(points.shape[1])]
    corners = np.stack(np.meshgrid(*[a[1:] for a in axes], indexing="ij"), axis=-1)
    sizes = np.ones(corners.shape[:-1])
    for k, axis in enumerate(axes):
        sizes *= np.diff(axis).reshape([-1 if j == k else 1 for j in range(len(axes))])
    covered = (points[:, None, None, None, None, :] >= corners).all(axis=-1).any(axis=0)
    return float(sizes[covered].sum())


def test_hypervolume_agrees_with_inclusion_exclusion_on_random_fronts() -> None:
    rng = np.random.default_rng(0)
    for _ in range(150):
        points = rng.random((int(rng.integers(1, 9)), 4))
        if rng.random() < 0.3:  # ties and duplicates are where sweeps go wrong
            points = np.round(points, 1)
        assert pareto.hypervolume(points) == pytest.approx(inclusion_exclusion(points), rel=1e-9, abs=1e-12)


def test_hypervolume_agrees_with_grid_sweep_on_mutually_non_dominated_fronts() -> None:
    rng = np.random.default_rng(1)
    for _ in range(40):
        directions = rng.random((12, 4)) + 0.05
        points = directions / np.linalg.norm(directions, axis=1, keepdims=True)
        assert pareto.non_dominated(points).all()
        assert pareto.hypervolume(points) == pytest.approx(grid_sweep(points), rel=1e-9)


def slices(points: np.ndarray) -> float:
    """Volume of the same union by cutting along the last objective, one dimension less per cut."""
    if points.shape[1] == 1:
        return float(points.max(initial=0.0))
    order = points[np.argsort(-points[:, -1], kind="stable")]
    heights = np.append(order[:, -1], 0.0)
    total = 0.0
    for i in range(len(order)):
        if heights[i] > heights[i + 1]:
            total += (heights[i] - heights[i + 1]) * slices(order[: i + 1, :-1])
    return total


def test_hypervolume_agrees_with_slicing_on_a_thousand_random_fronts() -> None:
    rng = np.random.default_rng(2)
    for _ in range(1000):
        points = rng.random((int(rng.integers(1, 9)), 4))
        assert pareto.hypervolume(points) == pytest.approx(slices(points), rel=1e-9)


def test_hypervolume_of_a_thousand_points_takes_far_less_than_a_second() -> None:
    rng = np.random.default_rng(3)
    directions = np.abs(rng.normal(size=(1000, 4))) + 1e-3
    points = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    assert pareto.non_dominated(points).sum() == 1000
    started = time.perf_counter()
    assert 0 < pareto.hypervolume(points) < 1
    assert time.perf_counter() - started < 1.0


def test_hypervolume_of_known_staircase() -> None:
    assert pareto.hypervolume(np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]])) == pytest.approx(6.0)
    assert pareto.hypervolume(np.array([[4.0, 4.0]]), reference=np.array([1.0, 2.0])) == pytest.approx(6.0)
    assert pareto.hypervolume(np.empty((0, 4))) == 0.0


def test_hypervolume_ignores_points_beyond_the_reference() -> None:
    inside = np.array([[0.5, 0.5, 0.5, 0.5]])
    outside = np.array([[1.0, 1.0, 1.0, -0.1], [1.0, 0.0, 1.0, 1.0]])
    assert pareto.hypervolume(np.vstack([inside, outside])) == pytest.approx(0.0625)


def test_non_dominated_keeps_first_of_equal_points() -> None:
    points = np.array([[1.0, 1.0], [1.0, 1.0], [0.0, 2.0], [0.5, 0.5]])
    assert pareto.non_dominated(points).tolist() == [True, False, True, False]
    assert pareto.non_dominated(np.empty((0, 4))).shape == (0,)


def test_normalise_maps_reference_to_zero_and_nothing_to_one() -> None:
    reference = YARDSTICK.reference
    assert reference.tolist() == pytest.approx([2.2, 110.0, 11.0])
    gains = pareto.normalise(np.array([1.0, 0.85, 0.925]), np.array([[0, 0, 0], reference, DENSE]), reference, 0.85)
    assert gains == pytest.approx(np.array([[1, 1, 1, 1], [0, 0, 0, 0], [0.5, *([1 - 1 / 1.1] * 3)]]))


def test_point_beyond_one_reference_contributes_nothing() -> None:
    quality, cost = np.array([1.0]), np.array([[0.1, 1.0, 11.5]])
    assert pareto.volume(quality, cost, YARDSTICK) == 0.0


@pytest.mark.parametrize(
    ("quality", "cost"),
    [
        ([np.nan], [1.0, 1, 1]),
        ([0.5], [np.nan, 1, 1]),
        ([0.5], [np.inf, 1, 1]),
        ([0.5], [-1.0, 1, 1]),
        ([1.2], [1, 1, 1]),
    ],
)
def test_normalise_refuses_what_is_not_a_cost(quality: list[float], cost: list[float]) -> None:
    with pytest.raises(InvalidRecordError):
        pareto.normalise(np.array(quality), np.array([cost]), YARDSTICK.reference, 0.5)


def test_front_volumes_differ_by_floor_and_budget() -> None:
    quality = np.array([0.9, 0.6])
    cost = np.array([[1.1, 55.0, 5.5], [0.22, 11.0, 1.1]])
    volumes = pareto.front_volumes(quality, cost, YARDSTICK, {"latency_ms": 20.0})
    # Useful: only the first point lies above 0.85, with gains 1/3 and 1/2 three times.
    assert volumes["useful"] == pytest.approx(1 / 3 / 8)
    # Chance: 0.8 x 1/8 and 0.2 x 0.9^3, sharing 0.2 x 1/8.
    assert volumes["chance"] == pytest.approx(0.1 + 0.2 * 0.729 - 0.025)
    # Budgets: the useless point is the only one inside, and it is below the useful floor.
    assert volumes["budgets"] == 0.0
    assert pareto.front_volumes(quality, cost, YARDSTICK)["budgets"] is None


def test_budget_is_met_at_equality_and_unknown_budget_is_named() -> None:
    cost = np.array([[1.0, 20.0, 3.0], [1.0, 20.1, 3.0]])
    assert pareto.inside_budgets(cost, {"latency_ms": 20.0}).tolist() == [True, False]
    with pytest.raises(UsageError, match="latency_ms"):
        pareto.inside_budgets(cost, {"latency": 20.0})


def evaluated(rate: float, fraction: float, seed: int, examples: int = 400) -> pareto.Evaluated:
    rng = np.random.default_rng(seed)
    draw = rng.random(examples)
    return pareto.Evaluated(
        (draw < rate)[None].astype(float), fraction * DENSE[None], (draw < 0.9).astype(float), DENSE
    )


def test_bootstrap_ratio_of_a_method_with_itself_is_exactly_one() -> None:
    runs = [evaluated(0.89, 0.5, s) for s in range(3)]
    interval = pareto.bootstrap_ratio(runs, runs, chance_quality=0.5, draws=50, seed=3)
    assert (interval.ratio, interval.low, interval.high, interval.undefined) == (1.0, 1.0, 1.0, 0)


def test_bootstrap_ratio_is_analytic_when_only_costs_differ() -> None:
    ours, theirs = evaluated(0.89, 0.33, 0), evaluated(0.89, 0.55, 0)
    interval = pareto.bootstrap_ratio([ours], [theirs], chance_quality=0.5, draws=50, seed=3)
    expected = (0.7 / 0.5) ** 3  # the quality side of both boxes is the same in every draw
    assert [interval.ratio, interval.low, interval.high] == pytest.approx([expected] * 3)


def test_bootstrap_interval_covers_the_ratio_and_repeats_with_its_seed() -> None:
    ours, theirs = [evaluated(0.90, 0.5, 1)], [evaluated(0.88, 0.5, 1)]
    first = pareto.bootstrap_ratio(ours, theirs, chance_quality=0.5, draws=200, seed=7)
    assert first == pareto.bootstrap_ratio(ours, theirs, chance_quality=0.5, draws=200, seed=7)
    assert first != pareto.bootstrap_ratio(ours, theirs, chance_quality=0.5, draws=200, seed=8)
    assert first.ratio is not None
    assert first.low is not None
    assert first.high is not None
    assert first.low < first.ratio < first.high


def test_bootstrap_ratio_is_unbounded_when_rival_has_no_volume() -> None:
    ours, theirs = [evaluated(0.9, 0.5, 1)], [evaluated(0.9, 1.5, 1)]
    interval = pareto.bootstrap_ratio(ours, theirs, chance_quality=0.5, draws=20, seed=0)
    assert (interval.ratio, interval.high) == (None, None)


def test_bootstrap_ratio_refuses_unpaired_examples() -> None:
    with pytest.raises(InvalidRecordError, match="same seeds and examples"):
        pareto.bootstrap_ratio(
            [evaluated(0.9, 0.5, 1)], [evaluated(0.9, 0.5, 1, examples=300)], chance_quality=0.5, seed=0
        )


def test_pareto_imports_without_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import metas_peft.pareto"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
