"""What the controller is worth: its operating point beside the policy's, and the time of a decision."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from metas_peft.control.runtime import token_entropy
from metas_peft.control.tree import Controller, ControllerTree
from metas_peft.control.worth import mean_cost, point_of
from metas_peft.core.cost import METRICS
from metas_peft.core.errors import InvalidRecordError

MIN_SHARE = 0.10
MIN_MEMBERS = 2
_US_PER_S = 1e6


def decide_all(tree: ControllerTree, entropy: np.ndarray, position: np.ndarray) -> np.ndarray:
    """The tree's choice for each input, shape (N,)."""
    pairs = zip(entropy.tolist(), position.tolist(), strict=True)
    return np.array([tree.decide(e, p) for e, p in pairs], dtype=np.int64)


@dataclass(frozen=True)
class AdaptivePoint:
    """Operating point of a model that switches between members.

    Attributes:
        quality: Share of right answers.
        energy_j: Mean over the inputs.
        latency_ms: Mean over the inputs.
        peak_power_w: Highest of the members used at all.
        usage: Share of the inputs per member, length M.
    """

    quality: float
    energy_j: float
    latency_ms: float
    peak_power_w: float
    usage: tuple[float, ...]

    @property
    def is_degenerate(self) -> bool:
        """Whether fewer than two members have a tenth of the inputs each."""
        return sum(share >= MIN_SHARE for share in self.usage) < MIN_MEMBERS


@dataclass(frozen=True)
class ControllerAssessment:
    """The tree against the policy that it replaces, on inputs that neither was fitted to.

    Attributes:
        policy: Operating point of the policy.
        tree: Operating point of the tree.
        static: Operating point of the best single member.
        hindsight: Operating point of the bound, which knows every member's answer.
        volumes: Useful volume of each of the four, by name.
        hypervolume_kept: Volume of the tree's point / of the policy's point (it may exceed 1); None where the policy's
            point has no volume.
        agreement: Share of inputs on which tree and policy choose the same member.
        degenerate: Whether the policy or the tree sends nearly everything to one member.
        note: What a reader must know beside the numbers; empty when nothing.
    """

    policy: AdaptivePoint
    tree: AdaptivePoint
    static: AdaptivePoint
    hindsight: AdaptivePoint
    volumes: Mapping[str, float]
    hypervolume_kept: float | None
    agreement: float
    degenerate: bool
    note: str


@dataclass(frozen=True)
class Choices:
    """Chosen members of the same inputs, each of shape (N,).

    Attributes:
        policy: Of the policy.
        tree: Of the tree.
        static: Of whoever sends everything to the best single member.
        hindsight: Of the bound.
    """

    policy: np.ndarray
    tree: np.ndarray
    static: np.ndarray
    hindsight: np.ndarray


def operating_point(correct: np.ndarray, costs: np.ndarray, choice: np.ndarray) -> AdaptivePoint:
    """Quality and cost of sending each input to its chosen member.

    Args:
        correct: 1 where a member's answer is right, shape (M, N).
        costs: Energy (J), latency (ms), peak power (W) of one pass of each member, shape (M, 3).
        choice: Chosen member of each input, shape (N,).

    Raises:
        InvalidRecordError: Shapes that do not fit, or a choice that is not a member.
    """
    correct, costs, choice = np.asarray(correct, np.float64), np.asarray(costs, np.float64), np.asarray(choice)
    members = len(costs)
    if correct.shape != (members, len(choice)) or costs.shape != (members, len(METRICS)) or not len(choice):
        raise InvalidRecordError(
            f"Correctness {correct.shape}, costs {costs.shape} and choices {choice.shape} do not fit; "
            "expected (members, inputs), (members, 3), (inputs,) with at least one input."
        )
    if not np.isfinite(costs).all() or choice.min() < 0 or choice.max() >= members:
        raise InvalidRecordError(f"A cost is not finite or a choice is not one of the {members} members.")
    point = point_of(correct.T, choice)
    energy_j, latency_ms, peak_power_w = mean_cost(costs, point.share).tolist()
    return AdaptivePoint(point.quality, energy_j, latency_ms, peak_power_w, tuple(point.share.tolist()))


