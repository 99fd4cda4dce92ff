"""Methods that remove what is cheap to lose and dear to keep; they differ in who tells the price.

EChorda and DiGASE are known from a description only, hence "-style"; here they get the same warm start, order,
path and training as ours (equal treatment).
"""

from abc import abstractmethod

from metas_peft.core.cost import Cost
from metas_peft.core.errors import CalibrationError
from metas_peft.costs import Counts, paper_cost, random_prefixes
from metas_peft.tuning.context import TuningContext
from metas_peft.tuning.methods.base import METHODS, Method, TunedFront
from metas_peft.tuning.methods.gates import gates_front
from metas_peft.tuning.methods.nested import nested_front
from metas_peft.tuning.pricing import Price

FRONTS = {"nested": nested_front, "gates": gates_front}


class PricedMethod(Method):
    """One fine-tuning, the whole front, given a price."""

    @abstractmethod
    def price(self, context: TuningContext) -> Price:
        """What decides the removals."""

    def tune(self, context: TuningContext) -> TunedFront:
        """The front of this method's price."""
        return FRONTS[self.front](context, self.price(context))


class MetasPeft(PricedMethod):
    """Priced by the calibrated surrogate in all three costs; no device is called while training."""

    def price(self, context: TuningContext) -> Price:
        """lambda, mu, nu over the surrogate's predictions."""
        if context.cost_model is None:
            raise CalibrationError("MetaS-PEFT needs a calibrated surrogate as its cost model, seen none.")
        return Price.on(context.cost_model, context.weights, context.shape)


class EChorda(PricedMethod):
    """Energy alone, from a model fitted to many measurements (200 as described) of the target itself."""

    def tune(self, context: TuningContext) -> TunedFront:
        """The front of its price; budgets, if there are any, hold by what it knows of the target itself."""
        price = self.price(context)
        if context.limits_on is not None:
            context.limits = context.limits_on(price.cost_model)
        return FRONTS[self.front](context, price)

    def price(self, context: TuningContext) -> Price:
        """Measure random subnets of all sizes and fit."""
        cost_model = context.fit_on_target(
            random_prefixes(context.shape, context.target_samples, seed=context.seed + 7)
        )
        # Energy is all it prices, also beside a method whose preference leaves energy out.
        return Price.on(cost_model, Cost(context.weights.energy_j or 1.0, 0.0, 0.0), context.shape)


class DiGase(PricedMethod):
    """FLOPs as a proxy; no measurement."""

    def price(self, context: TuningContext) -> Price:
        """FLOPs in all three places, weighted once."""

        def flops(counts: Counts) -> Cost:
            return Cost.uniform(paper_cost(context.shape, counts, context.workload).flops)

        return Price.on(flops, Cost(1.0, 0.0, 0.0), context.shape)


METHODS.add("MetaS-PEFT", MetasPeft, ("proposed", "metas"))
METHODS.add("EChorda", EChorda, ("comparative-1", "EChorda-style"))
METHODS.add("DiGASE", DiGase, ("comparative-2", "DiGASE-style"))
