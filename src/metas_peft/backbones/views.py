"""Nested views: one set of weights, every member of a front a prefix of it.

Heads and FFN neurons stand in order of importance (`adapters.reorder`), so a member is told by a few integers
per layer and its pass reads only the first rows and columns: training a member of half the size costs about
half the time. No weight is copied; the adapters trained are the PEFT model's own parameters.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from metas_peft.backbones.blocks import ZeroAttention
from metas_peft.backbones.family import SubLayer, get, put
from metas_peft.backbones.layout import Layout
from metas_peft.backbones.multiply import scale_units
from metas_peft.backbones.parts import base_of, is_adapted, lora_maps, map_axes, sizes_of
from metas_peft.core.errors import SubnetError, UnsupportedBackboneError
from metas_peft.core.shape import BackboneShape
from metas_peft.core.subnet import Subnet


class PrefixLinear(nn.Module):
    """A projection (with its LoRA adapter, if any) of which only a prefix is used.

    Args:
        inner: The linear map, or PEFT's LoRA module around one. Its parameters are used in place.
        segments: Segments of a fused map; the prefix is taken of each.
    """

    def __init__(self, inner: Any, segments: int = 1) -> None:
        super().__init__()
        self.inner = inner
        self.base_layer = base_of(inner)
        (_, out_axis), *_ = map_axes(self.base_layer, "out")
        self.is_transposed = out_axis == 1
        self.segments = segments
        self.n_in, full_out = sizes_of(self.base_layer)
        self.segment: int = full_out // segments
        self.n_out: int = self.segment
        self.n_rank: int | None = None
        self.input_gate: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., n_in) -> (..., segments * n_out)."""
        if self.input_gate is not None:
            x = scale_units(x, self.input_gate)
        low: torch.Tensor | None = None
        if is_adapted(self.inner) and self.n_rank != 0:
            a, _, _ = lora_maps(self.inner)
            dropped = self.inner.lora_dropout["default"](x)
            low = F.linear(dropped, a.weight[: self.n_rank, : self.n_in])
        if self.n_out == self.segment:
            return self._rows(x, low, 0, self.segments * self.segment)
        starts = range(0, self.segments * self.segment, self.segment)
        pieces = [self._rows(x, low, s, s + self.n_out) for s in starts]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=-1)

    def _rows(self, x: torch.Tensor, low: torch.Tensor | None, start: int, end: int) -> torch.Tensor:
        weight, bias = self.base_layer.weight, self.base_layer.bias
        bias: Any = None if bias is None else bias[start:end]
        if self.is_transposed:
            flat = x.reshape(-1, x.shape[-1])
            y = torch.addmm(bias, flat, weight[: self.n_in, start:end]).view(*x.shape[:-1], end - start)
        else:
            y = F.linear(x, weight[start:end, : self.n_in], bias)
        if low is not None:
            _, b, scaling = lora_maps(self.inner)
            y = y + F.linear(low, b.weight[start:end, : self.n_rank]) * scaling
        return y


@dataclass(frozen=True)
class _View:
    """One sub-layer of one layer: views of its projections, and what stands in its place when it is gone."""

    table: SubLayer
    views: dict[str, PrefixLinear]  # by path
    present: dict[str, nn.Module]
    absent: dict[str, nn.Module]
    per_unit: dict[str, tuple[int, int]]  # path -> inputs and outputs (per segment) that a unit owns
    counters: dict[tuple[str, str], int]  # path and name of an attribute -> its value per unit
    ranks: dict[str, str]  # path -> adapter site


