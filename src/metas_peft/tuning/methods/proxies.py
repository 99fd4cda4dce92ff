"""Rivals in equal treatment: the same path and training as ours, priced by something else.

EChorda and DiGASE are known from a description only, hence "-style".
"""

import numpy as np

from metas_peft.core.records import Cost, Subnet
from metas_peft.costs import Counts, paper_cost
from metas_peft.tuning.context import TuningContext
from metas_peft.tuning.methods.base import METHODS, Method, TunedFront
from metas_peft.tuning.methods.nested import nested_front
from metas_peft.tuning.pricing import Price


def random_members(context: TuningContext, count: int) -> list[Subnet]:
    """Random prefix subnets of all sizes, distinct, for fitting a model of the target."""
    rng = np.random.default_rng(context.seed + 7)
    shape = context.shape
    found: dict[str, Subnet] = {}
    while len(found) < count:
        size = rng.uniform(0.1, 1.0)
        heads = rng.binomial(shape.n_kv_heads, size, shape.n_layers)
        blocks = rng.binomial(shape.ffn_blocks, size, shape.n_layers)
        if heads.sum() + blocks.sum():
            subnet = Subnet.prefix(heads.tolist(), blocks.tolist())
            found[subnet.key] = subnet
    return list(found.values())


class EChorda(Method):
    """Energy alone, from a model fitted to many measurements (200 as described) of the target itself."""

    label = "EChorda-style"

    def tune(self, context: TuningContext) -> TunedFront:
        """Measure random subnets, fit, then the nested front priced by predicted energy."""
        cost_model = context.fit_on_target(random_members(context, context.target_samples))
        return nested_front(context, Price.on(cost_model, Cost(1.0, 0.0, 0.0), context.shape))


class DiGase(Method):
    """FLOPs as a proxy; no measurement."""

    label = "DiGASE-style"

    def tune(self, context: TuningContext) -> TunedFront:
        """The nested front priced by FLOPs."""

        def flops(counts: Counts) -> Cost:
            return Cost.uniform(paper_cost(context.shape, counts, context.workload).flops)

        return nested_front(context, Price.on(flops, Cost(1.0, 0.0, 0.0), context.shape))


METHODS.add("EChorda", EChorda, ("comparative-1", "EChorda-style"))
METHODS.add("DiGASE", DiGase, ("comparative-2", "DiGASE-style"))
