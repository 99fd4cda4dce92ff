"""A surrogate fitted to one device: what prices sub-networks while gates are trained."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from metas_peft.core.cost import PAPER_COSTS, Cost, PaperCost
from metas_peft.core.errors import UnknownNameError
from metas_peft.core.protocols import CostModel
from metas_peft.core.shape import BackboneShape
from metas_peft.core.workload import Workload
from metas_peft.costs import paper_cost
from metas_peft.surrogate.calibrate import ScaleShift
from metas_peft.surrogate.features import describe
from metas_peft.surrogate.kinds import Predictor, PredictorWithInterval
from metas_peft.surrogate.physics import project


@dataclass(frozen=True)
class CalibrationPoint:
    """One of the measurements that fitted a surrogate.

    Attributes:
        key: Of the sub-network.
        raw: Predicted before scale and shift.
        predicted: Predicted by the finished surrogate.
        measured: What the device said; None where it was not measured.
    """

    key: str
    raw: Cost[float]
    predicted: Cost[float]
    measured: Cost[float | None]


@dataclass(frozen=True)
class Surrogate:
    """One device's cost model. Positive; energy / latency <= peak power <= cap; differentiable.

    Attributes:
        kind: Kind of predictor.
        device: Name of the device; empty if nothing is known of it.
        pool: Devices that it learnt from.
        power_cap_w: Limit of the device, None if unknown.
        scale_shift: Part C; None for a zero-shot surrogate and for a kind that needs none.
        points: The measurements behind it.
        predictor: Columns to costs, before scale, shift and physics.
    """

    kind: str
    device: str
    pool: tuple[str, ...]
    power_cap_w: float | None
    scale_shift: ScaleShift | None
    points: tuple[CalibrationPoint, ...]
    predictor: Predictor

    @property
    def alpha(self) -> Cost[float]:
        """Scale per metric; 1 where there is none."""
        return Cost.uniform(1.0) if self.scale_shift is None else Cost(*map(float, self.scale_shift.alpha))

    @property
    def beta(self) -> Cost[float]:
        """Shift per metric in J, ms, W; 0 where there is none."""
        return Cost.uniform(0.0) if self.scale_shift is None else Cost(*map(float, self.scale_shift.beta))

    def predict(self, paper: PaperCost[Any], workload: Workload) -> Cost[Any]:
        """Costs of passes whose counts are known.

        Args:
            paper: Counted costs: numbers, numpy arrays or tensors of one shape (...).
            workload: What each pass processes.

        Returns:
            Energy (J), latency (ms), peak power (W) per batch, of the type and shape given; tensors keep gradients.
        """
        counted = [getattr(paper, name) for name in PAPER_COSTS]
        if any(isinstance(value, torch.Tensor) for value in counted):
            tensors = PaperCost(*(torch.as_tensor(value) for value in counted))
            costs = finish(self.predictor(describe(tensors, workload)), self.scale_shift, self.power_cap_w)
            return Cost(*(c.to(tensors.flops.dtype) for c in costs.unbind(-1)))
        tensors = PaperCost(*(torch.from_numpy(np.array(value, dtype=np.float64)) for value in counted))
        with torch.no_grad():
            costs = finish(self.predictor(describe(tensors, workload)), self.scale_shift, self.power_cap_w).numpy()
        is_scalar = all(np.ndim(value) == 0 and not isinstance(value, np.ndarray) for value in counted)
        return Cost(*(float(costs[..., m]) if is_scalar else costs[..., m] for m in range(costs.shape[-1])))

    @property
    def gives_interval(self) -> bool:
        """Whether `interval` can be asked."""
        return isinstance(self.predictor, PredictorWithInterval)

    def interval(self, paper: PaperCost[Any], workload: Workload) -> tuple[Cost[np.ndarray], Cost[np.ndarray]]:
        """Bounds between which the device's reading lies in about four cases of five.

        Args:
            paper: Counted costs: numbers or numpy arrays of one shape (...).
            workload: What each pass processes.

        Returns:
            Lower and upper bounds of energy (J), latency (ms), peak power (W), each of shape (...).

        Raises:
            UnknownNameError: This kind of predictor gives no interval.
        """
        if not isinstance(self.predictor, PredictorWithInterval):
            raise UnknownNameError(f"A surrogate of kind {self.kind} gives no interval; fit one of kind metas.")
        tensors = PaperCost(
            *(torch.from_numpy(np.array(getattr(paper, name), dtype=np.float64)) for name in PAPER_COSTS)
        )
        with torch.no_grad():
            columns = describe(tensors, workload)
            middle = finish(self.predictor(columns), self.scale_shift, self.power_cap_w)
            factor = self.predictor.log_half_width(columns).exp()
        low, high = (middle / factor).numpy(), (middle * factor).numpy()
        if self.power_cap_w is not None:
            high[..., 2] = np.minimum(high[..., 2], self.power_cap_w)
        return Cost(*np.moveaxis(low, -1, 0)), Cost(*np.moveaxis(high, -1, 0))

    def bind(self, shape: BackboneShape, workload: Workload) -> CostModel:
        """A cost model of sub-networks of one backbone under one workload: kept counts (..., L) to costs (...)."""
        return lambda counts: self.predict(paper_cost(shape, counts, workload), workload)


def finish(costs: torch.Tensor, scale_shift: ScaleShift | None, power_cap_w: float | None) -> torch.Tensor:
    """Scale, shift and physics; shape (..., 3)."""
    return project(costs if scale_shift is None else scale_shift.apply(costs), power_cap_w)