class NestedModel:
    """A model whose active member can be switched; use `nested` to make one for a while.

    Args:
        model: The `transformers` model that is run.
        shape: Its shape.

    Raises:
        UnsupportedBackboneError: Units own something that is no linear map (fused experts, attention sinks).

    Attributes:
        model: The model.
        shape: Its shape.
    """

    def __init__(self, model: Any, shape: BackboneShape) -> None:
        self.model = model
        self.shape = shape
        self._layout = Layout(model)
        self._layers: list[tuple[_View, _View]] = []
        layers = list(self._layout.layers)
        tables = [(self._layout.attention(layer), self._layout.ffn(layer)) for layer in layers]
        if not _are_linear(tables):
            raise UnsupportedBackboneError(
                f"The {self._layout.family.name} family has weights that no prefix view can show (fused experts or "
                "attention sinks). Mask its members (metas_peft.gates.masked), or cut them (backbones.compact)."
            )
        for i, (layer, (attention, ffn)) in enumerate(zip(layers, tables, strict=True)):
            pair = self._view(layer, attention, shape.n_kv_heads), self._view(layer, ffn, shape.ffn_size)
            for stand_in in pair[0].absent.values():
                if isinstance(stand_in, ZeroAttention):
                    stand_in.layer_idx = i
            self._layers.append(pair)

    def _view(self, layer: nn.Module, table: SubLayer, units: int) -> _View:
        parts = {part.path: part for part in self._layout.parts(table)}
        sites = {path: site for site, path in table.projections.items()}
        views, per_unit = {}, {}
        for path in {**sites, **parts}:
            part = parts.get(path)
            view = PrefixLinear(get(layer, path), part.segments if part is not None else 1)
            views[path] = view
            per_unit[path] = (
                view.n_in // units if part is not None and part.side == "in" else 0,
                view.segment // units if part is not None and part.side == "out" else 0,
            )
            put(layer, path, view)
        counters = {(p, n): getattr(get(layer, p), n) // units for p, n in self._layout.counters(table)}
        return _View(
            table=table,
            views=views,
            present={path: get(layer, path) for path in table.absent},
            absent={path: make() for path, make in table.absent.items()},
            per_unit=per_unit,
            counters=counters,
            ranks=sites,
        )

    def activate(self, subnet: Subnet) -> None:
        """Make the following passes those of one member.

        Raises:
            SubnetError: The member is not a prefix, or keeps an attention sub-layer without heads.
        """
        shape = self.shape
        index = {site.name: m for m, site in enumerate(shape.sites)}
        for i, (layer, plan) in enumerate(zip(self._layout.layers, subnet.layers, strict=True)):
            kept = (plan.heads, plan.ffn_blocks, *(plan.ranks or ()))
            if any(units != tuple(range(len(units))) for units in kept) or (plan.attention and not plan.heads):
                raise SubnetError(
                    f"Layer {i} of subnet {subnet.key} is not a prefix. Order the backbone's heads and neurons first."
                )
            counts = (len(plan.heads), len(plan.ffn_blocks) * shape.block_size)
            for view, is_there, count in zip(self._layers[i], (plan.attention, plan.ffn), counts, strict=True):
                for path, module in (view.present if is_there else view.absent).items():
                    put(layer, path, module)
                if is_there:
                    _show(layer, view, count)
                    for path, site in view.ranks.items():
                        view.views[path].n_rank = (
                            None if plan.ranks is None or site not in index else len(plan.ranks[index[site]])
                        )

    def set_gates(self, heads: list[torch.Tensor | None], ffn_blocks: list[torch.Tensor | None]) -> None:
        """Multiply each kept head's and FFN block's output by a gate; None stands for no gate.

        Args:
            heads: Per layer a tensor (kept KV groups,) or None.
            ffn_blocks: Per layer a tensor (kept blocks,) or None.
        """
        for pair, gates in zip(self._layers, zip(heads, ffn_blocks, strict=True), strict=True):
            for view, gate in zip(pair, gates, strict=True):
                for part in view.table.parts:
                    if part.side == "in":
                        view.views[part.path].input_gate = gate

    def restore(self) -> None:
        """Put the model's own modules back."""
        units = (self.shape.n_kv_heads, self.shape.ffn_size)
        for layer, pair in zip(self._layout.layers, self._layers, strict=True):
            for view, total in zip(pair, units, strict=True):
                for path, module in view.present.items():
                    put(layer, path, module)
                _show(layer, view, total)
                for path, prefix in view.views.items():
                    put(layer, path, prefix.inner)


def has_views(model: Any) -> bool:
    """Whether `nested` can show the members of a `transformers` model."""
    layout = Layout(model)
    return _are_linear([(layout.attention(layer), layout.ffn(layer)) for layer in layout.layers])


def _are_linear(tables: Iterable[tuple[SubLayer, SubLayer]]) -> bool:
    """Whether all that units own are rows and columns of linear maps."""
    return not any(part.tensors for pair in tables for table in pair for part in table.parts)


def _show(layer: nn.Module, view: _View, count: int) -> None:
    """Show the first `count` units of a sub-layer that is in its place."""
    for path, (inputs, outputs) in view.per_unit.items():
        prefix = view.views[path]
        prefix.n_in = inputs * count if inputs else prefix.n_in
        prefix.n_out = outputs * count if outputs else prefix.n_out
    for (path, name), value in view.counters.items():
        setattr(get(layer, path), name, value * count)


@contextlib.contextmanager
def nested(model: Any, shape: BackboneShape) -> Iterator[NestedModel]:
    """Nested views of a model for the length of a block; afterwards the model is as it was.

    Args:
        model: `transformers` model whose heads and neurons are in order of importance.
        shape: Its shape.
    """
    view = NestedModel(model, shape)
    try:
        yield view
    finally:
        view.restore()
