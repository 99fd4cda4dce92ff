"""What the network is told of a few calibration points: relative counts, simple fits and their residuals.

Everything is relative to the points' own means, so that a phone and a data centre, a layer and a decoder of 32 look
alike; only the standardised logarithms say how large a pass is. Vectorised over B devices, because training reads
many thousands of them.
"""

from dataclasses import dataclass

import numpy as np
import torch

from metas_peft.surrogate.additive import LOG_CLIP, LOG_MS_PER_S
from metas_peft.surrogate.nonnegative import fit_nonnegative_many
from metas_peft.surrogate.terms import Schema

# Residuals are shown in units of the least spread, times this.
RESIDUAL_GAIN = 0.15
# Expected part of each square, where parts are expected at all.
EXPECTED_SQUARE = 0.02
# Labels beyond e^4 of their mean are a meter's failure.
LABEL_CLIP = 4.0


@dataclass(frozen=True)
class Scales:
    """Mean and spread of log terms over the passes that the network learnt on.

    Attributes:
        mean: Shape (K,).
        spread: Shape (K,); 1 where a term never varies.
    """

    mean: np.ndarray
    spread: np.ndarray

    @classmethod
    def learn(cls, terms: np.ndarray) -> "Scales":
        """From terms, shape (N, K)."""
        logs = np.log(np.maximum(terms, 1.0))
        spread = logs.std(0)
        return cls(logs.mean(0), np.where(spread > 1e-6, spread, 1.0))

    def __call__(self, terms: np.ndarray) -> np.ndarray:
        """Standardised log terms, clipped, shape (..., K)."""
        return np.clip((np.log(np.maximum(terms, 1.0)) - self.mean) / (2 * self.spread), -LOG_CLIP, LOG_CLIP)


@dataclass(frozen=True)
class Reading:
    """B sets of n calibration points as the network takes them; single precision.

    Attributes:
        tokens: One per point, shape (B, n, F).
        summary: Of the set, shape (B, G).
        fitted: Weights of energy and latency by the simple fits (without and with squares), on the basis, for costs
            whose geometric mean is 1; shape (B, 2, 2, P), second axis the fit.
        scale: Means of the terms, shape (B, K).
        level: Mean log costs, shape (B, 3).
    """

    tokens: torch.Tensor
    summary: torch.Tensor
    fitted: torch.Tensor
    scale: torch.Tensor
    level: torch.Tensor


def read_points(
    schema: Schema, scales: Scales, terms: np.ndarray, logs: np.ndarray, centre: np.ndarray | None = None
) -> Reading:
    """Read calibration points.

    Args:
        schema: Of the terms.
        scales: Of the log terms.
        terms: Counted terms, shape (B, n, K).
        logs: Log energy (J), latency (ms), peak power (W), all known, shape (B, n, 3).
        centre: Weights of the roofline's terms in energy and latency that the device is expected to have, of which only
            the proportions count, shape (B, 2, base terms); None for equal parts.
    """
    count, points = logs.shape[:2]
    level = logs.mean(1)
    centred = np.clip(logs - level[:, None], -LABEL_CLIP, LABEL_CLIP)
    scale = np.maximum(terms.mean(1), 1e-30)
    unit = terms / scale[:, None]
    to_base = schema.base_matrix()
    share = to_base / np.maximum(np.einsum("bk,kj->bj", scale, to_base), 1e-30)[:, None, :] * scale[..., None]
    base = np.einsum("bnk,bkj->bnj", unit, share)  # (B, n, base): each of mean 1
    squares = base[..., list(schema.squared)] ** 2
    parts = None if centre is None else centre * (scale @ to_base)[:, None]
    fits = [
        _both(schema, base, centred, parts),
        _both(schema, np.concatenate([base, squares], -1), centred, with_squares(parts, squares.shape[-1])),
    ]
    fitted, predicted, shares = [], [], []
    for position, weights in enumerate(fits):
        # Roofline weights back onto the columns that make their terms.
        plain = np.einsum("bkj,buj->buk", share, weights[..., : base.shape[-1]])
        extra = weights[..., base.shape[-1] :] if position else np.zeros((count, 2, squares.shape[-1]))
        straight = np.concatenate([plain, extra], -1)
        shown = np.einsum("bnp,bup->bnup", np.concatenate([unit, squares], -1), straight)
        whole = np.maximum(shown.sum(-1), 1e-30)
        fitted.append(straight)
        predicted.append(np.log(whole))
        shares.append(_by_role(shown / whole[..., None], to_base))
    relative = np.clip(np.log(np.maximum(base[..., 1:], 1e-30)), -LOG_CLIP, LOG_CLIP)
    gain = RESIDUAL_GAIN / schema.least_spread
    columns = [
        scales(terms),
        relative,
        *(s.reshape(count, points, -1) for s in shares),
        centred,
        *predicted,
        *(gain * (centred[..., :2] - p) for p in predicted),
    ]
    tokens = np.clip(np.concatenate(columns, -1), -LOG_CLIP, LOG_CLIP)
    error = [gain * np.abs(centred[..., :2] - p).mean(1) for p in predicted]
    size = np.full((count, 1), points)
    summary = np.concatenate(
        [*(s.mean(1).reshape(count, -1) for s in shares), *error, np.log(size), 5 / size,
         relative.std(1), centred.std(1)], -1,
    )  # fmt: skip
    return Reading(
        torch.from_numpy(tokens.astype(np.float32)),
        torch.from_numpy(np.clip(summary, -5, 5).astype(np.float32)),
        torch.from_numpy(np.stack(fitted, 1).astype(np.float32)),
        torch.from_numpy(scale.astype(np.float64)),
        torch.from_numpy(level.astype(np.float64)),
    )


def mean_power(logs: torch.Tensor) -> torch.Tensor:
    """Log mean power (W) from log energy (J) and log latency (ms) on the last axis."""
    return logs[..., 0] - logs[..., 1] + LOG_MS_PER_S


def with_squares(parts: np.ndarray | None, squares: int) -> np.ndarray | None:
    """Expected parts of terms and squares, from those of the terms, shape (..., base terms + squares)."""
    if parts is None:
        return None
    each = EXPECTED_SQUARE * parts.sum(-1, keepdims=True)
    return np.concatenate([parts, *[each] * squares], axis=-1)


def _both(schema: Schema, terms: np.ndarray, centred: np.ndarray, parts: np.ndarray | None) -> np.ndarray:
    """Fits of energy and latency to terms of mean 1, shape (B, 2, terms); `parts` (B, 2, terms) are expected."""
    pair = np.concatenate([terms, terms])
    target = np.exp(np.concatenate([centred[..., 0], centred[..., 1]]))
    expected = None if parts is None else np.concatenate([parts[:, 0], parts[:, 1]])
    found = fit_nonnegative_many(pair, target, schema.ridge, expected, least_spread=schema.least_spread)
    return np.stack(np.split(found, 2), axis=1)


def _by_role(parts: np.ndarray, to_base: np.ndarray) -> np.ndarray:
    """Shares of the roofline's terms (squares go with nothing), shape (B, n, 2, base)."""
    return np.einsum("bnuk,kj->bnuj", parts[..., : len(to_base)], to_base)
