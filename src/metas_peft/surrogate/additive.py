"""Predictions that cannot fall when a count rises: weighted geometric means of non-negative additive costs.

    log latency(x) = level + sum_m mix_m * bend_m * log(sum_p weight_mp * basis_p(x))          (energy likewise)
    log peak(x)    = intercept + slope * log(mean power(x)) + tilt . log terms(x)

The basis holds the counted terms, each divided by its mean over the calibration points, and squares of some. All
weights, mixing parts and bends are non-negative, so that energy and latency rise with every count. Averaging
predictors in log space means listing their experts side by side.
"""

from dataclasses import dataclass

import torch

from metas_peft.surrogate.terms import Schema

Tensor = torch.Tensor
TINY = 1e-30
# Logarithms of relative terms are clipped here: no calibration tells what happens e^3.5 times beyond it.
LOG_CLIP = 3.5


def basis(schema: Schema, unit: Tensor, scale: Tensor) -> Tensor:
    """Terms, and squares of some roofline terms.

    Args:
        schema: Of the terms.
        unit: Terms divided by their means over the calibration points, shape (..., K).
        scale: Those means, shape (K,), or one row for each row of `unit`.

    Returns:
        Shape (..., P); non-negative, and rising with every term.
    """
    parts = [unit * torch.as_tensor(schema.is_paid(), dtype=unit.dtype)]
    if schema.squared:
        to_base = torch.as_tensor(schema.base_matrix()[:, list(schema.squared)], dtype=unit.dtype)
        scale = scale.to(unit.dtype)
        parts.append(((unit * scale) @ to_base / (scale @ to_base).clamp_min(TINY)) ** 2)
    return torch.cat(parts, dim=-1)


def relative_logs(unit: Tensor) -> Tensor:
    """Clipped logarithms of relative terms, shape (..., K); the constant's is 0."""
    return unit.clamp_min(TINY).log().clamp(-LOG_CLIP, LOG_CLIP)


@dataclass(frozen=True)
class AdditiveMixture:
    """One fitted device, or a batch of them (leading axes B).

    Letters: M experts, K terms, P basis functions.

    Attributes:
        schema: Of the terms.
        scale: Mean of each term over the calibration points, shape (B..., K).
        weights: Of energy and latency, non-negative, shape (B..., 2, M, P).
        mix: Parts of the experts, non-negative, summing to 1, shape (B..., 2, M).
        bend: Exponents of the experts, positive, shape (B..., 2, M).
        level: Added to log energy (J) and log latency (ms), shape (B..., 2).
        power: Intercept and slope of log peak power (W) on log mean power (W), shape (B..., 2).
        tilt: Slopes of log peak power on relative log terms, shape (B..., K).
    """

    schema: Schema
    scale: Tensor
    weights: Tensor
    mix: Tensor
    bend: Tensor
    level: Tensor
    power: Tensor
    tilt: Tensor

    def log_costs(self, terms: Tensor) -> Tensor:
        """Log energy (J), latency (ms), peak power (W).

        Args:
            terms: Counted terms, shape (B..., Q, K).

        Returns:
            Shape (B..., Q, 3).
        """
        unit = terms / self.scale[..., None, :]
        phi = basis(self.schema, unit, self.scale[..., None, :])
        sums = torch.einsum("...qp,...ump->...qum", phi, self.weights).clamp_min(TINY)
        logs = ((self.mix * self.bend)[..., None, :, :] * sums.log()).sum(-1) + self.level[..., None, :]
        # Milliseconds to seconds: log 1000.
        mean_power = logs[..., 0] - logs[..., 1] + LOG_MS_PER_S
        peak = self.power[..., :1] + self.power[..., 1:] * mean_power
        peak = peak + torch.einsum("...qk,...k->...q", relative_logs(unit), self.tilt)
        return torch.cat([logs, peak[..., None]], dim=-1)


LOG_MS_PER_S = float(torch.tensor(1000.0, dtype=torch.float64).log())


def distance(schema: Schema, unit: Tensor) -> Tensor:
    """How far a pass is from the calibration points: mean absolute log of its relative roofline terms.

    Args:
        schema: Of the terms.
        unit: Terms divided by their means over the calibration points, shape (..., K).

    Returns:
        Shape (...), 0 for a pass like the points' mean.
    """
    base = unit @ torch.as_tensor(schema.base_shares(), dtype=unit.dtype)
    return relative_logs(base)[..., 1:].abs().mean(-1)
