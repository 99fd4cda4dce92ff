"""From recorded inputs to the tree that ships, or to a single member where routing does not pay.

A tree that is fitted to some inputs always gains on them. So it is judged on recorded inputs that it has not seen: the
inputs are dealt into parts, and each part is sent where the tree of the others says, beside where the best single
member of the others sends it. Only a gain of volume above its own standard error lets the tree ship.
"""

from dataclasses import dataclass

import numpy as np

from metas_peft.control.assess import decide_all
from metas_peft.control.fit import BINS, DEPTH, fit
from metas_peft.control.policy import Policy, among, fit_policy
from metas_peft.control.tree import ControllerTree
from metas_peft.control.worth import Stakes, point_of, settle

PARTS = 4
FEWEST = 20  # inputs in a part; fewer judge nothing
DRAWS = 200
COARSE = 24  # bins while it is still looked for where worth is linear


@dataclass(frozen=True)
class Recorded:
    """Inputs, and who answered them right. No label is needed where a larger model's answer counts as right.

    Attributes:
        entropy: Token entropy, nats, shape (N,).
        position: Shape (N,).
        right: 1 where a member's answer is right, shape (M, N).
        dense: 1 where the dense model's is, shape (N,).
    """

    entropy: np.ndarray
    position: np.ndarray
    right: np.ndarray
    dense: np.ndarray

    def __len__(self) -> int:
        return len(self.dense)

    def take(self, rows: np.ndarray) -> "Recorded":
        """Some of the inputs."""
        return Recorded(self.entropy[rows], self.position[rows], self.right[:, rows], self.dense[rows])

    def stakes(self, costs: np.ndarray, dense_cost: np.ndarray) -> Stakes:
        """The volume, with a floor that belongs to these inputs."""
        return Stakes(costs, dense_cost, float(self.dense.mean()))


@dataclass(frozen=True)
class Distilled:
    """What came of the recorded inputs.

    Attributes:
        policy: Who decided before.
        tree: What ships: a routing tree if it pays, else one leaf.
        static: The best single member on the recorded inputs.
        gain: Volume of the tree less that of the best single member, on inputs not fitted to; None where there are too
            few of them to tell.
        gain_error: Its standard error.
    """

    policy: Policy
    tree: ControllerTree
    static: int
    gain: float | None
    gain_error: float | None

    @property
    def pays(self) -> bool:
        """Whether routing gained more than its standard error."""
        return self.gain is not None and self.gain_error is not None and self.gain > self.gain_error


def distil(
    recorded: Recorded, costs: np.ndarray, dense_cost: np.ndarray, *, depth: int = DEPTH, seed: int = 0
) -> Distilled:
    """Fit the policy, fit the tree to it, and find out whether the tree may ship.

    Args:
        recorded: Inputs and who answered them right.
        costs: Energy (J), latency (ms), peak power (W) of one pass of each member, shape (M, 3).
        dense_cost: The same of the dense model, shape (3,).
        depth: Comparisons of the tree at most.
        seed: Deals inputs into parts, and draws the inputs of the standard error.

    Raises:
        InvalidRecordError: Shapes that do not fit, or a feature that is not finite.
    """
    stakes = recorded.stakes(costs, dense_cost)
    policy = fit_policy(recorded.entropy, recorded.position, recorded.right, stakes)
    static = stakes.static(recorded.right.T)
    gain, error = _judge(recorded, costs, dense_cost, depth, seed)
    bare = Distilled(policy, ControllerTree.always(static), static, gain, error)
    return Distilled(policy, repeat(policy, recorded, depth), static, gain, error) if bare.pays else bare


def repeat(policy: Policy, recorded: Recorded, depth: int) -> ControllerTree:
    """The tree that comes closest to a policy in what its choices are worth.

    Args:
        policy: What to repeat.
        recorded: Inputs that both see.
        depth: Comparisons at most.
    """
    stakes, members = policy.stakes, policy.members
    expected = policy.expected(recorded.entropy, recorded.position)
    if policy.around is None:
        return ControllerTree.always(stakes.static(expected))

    def tree_of(worth: np.ndarray, bins: int) -> ControllerTree:
        return fit(recorded.entropy, recorded.position, worth, depth, members=members, bins=bins)

    def choose(worth: np.ndarray) -> np.ndarray:
        return _sent(tree_of(worth, COARSE), recorded)

    _, around = settle(stakes, expected, policy.around, choose)
    worth = stakes.worth(expected, around)
    tree = tree_of(worth, BINS)
    # A constant can always be repeated: nobody ends below the best single member.
    alone = int(among(members, worth.mean(0, keepdims=True))[0])
    ways = (tree, ControllerTree.always(alone))
    return max(ways, key=lambda way: stakes.volume(point_of(expected, _sent(way, recorded))))


def _sent(tree: ControllerTree, recorded: Recorded) -> np.ndarray:
    """The tree's choice for each recorded input."""
    return decide_all(tree, recorded.entropy, recorded.position)


def _judge(
    recorded: Recorded, costs: np.ndarray, dense_cost: np.ndarray, depth: int, seed: int
) -> tuple[float | None, float | None]:
    """Gain of routing on inputs that were not fitted to, and its standard error."""
    if len(recorded) < PARTS * FEWEST:
        return None, None
    rng = np.random.default_rng(seed)
    part = rng.permutation(len(recorded)) % PARTS
    routed = np.zeros(len(recorded), dtype=np.int64)
    alone = np.zeros(len(recorded), dtype=np.int64)
    for number in range(PARTS):
        others, own = recorded.take(np.flatnonzero(part != number)), part == number
        stakes = others.stakes(costs, dense_cost)
        policy = fit_policy(others.entropy, others.position, others.right, stakes)
        routed[own] = _sent(repeat(policy, others, depth), recorded.take(np.flatnonzero(own)))
        alone[own] = stakes.static(others.right.T)
    gain = _gain(recorded, costs, dense_cost, routed, alone)
    rows = (rng.integers(len(recorded), size=len(recorded)) for _ in range(DRAWS))
    drawn = [_gain(recorded.take(r), costs, dense_cost, routed[r], alone[r]) for r in rows]
    return gain, float(np.std(drawn))


def _gain(
    recorded: Recorded, costs: np.ndarray, dense_cost: np.ndarray, routed: np.ndarray, alone: np.ndarray
) -> float:
    stakes, right = recorded.stakes(costs, dense_cost), recorded.right.T
    with_tree, without = (stakes.volume(point_of(right, choice)) for choice in (routed, alone))
    return with_tree - without
