"""Hard-concrete gates as the source describes them: trained against the weighted predicted cost, or to hold budgets.

After training, gates of heads and FFN blocks are ranked by their expected value (times their layer's) and closed from
the lowest up; of the ranks as many stay as their expected values add up to. The resulting nested subnets are trained
jointly like those of the nested front, or each becomes a model of its own.
"""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from metas_peft.core.subnet import Subnet
from metas_peft.gates import GateSet, GateValues, closing, gated, told_apart
from metas_peft.tuning.budgets import BudgetPrice, Limits
from metas_peft.tuning.context import GateSettings, TuningContext
from metas_peft.tuning.gating import ramp, unmoved
from metas_peft.tuning.methods.base import TunedFront
from metas_peft.tuning.methods.nested import joint_front
from metas_peft.tuning.objectives import DistilledObjective
from metas_peft.tuning.order import descending
from metas_peft.tuning.path import SAVE_EVERY
from metas_peft.tuning.pricing import GatePrice, Price, flops_fraction
from metas_peft.tuning.workers import agreed

logger = logging.getLogger(__name__)


class GatesObjective:
    """Distilled loss under sampled gates, plus the price of the expected gates and the sparsity regulariser.

    Args:
        gates: The gates.
        distilled: Loss of a pass.
        price: Weighted relative cost, or budgets.
        settings: Weight of the sum of P(z > 0), length of warm-up and ramp.
    """

    def __init__(self, gates: GateSet, distilled: DistilledObjective, price: GatePrice, settings: GateSettings) -> None:
        self._gates, self._distilled, self._price, self._settings = gates, distilled, price, settings
        self._begin(0.0)

    def draw(self) -> GateValues | None:
        """Samples, or none during the warm-up."""
        return None if self._is_held_open else self._gates.sample()

    def loss(self, model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """L_task + ramp price + reg sum P(z > 0)."""
        loss = self._distilled.loss(model, batch)
        if self._is_held_open:
            return loss
        cost = self._price(self._gates.soft_counts())
        return loss + self._ramp * cost + self._settings.sparsity * self._gates.penalty()

    def after_step(self, step: int, steps: int) -> None:
        """Raise the cost's weight from 0 to 1 between the end of the warm-up and the end of the ramp."""
        if self._ramp > 0 and self._price.budgets:
            with torch.no_grad():
                self._price.after_step(self._gates.soft_counts())
        self._begin(step / steps)

    def _begin(self, done: float) -> None:
        """The next step, after so much of all steps."""
        self._is_held_open = done < self._settings.warmup
        self._ramp = ramp(done, self._settings.warmup, self._settings.ramp)


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
        price: Weighted relative cost on the target; budgets that a member is to hold take its place in training.
    """
    gates = train_gates(context, price, context.gates.granularities, context.limits)
    front = joint_front(context, gates.path)
    return TunedFront(front.members, gates.tensors, front.path, gates.notes + front.notes)


def train_gates(
    context: TuningContext, price: Price, granularities: Sequence[str], limits: Limits | None = None
) -> TrainedGates:
    """Train gates together with the adapters, and bring heads, blocks and ranks into the order of their gates.

    Args:
        context: Shared start.
        price: Weighted relative cost on the target.
        granularities: What is gated.
        limits: Budgets, which take the place of the price; None trains by the price, whatever the run holds.
    """
    context.reset()
    shape, settings = context.shape, context.gates
    gates = GateSet(shape, granularities, temperature=settings.temperature, seed=context.seed)
    before = gates.expectations()
    pressing: GatePrice = price if limits is None else BudgetPrice(limits)
    objective = GatesObjective(gates, context.distilled(), pressing, settings)
    with gated(context.network, shape, objective.draw, granularities):
        context.fit(objective, settings.steps, "gates", offset=1,
                    gates=list(gates.parameters()), gate_rate=settings.learning_rate)  # fmt: skip
    values = agreed(gates.expectations())
    notes = []
    if still := unmoved(gates, before):
        notes.append(
            f"Gates did not move: {still}; their order is arbitrary. Raise model.gating.gate_learning_rate or "
            "training.gate_steps, or lower the temperature."
        )
        logger.warning(notes[-1])
    tensors = {f"log_alpha.{name}": a.detach().clone() for name, a in gates.log_alpha.items()}
    path = agreed(closing_path(context, _sort_units(context, values), granularities, limits))
    return TrainedGates(path, tensors, notes)


def _sort_units(context: TuningContext, values: GateValues) -> GateValues:
    """Bring heads, blocks and ranks of the model into descending order of expected value; gives the values in it."""
    shape, heads, blocks = context.shape, descending(values.head), descending(values.ffn_block)
    neurons = blocks[..., None] * shape.block_size + torch.arange(shape.block_size)
    context.reorder(heads, neurons.flatten(1))
    return replace(
        values,
        head=values.head.gather(-1, heads),
        ffn_block=values.ffn_block.gather(-1, blocks),
        rank=context.order_ranks(values.rank),
    )


def closing_path(
    context: TuningContext, values: GateValues, granularities: Collection[str], limits: Limits | None = None
) -> list[Subnet]:
    """Nested subnets from closing gates one by one, down to the smallest operating point and the budgets, if any.

    Args:
        context: Gives shape, workload and operating points.
        values: Expected gates, in descending order within each layer and site.
        granularities: What is gated.
        limits: The budgets.
    """
    shape, end = context.shape, min(context.operating_points)
    path: list[Subnet] = []
    if limits is not None:
        values = told_apart(values, granularities)
    last, fraction = Subnet.dense(shape), 1.0
    for last in closing(values, shape, granularities):
        now = flops_fraction(last, shape, context.workload)
        if not path or fraction - now >= SAVE_EVERY:
            path.append(last)
            fraction = now
        if now <= end and (limits is None or limits.hold([last])[0]):
            break
    return path if path[-1] == last else [*path, last]
