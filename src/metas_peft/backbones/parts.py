"""Tensors that are made of units: what is cut, permuted or gated when heads or neurons go.

A unit (a KV group, a query head, a block of neurons) owns an equal share of every tensor around it: rows of the maps
that lead into the units, columns of the map that leads back. A `Part` names one such tensor inside a layer; the sizes
follow from the tensors themselves, so one description serves Linear and Conv1D, fused matrices (several segments, each
of which holds every unit's share), matrices of all experts at once, and vectors with an entry per head.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from metas_peft.core.errors import UnsupportedBackboneError

ADAPTER = "default"  # PEFT's own name for the only adapter

Side = Literal["out", "in"]


@dataclass(frozen=True)
class Part:
    """One module of a sub-layer in which every unit has its share.

    Attributes:
        path: Path of the module inside the layer.
        side: `out`: the module's outputs are the units' (q, k, v, up); `in`: its inputs are (o, down).
        segments: Stretches one after another, each with a share of every unit (3 for a fused q, k, v).
        tensors: Parameter name and axis of the units, for modules that are no linear map; empty for Linear and Conv1D.
        is_for_positions: Whether relative positions go through it instead of tokens.
        is_key_value: Whether it belongs to keys or values, which stay where all query heads share one pair of them.
    """

    path: str
    side: Side
    segments: int = 1
    tensors: tuple[tuple[str, int], ...] = ()
    is_for_positions: bool = False
    is_key_value: bool = False

    def length(self, module: Any) -> int:
        """Entries along the units' axis."""
        base = base_of(module)
        name, axis = self.axes(base)[0]
        return getattr(base, name).shape[axis]

    def axes(self, base: nn.Module) -> list[tuple[str, int]]:
        """Parameters of a module that the units divide, with the axis along which they do."""
        return list(self.tensors) if self.tensors else map_axes(base, self.side)

    def index(self, module: Any, units: torch.Tensor, total: int) -> torch.Tensor:
        """Indices along the units' axis that belong to some units, in the units' order.

        Args:
            module: The module at `path`.
            units: Units to take, (n,).
            total: Units that there are.

        Raises:
            UnsupportedBackboneError: The tensor does not divide into so many units.
        """
        length = self.length(module)
        if length % (self.segments * total):
            raise UnsupportedBackboneError(
                f"{self.path} has {length} entries, which {total} units (in {self.segments} segments) cannot share."
            )
        segment = length // self.segments
        rows = rows_of(units, segment // total)
        return torch.cat([rows + s * segment for s in range(self.segments)])

    @torch.no_grad()
    def keep(self, module: Any, index: torch.Tensor) -> None:
        """Keep some entries along the units' axis, in place; LoRA maps around the module are cut with it."""
        for owner, axes in self._owners(module):
            for name, axis in axes:
                tensor = getattr(owner, name).detach()
                kept = tensor.index_select(axis, index.to(tensor.device)).contiguous()
                setattr(owner, name, nn.Parameter(kept, requires_grad=getattr(owner, name).requires_grad))
            resize(owner)
        if base_of(module) is not module:
            resize_lora(module)

    @torch.no_grad()
    def permute(self, module: Any, index: torch.Tensor) -> None:
        """Bring the entries along the units' axis into another order, in place and without new parameters."""
        for owner, axes in self._owners(module):
            for name, axis in axes:
                tensor = getattr(owner, name)
                tensor.copy_(tensor.index_select(axis, index.to(tensor.device)))

    def _owners(self, module: Any) -> Iterator[tuple[nn.Module, list[tuple[str, int]]]]:
        base = base_of(module)
        yield base, self.axes(base)
        if is_adapted(module):
            a, b, _ = lora_maps(module)
            yield (b, [("weight", 0)]) if self.side == "out" else (a, [("weight", 1)])


def map_axes(base: nn.Module, side: Side) -> list[tuple[str, int]]:
    """Parameters of a linear map along which its outputs or inputs run, and the axis.

    Raises:
        UnsupportedBackboneError: The module is no linear map that can be cut.
    """
    if isinstance(base, nn.Linear):
        out, into = 0, 1
    elif isinstance(base, Conv1D):
        out, into = 1, 0
    else:
        raise UnsupportedBackboneError(
            f"A {type(base).__name__} cannot be cut; known are Linear and Conv1D. Load the backbone without "
            "quantisation, cut it, and quantise the result."
        )
    if side == "in":
        return [("weight", into)]
    return [("weight", out), ("bias", 0)] if base.bias is not None else [("weight", out)]


def resize(base: nn.Module) -> None:
    """Make a linear map's own numbers agree with its weight."""
    if isinstance(base, nn.Linear):
        base.out_features, base.in_features = base.weight.shape
    elif isinstance(base, Conv1D):
        base.nx, base.nf = base.weight.shape


def resize_lora(module: Any) -> None:
    """Make a LoRA module's own numbers agree with the map inside it."""
    module.in_features, module.out_features = sizes_of(base_of(module))


def sizes_of(base: Any) -> tuple[int, int]:
    """Inputs and outputs of a linear map."""
    ((_, out), (_, into)) = map_axes(base, "out")[0], map_axes(base, "in")[0]
    return base.weight.shape[into], base.weight.shape[out]


def base_of(module: Any) -> Any:
    """The frozen map inside a LoRA module, or the module itself."""
    return getattr(module, "base_layer", module)


def is_adapted(module: Any) -> bool:
    """Whether a projection carries a LoRA adapter."""
    return ADAPTER in getattr(module, "lora_A", {})


def lora_maps(module: Any) -> tuple[nn.Linear, nn.Linear, float]:
    """The A map (rank x in), the B map (out x rank) and the scaling of an adapted projection."""
    return module.lora_A[ADAPTER], module.lora_B[ADAPTER], float(module.scaling[ADAPTER])


def rows_of(units: torch.Tensor, size: int) -> torch.Tensor:
    """Indices of the rows that belong to units of `size` consecutive rows, in the units' order."""
    return (units.long()[:, None] * size + torch.arange(size, device=units.device)).reshape(-1)
