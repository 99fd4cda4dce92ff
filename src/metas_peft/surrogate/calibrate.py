"""Part C: per metric a scale and a shift from a handful of measurements, `psi' = alpha * psi + beta`.

Regularised, so that five noisy samples cannot turn a prediction upside down: alpha towards
median(measured) / median(predicted), beta towards 0 on the scale of the median measurement.
"""

from dataclasses import dataclass

import numpy as np
import torch

from metas_peft.core.cost import METRIC_NAMES, METRICS
from metas_peft.core.errors import CalibrationError

MIN_RECORDS = 2
# Strength of the ridge, in records: as if half a record said "only the median is wrong".
RIDGE = 0.5
# A measured metric falls with the predicted one only by noise: the scale stays above this part of its centre.
MIN_RELATIVE_SCALE = 0.05
# However negative the shift, a prediction keeps this part of its scaled value and so stays positive.
FLOOR = 0.05


@dataclass(frozen=True)
class ScaleShift:
    """A fitted scale and shift.

    Attributes:
        alpha: Scale per metric, positive, shape (3,).
        beta: Shift per metric in J, ms, W, shape (3,).
    """

    alpha: np.ndarray
    beta: np.ndarray

    def apply(self, costs: torch.Tensor) -> torch.Tensor:
        """Calibrated costs, positive and increasing in the given ones, shape (..., 3)."""
        scaled = costs * torch.as_tensor(self.alpha, dtype=costs.dtype, device=costs.device)
        shift = torch.as_tensor(self.beta, dtype=costs.dtype, device=costs.device)
        return torch.maximum(scaled + shift, FLOOR * scaled)


def check_measured(costs: np.ndarray, least: int = MIN_RECORDS) -> None:
    """Refuse measurements that cannot carry a fit.

    Args:
        costs: Measured costs, NaN where not measured, shape (n, 3).
        least: Measurements needed of each metric; a scale and a shift need two.

    Raises:
        CalibrationError: Fewer rows, or a metric measured in fewer of them.
    """
    if len(costs) < least:
        raise CalibrationError(
            f"{len(costs)} calibration record(s) given, a scale and a shift need at least {MIN_RECORDS}. "
            "Measure more configurations (five are usual), or ask for a zero-shot surrogate."
        )
    counts = np.isfinite(costs).sum(0)
    for metric, count in zip(METRICS, counts, strict=True):
        if count == 0:
            raise CalibrationError(
                f"{METRIC_NAMES[metric]} was never measured in {len(costs)} calibration records; at least "
                f"{least} are needed. Measure it, import it, or choose a power model for this device."
            )
        if count < least:
            raise CalibrationError(
                f"{METRIC_NAMES[metric]} was measured in 1 of {len(costs)} calibration records; at least "
                f"{MIN_RECORDS} are needed. Measure it in more configurations."
            )


def fit_scale_shift(predicted: np.ndarray, measured: np.ndarray, ridge: float = RIDGE) -> ScaleShift:
    """Ridge fit of measured = alpha * predicted + beta for each metric, on relative errors.

    Args:
        predicted: Predicted costs, positive, shape (n, 3).
        measured: Measured costs, NaN where not measured, shape (n, 3).
        ridge: Strength of the pull, in records.

    Returns:
        Scale and shift. In units of the medians, a = alpha * median(predicted) / median(measured) and
        b = beta / median(measured), the fit minimises
        sum(((a * x + b - t) / t)^2) + ridge * ((a - 1)^2 + b^2).

    Raises:
        CalibrationError: See `check_measured`; or a cost that is negative or not finite.
    """
    check_measured(measured)
    bad = ~(predicted > 0) | ~np.isfinite(predicted) | (measured <= 0) | np.isinf(measured)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise CalibrationError(
            f"Calibration record {row}: {METRICS[column]} is {measured[row, column]} measured and "
            f"{predicted[row, column]} predicted; expected positive, finite numbers. Measure it again."
        )
    pairs = [_fit_one(predicted[:, m], measured[:, m], ridge) for m in range(len(METRICS))]
    return ScaleShift(alpha=np.array([a for a, _ in pairs]), beta=np.array([b for _, b in pairs]))


def _fit_one(predicted: np.ndarray, measured: np.ndarray, ridge: float) -> tuple[float, float]:
    known = np.isfinite(measured)
    predicted, measured = predicted[known], measured[known]
    centre, level = np.median(predicted), np.median(measured)
    x, t = predicted / centre, measured / level
    design = np.stack([x / t, 1 / t], axis=1)
    normal = design.T @ design + ridge * np.eye(2)
    a, b = np.linalg.solve(normal, design.sum(0) + np.array([ridge, 0.0]))
    if a < MIN_RELATIVE_SCALE:
        a = MIN_RELATIVE_SCALE
        b = ((1 - a * x / t) / t).sum() / ((1 / t**2).sum() + ridge)
    return float(a * level / centre), float(b * level)
