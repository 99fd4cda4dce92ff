"""Robust non-negative additive fit of a few positive numbers."""

import numpy as np
from scipy.optimize import nnls

ITERATIONS = 6
# A residual of so many robust standard deviations has half the weight of a small one.
TUNING = 2.5
# Below this relative error a record is never called an outlier.
LEAST_SPREAD = 0.03


def fit_nonnegative(
    terms: np.ndarray, target: np.ndarray, ridge: float, centre: np.ndarray | None = None
) -> np.ndarray:
    """Non-negative weights w with `terms @ w` close to `target` in relative error.

    Records far off are weighted down (Cauchy weights, re-estimated a few times). Where the records cannot tell the
    terms apart, a ridge decides: each term's part of a typical target is drawn to its part under `centre`.

    Args:
        terms: Non-negative additive terms, shape (n, K); a term may be zero throughout.
        target: Positive numbers, shape (n,).
        ridge: Strength of the pull, in records.
        centre: Weights of which only the proportions count, shape (K,); None for equal parts.

    Returns:
        Weights, shape (K,); 0 for a term that is zero throughout.
    """
    scale = terms.mean(0)
    alive = scale > 0
    unit = terms[:, alive] / scale[alive]  # each column has mean 1
    level = np.median(target / unit.mean(1)) / alive.sum()  # weight of each term when all count the same
    parts = np.ones(alive.sum()) if centre is None else (centre * scale)[alive]
    total = parts.sum()
    parts = parts / total * alive.sum() if total > 0 else np.ones(alive.sum())
    pull = np.sqrt(ridge) * np.eye(alive.sum()) / alive.sum()
    weight, solution = np.ones(len(target)), parts
    for _ in range(ITERATIONS):
        rows = np.concatenate([unit * level / target[:, None] * weight[:, None], pull])
        solution, _ = nnls(rows, np.concatenate([weight, pull @ parts]))
        residual = 1 - unit @ solution * level / target
        spread = max(1.4826 * np.median(np.abs(residual)), LEAST_SPREAD)
        weight = 1 / np.sqrt(1 + (residual / (TUNING * spread)) ** 2)
    out = np.zeros(terms.shape[1])
    out[alive] = solution * level / scale[alive]
    return out
