"""One set of weights for several compact models: what one has in common with the largest becomes a view of it.

Heads and neurons of a front stand in order of importance, so that a jointly trained member's matrices are the first
rows and columns of the largest member's. That is not assumed but compared, value by value: what is equal is shared,
and what differs (adapters, norms or heads that were trained further for one member alone) stays the member's own, and
its bytes are counted.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from metas_peft.backbones.family import get, has, put
from metas_peft.backbones.layout import Layout
from metas_peft.backbones.parts import map_axes
from metas_peft.core.subnet import Subnet


class SegmentedMap(nn.Module):
    """A fused linear map (q, k and v, say) of which only the first outputs of each segment are used.

    No single view shows the prefixes of all segments, so each is multiplied by itself, into its place in the result.

    Args:
        weights: Per segment a view (inputs, outputs).
        biases: Per segment a view (outputs,); None without a bias.
    """

    def __init__(self, weights: Iterable[torch.Tensor], biases: Iterable[torch.Tensor] | None) -> None:
        super().__init__()
        self.weights = nn.ParameterList(nn.Parameter(w, requires_grad=False) for w in weights)
        self.biases = None if biases is None else nn.ParameterList(nn.Parameter(b, requires_grad=False) for b in biases)
        self.width = self.weights[0].shape[1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., inputs) -> (..., segments * outputs); not differentiable."""
        rows = x.reshape(-1, x.shape[-1])
        y = rows.new_empty(len(rows), len(self.weights) * self.width)
        for s, weight in enumerate(self.weights):
            place = y[:, s * self.width : (s + 1) * self.width]
            if self.biases is None:
                torch.mm(rows, weight, out=place)
            else:
                torch.addmm(self.biases[s], rows, weight, out=place)
        return y.view(*x.shape[:-1], y.shape[1])


@torch.no_grad()
def by_columns(base: Any) -> None:
    """Lay the maps back to the residual out in memory column after column, in place.

    Their prefixes are of columns: laid out so, the columns that a member uses are one stretch of memory, where rows
    would leave gaps that slow small products down.

    Args:
        base: The largest compact model.
    """
    layout = Layout(base)
    for layer in layout.layers:
        for part in {part for t in (*layout.family.attention, *layout.family.ffn) for part in t.parts}:
            if part.side == "in" and not part.tensors and has(layer, part.path):
                module = get(layer, part.path)
                if isinstance(module, nn.Linear):  # the other kind of map has its inputs first anyway
                    module.weight = nn.Parameter(module.weight.t().contiguous().t(), requires_grad=False)


def share(member: Any, subnet: Subnet, base: Any, base_subnet: Subnet) -> dict[str, int]:
    """Let a compact model use a larger one's memory wherever both hold the same values, in place.

    Args:
        member: Compact model.
        subnet: What it keeps.
        base: The largest compact model of the same front; left as it is.
        base_subnet: What that keeps.

    Returns:
        Name -> bytes of the tensors that remain the member's own.
    """
    modules = Counterparts(subnet, base, base_subnet)
    own: dict[str, int] = {}
    for path, module in list(member.named_modules()):
        twin = modules.of(path)
        if twin is not None and _as_segments(member, path, module, twin, modules.segments(path)):
            continue
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            view = None if twin is None else _same_prefix(tensor, _tensor(twin, name))
            if view is None:
                own[f"{path}.{name}".lstrip(".")] = tensor.numel() * tensor.element_size()
            else:
                setattr(module, name, view)
    return own


def memory_of(model: nn.Module) -> int:
    """Bytes of the memory that a model's tensors lie in, each counted once; views count as what they look at."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def places(subnet: Subnet) -> dict[int, int]:
    """Layer of the backbone -> its place among the layers that are kept."""
    return {layer: place for place, layer in enumerate(i for i, plan in enumerate(subnet.layers) if plan.is_kept)}


class Counterparts:
    """Where in the largest model each module (or tensor) of a smaller one is found.

    Args:
        subnet: What the smaller model keeps.
        base: The largest model.
        base_subnet: What that keeps.

    Attributes:
        stack: Path of the list of layers.
    """

    def __init__(self, subnet: Subnet, base: Any, base_subnet: Subnet) -> None:
        layout = Layout(base)
        self.stack = layout.stack_path
        self._modules: Mapping[str, nn.Module] = dict(base.named_modules())
        there = places(base_subnet)
        self._layers = {str(place): there.get(layer) for layer, place in places(subnet).items()}
        tables = (*layout.family.attention, *layout.family.ffn)
        self._segments = {
            part.path: part.segments for t in tables for part in t.parts if part.segments > 1 and not part.tensors
        }

    def path(self, path: str) -> str:
        """Path in the largest model of what is at a path of the smaller one; leads nowhere where it has none."""
        if not path.startswith(f"{self.stack}."):
            return path
        place, dot, rest = path.removeprefix(f"{self.stack}.").partition(".")
        return f"{self.stack}.{self._layers[place]}{dot}{rest}"

    def of(self, path: str) -> nn.Module | None:
        """The largest model's module, or None where it has none."""
        return self._modules.get(self.path(path))

    def segments(self, path: str) -> int:
        """Segments of a fused map; 1 for all other modules."""
        return self._segments.get(path.removeprefix(f"{self.stack}.").partition(".")[2], 1)


def _tensor(module: nn.Module, name: str) -> torch.Tensor | None:
    found = module._parameters.get(name)
    return found if found is not None else module._buffers.get(name)


def _same_prefix(tensor: torch.Tensor, larger: torch.Tensor | None) -> torch.Tensor | None:
    """The larger tensor, or a view of its first entries along each axis, if that holds the same values."""
    if larger is None or larger.dtype != tensor.dtype or larger.ndim != tensor.ndim:
        return None
    if any(n > total for n, total in zip(tensor.shape, larger.shape, strict=True)):
        return None
    if larger.shape == tensor.shape:
        return larger if torch.equal(larger, tensor) else None
    view = larger.detach()[tuple(slice(n) for n in tensor.shape)]
    if not torch.equal(view, tensor):
        return None
    return nn.Parameter(view, requires_grad=False) if isinstance(tensor, nn.Parameter) else view


def _as_segments(member: Any, path: str, module: nn.Module, twin: nn.Module, segments: int) -> bool:
    """Put a `SegmentedMap` of views in the place of a fused map, if the values are the same; whether that was done."""
    weight, larger = _tensor(module, "weight"), _tensor(twin, "weight")
    if segments == 1 or weight is None or larger is None or weight.shape == larger.shape:
        return False
    (_, axis), *_ = map_axes(module, "out")
    weights, biases = [], []
    for tensors, name, along in ((weights, "weight", axis), (biases, "bias", 0)):
        small, large = _tensor(module, name), _tensor(twin, name)
        if small is None or large is None:
            continue
        pieces = zip(small.chunk(segments, along), large.detach().chunk(segments, along), strict=True)
        found = [_same_prefix(piece, whole) for piece, whole in pieces]
        if any(view is None for view in found):
            return False
        tensors += [view if name == "bias" or axis == 1 else view.t() for view in found if view is not None]
    put(member, path, SegmentedMap(weights, biases or None))
    return True
