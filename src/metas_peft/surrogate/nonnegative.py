"""Robust non-negative additive fit of a few positive numbers."""

import numpy as np
from scipy.optimize import nnls

ITERATIONS = 6
# A residual of so many robust standard deviations has half the weight of a small one.
TUNING = 2.5
# Below this relative error a record is never called an outlier.
LEAST_SPREAD = 0.03
# Rounds of exchanging whole blocks, of exchanging at all, and what counts as zero, for many problems at once.
BLOCK_PIVOTS, PIVOTS, ROUNDING = 5, 40, 1e-12


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


def fit_nonnegative_many(
    terms: np.ndarray,
    target: np.ndarray,
    ridge: float,
    centre: np.ndarray | None = None,
    *,
    least_spread: float = LEAST_SPREAD,
    iterations: int = 4,
) -> np.ndarray:
    """The same fit for many small problems at once.

    Args:
        terms: Non-negative additive terms, shape (B, n, K); a term may be zero throughout a problem.
        target: Positive numbers, shape (B, n).
        ridge: Strength of the pull, in records.
        centre: Weights of which only the proportions count, shape (B, K); None for equal parts.
        least_spread: Below this relative error a record is never called an outlier.
        iterations: Rounds of re-weighting.

    Returns:
        Weights, shape (B, K).
    """
    count = terms.shape[-1]
    scale = terms.mean(1)
    alive = scale > 0
    scale = np.where(alive, scale, 1.0)
    unit = terms / scale[:, None, :]
    level = np.median(target / unit.mean(-1), axis=1)[:, None] / count
    rows = unit * (level / target)[..., None]
    pull = ridge / count**2
    parts = np.ones((len(terms), count)) if centre is None else centre * scale
    parts = parts / np.maximum(parts.sum(1, keepdims=True), 1e-300) * count
    weight, found = np.ones_like(target), parts
    for _ in range(iterations):
        weighted = rows * weight[..., None]
        gram = np.swapaxes(weighted, 1, 2) @ weighted
        gram[:, np.arange(count), np.arange(count)] += pull
        found = _solve_nonnegative(gram, np.einsum("bnk,bn->bk", weighted, weight) + pull * parts)
        residual = 1 - np.einsum("bnk,bk->bn", rows, found)
        spread = np.maximum(1.4826 * np.median(np.abs(residual), axis=1), least_spread)[:, None]
        weight = 1 / np.sqrt(1 + (residual / (TUNING * spread)) ** 2)
    return np.where(alive, found * level / scale, 0.0)


def _solve_nonnegative(gram: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Minimise x' gram x / 2 - goal' x over x >= 0 for B positive definite problems, by block principal pivoting.

    Whole blocks of wrong signs change sides at first, one index at a time later, which ends cycles (Kim and Park 2011).
    """
    count = goal.shape[1]
    unity = np.eye(count, dtype=bool)
    passive = np.ones_like(goal, dtype=bool)
    found = np.zeros_like(goal)
    todo = np.arange(len(goal))
    for pivot in range(PIVOTS):
        free = passive[todo]
        inside = free[:, :, None] & free[:, None, :]
        matrix = np.where(inside, gram[todo], 0.0) + (unity & ~inside)
        found[todo] = np.linalg.solve(matrix, np.where(free, goal[todo], 0.0)[..., None])[..., 0]
        slope = np.einsum("bkl,bl->bk", gram[todo], found[todo]) - goal[todo]
        wrong = np.where(free, found[todo] < -ROUNDING, slope < -ROUNDING)
        if pivot >= BLOCK_PIVOTS:
            last = count - 1 - wrong[:, ::-1].argmax(1)
            wrong &= np.arange(count) == last[:, None]
        passive[todo] = free ^ wrong
        todo = todo[wrong.any(1)]
        if not len(todo):
            break
    return np.maximum(found, 0.0)
