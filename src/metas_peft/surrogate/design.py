"""Which configurations to measure on a new device, chosen before any label is known."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from metas_peft.core.errors import UsageError
from metas_peft.core.records import PaperCost


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
