"""How much of each layer is kept, as numbers that may be expectations.

`Counts` holds numpy arrays or torch tensors: this package only uses operators that both have, so the same
formulas price a finished subnet and carry gradients to gate probabilities.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from metas_peft.core.errors import SubnetError
from metas_peft.core.shape import BackboneShape
from metas_peft.core.subnet import Subnet

T = TypeVar("T")


@dataclass(frozen=True)
class Counts(Generic[T]):
    """Kept counts per layer.

    Attributes:
        attention: Presence of the attention sub-layer, in [0, 1], shape (..., L).
        ffn: Presence of the feed-forward sub-layer, in [0, 1], shape (..., L).
        heads: Kept KV groups, shape (..., L); counts only where the sub-layer is present.
        neurons: Kept feed-forward neurons, shape (..., L).
        ranks: Kept LoRA ranks per adapter site, shape (..., L, M), M as in `BackboneShape.sites`.
    """

    attention: T
    ffn: T
    heads: T
    neurons: T
    ranks: T

    @classmethod
    def of(cls, subnet: Subnet, shape: BackboneShape) -> "Counts[np.ndarray]":
        """Exact counts of a subnet.

        Raises:
            SubnetError: The subnet has another number of layers than the backbone.
        """
        return cls.stack([subnet], shape, squeeze=True)

    @classmethod
    def stack(cls, subnets: Sequence[Subnet], shape: BackboneShape, squeeze: bool = False) -> "Counts[np.ndarray]":
        """Exact counts of several subnets, with a leading batch axis unless `squeeze`."""
        for subnet in subnets:
            if len(subnet.layers) != shape.n_layers:
                raise SubnetError(
                    f"The subnet {subnet.key} has {len(subnet.layers)} layers, {shape.model_id} has {shape.n_layers}. "
                    "Use a subnet that was made for this backbone."
                )
        full = tuple(tuple(range(site.rank)) for site in shape.sites)
        columns: dict[str, list[Any]] = {f.name: [] for f in dataclasses.fields(cls)}
        for subnet in subnets:
            layers = subnet.layers
            columns["attention"].append([float(p.attention) for p in layers])
            columns["ffn"].append([float(p.ffn) for p in layers])
            columns["heads"].append([float(len(p.heads) * p.attention) for p in layers])
            columns["neurons"].append([float(len(p.ffn_blocks) * p.ffn * shape.block_size) for p in layers])
            columns["ranks"].append(
                [
                    [
                        float(len(kept) * (p.ffn if site.is_ffn else p.attention))
                        for site, kept in zip(shape.sites, p.ranks if p.ranks is not None else full, strict=True)
                    ]
                    for p in layers
                ]
            )
        arrays = {
            n: np.asarray(v, dtype=np.float64).reshape(len(subnets), shape.n_layers, *([-1] if n == "ranks" else []))
            if v and (n != "ranks" or shape.sites)
            else np.zeros((len(subnets), shape.n_layers, 0))
            for n, v in columns.items()
        }
        return Counts(**{n: a[0] if squeeze else a for n, a in arrays.items()})

    @classmethod
    def dense(cls, shape: BackboneShape) -> "Counts[np.ndarray]":
        """Everything kept."""
        return cls.of(Subnet.dense(shape), shape)
