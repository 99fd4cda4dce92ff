"""Two humble predictors from the same few samples; a surrogate that does not beat both says so."""

from dataclasses import dataclass

import numpy as np
import torch

from metas_peft.core.cost import METRICS
from metas_peft.surrogate.features import Table
from metas_peft.surrogate.kinds import Predictor
from metas_peft.surrogate.roofline import RooflineFit, RooflineKind

# Ridge on the slope of a line through five points, towards "the same shape".
SLOPE_RIDGE = 1e-3


@dataclass(frozen=True)
class Constant:
    """The median of the samples, whatever is asked. `costs` has shape (3,)."""

    costs: torch.Tensor

    @classmethod
    def fit(cls, table: Table) -> "Constant":
        """From a handful of records."""
        return cls(torch.from_numpy(np.nanmedian(table.costs, axis=0)))

    def __call__(self, columns: torch.Tensor) -> torch.Tensor:
        """The same costs for every row, shape (..., 3)."""
        return self.costs.expand(*columns.shape[:-1], len(METRICS))


@dataclass(frozen=True)
class LogAffine:
    """Per metric a straight line, in logarithms, from what the nearest pool device would show.

    Attributes:
        sources: The nearest device per metric.
        intercept: Shape (3,).
        slope: Shape (3,).
    """

    sources: tuple[RooflineFit, RooflineFit, RooflineFit]
    intercept: torch.Tensor
    slope: torch.Tensor

    @classmethod
    def fit(cls, table: Table, pool: list[RooflineFit]) -> "LogAffine":
        """The device on whose predictions the samples lie nearest to a line, and that line."""
        columns = torch.from_numpy(table.features)
        logs = [fit(columns).log().numpy() for fit in pool]
        best: list[tuple[float, int, float, float]] = []
        for m in range(len(METRICS)):
            known = np.isfinite(table.costs[:, m])
            y = np.log(table.costs[known, m])
            best.append(min((*_line(log[known, m], y, d),) for d, log in enumerate(logs)))
        chosen = [pool[d] for _, d, _, _ in best]
        return cls(
            (chosen[0], chosen[1], chosen[2]),
            torch.tensor([b[2] for b in best], dtype=torch.float64),
            torch.tensor([b[3] for b in best], dtype=torch.float64),
        )

    def __call__(self, columns: torch.Tensor) -> torch.Tensor:
        """Energy (J), latency (ms), peak power (W), shape (..., 3)."""
        logs = torch.stack([source(columns)[..., m].log() for m, source in enumerate(self.sources)], dim=-1)
        return (self.intercept + self.slope * logs).exp()


def pool_fits(kind: RooflineKind, table: Table) -> list[RooflineFit]:
    """One roofline per pool device, from all its records."""
    return [kind.fit(table.take(table.device == d), None) for d in table.present()]


def _line(x: np.ndarray, y: np.ndarray, device: int) -> tuple[float, int, float, float]:
    dx, dy = x - x.mean(), y - y.mean()
    slope = (dx @ dy + SLOPE_RIDGE) / (dx @ dx + SLOPE_RIDGE)
    return float(((dy - slope * dx) ** 2).sum()), device, float(y.mean() - slope * x.mean()), float(slope)


def rival(name: str, table: Table, pool: list[RooflineFit]) -> Predictor:
    """A rival by name, fitted to a handful of records."""
    return Constant.fit(table) if name == "constant" else LogAffine.fit(table, pool)
