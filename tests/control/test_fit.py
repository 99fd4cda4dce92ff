"""Fitting the tree, the policy behind it, and the features it reads."""

import numpy as np
import pytest
from sklearn.tree import DecisionTreeClassifier

from metas_peft.control.assess import decide_all
from metas_peft.control.features import self_information, sequence_features
from metas_peft.control.fit import fit
from metas_peft.control.policy import cheapest_agreeing
from metas_peft.control.tree import to_float32
from metas_peft.core.errors import InvalidRecordError


def recorded(seed: int, inputs: int = 2000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    entropy = rng.normal(6, 1.5, inputs).astype(np.float32)
    position = rng.uniform(0, 1, inputs).astype(np.float32)
    score = entropy + 2 * position + rng.normal(0, 0.7, inputs)
    return entropy, position, np.digitize(score, [6.0, 7.5, 9.0])


@pytest.mark.parametrize("seed", range(5))
def test_fitted_tree_decides_exactly_as_scikit_learn(seed: int) -> None:
    entropy, position, choice = recorded(seed)
    tree = fit(entropy, position, choice, seed=seed)
    features = np.column_stack([entropy, position])
    model = DecisionTreeClassifier(max_depth=3, random_state=seed).fit(features, choice)
    rng = np.random.default_rng(100 + seed)
    probes = np.column_stack([rng.normal(6, 2, 5000), rng.uniform(-0.1, 1.1, 5000)]).astype(np.float32)
    assert decide_all(tree, probes[:, 0], probes[:, 1]).tolist() == model.predict(probes).tolist()
    assert tree.depth <= 3
    assert all(to_float32(t) == t for t in tree.threshold)


def test_fit_recovers_a_rule_that_a_tree_can_state() -> None:
    entropy, position, _ = recorded(0)
    choice = np.where(entropy <= 5.0, 0, np.where(position <= 0.25, 2, 1))
    tree = fit(entropy, position, choice)
    assert decide_all(tree, entropy, position).tolist() == choice.tolist()
    assert len(tree.feature) == 5


def test_fit_prunes_splits_that_change_nothing() -> None:
    entropy, position, _ = recorded(1)
    rng = np.random.default_rng(0)
    choice = (rng.random(len(entropy)) < 0.05).astype(int)  # noise: every leaf's majority is member 0
    tree = fit(entropy, position, choice)
    assert 0 in tree.members_used
    for node, feature in enumerate(tree.feature):
        if feature != -1:
            left, right = tree.left[node], tree.right[node]
            both_leaves = tree.feature[left] == tree.feature[right] == -1
            assert not (both_leaves and tree.member[left] == tree.member[right])


def test_fit_of_one_choice_is_one_leaf() -> None:
    entropy, position, _ = recorded(2)
    assert fit(entropy, position, np.full(len(entropy), 3)).member == (3,)


def test_fit_refuses_nan_and_unequal_lengths() -> None:
    entropy, position, choice = recorded(3, 10)
    with pytest.raises(InvalidRecordError, match="one choice per input"):
        fit(entropy, position, choice[:5])
    entropy[4] = np.nan
    with pytest.raises(InvalidRecordError, match="not finite"):
        fit(entropy, position, choice)


def test_policy_takes_cheapest_member_that_agrees_with_the_largest() -> None:
    answers = np.array([[1, 0, 0, 1], [1, 1, 0, 0], [1, 1, 1, 1]])
    assert cheapest_agreeing(answers, order=[0, 1, 2]).tolist() == [0, 1, 2, 0]
    # The order decides, not the row: row 1 is cheapest here and row 0 the largest.
    assert cheapest_agreeing(answers, order=[1, 2, 0]).tolist() == [1, 0, 1, 2]


def test_policy_refuses_an_order_that_misses_a_member() -> None:
    with pytest.raises(InvalidRecordError, match="each of the 2 members"):
        cheapest_agreeing(np.zeros((2, 3)), order=[0, 0])


def test_self_information_of_counted_tokens() -> None:
    information = self_information([[0, 0, 1], [0]], vocabulary=4, smoothing=1.0)
    assert information == pytest.approx(-np.log(np.array([4, 2, 1, 1]) / 8))
    entropy, position = sequence_features([[0, 1], [2]], information, max_length=4)
    assert entropy == pytest.approx([(np.log(2) + np.log(4)) / 2, np.log(8)])
    assert position.tolist() == [0.5, 0.25]
