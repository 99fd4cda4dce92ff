"""The nested front: a priced path through ordered units, then joint training of what lies on it.

The path is found on the trained dense model, before any unit is gone for good: a model that is trained while it shrinks
gets used to the smallest size, and its steps are worth more in the joint training.
"""

import logging
from dataclasses import replace

import torch

from metas_peft.core.subnet import Subnet
from metas_peft.tuning.context import TuningContext
from metas_peft.tuning.data import random_batches
from metas_peft.tuning.joint import JointObjective
from metas_peft.tuning.members import members_of
from metas_peft.tuning.methods.base import TunedFront
from metas_peft.tuning.path import BATCH_SIZE, TOLERANCE, PathSearch, largest_within
from metas_peft.tuning.pricing import Price, flops_fraction
from metas_peft.tuning.workers import agreed

logger = logging.getLogger(__name__)
BEYOND_UNIFORM = 0.8  # of the FLOPs at which equally wide layers hold the budgets
BUDGET = "budget"


def nested_front(context: TuningContext, price: Price) -> TunedFront:
    """Find the path, train jointly, cut.

    Args:
        context: Shared start.
        price: What decides the order of removal.
    """
    path, scores = find_path(context, price)
    return replace(joint_front(context, path), gates=scores)


def find_path(context: TuningContext, price: Price) -> tuple[list[Subnet], dict[str, torch.Tensor]]:
    """Take unit after unit from the dense model; its weights stay as they are.

    Args:
        context: Shared start.
        price: What decides the order of removal.

    Returns:
        Nested subnets, largest first, and the importances that the removals went by.
    """
    context.reset()
    shape, end = context.shape, min(context.operating_points)
    if context.limits is not None:
        # The pace is set for where the path is likely to hold the limits: later than equally wide layers would, since
        # units differ in worth. It goes on from there if it has to.
        wide = context.limits.uniform_prefix()
        end = min(end, 0.0 if wide is None else BEYOND_UNIFORM * flops_fraction(wide, shape, context.workload))
    settings = context.settings
    batches = random_batches(context.data, context.collator, BATCH_SIZE, settings.seed + 1)
    context.network.eval()
    with members_of(context.network, shape) as view:
        search = PathSearch(view, context.distilled(), price, context.workload, end, context.limits)
        search.run(context.adapted, batches, context.schedule.path, bf16=settings.bf16, progress=context.progress)
    scores = {f"importance.{name}": torch.from_numpy(values) for name, values in search.importances.items()}
    return agreed((search.path, scores))


def joint_front(context: TuningContext, path: list[Subnet]) -> TunedFront:
    """Train the members of a path together and cut one out per operating point.

    Args:
        context: Weights and order as the path left them.
        path: Nested prefixes, largest first.
    """
    shape, points = context.shape, context.operating_points
    wanted = {p: largest_within(path, p, shape, context.workload) for p in points}
    notes: list[str] = []
    within = within_budget(context, path, notes)
    cut = [*wanted.values(), *within]
    # Every mask between the largest and the smallest member takes part, not only the chosen ones.
    places = [path.index(subnet) for subnet in cut]
    trained = path[min(places) : max(places) + 1]
    if context.schedule.joint:
        with members_of(context.network, shape) as view:
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


def within_budget(context: TuningContext, path: list[Subnet], notes: list[str]) -> list[Subnet]:
    """The largest subnet of a path that is predicted to hold the budgets, where there are any, with a note of it."""
    if context.limits is None:
        return []
    holds = agreed(context.limits.hold(path))
    holding = [subnet for subnet, is_inside in zip(path, holds, strict=True) if is_inside]
    if not holding:
        notes.append(
            "No subnet on the path is predicted to hold the budgets, not even the smallest that it can reach. Relax "
            "them, or give what they limit more weight in objective_weights."
        )
        return []
    size = 100 * flops_fraction(holding[0], context.shape, context.workload)
    notes.append(f"The largest subnet on the path that is predicted to hold the budgets has {size:.3g} % of the FLOPs.")
    return holding[:1]