def assess(
    correct: np.ndarray,
    costs: np.ndarray,
    choices: Choices,
    volume: Callable[[np.ndarray, np.ndarray], float],
    names: Sequence[str] = (),
) -> ControllerAssessment:
    """Compare the tree with the policy on the same inputs.

    Args:
        correct: 1 where a member's answer is right, shape (M, N).
        costs: Energy (J), latency (ms), peak power (W) of one pass of each member, shape (M, 3).
        choices: Who sends which input where.
        volume: Useful volume of a set of points from quality (K,) and cost (K, 3), for instance
            `functools.partial(pareto.volume, yardstick=...)`.
        names: Of the members, for the note; numbers by default.
    """
    points = {f.name: operating_point(correct, costs, getattr(choices, f.name)) for f in fields(choices)}
    volumes = {name: _volume_of(point, volume) for name, point in points.items()}
    policy, tree = points["policy"], points["tree"]
    notes: list[str] = []
    if volumes["policy"] <= 0:
        notes.append(
            "The policy's operating point has no useful hyper-volume (its quality is more than 5 points below dense, "
            "or a cost lies beyond the reference), so the share that the tree keeps is not defined."
        )
    if policy.is_degenerate:
        notes.append(f"The policy is degenerate: it sends {_most(policy, names)}.")
    if tree.is_degenerate:
        notes.append(f"The tree is degenerate: it sends {_most(tree, names)}; {_beside(tree, policy)}")
    return ControllerAssessment(
        policy=policy,
        tree=tree,
        static=points["static"],
        hindsight=points["hindsight"],
        volumes=volumes,
        hypervolume_kept=volumes["tree"] / volumes["policy"] if volumes["policy"] > 0 else None,
        agreement=float(np.equal(choices.policy, choices.tree).mean()),
        degenerate=policy.is_degenerate or tree.is_degenerate,
        note=" ".join(notes),
    )


def _most(point: AdaptivePoint, names: Sequence[str]) -> str:
    """Where most inputs go, in words."""
    top = int(np.argmax(point.usage))
    share = "every input" if point.usage[top] == 1 else f"{100 * point.usage[top]:.0f} % of the inputs"
    return f"{share} to member {names[top] if names else top}"


def _beside(tree: AdaptivePoint, policy: AdaptivePoint) -> str:
    """What a degenerate tree has in common with the policy, and what not."""
    if max(tree.usage) < 1:
        return "there is little that it decides."
    if tree.usage == policy.usage:
        return "as the policy does."
    return (
        f"it is that member alone, with {100 * tree.quality:.1f} % right answers where the policy has "
        f"{100 * policy.quality:.1f} %."
    )


def _volume_of(point: AdaptivePoint, volume: Callable[[np.ndarray, np.ndarray], float]) -> float:
    cost = np.array([[point.energy_j, point.latency_ms, point.peak_power_w]])
    return volume(np.array([point.quality]), cost)


@dataclass(frozen=True)
class DecisionTime:
    """Time of one decision on this machine, microseconds of wall time, median over repeats.

    Attributes:
        decision_us: Features and tree, from token ids to a member.
        tree_us: The tree alone.
        tokens: Tokens of the input.
        repeats: Timed repeats, each of many decisions.
    """

    decision_us: float
    tree_us: float
    tokens: int
    repeats: int


def time_decision(
    controller: Controller,
    token_ids: Sequence[int],
    self_information: Sequence[float],
    max_length: int,
    *,
    repeats: int = 15,
    decisions: int = 200,
) -> DecisionTime:
    """Time decisions on one input.

    Args:
        controller: What decides.
        token_ids: Tokens of one input, for instance 128 of them.
        self_information: Nats per vocabulary entry; a list, as a device would hold it.
        max_length: Tokens at which the position is 1.
        repeats: Timed repeats, of which the median is taken (a busy machine disturbs single ones).
        decisions: Decisions in one repeat, so that the clock's own cost vanishes.
    """
    ids, table = list(token_ids), list(self_information)
    tree = controller.tree
    entropy, position = token_entropy(ids, table), len(ids) / max_length
    whole: list[float] = []
    bare: list[float] = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(decisions):
            tree.decide(token_entropy(ids, table), len(ids) / max_length)
        middle = time.perf_counter()
        for _ in range(decisions):
            tree.decide(entropy, position)
        end = time.perf_counter()
        whole.append((middle - start) / decisions * _US_PER_S)
        bare.append((end - middle) / decisions * _US_PER_S)
    return DecisionTime(statistics.median(whole), statistics.median(bare), len(ids), repeats)
