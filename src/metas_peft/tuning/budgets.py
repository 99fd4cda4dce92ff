"""Budgets on the target: which subnets are predicted to hold them, whether any can, and gates that learn to."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from metas_peft.core.cost import METRIC_UNITS, Cost
from metas_peft.core.errors import BudgetInfeasibleError, CheckpointError
from metas_peft.core.protocols import CostModel
from metas_peft.core.shape import BackboneShape
from metas_peft.core.subnet import Subnet
from metas_peft.costs import Counts
from metas_peft.gates import GateSet, closing, smallest, told_apart

RATE = 0.05  # of the multipliers, per step: pressure is felt within tens of steps, and gates follow within tens more
_LIMIT = "limit."
UNITS = ("head", "ffn_block")  # what a nested path removes, one by one down to the last


@dataclass(frozen=True)
class Limits:
    """Absolute limits on predicted costs.

    Attributes:
        values: Metric (`energy_j`, `latency_ms`, `peak_power_w`) -> most of it, in its unit.
        cost_model: Calibrated predictor of the target.
        shape: Shape of the backbone.
    """

    values: Mapping[str, float]
    cost_model: CostModel
    shape: BackboneShape

    @classmethod
    def of(
        cls, absolute: Mapping[str, float], fractions: Mapping[str, float], cost_model: CostModel, shape: BackboneShape
    ) -> "Limits":
        """Limits from absolute ones and fractions of the ungated model's predicted cost; the tighter ones count."""
        values = dict(absolute)
        dense = cost_model(Counts.dense(shape))
        for metric, fraction in fractions.items():
            values[metric] = min(values.get(metric, np.inf), fraction * float(np.asarray(getattr(dense, metric))))
        return cls(values, cost_model, shape)

    def predicted(self, subnets: Sequence[Subnet]) -> Cost[np.ndarray]:
        """Predicted costs of subnets, (N,) each."""
        return self.cost_model(Counts.stack(subnets, self.shape)).map(np.asarray)

    def hold(self, subnets: Sequence[Subnet]) -> np.ndarray:
        """Whether each subnet is predicted to stay within all limits, (N,)."""
        costs = self.predicted(subnets)
        met = [getattr(costs, metric) <= limit for metric, limit in self.values.items()]
        return np.logical_and.reduce(met) if met else np.ones(len(subnets), dtype=bool)

    def check(self, granularities: Collection[str] = UNITS) -> None:
        """Refuse limits that no subnet can hold, before anything is trained for them.

        Args:
            granularities: What is gated; what none of them closes stays and is paid for.

        Raises:
            BudgetInfeasibleError: None of the smallest subnets within reach (one unit in one layer, where heads and FFN
                blocks are gated) is predicted to hold them all.
        """
        least = smallest(self.shape, granularities)
        if self.hold(least).any():
            return
        costs = self.predicted(least)
        cheapest = costs.map(lambda c: float(c.min()))
        broken = {m: f"{m}={v:.4g}" for m, v in self.values.items() if getattr(cheapest, m) > v}
        if not broken:
            # Each can be held, but by different models: told is the one that comes nearest to holding them all.
            excess = np.max([getattr(costs, m) / v for m, v in self.values.items()], axis=0)
            cheapest = costs.map(lambda c: float(c[int(excess.argmin())]))
            broken = {m: f"{m}={v:.4g}" for m, v in self.values.items()}
        told = [f"{t} (the least predicted is {getattr(cheapest, m):.4g} {METRIC_UNITS[m]})" for m, t in broken.items()]
        gated, finer = "", "Relax the budget, or shorten evaluation.seq_len."
        if set(granularities) != set(UNITS):
            gated = f" by gates on {', '.join(granularities)}"
            if self.hold(smallest(self.shape, UNITS)).any():
                finer = "Relax the budget, or gate heads and FFN blocks (head, ffn_block), which can get below it."
        raise BudgetInfeasibleError(
            f"No model cut from {self.shape.model_id}{gated} is predicted to hold {' and '.join(told)} under this "
            f"workload. {finer}"
        )

    def uniform_prefix(self) -> Subnet | None:
        """The widest subnet with equally wide layers that holds the limits: roughly where a path must go."""
        layers, groups, blocks = self.shape.n_layers, self.shape.n_kv_heads, self.shape.ffn_blocks
        widths = [
            Subnet.prefix([kept] * layers, [round(kept / groups * blocks)] * layers) for kept in range(groups, 0, -1)
        ]
        holding = np.flatnonzero(self.hold(widths))
        return widths[holding[0]] if len(holding) else None


