"""Which configurations to measure on a new device, chosen before any label is known."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from metas_peft.core.cost import PaperCost
from metas_peft.core.errors import UsageError

# Information before the first point; small beside that of one row.
D_OPTIMAL_START = 1e-3


def design(
    papers: Sequence[PaperCost[float]], k: int, method: Literal["random", "quantiles"] = "random", *, seed: int = 0
) -> list[int]:
    """Choose candidates to measure.

    Args:
        papers: Counted costs of the candidates.
        k: How many to choose.
        method: `random` (the source's way), or `quantiles`: evenly spaced in the order of FLOPs, ends included.
        seed: Of the random choice.

    Returns:
        k distinct indices, ascending.

    Raises:
        UsageError: Fewer candidates than choices, or an unknown method.
    """
    if not 0 < k <= len(papers):
        raise UsageError(f"{k} of {len(papers)} candidates cannot be chosen; offer at least as many as you choose.")
    if method == "random":
        return sorted(np.random.default_rng(seed).choice(len(papers), k, replace=False).tolist())
    if method == "quantiles":
        order = np.argsort([p.flops for p in papers], kind="stable")
        places = np.rint(np.linspace(0, len(papers) - 1, k)).astype(int)
        return sorted(order[places].tolist())
    raise UsageError(f"Unknown design {method!r}; known: random, quantiles.")


def d_optimal(terms: np.ndarray, k: int) -> list[int]:
    """Choose rows whose terms span the most: greedily the row with the largest leverage.

    Rows are taken relative to their own size, since what counts is the relative error of a prediction: a row then says
    in which proportions it stresses the parts of a device.

    Args:
        terms: Additive terms of the candidates, each of comparable size, shape (N, K).
        k: How many to choose.

    Returns:
        k distinct indices, ascending.
    """
    rows = terms / terms.sum(1, keepdims=True) * terms.shape[1]
    information = D_OPTIMAL_START * np.eye(terms.shape[1])
    chosen: list[int] = []
    for _ in range(k):
        leverage = np.einsum("ij,jk,ik->i", rows, np.linalg.inv(information), rows)
        leverage[chosen] = -1.0
        chosen.append(int(leverage.argmax()))
        information = information + np.outer(rows[chosen[-1]], rows[chosen[-1]])
    return sorted(chosen)
