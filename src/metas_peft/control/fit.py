"""Distils the policy's choices into a tree of depth 3."""

# scikit-learn carries no annotations for the arrays of a grown tree.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false, reportAttributeAccessIssue=false

import numpy as np
from sklearn.tree import DecisionTreeClassifier

from metas_peft.control.tree import LEAF, ControllerTree
from metas_peft.core.errors import InvalidRecordError

DEPTH = 3


def fit(
    entropy: np.ndarray,
    position: np.ndarray,
    choice: np.ndarray,
    depth: int = DEPTH,
    *,
    weight: np.ndarray | None = None,
    seed: int = 0,
) -> ControllerTree:
    """The tree that best repeats recorded choices.

    Branches that change nothing, both of whose sides end at the same member, are removed.

    Args:
        entropy: Token entropy of each recorded input, nats, shape (N,).
        position: Position of each, shape (N,).
        choice: Index of the member that the policy chose, shape (N,).
        depth: Comparisons at most.
        weight: Importance of each input, shape (N,); all alike by default.
        seed: Breaks ties between equally good splits.

    Raises:
        InvalidRecordError: No input, lengths that differ, a feature that is not finite, or a negative choice.
    """
    features = np.column_stack([np.asarray(entropy, np.float32), np.asarray(position, np.float32)])
    choice = np.asarray(choice)
    if not len(choice) or features.shape != (len(choice), 2):
        raise InvalidRecordError(
            f"A controller needs one choice per input, seen {len(choice)} choices for {len(features)} inputs."
        )
    if not np.isfinite(features).all() or choice.min() < 0:
        raise InvalidRecordError("A recorded feature is not finite or a choice negative; leave such inputs out.")
    model = DecisionTreeClassifier(max_depth=depth, random_state=seed).fit(features, choice, sample_weight=weight)
    return _convert(model)


def _convert(model: DecisionTreeClassifier) -> ControllerTree:
    grown = model.tree_
    member = model.classes_[grown.value[:, 0, :].argmax(axis=1)]
    columns: list[list[float]] = []

    def only_member(node: int) -> int | None:
        """The one member below a node, or None where there are several."""
        if grown.children_left[node] < 0:
            return int(member[node])
        left, right = only_member(grown.children_left[node]), only_member(grown.children_right[node])
        return left if left == right else None

    def add(node: int) -> int:
        """Append the node and what lies below it in pre-order; its new number."""
        number = len(columns)
        only = only_member(node)
        if only is not None:
            columns.append([LEAF, 0.0, LEAF, LEAF, only])
            return number
        columns.append([])
        left, right = add(grown.children_left[node]), add(grown.children_right[node])
        columns[number] = [int(grown.feature[node]), _round_down(grown.threshold[node]), left, right, LEAF]
        return number

    add(0)
    feature, threshold, left, right, chosen = zip(*columns, strict=True)
    as_ints = (tuple(int(v) for v in column) for column in (left, right, chosen))
    return ControllerTree(tuple(int(f) for f in feature), tuple(float(t) for t in threshold), *as_ints)


def _round_down(threshold: float) -> float:
    """Largest 32-bit float not above a threshold: `x <= threshold` stays the same for every 32-bit `x`."""
    rounded = np.float32(threshold)
    return float(np.nextafter(rounded, np.float32(-np.inf)) if float(rounded) > threshold else rounded)
