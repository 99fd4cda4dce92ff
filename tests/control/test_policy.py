"""The policy: what it learns, that it needs no answers when it decides, and the bound beside it."""

import numpy as np
import pytest

from metas_peft.control.policy import cheapest_agreeing, fit_policy
from metas_peft.control.worth import Stakes
from metas_peft.core.errors import InvalidRecordError

COSTS = np.array([[0.8, 0.8, 0.9], [0.3, 0.3, 0.7]])


def routable(seed: int, inputs: int = 1500) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs on which the small member (row 1) fails where entropy is high, the large one nowhere in particular."""
    rng = np.random.default_rng(seed)
    entropy, position = rng.normal(7, 1, inputs), rng.uniform(0, 1, inputs)
    large = rng.random(inputs) < 0.95
    small = np.where(entropy < 7, large, rng.random(inputs) < 0.6)
    return entropy, position, np.array([large, small], float)


def test_policy_sends_hard_inputs_to_the_large_member() -> None:
    entropy, position, right = routable(0)
    policy = fit_policy(entropy, position, right, Stakes(COSTS, np.ones(3), float(right[0].mean())))
    chosen = policy.choose(np.array([5.0, 9.0]), np.array([0.5, 0.5]))
    assert chosen.tolist() == [1, 0]
    assert policy.expected(np.array([9.0]), np.array([0.5]))[0, 1] < 0.75


def test_policy_is_one_member_where_features_tell_nothing() -> None:
    rng = np.random.default_rng(1)
    entropy, position = rng.normal(7, 1, 1500), rng.uniform(0, 1, 1500)
    right = np.array([rng.random(1500) < 0.95, rng.random(1500) < 0.5], float)
    policy = fit_policy(entropy, position, right, Stakes(COSTS, np.ones(3), 0.95))
    assert set(policy.choose(entropy, position).tolist()) == {0}


def test_marks_between_wrong_and_right_count_in_proportion() -> None:
    entropy, position, _ = routable(4)
    marks = np.clip(np.array([np.full(1500, 0.9), 0.9 - 0.2 * (entropy - 7)]), 0, 1)
    policy = fit_policy(entropy, position, marks, Stakes(COSTS, np.ones(3), 0.9))
    expected = policy.expected(np.array([6.0, 7.0, 8.0]), np.full(3, 0.5))
    assert expected[:, 0] == pytest.approx(np.full(3, 0.9), abs=0.02)
    assert expected[0, 1] > 0.93
    assert expected[2, 1] == pytest.approx(0.7, abs=0.06)


def test_policy_without_any_volume_takes_the_best_member() -> None:
    entropy, position, right = routable(2, 200)
    policy = fit_policy(entropy, position, right * 0, Stakes(COSTS, np.ones(3), 0.95))
    assert policy.around is None
    assert len(set(policy.choose(entropy, position).tolist())) == 1


def test_policy_leaves_out_a_member_whose_peak_power_costs_more_than_it_gains() -> None:
    costs = np.array([[0.8, 0.8, 1.0999], [0.3, 0.3, 0.2]])
    entropy, position, right = routable(3)
    policy = fit_policy(entropy, position, right, Stakes(costs, np.ones(3), 0.80))
    assert policy.members == (1,)
    assert set(policy.choose(entropy, position).tolist()) == {1}


def test_fit_policy_refuses_what_does_not_fit() -> None:
    stakes = Stakes(COSTS, np.ones(3), 0.9)
    with pytest.raises(InvalidRecordError, match="answer of every member"):
        fit_policy(np.ones(3), np.ones(3), np.ones((2, 4)), stakes)
    with pytest.raises(InvalidRecordError, match="not finite"):
        fit_policy(np.array([np.nan, 1.0]), np.ones(2), np.ones((2, 2)), stakes)


def test_hindsight_takes_cheapest_member_that_agrees_with_the_largest() -> None:
    answers = np.array([[1, 0, 0, 1], [1, 1, 0, 0], [1, 1, 1, 1]])
    assert cheapest_agreeing(answers, order=[0, 1, 2]).tolist() == [0, 1, 2, 0]
    # The order decides, not the row: row 1 is cheapest here and row 0 the largest.
    assert cheapest_agreeing(answers, order=[1, 2, 0]).tolist() == [1, 0, 1, 2]


def test_hindsight_refuses_an_order_that_misses_a_member() -> None:
    with pytest.raises(InvalidRecordError, match="each of the 2 members"):
        cheapest_agreeing(np.zeros((2, 3)), order=[0, 0])


def test_mark_of_a_part_counts_as_that_part_of_right_answers() -> None:
    entropy, position, right = routable(3, 200)
    stakes = Stakes(COSTS, np.ones(3), float(right[0].mean()))
    part = fit_policy(entropy, position, np.where(right > 0, 0.75, 0.25), stakes)
    # The same as four copies of each input, of which three (or one) are answered rightly.
    copies = np.concatenate([right, right, np.ones_like(right), np.zeros_like(right)], axis=1)
    whole = fit_policy(np.tile(entropy, 4), np.tile(position, 4), copies, stakes)
    assert np.allclose(part.expected(entropy, position), whole.expected(entropy, position), atol=0.02)
