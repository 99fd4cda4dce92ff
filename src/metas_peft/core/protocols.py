"""Seams between packages that must not know each other."""

from typing import Any, Protocol

from metas_peft.core.cost import Cost


class CostModel(Protocol):
    """Prices a sub-network on one device under one workload.

    `counts` is a `metas_peft.costs.Counts` of numpy arrays or torch tensors, shape `(..., L)`. The result has
    shape `(...)` and, for tensors, carries gradients back to the counts.
    """

    def __call__(self, counts: Any) -> Cost[Any]:
        """Energy (J), latency (ms) and peak power (W) of one batch."""
        ...
