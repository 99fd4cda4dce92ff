"""Who decides before there is a tree: a policy that knows no more of an input than the tree will.

For each member a small logistic regression on token entropy and position says how likely its answer is right; the
policy takes the member whose right answers are worth most for what it costs (`worth`). It needs no label and no pass of
any member when it decides. The tree repeats its choices in comparisons alone.

`cheapest_agreeing` is no such policy but a bound: it knows every member's answer to the input, and so would have to run
them all. No controller can be expected to reach it.
"""

# scikit-learn carries no annotations for what it fits.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metas_peft.control.worth import POWER, Point, Stakes, settle
from metas_peft.core.errors import InvalidRecordError


@dataclass(frozen=True)
class Policy:
    """Chooses a member per input from its two features.

    Attributes:
        centre: Means of the features where it was fitted, shape (2,).
        spread: Their standard deviations, shape (2,).
        weights: Log-odds of a right answer per member: constant, two features, their squares and product, (M, 6).
        members: Those that it may choose.
        stakes: What a choice is worth.
        around: The operating point around which worth is linear; None where no member has any volume.
    """

    centre: np.ndarray
    spread: np.ndarray
    weights: np.ndarray
    members: tuple[int, ...]
    stakes: Stakes
    around: Point | None

    def expected(self, entropy: np.ndarray, position: np.ndarray) -> np.ndarray:
        """How likely each member's answer is right, shape (N, M)."""
        logits = _columns(entropy, position, self.centre, self.spread) @ self.weights.T
        return 1.0 / (1.0 + np.exp(-logits.clip(-60.0, 60.0)))

    def choose(self, entropy: np.ndarray, position: np.ndarray) -> np.ndarray:
        """The member for each input, shape (N,)."""
        right = self.expected(entropy, position)
        if self.around is None:
            return np.full(len(right), self.stakes.static(right), dtype=np.int64)
        return among(self.members, self.stakes.worth(right, self.around))


def fit_policy(entropy: np.ndarray, position: np.ndarray, right: np.ndarray, stakes: Stakes) -> Policy:
    """Learn from recorded inputs.

    Args:
        entropy: Token entropy of each input, nats, shape (N,).
        position: Position of each, shape (N,).
        right: 1 where a member's answer is right, or a mark in [0, 1], shape (M, N).
        stakes: What a choice is worth.

    Raises:
        InvalidRecordError: Lengths that differ, or a feature that is not finite.
    """
    right = np.asarray(right, np.float64)
    features = np.column_stack([np.asarray(entropy, np.float64), np.asarray(position, np.float64)])
    if right.ndim != 2 or features.shape != (right.shape[1], 2) or not right.size:
        raise InvalidRecordError(
            f"A policy needs an answer of every member to every input, seen {right.shape} for {len(features)} inputs."
        )
    if not np.isfinite(features).all():
        raise InvalidRecordError("A recorded feature is not finite; leave such inputs out.")
    centre, spread = features.mean(0), np.maximum(features.std(0), 1e-9)
    columns = _columns(entropy, position, centre, spread)
    weights = np.stack([_logistic(columns, row) for row in right])
    free = Policy(centre, spread, weights, tuple(range(len(right))), stakes, None)
    expected = free.expected(entropy, position)
    best, found = 0.0, free
    for limit in np.unique(stakes.costs[:, POWER]):
        members = tuple(int(m) for m in np.flatnonzero(stakes.costs[:, POWER] <= limit))
        start = _best_of(members, expected, stakes)
        if stakes.volume(start) <= 0:
            continue
        point, around = settle(stakes, expected, start, lambda worth, members=members: among(members, worth))
        if stakes.volume(point) > best:
            best, found = stakes.volume(point), Policy(centre, spread, weights, members, stakes, around)
    return found


def among(members: Sequence[int], worth: np.ndarray) -> np.ndarray:
    """The allowed member of the largest worth for each input, shape (N,)."""
    return np.asarray(members)[worth[:, list(members)].argmax(1)]


def _best_of(members: Sequence[int], expected: np.ndarray, stakes: Stakes) -> Point:
    """The best single member of some, as a point."""
    every = np.eye(len(stakes.costs))
    points = [Point(float(expected[:, m].mean()), every[m]) for m in members]
    return max(points, key=stakes.volume)


def _columns(entropy: np.ndarray, position: np.ndarray, centre: np.ndarray, spread: np.ndarray) -> np.ndarray:
    e, p = ((np.asarray(v, np.float64) - c) / s for v, c, s in zip((entropy, position), centre, spread, strict=True))
    return np.column_stack([np.ones(len(e)), e, p, e * e, e * p, p * p])


def _logistic(columns: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Weights of a ridge logistic regression; a constant where all answers are equally good.

    An answer of mark 0.7 counts as 0.7 right answers and 0.3 wrong ones.
    """
    from sklearn.linear_model import LogisticRegression

    if right.min() == right.max():
        share = (right.sum() + 0.5) / (len(right) + 1.0)
        return np.array([np.log(share / (1.0 - share)), *[0.0] * (columns.shape[1] - 1)])
    parts = np.column_stack([right, 1.0 - right]).ravel()
    counted = parts > 0
    twice, is_right = np.repeat(columns[:, 1:], 2, axis=0), np.tile([1, 0], len(right))
    model = LogisticRegression(C=1.0, max_iter=500)
    model.fit(twice[counted], is_right[counted], sample_weight=parts[counted])
    return np.concatenate([model.intercept_, model.coef_[0]])


def cheapest_agreeing(answers: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """In hindsight, the cheapest member that answers as the largest does; needs every member's answer to the input.

    Args:
        answers: Each member's answer (a class, a token), shape (M, N).
        order: Members from cheapest to dearest, by measured cost; the last is the largest, whose answer counts.

    Returns:
        Index of the chosen member (a row of `answers`), shape (N,).

    Raises:
        InvalidRecordError: `order` does not name every member once.
    """
    answers = np.asarray(answers)
    if answers.ndim != 2 or sorted(order) != list(range(len(answers))):
        raise InvalidRecordError(
            f"The order {list(order)} must name each of the {len(answers)} members once, cheapest first."
        )
    ranked = np.asarray(order)
    agrees = answers[ranked] == answers[ranked[-1]]
    return ranked[agrees.argmax(axis=0)]
