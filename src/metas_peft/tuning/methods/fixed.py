"""Rivals that remove by a rule: whole layers, or the same width everywhere; warm-started and distilled exactly as ours.

What they keep is fixed before training; training takes as long as our path and joint stages together. Steps are counted
in operations first; then each way of training gets as many more as its passes are faster than ours for the same
operations (fewer or larger maps, no gates), so that seconds are equal too. Steps do not follow a clock: a run would not
give the same numbers again.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Literal

from metas_peft.core.shape import BackboneShape
from metas_peft.core.subnet import Subnet
from metas_peft.tuning.context import Checkpoint, TuningContext
from metas_peft.tuning.joint import JointObjective
from metas_peft.tuning.members import members_of
from metas_peft.tuning.methods.base import METHODS, Method, TunedFront
from metas_peft.tuning.path import BATCH_SIZE, SCHEDULE_POWER, TOLERANCE, WARMUP_BATCHES, largest_within
from metas_peft.tuning.pricing import flops_fraction

# Seconds of our joint stage over seconds of others at equal operations, on MiniLM and one thread of a Xeon: members
# that share weights as ours do, models of their own; and of our path, whose batches are small, over our joint stage.
PACE_TOGETHER, PACE_APART, PACE_PATH = 0.82, 1.09, 1.81


def cost_of_joint_stage(context: TuningContext) -> float:
    """Cost of our joint stage in steps of the whole model: one pass in each half of the range."""
    return context.schedule.joint * (max(context.operating_points) + min(context.operating_points))


def cost_of_ours(context: TuningContext, front: str) -> float:
    """Cost of deciding what goes, by a path or by gates, and of our joint stage, in steps of the whole model."""
    count, end = context.schedule.path, min(context.operating_points)
    whole = min(WARMUP_BATCHES, count)
    looks = whole + (count - whole) * (end + (1 - end) / (SCHEDULE_POWER + 1))
    deciding = {
        "nested": PACE_PATH * looks * BATCH_SIZE / (context.settings.batch_size * context.settings.accumulation),
        "gates": float(context.gates.steps),
    }
    return deciding[front] + cost_of_joint_stage(context)


class FixedRule(Method):
    """Members by a rule.

    Attributes:
        training: `together`, all members share weights as those of our front do; or `apart`, each is a model of its own
            with its part of the steps.
    """

    training: Literal["together", "apart"] = "together"

    @abstractmethod
    def members(self, context: TuningContext) -> Mapping[str, Subnet]:
        """Names and subnets, largest first; none if no operating point can be met."""

    def tune(self, context: TuningContext) -> TunedFront:
        """Train what the rule keeps, at the cost of our stages."""
        members = self.members(context)
        if not members:
            context.reset()
            note = "No operating point leaves anything out: the dense model is the only member."
            return TunedFront([context.cut("dense", Subnet.dense(context.shape))], notes=[note])
        train = train_together if self.training == "together" else train_apart
        return train(context, members, cost_of_ours(context, self.front))


def train_together(context: TuningContext, members: Mapping[str, Subnet], cost: float) -> TunedFront:
    """One set of weights from the shared start: each step one member of the larger and one of the smaller half.

    Args:
        context: Shared start.
        members: Names and subnets, largest first.
        cost: Of the training, in steps of the whole model.
    """
    shape, subnets = context.shape, list(members.values())
    context.reset()
    with members_of(context.network, shape) as view:
        objective = JointObjective(view, context.distilled(), subnets, subnets, context.seed)
        sizes = [[flops_fraction(s, shape, context.workload) for s in half] for half in objective.halves]
        each = sum(sum(half) / len(half) for half in sizes)
        steps = max(1, round(PACE_TOGETHER * cost / each))
        context.fit(objective, steps, "members", offset=10)
    cut = [context.cut(name, subnet) for name, subnet in members.items()]
    return TunedFront(cut, notes=[f"The {len(cut)} models were trained together for {steps} steps."])


def train_apart(
    context: TuningContext, members: Mapping[str, Subnet], cost: float, start: Checkpoint | None = None
) -> TunedFront:
    """Each member a model of its own; all for as many steps.

    Args:
        context: Shared start.
        members: Names and subnets, largest first.
        cost: Of all together, in steps of the whole model.
        start: Weights and order to begin with; the shared start by default.
    """
    shape = context.shape
    total = sum(flops_fraction(s, shape, context.workload) for s in members.values())
    steps = max(1, round(PACE_APART * cost / total))
    if start is None:
        context.reset()
        start = context.checkpoint()
    cut = []
    for number, (name, subnet) in enumerate(members.items()):
        context.restore(start)
        with members_of(context.network, shape) as view:
            objective = JointObjective(view, context.distilled(), [subnet], [subnet], context.seed)
            context.fit(objective, steps, name, offset=10 + number)
        cut.append(context.cut(name, subnet))
    return TunedFront(cut, notes=[f"Each of the {len(cut)} models was trained for {steps} steps."])


def at_points(context: TuningContext, path: list[Subnet]) -> dict[str, Subnet]:
    """The largest subnet of a path within each operating point, by name."""
    members: dict[str, Subnet] = {}
    for point in context.operating_points:
        subnet = largest_within(path, point, context.shape, context.workload)
        if subnet not in members.values():
            members[f"{100 * point:.3g} %"] = subnet
    return members


class DropTop(FixedRule):
    """Keep the first layers.

    Each size is a model of its own: trained together, models of different layers ruin each other.
    """

    training = "apart"

    def kept(self, layers: int, count: int) -> tuple[int, ...]:
        """Layers that stay when `count` of `layers` do."""
        return tuple(range(count))

    def members(self, context: TuningContext) -> Mapping[str, Subnet]:
        """One per operating point that whole layers can meet."""
        shape = context.shape
        sizes = {max(1, int(p * shape.n_layers + TOLERANCE)) for p in context.operating_points} - {shape.n_layers}
        return {
            f"{size} of {shape.n_layers} layers": _layers(shape, self.kept(shape.n_layers, size))
            for size in sorted(sizes, reverse=True)
        }


class DropAlternate(DropTop):
    """Keep layers spread evenly over the depth."""

    def kept(self, layers: int, count: int) -> tuple[int, ...]:
        """Evenly spaced layers, the first included."""
        return tuple(int(i * layers / count) for i in range(count))


class UniformWidth(FixedRule):
    """Keep the same heads and FFN blocks in every layer, the most important first."""

    def members(self, context: TuningContext) -> Mapping[str, Subnet]:
        """One per operating point that any width can meet."""
        shape = context.shape
        found: dict[str, Subnet] = {}
        for point in context.operating_points:
            subnet = widest(context, point)
            if subnet is not None and subnet not in found.values() and subnet != Subnet.dense(shape):
                found[f"{100 * point:.3g} %"] = subnet
        return found


def widest(context: TuningContext, point: float) -> Subnet | None:
    """The uniform subnet with most FLOPs within a fraction of the dense ones, heads and blocks in like proportion."""
    shape = context.shape
    step = 1 / min(shape.n_kv_heads, shape.ffn_blocks)
    best: tuple[float, Subnet | None] = (0.0, None)
    for heads in range(1, shape.n_kv_heads + 1):
        for blocks in range(1, shape.ffn_blocks + 1):
            if abs(heads / shape.n_kv_heads - blocks / shape.ffn_blocks) > step + TOLERANCE:
                continue
            subnet = Subnet.prefix([heads] * shape.n_layers, [blocks] * shape.n_layers)
            size = flops_fraction(subnet, shape, context.workload)
            if best[0] < size <= point + TOLERANCE:
                best = (size, subnet)
    return best[1]


def _layers(shape: BackboneShape, kept: tuple[int, ...]) -> Subnet:
    whole = [int(i in kept) for i in range(shape.n_layers)]
    return Subnet.prefix([shape.n_kv_heads * k for k in whole], [shape.ffn_blocks * k for k in whole])


METHODS.add("drop-top", DropTop)
METHODS.add("drop-alternate", DropAlternate)
METHODS.add("uniform-width", UniformWidth, ("uniform",))