class BudgetPrice:
    """What gates are trained against to hold budgets: sum of multiplier (C / limit - 1), a Lagrangian.

    A multiplier rises by `rate` times the excess of its budget after each step, and is 0 again as soon as the budget is
    held, so that gates are pressed no further than they must be. Gallego-Posada et al. 2022, "Controlled Sparsity via
    Constrained Optimization", algorithm 1 with dual restarts.

    Args:
        limits: The budgets.
        rate: Rise of a multiplier per step and unit of relative excess.

    Attributes:
        limits: The budgets.
        multipliers: Metric -> its multiplier.
    """

    def __init__(self, limits: Limits, rate: float = RATE) -> None:
        self.limits, self._rate = limits, rate
        self.multipliers = dict.fromkeys(limits.values, 0.0)

    @property
    def cost_model(self) -> CostModel:
        """Predictor of the target."""
        return self.limits.cost_model

    @property
    def budgets(self) -> Mapping[str, float]:
        """Metric -> limit."""
        return self.limits.values

    def check(self, granularities: Collection[str]) -> None:
        """Refuse budgets that gates of these granularities cannot hold; see `Limits.check`."""
        self.limits.check(granularities)

    def __call__(self, counts: Counts[Any]) -> Any:
        """The multiplied excesses, a scalar; differentiable for tensors."""
        return sum((self.multipliers[m] * excess for m, excess in self._excess(counts).items()), start=torch.zeros(()))

    def _excess(self, counts: Counts[Any]) -> dict[str, Any]:
        costs = self.cost_model(counts)
        return {m: getattr(costs, m) / limit - 1 for m, limit in self.budgets.items()}

    @torch.no_grad()
    def after_step(self, counts: Counts[Any]) -> None:
        """Raise the multipliers of budgets that the counts exceed, drop the others."""
        for metric, excess in self._excess(counts).items():
            raised = self.multipliers[metric] + self._rate * float(excess)
            self.multipliers[metric] = raised if excess > 0 else 0.0

    def state(self) -> dict[str, torch.Tensor]:
        """The multipliers and the budgets they belong to, for a file."""
        told = {**self.multipliers, **{f"{_LIMIT}{m}": v for m, v in self.budgets.items()}}
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in told.items()}

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Inverse of `state`.

        Raises:
            CheckpointError: It was written with other budgets, or with none.
        """
        theirs = {name.removeprefix(_LIMIT): float(v) for name, v in state.items() if name.startswith(_LIMIT)}
        # A fraction of what is predicted may differ in its last digits on another machine.
        same = theirs.keys() == self.budgets.keys() and all(math.isclose(theirs[m], self.budgets[m], rel_tol=1e-6)
                                                            for m in theirs)  # fmt: skip
        if not same:
            raise CheckpointError(
                f"The checkpoint's gates were trained with {_in_words(theirs)}, where {_in_words(self.budgets)} were "
                "expected. Resume with the price that it was written with, or start over."
            )
        self.multipliers = {m: float(state[m]) for m in self.multipliers}


def _in_words(budgets: Mapping[str, float]) -> str:
    told = ", ".join(f"{metric}={limit:.6g}" for metric, limit in budgets.items())
    return f"the budgets {told}" if told else "weights instead of budgets"


def budgeted_subnet(gates: GateSet, limits: Limits) -> Subnet:
    """Snap gates to budgets: units close from the lowest expected value up until all budgets are predicted to hold.

    Args:
        gates: Trained gates.
        limits: The budgets.

    Raises:
        BudgetInfeasibleError: They do not hold when the last gates that can close have closed.
    """
    values = told_apart(gates.expectations(), gates.granularities)
    for subnet in closing(values, gates.shape, gates.granularities):
        if limits.hold([subnet])[0]:
            return subnet
    limits.check(gates.granularities)
    raise BudgetInfeasibleError(
        "The budgets can be held, but not by what these gates leave last. Train them longer against the budgets "
        "(BudgetPrice), or gate sub-layers or FFN blocks too."
    )
