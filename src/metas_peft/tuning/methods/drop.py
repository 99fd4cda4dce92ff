"""Dropping whole layers: warm-started and distilled exactly as ours, at equal training cost."""

from metas_peft.backbones import nested
from metas_peft.core.records import Subnet
from metas_peft.tuning.context import TuningContext
from metas_peft.tuning.methods.base import METHODS, Method, TunedFront
from metas_peft.tuning.path import SCHEDULE_POWER, JointObjective


def steps_of_equal_cost(context: TuningContext, fractions: list[float]) -> int:
    """Steps per model, so that separately trained models cost as much together as our path and joint stages.

    The cost of a step is taken as proportional to the fraction of the model that is run.
    """
    points = context.operating_points
    end = min(points)
    path = context.schedule.path * (end + (1 - end) / (SCHEDULE_POWER + 1))
    joint = context.schedule.joint * (max(points) + min(points))  # one pass in each half of the range
    return max(1, round((path + joint) / sum(fractions)))


class DropTop(Method):
    """Keep the first layers; each size is a model of its own."""

    def kept(self, layers: int, count: int) -> tuple[int, ...]:
        """Layers that stay when `count` of `layers` do."""
        return tuple(range(count))

    def tune(self, context: TuningContext) -> TunedFront:
        """Train one model per operating point that whole layers can meet."""
        shape = context.shape
        sizes = sorted({max(1, int(p * shape.n_layers + 1e-9)) for p in context.operating_points}, reverse=True)
        sizes = [size for size in sizes if size < shape.n_layers]
        if not sizes:
            context.reset()
            note = "No operating point leaves out a whole layer: the dense model is the only member."
            return TunedFront([context.cut("dense", Subnet.dense(shape))], notes=[note])
        steps = steps_of_equal_cost(context, [size / shape.n_layers for size in sizes])
        members = []
        for number, size in enumerate(sizes):
            context.reset()
            kept = self.kept(shape.n_layers, size)
            subnet = Subnet.prefix(
                [shape.n_kv_heads * (i in kept) for i in range(shape.n_layers)],
                [shape.ffn_blocks * (i in kept) for i in range(shape.n_layers)],
            )
            with nested(context.network, shape) as view:
                objective = JointObjective(view, context.distilled(), [subnet], [subnet], context.seed)
                context.fit(objective, steps, f"{size} layers", offset=10 + number)
            members.append(context.cut(f"{size} of {shape.n_layers} layers", subnet))
        return TunedFront(members, notes=[f"Each of the {len(sizes)} models was trained for {steps} steps."])


class DropAlternate(DropTop):
    """Keep layers spread evenly over the depth."""

    def kept(self, layers: int, count: int) -> tuple[int, ...]:
        """Evenly spaced layers, the first included."""
        return tuple(int(i * layers / count) for i in range(count))


METHODS.add("drop-top", DropTop)
METHODS.add("drop-alternate", DropAlternate)
