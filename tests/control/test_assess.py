"""Operating points of policy and tree, the volume kept, degeneracy and times."""

from functools import partial

import numpy as np
import pytest

from metas_peft.control.assess import assess, operating_point, time_decision
from metas_peft.control.tree import Controller
from metas_peft.core.errors import InvalidRecordError
from metas_peft.pareto import Yardstick
from metas_peft.pareto import volume as pareto_volume

COSTS = np.array([[1.0, 10.0, 3.0], [2.0, 30.0, 5.0], [4.0, 50.0, 6.0]])
YARDSTICK = Yardstick(dense_quality=0.9, dense_cost=COSTS[2], chance_quality=0.5)
VOLUME = partial(pareto_volume, yardstick=YARDSTICK)


def test_operating_point_means_costs_and_takes_the_highest_peak_used() -> None:
    correct = np.array([[1, 0, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1]])
    point = operating_point(correct, COSTS, np.array([0, 1, 0, 0]))
    assert (point.quality, point.energy_j, point.latency_ms, point.peak_power_w) == (0.75, 1.25, 15.0, 5.0)
    assert point.usage == (0.75, 0.25, 0.0)
    assert not point.is_degenerate


def test_assess_reports_volume_kept_by_hand() -> None:
    inputs = 100
    correct = np.ones((3, inputs))
    correct[0, ::10] = 0  # the small member errs on a tenth
    policy, tree = np.zeros(inputs, int), np.zeros(inputs, int)
    policy[::10] = 2
    tree[:20] = 2
    result = assess(correct, COSTS, policy, tree, VOLUME)
    # Policy: all right at mean cost 0.9 c0 + 0.1 c2. Tree: 80 to c0, of which 8 wrong.
    reference = 1.1 * COSTS[2]

    def box(quality: float, share: float) -> float:
        cost = (1 - share) * COSTS[0] + share * COSTS[2]
        return (quality - 0.85) / 0.15 * (1 - cost[0] / reference[0]) * (1 - cost[1] / reference[1]) * (1 - 1 / 1.1)

    assert result.hypervolume_kept == pytest.approx(box(0.92, 0.2) / box(1.0, 0.1))
    assert result.agreement == pytest.approx(0.74)
    assert not result.degenerate
    assert result.note == ""


def test_assess_admits_degeneracy_and_names_the_member() -> None:
    correct = np.ones((3, 50))
    policy = np.array([0] * 46 + [1] * 4)
    result = assess(correct, COSTS, policy, np.zeros(50, int), VOLUME)
    assert result.degenerate
    assert "policy is degenerate: it sends 92 %" in result.note
    assert "tree is degenerate: it sends 100 %" in result.note
    assert result.note.count("that member alone does the same job") == 1


def test_assess_has_no_share_when_the_policy_has_no_volume() -> None:
    correct = np.zeros((3, 20))
    choice = np.arange(20) % 2
    result = assess(correct, COSTS, choice, choice, VOLUME)
    assert result.hypervolume_kept is None
    assert "not defined" in result.note
    assert result.agreement == 1.0


def test_operating_point_refuses_shapes_and_members_that_do_not_fit() -> None:
    with pytest.raises(InvalidRecordError, match="do not fit"):
        operating_point(np.ones((3, 4)), COSTS, np.zeros(5, int))
    with pytest.raises(InvalidRecordError, match="3 members"):
        operating_point(np.ones((3, 4)), COSTS, np.full(4, 3))


def test_decision_times_are_positive_and_features_cost_more_than_the_tree(nested: Controller) -> None:
    times = time_decision(nested, list(range(128)), [1.0] * 200, 128, repeats=5, decisions=50)
    assert 0 < times.tree_us < times.decision_us
    assert times.tokens == 128
