"""Hard-concrete gates as the source describes them: trained against the weighted predicted cost.

After training, gates are ranked by their expected value (times their layer's) and closed from the lowest up. The
resulting nested subnets are trained jointly like those of the nested front, or each becomes a model of its own.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from metas_peft.core.subnet import LayerPlan, Subnet
from metas_peft.gates import GateSet, GateValues, gated
from metas_peft.tuning.context import TuningContext
from metas_peft.tuning.gating import STILL
from metas_peft.tuning.methods.base import TunedFront
from metas_peft.tuning.methods.nested import joint_front
from metas_peft.tuning.objectives import DistilledObjective
from metas_peft.tuning.order import descending
from metas_peft.tuning.path import SAVE_EVERY
from metas_peft.tuning.pricing import Price, flops_fraction

logger = logging.getLogger(__name__)

WARMUP, RAMP = 0.1, 0.3  # fractions of the steps: gates held open, then the cost's weight rises


class GatesObjective:
    """Distilled loss under sampled gates, plus the price of the expected gates and the sparsity regulariser.

    Args:
        gates: The gates.
        distilled: Loss of a pass.
        price: Weighted relative cost.
        sparsity: Weight of the sum of P(z > 0).
    """

    def __init__(self, gates: GateSet, distilled: DistilledObjective, price: Price, sparsity: float) -> None:
        self._gates, self._distilled, self._price, self._sparsity = gates, distilled, price, sparsity
        self._ramp = 0.0

    def draw(self) -> GateValues | None:
        """Samples, or none during the warm-up."""
        return self._gates.sample() if self._ramp > 0 else None

    def loss(self, model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """L_task + ramp (lambda E/E0 + mu L/L0 + nu P/P0) + reg sum P(z > 0)."""
        loss = self._distilled.loss(model, batch)
        if self._ramp == 0:
            return loss
        cost = self._price(self._gates.soft_counts())
        return loss + self._ramp * cost + self._sparsity * self._gates.penalty()

    def after_step(self, step: int, steps: int) -> None:
        """Raise the cost's weight from 0 to 1 between the end of the warm-up and the end of the ramp."""
        self._ramp = min(1.0, max(0.0, (step / steps - WARMUP) / (RAMP - WARMUP)))


@dataclass(frozen=True)
class TrainedGates:
    """What gates have learnt to remove.

    Attributes:
        path: Nested subnets from closing them one by one, largest first.
        tensors: Their log-odds.
        notes: Sentences for the report.
    """

    path: list[Subnet]
    tensors: dict[str, torch.Tensor]
    notes: list[str]


def gates_front(context: TuningContext, price: Price) -> TunedFront:
    """Train gates, rank them, train the resulting members jointly, cut.

    Args:
        context: Shared start.
        price: Weighted relative cost on the target.
    """
    gates = train_gates(context, price, context.gates.granularities)
    front = joint_front(context, gates.path)
    return TunedFront(front.members, gates.tensors, front.path, gates.notes + front.notes)


def train_gates(context: TuningContext, price: Price, granularities: Sequence[str]) -> TrainedGates:
    """Train gates together with the adapters, and bring heads, blocks and ranks into the order of their gates.

    Args:
        context: Shared start.
        price: Weighted relative cost on the target.
        granularities: What is gated.
    """
    context.reset()
    shape, settings = context.shape, context.gates
    gates = GateSet(shape, granularities, temperature=settings.temperature, seed=context.seed)
    before = gates.expectations()
    objective = GatesObjective(gates, context.distilled(), price, settings.sparsity)
    with gated(context.network, shape, objective.draw, granularities):
        context.fit(objective, settings.steps, "gates", offset=1,
                    gates=list(gates.parameters()), gate_rate=settings.learning_rate)  # fmt: skip
    values = gates.expectations()
    notes = []
    moved = max(float((getattr(values, g) - getattr(before, g)).abs().max()) for g in gates.granularities)
    if moved < STILL:
        notes.append(
            f"The gates did not move (largest change of an expected gate {moved:.1e}); their order is arbitrary. "
            "Raise model.gating.gate_learning_rate or training.gate_steps, or lower the temperature."
        )
        logger.warning(notes[-1])
    ranks_order = _sort_units(context, values)
    tensors = {f"log_alpha.{name}": a.detach().clone() for name, a in gates.log_alpha.items()}
    return TrainedGates(closing_path(context, values, ranks_order), tensors, notes)


def _sort_units(context: TuningContext, values: GateValues) -> torch.Tensor:
    """Bring heads, blocks and ranks of the model into descending order of expected value; returns ranks' values."""
    shape = context.shape
    neuron_order = descending(values.ffn_block)[..., None] * shape.block_size + torch.arange(shape.block_size)
    context.reorder(descending(values.head), neuron_order.flatten(1))
    return context.order_ranks(values.rank)


def closing_path(context: TuningContext, values: GateValues, ranks: torch.Tensor) -> list[Subnet]:
    """Nested subnets from closing gates one by one, lowest expected value first.

    Args:
        context: Gives shape, workload and operating points.
        values: Expected gates.
        ranks: Expected rank gates in descending order within each site, (L, M, R).
    """
    shape = context.shape
    heads = values.head.sort(-1, descending=True).values * (values.layer * values.attention)[:, None]
    blocks = values.ffn_block.sort(-1, descending=True).values * (values.layer * values.ffn)[:, None]
    levels = torch.cat([heads.flatten(), blocks.flatten()]).unique()
    path = [_above(context, heads, blocks, ranks, -1.0)]
    fraction = 1.0
    # Above the highest level nothing would be left.
    last = float(levels[-2]) if len(levels) > 1 else -1.0
    for level in levels[:-1].tolist():
        subnet = _above(context, heads, blocks, ranks, level)
        now = flops_fraction(subnet, shape, context.workload)
        is_last = now <= min(context.operating_points) or level == last
        if fraction - now >= SAVE_EVERY or (is_last and now < fraction):
            path.append(subnet)
            fraction = now
        if is_last:
            break
    return path


def _above(
    context: TuningContext, heads: torch.Tensor, blocks: torch.Tensor, ranks: torch.Tensor, level: float
) -> Subnet:
    """The subnet of units whose expected value exceeds a level, as prefixes of the ordered model."""
    plans = []
    for i in range(context.shape.n_layers):
        h, f = int((heads[i] > level).sum()), int((blocks[i] > level).sum())
        kept = tuple(
            tuple(range(int((ranks[i, m, : site.rank] > level).sum()))) for m, site in enumerate(context.shape.sites)
        )
        plans.append(LayerPlan(h > 0, f > 0, tuple(range(h)), tuple(range(f)), kept or None))
    return Subnet(tuple(plans))
