"""The nested front: a priced path through ordered units, then joint training of what lies on it."""

from metas_peft.backbones import nested
from metas_peft.core.records import Subnet
from metas_peft.tuning.context import TuningContext
from metas_peft.tuning.methods.base import TunedFront
from metas_peft.tuning.path import JointObjective, PathObjective, largest_within
from metas_peft.tuning.pricing import Price

# The model still loses units when the path ends, and must be able to make up for them.
PATH_FINAL_RATE = 0.3


def nested_front(context: TuningContext, price: Price) -> TunedFront:
    """Shrink, train jointly, cut.

    Args:
        context: Shared start.
        price: What decides the order of removal.
    """
    context.reset()
    points, shape = context.operating_points, context.shape
    with nested(context.network, shape) as view:
        shrinking = PathObjective(view, context.distilled(), price, context.workload, end=min(points))
        context.fit(shrinking, context.schedule.path, "path", offset=1, final_rate=PATH_FINAL_RATE)
        view.set_gates([None] * shape.n_layers, [None] * shape.n_layers)
    return joint_front(context, shrinking.path)


def joint_front(context: TuningContext, path: list[Subnet]) -> TunedFront:
    """Train the members of a path together and cut one out per operating point.

    Args:
        context: Weights and order as the path left them.
        path: Nested prefixes, largest first.
    """
    shape, points = context.shape, context.operating_points
    wanted = {p: largest_within(path, p, shape, context.workload) for p in points}
    # Every mask between the largest and the smallest operating point takes part, not only the chosen ones.
    trained = path[path.index(wanted[max(points)]) : path.index(wanted[min(points)]) + 1]
    if context.schedule.joint:
        with nested(context.network, shape) as view:
            context.fit(
                JointObjective(view, context.distilled(), trained, context.seed),
                context.schedule.joint,
                "joint",
                offset=2,
            )
    names = {subnet.key: (f"{100 * p:.0f} %", subnet) for p, subnet in wanted.items()}
    return TunedFront([context.cut(name, subnet) for name, subnet in names.values()], path=path)
