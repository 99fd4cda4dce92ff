"""The best tree on a grid: against every tree there is, against a rule, and on inputs that no tree can tell apart."""

import itertools

import numpy as np
import pytest

from metas_peft.control.assess import decide_all
from metas_peft.control.fit import fit
from metas_peft.control.tree import to_float32
from metas_peft.core.errors import InvalidRecordError


def recorded(seed: int, inputs: int = 2000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, and choices that depend on them with some noise."""
    rng = np.random.default_rng(seed)
    entropy = rng.normal(6, 1.5, inputs).astype(np.float32)
    position = rng.uniform(0, 1, inputs).astype(np.float32)
    score = entropy + 2 * position + rng.normal(0, 0.7, inputs)
    return entropy, position, np.digitize(score, [6.0, 7.5, 9.0])


def one_hot(choice: np.ndarray, members: int = 4) -> np.ndarray:
    """Worth 1 for the recorded choice."""
    return np.eye(members)[choice]


def best_by_trying(features: np.ndarray, worth: np.ndarray, depth: int) -> float:
    """Worth of the best tree of a depth, by trying every threshold at every node."""
    best = float(worth.sum(0).max()) if len(worth) else 0.0
    if depth and len(worth):
        for f in range(2):
            for threshold in np.unique(features[:, f])[:-1]:
                low = features[:, f] <= threshold
                parts = (best_by_trying(features[s], worth[s], depth - 1) for s in (low, ~low))
                best = max(best, sum(parts))
    return best


@pytest.mark.parametrize(("seed", "depth"), [(0, 1), (1, 2), (2, 2), (3, 3)])
def test_fit_finds_the_best_tree_that_there_is(seed: int, depth: int) -> None:
    rng = np.random.default_rng(seed)
    features = rng.integers(0, 4, (40, 2)).astype(np.float32)
    worth = rng.normal(0, 1, (40, 3))
    tree = fit(features[:, 0], features[:, 1], worth, depth)
    chosen = decide_all(tree, features[:, 0], features[:, 1])
    assert tree.depth <= depth
    assert worth[np.arange(40), chosen].sum() == pytest.approx(best_by_trying(features, worth, depth))


def test_fit_recovers_a_rule_that_a_tree_can_state() -> None:
    entropy, position = (np.repeat([4.0, 5.0, 6.0, 7.0], 50), np.tile([0.1, 0.2, 0.3, 0.4, 0.5], 40))
    choice = np.where(entropy <= 5.0, 0, np.where(position <= 0.25, 2, 1))
    tree = fit(entropy, position, one_hot(choice))
    assert decide_all(tree, entropy, position).tolist() == choice.tolist()
    assert len(tree.feature) == 5
    assert tree.threshold[0] == 5.5


@pytest.mark.parametrize("seed", range(3))
def test_fit_repeats_noisy_choices_as_well_as_a_grown_tree(seed: int) -> None:
    from sklearn.tree import DecisionTreeClassifier

    entropy, position, choice = recorded(seed)
    tree = fit(entropy, position, one_hot(choice), bins=32)
    grown = DecisionTreeClassifier(max_depth=3, random_state=0).fit(np.column_stack([entropy, position]), choice)
    same = (decide_all(tree, entropy, position) == choice).mean()
    assert same >= grown.score(np.column_stack([entropy, position]), choice) - 0.005
    assert tree.depth <= 3
    assert all(to_float32(t) == t for t in tree.threshold)


def test_fit_weighs_what_is_at_stake_and_not_how_many_inputs() -> None:
    entropy, position = np.arange(10.0), np.zeros(10)
    worth = np.column_stack([np.full(10, 1.0), np.where(entropy < 5, 0.9, 0.9)])
    worth[9, 1] = 100.0  # a single input for whom much is at stake
    tree = fit(entropy, position, worth)
    assert decide_all(tree, entropy, position).tolist() == [0] * 9 + [1]


def test_fit_leaves_out_splits_that_gain_nothing() -> None:
    entropy, position, _ = recorded(1)
    worth = np.tile([1.0, 0.5], (len(entropy), 1))
    assert fit(entropy, position, worth).member == (0,)


def test_fit_chooses_among_allowed_members_only() -> None:
    entropy, position, choice = recorded(2)
    tree = fit(entropy, position, one_hot(choice), members=[1, 3])
    assert tree.members_used == (1, 3)


def test_fit_separates_neighbouring_floats() -> None:
    low = np.float32(0.1)
    values = np.array([low, np.nextafter(low, np.float32(1))])
    tree = fit(values, np.zeros(2), np.eye(2))
    assert decide_all(tree, values, np.zeros(2)).tolist() == [0, 1]


def test_fit_of_equal_features_is_one_leaf() -> None:
    assert fit(np.ones(6), np.ones(6), one_hot(np.array([0, 1, 1, 1, 2, 0]))).member == (1,)


def test_fit_refuses_nan_and_unequal_lengths() -> None:
    entropy, position, choice = recorded(3, 10)
    with pytest.raises(InvalidRecordError, match="worth of each member for each input"):
        fit(entropy, position, one_hot(choice[:5]))
    with pytest.raises(InvalidRecordError, match="0 members"):
        fit(entropy, position, one_hot(choice), members=[])
    entropy[4] = np.nan
    with pytest.raises(InvalidRecordError, match="not finite"):
        fit(entropy, position, one_hot(choice))


def test_all_small_grids_agree_with_trying() -> None:
    for bits in itertools.islice(itertools.product([0, 1], repeat=6), 0, 64, 7):
        features = np.array(list(itertools.product([0.0, 1.0, 2.0], [0.0, 1.0])))
        worth = one_hot(np.array(bits), 2)
        tree = fit(features[:, 0], features[:, 1], worth, 2)
        chosen = decide_all(tree, features[:, 0], features[:, 1])
        assert worth[np.arange(6), chosen].sum() == best_by_trying(features, worth, 2)
