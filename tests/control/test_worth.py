"""The volume of one point against `pareto`, and worth against the change of the volume."""

import numpy as np
import pytest

from metas_peft import pareto
from metas_peft.control.worth import REFERENCE_MARGIN, USEFUL_MARGIN, Point, Stakes, point_of, settle

COSTS = np.array([[0.8, 8.0, 4.0], [0.5, 5.0, 3.5], [0.3, 3.0, 3.0]])
DENSE = np.array([1.0, 10.0, 4.5])
STAKES = Stakes(COSTS, DENSE, 0.9)


def test_margins_are_those_of_the_headline_volume() -> None:
    assert (REFERENCE_MARGIN, USEFUL_MARGIN) == (pareto.REFERENCE_MARGIN, pareto.USEFUL_MARGIN)


@pytest.mark.parametrize("quality", [0.7, 0.86, 0.9, 1.0])
@pytest.mark.parametrize("share", [(1, 0, 0), (0.2, 0.5, 0.3), (0, 0.4, 0.6)])
def test_volume_is_the_useful_volume_of_one_point(quality: float, share: tuple[float, ...]) -> None:
    weights = np.array(share, float)
    cost = weights @ COSTS
    cost[2] = COSTS[weights > 0, 2].max()
    expected = pareto.volume(np.array([quality]), cost[None], pareto.Yardstick(0.9, DENSE, 0.5))
    assert STAKES.volume(Point(quality, weights)) == pytest.approx(expected, rel=1e-12)


def test_worth_is_the_slope_of_the_log_volume() -> None:
    rng = np.random.default_rng(0)
    right = rng.uniform(0.8, 1.0, (500, 3))
    choice = rng.integers(0, 3, 500)
    here = point_of(right, choice)
    worth = STAKES.worth(right, here)
    for row, member in ((3, 0), (77, 1), (401, 2)):
        other = choice.copy()
        other[row] = member
        change = np.log(STAKES.volume(point_of(right, other)) / STAKES.volume(here))
        assert change * 500 == pytest.approx(worth[row, member] - worth[row, choice[row]], abs=0.02)


def test_static_is_the_member_of_most_volume_and_the_best_one_where_none_has_any() -> None:
    good = np.array([[0.90, 0.895, 0.86]])
    volumes = [STAKES.volume(Point(q, s)) for q, s in zip(good[0], np.eye(3), strict=True)]
    assert STAKES.static(good) == int(np.argmax(volumes)) == 1
    assert STAKES.static(np.array([[0.5, 0.6, 0.55]])) == 1


def test_settle_never_ends_below_its_start() -> None:
    rng = np.random.default_rng(1)
    right = rng.uniform(0.85, 0.95, (200, 3))
    start = point_of(right, np.ones(200, int))
    end, _ = settle(STAKES, right, start, lambda worth: worth.argmax(1))
    assert STAKES.volume(end) >= STAKES.volume(start)
    worse, around = settle(STAKES, right, start, lambda worth: worth.argmin(1))
    assert worse is start
    assert around is start
