"""A choice of what to keep of a backbone: layers, heads, feed-forward blocks, adapter ranks."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metas_peft.core.errors import SubnetError
from metas_peft.core.shape import BackboneShape


@dataclass(frozen=True)
class LayerPlan:
    """What one layer keeps; indices refer to the backbone the plan was made for.

    Attributes:
        attention: Whether the attention sub-layer (with its norm) is there at all.
        ffn: Whether the feed-forward sub-layer (with its norm) is there at all.
        heads: Kept KV groups, ascending. May be empty while `attention` is true: then only the output
            projection's bias and the norm remain.
        ffn_blocks: Kept FFN blocks, ascending.
        ranks: Kept rank indices per adapter site, in the order of `BackboneShape.sites`; None keeps all.
    """

    attention: bool
    ffn: bool
    heads: tuple[int, ...]
    ffn_blocks: tuple[int, ...]
    ranks: tuple[tuple[int, ...], ...] | None = None

    @property
    def is_kept(self) -> bool:
        """Whether anything of the layer remains."""
        return self.attention or self.ffn


@dataclass(frozen=True)
class Subnet:
    """A choice of what to keep of a backbone."""

    layers: tuple[LayerPlan, ...]

    def __post_init__(self) -> None:
        if not any(layer.is_kept for layer in self.layers):
            raise SubnetError("The choice keeps no layer at all; at least one sub-layer must remain.")

    @classmethod
    def dense(cls, shape: BackboneShape) -> "Subnet":
        """The whole backbone."""
        return cls.prefix([shape.n_kv_heads] * shape.n_layers, [shape.ffn_blocks] * shape.n_layers)

    @classmethod
    def prefix(cls, heads: Sequence[int], ffn_blocks: Sequence[int]) -> "Subnet":
        """The first so many heads and FFN blocks of each layer; a sub-layer with none is removed.

        Args:
            heads: Kept KV groups per layer, length L.
            ffn_blocks: Kept FFN blocks per layer, length L.
        """
        return cls(
            tuple(
                LayerPlan(bool(h), bool(f), tuple(range(int(h))), tuple(range(int(f))))
                for h, f in zip(heads, ffn_blocks, strict=True)
            )
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Subnet":
        """Inverse of `as_dict`."""
        return cls(
            tuple(
                LayerPlan(
                    bool(layer["attention"]),
                    bool(layer["ffn"]),
                    tuple(layer["heads"]),
                    tuple(layer["ffn_blocks"]),
                    None if layer.get("ranks") is None else tuple(tuple(r) for r in layer["ranks"]),
                )
                for layer in data["layers"]
            )
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain lists and numbers."""
        return dataclasses.asdict(self)

    @property
    def key(self) -> str:
        """Ten hexadecimal digits that identify the choice; the same in every process."""
        text = json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    @property
    def kept_layers(self) -> int:
        """Layers of which anything remains."""
        return sum(layer.is_kept for layer in self.layers)

    @property
    def kept_heads(self) -> int:
        """KV groups kept, over all layers."""
        return sum(len(layer.heads) for layer in self.layers if layer.attention)

    @property
    def kept_ffn_blocks(self) -> int:
        """FFN blocks kept, over all layers."""
        return sum(len(layer.ffn_blocks) for layer in self.layers if layer.ffn)
