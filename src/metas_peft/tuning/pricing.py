"""The preference (lambda, mu, nu) and the cost model joined: one differentiable number per choice of counts."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from metas_peft.core.cost import Cost
from metas_peft.core.errors import CheckpointError
from metas_peft.core.protocols import CostModel
from metas_peft.core.shape import BackboneShape
from metas_peft.core.subnet import Subnet
from metas_peft.core.workload import Workload
from metas_peft.costs import Counts, paper_cost


class GatePrice(Protocol):
    """What gates are trained against beside the task: fixed weights (`Price`) or budgets (`BudgetPrice`)."""

    @property
    def cost_model(self) -> CostModel:
        """Predictor of the target."""
        ...

    @property
    def budgets(self) -> Mapping[str, float]:
        """Metric -> limit that it drives the gates to."""
        ...

    def check(self, granularities: Collection[str]) -> None:
        """Refuse what gates of these granularities cannot reach, before they are trained."""
        ...

    def __call__(self, counts: Counts[Any]) -> Any:
        """A scalar for what the gates keep, differentiable."""
        ...

    def after_step(self, counts: Counts[Any]) -> None:
        """Learn from what the gates keep after a step; asked only where there are budgets."""
        ...

    def state(self) -> dict[str, torch.Tensor]:
        """What it has learnt, for a file."""
        ...

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Inverse of `state`."""
        ...


@dataclass(frozen=True)
class Price:
    """lambda E/E0 + mu L/L0 + nu P/P0, relative to the ungated model's own prediction.

    Attributes:
        cost_model: Prices counts on the target.
        weights: lambda, mu, nu in the places of energy, latency and peak power.
        reference: Predicted cost of the ungated model.
        shape: Shape of the backbone.
    """

    cost_model: CostModel
    weights: Cost[float]
    reference: Cost[float]
    shape: BackboneShape

    @property
    def budgets(self) -> Mapping[str, float]:
        """None: weights are a preference."""
        return {}

    def check(self, granularities: Collection[str]) -> None:
        """Nothing: a preference can always be followed."""

    @classmethod
    def on(cls, cost_model: CostModel, weights: Cost[float], shape: BackboneShape) -> "Price":
        """Price with the ungated model of `shape` as its unit."""
        dense = cost_model(Counts.dense(shape))
        return cls(cost_model, weights, dense.map(lambda v: float(np.asarray(v))), shape)

    def __call__(self, counts: Counts[Any]) -> Any:
        """Weighted relative cost, shape (...); differentiable for tensors."""
        ratios = self.cost_model(counts).zip(self.reference, lambda c, r: c / r)
        weighted = ratios.zip(self.weights, lambda ratio, weight: ratio * weight)
        return weighted.energy_j + weighted.latency_ms + weighted.peak_power_w

    def after_step(self, counts: Counts[Any]) -> None:
        """Nothing: the weights stay."""

    def state(self) -> dict[str, torch.Tensor]:
        """Nothing."""
        return {}

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Nothing to take up.

        Raises:
            CheckpointError: Another price has learnt something.
        """
        if state:
            raise CheckpointError(
                "The checkpoint's gates were trained with budgets, where weights were expected. Resume with the price "
                "that it was written with, or start over."
            )

    def marginal(self, heads: np.ndarray, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What one more unit costs in each sub-layer: the price's gradient, through the cost model.

        The gradient with respect to a sub-layer's presence (its kernels and its norm) is shared out among the
        units it has left, so that emptying a sub-layer is credited to the units that make it possible.

        Args:
            heads: Kept KV groups per layer, shape (L,).
            blocks: Kept FFN blocks per layer, shape (L,).

        Returns:
            Marginal price per head and per FFN block, each (L,), positive.
        """
        attention = torch.tensor((heads > 0).astype(np.float64), requires_grad=True)
        ffn = torch.tensor((blocks > 0).astype(np.float64), requires_grad=True)
        kept = torch.tensor(heads.astype(np.float64), requires_grad=True)
        neurons = torch.tensor(blocks.astype(np.float64) * self.shape.block_size, requires_grad=True)
        full = Counts.dense(self.shape).ranks
        ranks = torch.as_tensor(full)
        price = self(Counts(attention, ffn, kept, neurons, ranks))
        # A price may ignore a count (FLOPs ignore presence); its gradient is then zero.
        by_presence, by_ffn, by_head, by_neuron = torch.autograd.grad(
            price, [attention, ffn, kept, neurons], allow_unused=True, materialize_grads=True
        )
        per_head = by_head.numpy() + by_presence.numpy() / np.maximum(heads, 1)
        per_block = by_neuron.numpy() * self.shape.block_size + by_ffn.numpy() / np.maximum(blocks, 1)
        # Peak power may fall when a unit is added; removing it is then not worth less than nothing.
        floor = 1e-3 * max(float(np.median(np.abs(np.concatenate([per_head, per_block])))), 1e-12)
        return np.maximum(per_head, floor), np.maximum(per_block, floor)


def flops_fraction(subnet: Subnet, shape: BackboneShape, workload: Workload) -> float:
    """FLOPs of a subnet over those of the whole backbone."""
    part = paper_cost(shape, Counts.of(subnet, shape), workload).flops
    return float(part / paper_cost(shape, Counts.dense(shape), workload).flops)
