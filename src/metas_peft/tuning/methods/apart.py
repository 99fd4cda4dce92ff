"""What one run for the whole front is compared with: the same members, each fine-tuned alone from the dense model."""

from metas_peft.tuning.context import TuningContext
from metas_peft.tuning.methods.base import METHODS, TunedFront
from metas_peft.tuning.methods.fixed import PACE_APART, at_points, train_apart
from metas_peft.tuning.methods.nested import BUDGET, find_path, within_budget
from metas_peft.tuning.methods.priced import MetasPeft
from metas_peft.tuning.pricing import flops_fraction


class MetasPeftApart(MetasPeft):
    """Our path tells the members; each is trained from the shared start for as many steps as our joint stage has."""

    def tune(self, context: TuningContext) -> TunedFront:
        """Find the path once, train member after member."""
        path, scores = find_path(context, self.price(context))
        members, notes = at_points(context, path), list[str]()
        for subnet in within_budget(context, path, notes):
            if subnet not in members.values():
                members[BUDGET] = subnet
        members = dict(sorted(members.items(), key=lambda m: -flops_fraction(m[1], context.shape, context.workload)))
        sizes = [flops_fraction(s, context.shape, context.workload) for s in members.values()]
        front = train_apart(context, members, context.schedule.joint * sum(sizes) / PACE_APART)
        return TunedFront(front.members, scores, path, front.notes + notes)


METHODS.add("MetaS-PEFT-apart", MetasPeftApart)
