"""The nested front: a priced path through ordered units, then joint training of what lies on it."""

import logging
from dataclasses import replace

import torch

from metas_peft.backbones import nested
from metas_peft.core.subnet import Subnet
from metas_peft.tuning.context import TuningContext
from metas_peft.tuning.methods.base import TunedFront
from metas_peft.tuning.path import TOLERANCE, JointObjective, PathObjective, largest_within
from metas_peft.tuning.pricing import Price, flops_fraction

logger = logging.getLogger(__name__)
# The model still loses units when the path ends, and must be able to make up for them.
PATH_FINAL_RATE = 0.3
BEYOND_UNIFORM = 0.8  # of the FLOPs at which equally wide layers hold the budgets
BUDGET = "budget"


def nested_front(context: TuningContext, price: Price) -> TunedFront:
    """Shrink, train jointly, cut.

    Args:
        context: Shared start.
        price: What decides the order of removal.
    """
    path, scores = shrink(context, price)
    return replace(joint_front(context, path), gates=scores)


def shrink(context: TuningContext, price: Price) -> tuple[list[Subnet], dict[str, torch.Tensor]]:
    """Train while the model loses unit after unit.

    Args:
        context: Shared start.
        price: What decides the order of removal.

    Returns:
        Nested subnets, largest first, and the importances that the removals went by.
    """
    context.reset()
    shape, end = context.shape, min(context.operating_points)
    if context.limits is not None:
        # Units differ in worth, so that the path may hold the limits later than equally wide layers would.
        wide = context.limits.uniform_prefix()
        end = min(end, 0.0 if wide is None else BEYOND_UNIFORM * flops_fraction(wide, shape, context.workload))
    with nested(context.network, shape) as view:
        shrinking = PathObjective(view, context.distilled(), price, context.workload, end=end)
        context.fit(shrinking, context.schedule.path, "path", offset=1, final_rate=PATH_FINAL_RATE)
        view.set_gates([None] * shape.n_layers, [None] * shape.n_layers)
    scores = {f"importance.{name}": torch.from_numpy(values) for name, values in shrinking.importances.items()}
    return shrinking.path, scores


def joint_front(context: TuningContext, path: list[Subnet]) -> TunedFront:
    """Train the members of a path together and cut one out per operating point.

    Args:
        context: Weights and order as the path left them.
        path: Nested prefixes, largest first.
    """
    shape, points = context.shape, context.operating_points
    wanted = {p: largest_within(path, p, shape, context.workload) for p in points}
    notes: list[str] = []
    within = _within_budget(context, path, notes)
    cut = [*wanted.values(), *within]
    # Every mask between the largest and the smallest member takes part, not only the chosen ones.
    places = [path.index(subnet) for subnet in cut]
    trained = path[min(places) : max(places) + 1]
    if context.schedule.joint:
        with nested(context.network, shape) as view:
            context.fit(
                JointObjective(view, context.distilled(), trained, cut, context.seed),
                context.schedule.joint,
                "joint",
                offset=2,
            )
    sizes = {p: flops_fraction(subnet, shape, context.workload) for p, subnet in wanted.items()}
    missed = [p for p in points if sizes[p] > p + TOLERANCE]
    if missed:
        notes.append(
            f"No subnet on the path is as small as the operating point {', '.join(f'{p:g}' for p in missed)}; the "
            f"smallest has {100 * sizes[missed[0]]:.3g} % of the dense FLOPs and is named so."
        )
    for note in notes:
        logger.warning(note)
    # A member is named after the point it was cut for, or after its size where it is larger than that.
    names = {subnet.key: (f"{100 * max(p, sizes[p] * (p in missed)):.3g} %", subnet) for p, subnet in wanted.items()}
    for subnet in within:
        names.setdefault(subnet.key, (BUDGET, subnet))
    members = [context.cut(name, subnet) for name, subnet in names.values()]
    members.sort(key=lambda m: -flops_fraction(m.subnet, shape, context.workload))
    return TunedFront(members, path=path, notes=notes)


def _within_budget(context: TuningContext, path: list[Subnet], notes: list[str]) -> list[Subnet]:
    """The largest subnet of a path that is predicted to hold the budgets, where there are any."""
    if context.limits is None:
        return []
    holding = [s for s, holds in zip(path, context.limits.hold(path), strict=True) if holds]
    if not holding:
        notes.append("No subnet on the path is predicted to hold the budgets; allow it more steps, or relax them.")
        return []
    size = 100 * flops_fraction(holding[0], context.shape, context.workload)
    notes.append(f"The largest subnet on the path that is predicted to hold the budgets has {size:.3g} % of the FLOPs.")
    return holding[:1]
