"""Operating points of policy and tree, the volume kept, degeneracy and times."""

from functools import partial

import numpy as np
import pytest

from metas_peft.control.assess import Choices, assess, operating_point, time_decision
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
    static = np.zeros(inputs, int)
    result = assess(correct, COSTS, Choices(policy, tree, static, policy), VOLUME)
    # Policy: all right at mean cost 0.9 c0 + 0.1 c2. Tree: 80 to c0, of which 8 wrong.
    reference = 1.1 * COSTS[2]

    def box(quality: float, share: float) -> float:
        cost = (1 - share) * COSTS[0] + share * COSTS[2]
        return (quality - 0.85) / 0.15 * (1 - cost[0] / reference[0]) * (1 - cost[1] / reference[1]) * (1 - 1 / 1.1)

    assert result.hypervolume_kept == pytest.approx(box(0.92, 0.2) / box(1.0, 0.1))
    assert result.agreement == pytest.approx(0.74)
    assert result.volumes["static"] == pytest.approx(box(0.9, 0.0) / (1 - 1 / 1.1) * (1 - 3.0 / 6.6))
    assert result.volumes["hindsight"] == result.volumes["policy"]
    assert not result.degenerate
    assert result.note == ""


def assessed(correct: np.ndarray, policy: np.ndarray, tree: np.ndarray, **options):
    choices = Choices(policy, tree, np.zeros_like(tree), np.zeros_like(tree))
    return assess(correct, COSTS, choices, VOLUME, **options)


def test_assess_admits_degeneracy_and_names_the_member() -> None:
    correct = np.ones((3, 50))
    correct[0, 46:] = 0
    policy = np.array([0] * 46 + [1] * 4)
    result = assessed(correct, policy, np.zeros(50, int), names=("26 %", "50 %", "80 %"))
    assert result.degenerate
    assert "policy is degenerate: it sends 92 % of the inputs to member 26 %." in result.note
    assert "tree is degenerate: it sends every input to member 26 %" in result.note
    # The tree is one member; the policy, whose quality is higher, is not said to be the same.
    assert "that member alone, with 92.0 % right answers where the policy has 100.0 %" in result.note


def test_assess_says_when_tree_and_policy_are_the_same_single_member() -> None:
    result = assessed(np.ones((3, 50)), np.zeros(50, int), np.zeros(50, int))
    assert result.note.endswith("it sends every input to member 0; as the policy does.")
    assert result.hypervolume_kept == 1.0


def test_assess_has_no_share_when_the_policy_has_no_volume() -> None:
    choice = np.arange(20) % 2
    result = assessed(np.zeros((3, 20)), choice, choice)
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
