"""The best candidate predicted inside the budgets; where there is none, what to relax."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from metas_peft.core.cost import METRICS

SURE, LIKELY = "upper ends", "predictions"


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        index: Of the candidate.
        by: Whether the upper ends of its 80 % intervals lie inside the budgets, or its predictions alone.
    """

    index: int
    by: str


@dataclass(frozen=True)
class Shortfall:
    """No candidate is predicted inside all budgets.

    Attributes:
        cheapest: Least predicted cost of any candidate, by budgeted metric.
        relaxed: What a budget would have to be for a candidate to fit surely while the others stay; metrics for which
            no limit would do are left out.
        enough: Budgets that together a candidate would surely hold: where several must give way at once.
    """

    cheapest: Mapping[str, float]
    relaxed: Mapping[str, float]
    enough: Mapping[str, float]

    def sentence(self, budgets: Mapping[str, float]) -> str:
        """What is wrong and what to do."""
        alone = [m for m in budgets if self.cheapest[m] > budgets[m]]
        if alone:
            wrong = "; ".join(
                f"{m}={budgets[m]:.4g} is below the least predicted {self.cheapest[m]:.4g}" for m in alone
            )
            what = f"No member of the front is predicted to hold the budgets: {wrong}"
        else:
            listed = " and ".join(f"{m}={v:.4g}" for m, v in budgets.items())
            what = f"No member of the front is predicted to hold {listed} together, though each alone could be held"
        ways = [f"{m}={round_up(v):g}" for m, v in self.relaxed.items()]
        together = " and ".join(f"{m}={round_up(v):g}" for m, v in self.enough.items() if v > budgets[m])
        return f"{what}. What would do: {' or '.join(ways) or together}."


def round_up(value: float, digits: int = 3) -> float:
    """The next number of so many digits that is not smaller."""
    unit = 10.0 ** (math.floor(math.log10(value)) - digits + 1)
    return float(f"{math.ceil(value / unit - 1e-9) * unit:.{digits}g}")


def choose(
    quality: Sequence[float], size: Sequence[float], middle: np.ndarray, upper: np.ndarray, budgets: Mapping[str, float]
) -> Choice | Shortfall:
    """Choose among candidates.

    Of those whose upper ends lie inside, the one of the highest quality (of equals the smallest). Where there is none,
    the one whose predictions lie furthest inside: it is the least unlikely to hold.

    Args:
        quality: Expected quality of each candidate, length N.
        size: FLOPs of each, as fractions, length N.
        middle: Predicted energy (J), latency (ms), peak power (W), shape (N, 3).
        upper: Upper ends of their intervals, shape (N, 3).
        budgets: Upper limits by metric; may be empty.
    """
    columns = [METRICS.index(m) for m in budgets]
    limits = np.array(list(budgets.values()))
    best_first = sorted(range(len(quality)), key=lambda i: (-quality[i], size[i]))
    for i in best_first:
        if (upper[i, columns] <= limits).all():
            return Choice(i, SURE)
    pressure = (middle[:, columns] / limits).max(1)
    if pressure.min() <= 1:
        return Choice(int(pressure.argmin()), LIKELY)
    cheapest = {m: float(middle[:, METRICS.index(m)].min()) for m in budgets}
    relaxed: dict[str, float] = {}
    for metric in budgets:
        others = [METRICS.index(m) for m in budgets if m != metric]
        rest = np.array([budgets[METRICS[c]] for c in others])
        fitting = (middle[:, others] <= rest).all(1)
        if fitting.any():
            relaxed[metric] = float(upper[fitting, METRICS.index(metric)].min())
    nearest = int((upper[:, columns] / limits).max(1).argmin())
    enough = {m: max(limit, float(upper[nearest, METRICS.index(m)])) for m, limit in budgets.items()}
    return Shortfall(cheapest, relaxed, enough)
