"""Methods as their sources describe them: trained on the labels alone, every operating point a model of its own.

Hard-concrete gates are trained once against the method's cost; a model is cut at each operating point in the order in
which the gates close, and fine-tuned for its part of the time that our joint stage takes. Budgets change nothing: the
descriptions have weights. Dropped layers are fine-tuned the same way. The dense start is shared with all other methods,
and adapters, which are merged here, keep all their ranks: closing them would cost quality and save nothing. Both are
kinder than the descriptions.
"""

from dataclasses import replace
from typing import ClassVar

from metas_peft.core.subnet import Subnet
from metas_peft.tuning.context import TuningContext
from metas_peft.tuning.methods.base import METHODS, TunedFront
from metas_peft.tuning.methods.fixed import DropAlternate, DropTop, at_points, cost_of_joint_stage, train_apart
from metas_peft.tuning.methods.gates import train_gates
from metas_peft.tuning.methods.priced import DiGase, EChorda, MetasPeft, PricedMethod


class GatesAsDescribed(PricedMethod):
    """Gates, then a model per operating point.

    Attributes:
        granularities: What the description gates.
    """

    granularities: ClassVar[tuple[str, ...]] = ("layer", "head", "rank")

    def tune(self, context: TuningContext) -> TunedFront:
        """Train the gates, cut, fine-tune each model."""
        with context.on_labels_alone():
            gates = train_gates(context, self.price(context), self.granularities)
            members = at_points(context, [_with_all_ranks(s) for s in gates.path])
            front = train_apart(context, members, cost_of_joint_stage(context), context.checkpoint())
        return TunedFront(front.members, gates.tensors, gates.path, gates.notes + front.notes)


def _with_all_ranks(subnet: Subnet) -> Subnet:
    return Subnet(tuple(replace(plan, ranks=None) for plan in subnet.layers))


class EChordaAsDescribed(GatesAsDescribed, EChorda):
    """Energy alone, from measurements of the target itself."""


class MetasPeftAsDescribed(GatesAsDescribed, MetasPeft):
    """The surrogate's three costs, in the way of the source: no nested order, no distillation."""


class DiGaseAsDescribed(GatesAsDescribed, DiGase):
    """MACs alone; whole layers and ranks."""

    granularities = ("layer", "rank")


class DropTopAsDescribed(DropTop):
    """Keep the first layers and fine-tune."""

    def tune(self, context: TuningContext) -> TunedFront:
        """Without distillation."""
        with context.on_labels_alone():
            return super().tune(context)


class DropAlternateAsDescribed(DropTopAsDescribed, DropAlternate):
    """Keep layers spread over the depth and fine-tune."""


METHODS.add("MetaS-PEFT-as-described", MetasPeftAsDescribed)
METHODS.add("EChorda-as-described", EChordaAsDescribed)
METHODS.add("DiGASE-as-described", DiGaseAsDescribed)
METHODS.add("drop-top-as-described", DropTopAsDescribed)
METHODS.add("drop-alternate-as-described", DropAlternateAsDescribed)
