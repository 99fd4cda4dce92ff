"""What is done before anything is written: five measurements, calibration, choice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from metas_peft.core.errors import CalibrationError
from metas_peft.core.records import ProfileRecord
from metas_peft.deploy.candidates import Candidate, FinishedRun, points_to_measure
from metas_peft.deploy.choosing import Choice, Shortfall, choose
from metas_peft.deploy.costing import Costing, fit_costing
from metas_peft.deploy.sources import Source


@dataclass(frozen=True)
class Decision:
    """What was decided, and what it rests on.

    Attributes:
        points: The configurations that were measured.
        measured: Their records.
        costing: What was fitted to them.
        middle: Predicted energy (J), latency (ms), peak power (W) of each candidate, shape (N, 3).
        low: Lower ends of their 80 % intervals, shape (N, 3).
        high: Upper ends, shape (N, 3).
        choice: The candidate, or why there is none.
    """

    points: Sequence[Candidate]
    measured: Sequence[ProfileRecord]
    costing: Costing
    middle: np.ndarray
    low: np.ndarray
    high: np.ndarray
    choice: Choice | Shortfall


def decide(run: FinishedRun, budgets: Mapping[str, float], source: Source, seed: int = 0) -> Decision:
    """Measure five configurations, fit, choose.

    Args:
        run: Finished run.
        budgets: Upper limits by metric; may be empty.
        source: Who measures.
        seed: Of everything random.

    Raises:
        MetasPeftError: The device failed, or records do not fit.
    """
    points = points_to_measure(run, seed)
    measured = source.calibrate(points)
    for metric in budgets:
        lacking = sum(getattr(r.cost, metric) is None for r in measured)
        if lacking:
            which = "" if lacking == len(points) else f"{lacking} of "
            raise CalibrationError(
                f"There is a budget for {metric}, but {which}the {len(points)} measurements of {source.device} do not "
                "have it. Measure it, or leave the budget out."
            )
    costing = fit_costing(measured, source.spec)
    middle, low, high = costing.predict(run, [c.subnet for c in run.candidates])
    quality, size = [c.quality for c in run.candidates], [c.flops_fraction for c in run.candidates]
    return Decision(points, measured, costing, middle, low, high, choose(quality, size, middle, high, budgets))
