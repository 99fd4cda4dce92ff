"""Budgets on the target: which subnets are predicted to hold them, and whether any can."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from metas_peft.core.cost import METRIC_UNITS, Cost
from metas_peft.core.errors import BudgetInfeasibleError
from metas_peft.core.protocols import CostModel
from metas_peft.core.shape import BackboneShape
from metas_peft.core.subnet import Subnet
from metas_peft.costs import Counts


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

    def check(self) -> None:
        """Refuse limits that no subnet can hold, before anything is trained for them.

        Raises:
            BudgetInfeasibleError: The cheapest subnets, one unit in one layer, are predicted to cost more.
        """
        rest = [0] * (self.shape.n_layers - 1)
        least = [Subnet.prefix([1, *rest], [0, *rest]), Subnet.prefix([0, *rest], [1, *rest])]
        cheapest = self.predicted(least).map(lambda c: float(c.min()))
        broken = [
            f"{metric}={limit:.4g} (the least predicted is {getattr(cheapest, metric):.4g} {METRIC_UNITS[metric]})"
            for metric, limit in self.values.items()
            if getattr(cheapest, metric) > limit
        ]
        if broken:
            raise BudgetInfeasibleError(
                f"No model cut from {self.shape.model_id} is predicted to hold {' and '.join(broken)} under this "
                "workload. Relax the budget, or shorten evaluation.seq_len."
            )

    def uniform_prefix(self) -> Subnet | None:
        """The widest subnet with equally wide layers that holds the limits: roughly where a path must go."""
        layers, groups, blocks = self.shape.n_layers, self.shape.n_kv_heads, self.shape.ffn_blocks
        widths = [
            Subnet.prefix([kept] * layers, [round(kept / groups * blocks)] * layers) for kept in range(groups, 0, -1)
        ]
        holding = np.flatnonzero(self.hold(widths))
        return widths[holding[0]] if len(holding) else None
