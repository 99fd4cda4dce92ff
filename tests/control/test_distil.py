"""From recorded inputs to a tree: it keeps the policy's volume where routing pays, else it is a leaf."""

import numpy as np
import pytest

from metas_peft.control.assess import decide_all
from metas_peft.control.distil import PARTS, Recorded, distil, repeat
from metas_peft.control.worth import point_of

COSTS = np.array([[0.8, 0.8, 0.9], [0.5, 0.5, 0.85], [0.3, 0.3, 0.8]])
DENSE = np.ones(3)


def recorded(seed: int, inputs: int, signal: float) -> Recorded:
    """Smaller members fail more often, on inputs of high entropy the more so if there is a signal."""
    rng = np.random.default_rng(seed)
    entropy, position = rng.normal(7, 1, inputs).astype(np.float32), rng.uniform(0, 1, inputs).astype(np.float32)
    dense = rng.random(inputs) < 0.93
    hard = 1 / (1 + np.exp(-(signal * (entropy - 7) - 2.5)))
    right = np.array([dense & (rng.random(inputs) >= share * hard) for share in (0.05, 0.4, 1.0)], float)
    return Recorded(entropy, position, right, dense.astype(float))


def volume(inputs: Recorded, choice: np.ndarray) -> float:
    stakes = inputs.stakes(COSTS, DENSE)
    return stakes.volume(point_of(inputs.right.T, choice))


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_tree_routes_and_keeps_the_volume_of_the_policy_where_there_is_a_signal(seed: int) -> None:
    made, fresh = distil(recorded(seed, 1500, 4.0), COSTS, DENSE, seed=seed), recorded(seed + 100, 4000, 4.0)
    assert made.pays
    tree = decide_all(made.tree, fresh.entropy, fresh.position)
    policy = made.policy.choose(fresh.entropy, fresh.position)
    assert len(set(tree.tolist())) > 1
    assert made.tree.depth <= 3
    stakes, expected = made.policy.stakes, made.policy.expected(fresh.entropy, fresh.position)
    told = [stakes.volume(point_of(expected, choice)) for choice in (tree, policy)]
    assert told[0] >= 0.99 * told[1]  # by what the policy expects, free of the noise of few answers at stake
    assert volume(fresh, tree) >= 0.97 * volume(fresh, policy)
    assert volume(fresh, tree) > 1.1 * volume(fresh, np.full(4000, made.static))


@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in (1, 2))])
def test_tree_is_the_best_single_member_where_there_is_no_signal(seed: int) -> None:
    inputs = recorded(seed, 600, 0.0)
    made = distil(inputs, COSTS, DENSE, seed=seed)
    if not made.pays:
        assert made.tree.member == (made.static,)
    assert made.static == int(np.argmax([volume(inputs, np.full(600, m)) for m in range(3)]))
    assert made.gain is not None
    assert made.gain < 0.01


def test_few_inputs_cannot_tell_and_no_tree_ships() -> None:
    made = distil(recorded(0, PARTS * 20 - 1, 4.0), COSTS, DENSE)
    assert (made.gain, made.gain_error, made.pays) == (None, None, False)
    assert made.tree.member == (made.static,)


def test_distil_is_the_same_twice() -> None:
    first, second = (distil(recorded(3, 150, 4.0), COSTS, DENSE, seed=1) for _ in range(2))
    assert (first.tree, first.gain, first.gain_error) == (second.tree, second.gain, second.gain_error)


def test_tree_is_constant_where_no_member_has_any_volume() -> None:
    inputs = recorded(0, 200, 0.0)
    lost = Recorded(inputs.entropy, inputs.position, inputs.right * 0, np.ones(200))
    made = distil(lost, COSTS, DENSE)
    assert not made.pays
    assert repeat(made.policy, lost, 3).depth == 0
