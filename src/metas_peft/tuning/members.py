"""Switching a model between the members of its front while it is trained."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch

from metas_peft.backbones import has_views, nested
from metas_peft.core.shape import BackboneShape
from metas_peft.core.subnet import Subnet
from metas_peft.gates import GateValues, gate_values, gated


class MemberView(Protocol):
    """A model that runs as one of its members.

    Attributes:
        model: The `transformers` model.
        shape: Its shape.
    """

    model: Any
    shape: BackboneShape

    def activate(self, subnet: Subnet) -> None:
        """Make the following passes those of one member."""
        ...

    def set_gates(self, heads: list[torch.Tensor | None], ffn_blocks: list[torch.Tensor | None]) -> None:
        """Multiply each kept head's and FFN block's output by a gate, per layer (kept units,); None for no gate."""
        ...


class MaskedMembers:
    """Members by multiplication with zeros: for families whose weights no prefix view can show.

    A pass costs as much as the whole model's.

    Args:
        model: The `transformers` model.
        shape: Its shape.
    """

    def __init__(self, model: Any, shape: BackboneShape) -> None:
        self.model, self.shape = model, shape
        self._values = gate_values(Subnet.dense(shape), shape)
        self._gates: dict[str, list[torch.Tensor | None]] = {}

    def activate(self, subnet: Subnet) -> None:
        """Make the following passes those of one member."""
        self._values = gate_values(subnet, self.shape)

    def set_gates(self, heads: list[torch.Tensor | None], ffn_blocks: list[torch.Tensor | None]) -> None:
        """Multiply each kept head's and FFN block's output by a gate, per layer (kept units,); None for no gate."""
        self._gates = {"head": heads, "ffn_block": ffn_blocks}

    def draw(self) -> GateValues:
        """Zeros and ones of the member, with the gates in the places of its units."""
        gates = {n: _in_place(rows, getattr(self._values, n)) for n, rows in self._gates.items()}
        return replace(self._values, **gates)


def _in_place(rows: Sequence[torch.Tensor | None], mask: torch.Tensor) -> torch.Tensor:
    """A mask (L, U) whose rows begin with gates; a sub-layer that is gone stays so."""
    device = next((row.device for row in rows if row is not None), mask.device)
    mask = mask.to(device)
    return torch.stack(
        [
            m if row is None else torch.cat([row * m[: len(row)], m[len(row) :]])
            for row, m in zip(rows, mask, strict=True)
        ]
    )


@contextlib.contextmanager
def members_of(model: Any, shape: BackboneShape) -> Iterator[MemberView]:
    """Members of a model for the length of a block; afterwards the model is as it was.

    Args:
        model: `transformers` model whose heads and neurons are in order of importance.
        shape: Its shape.
    """
    if has_views(model):
        with nested(model, shape) as view:
            yield view
        return
    members = MaskedMembers(model, shape)
    with gated(model, shape, members.draw):
        yield members
