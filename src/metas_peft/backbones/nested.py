"""Nested views: one set of weights, every member of a front a prefix of it.

Heads and FFN neurons stand in order of importance (`adapters.reorder`), so a member is told by a few integers
per layer and its pass reads only the first rows and columns: training a member of half the size costs about
half the time. No weight is copied; the adapters trained are the PEFT model's own parameters.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from metas_peft.backbones.adapters import is_adapted, lora_maps
from metas_peft.backbones.family import FFN_SITES, Layout, get, put
from metas_peft.core.errors import SubnetError
from metas_peft.core.records import BackboneShape, Subnet


class PrefixLinear(nn.Module):
    """A projection (with its LoRA adapter, if any) of which only a prefix is used.

    Args:
        inner: The Linear, or PEFT's LoRA module around one. Its parameters are used in place.
    """

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner
        self.base_layer = getattr(inner, "base_layer", inner)
        self.n_in: int = self.base_layer.in_features
        self.n_out: int = self.base_layer.out_features
        self.n_rank: int | None = None
        self.input_gate: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., n_in) -> (..., n_out)."""
        if self.input_gate is not None:
            x = x * self.input_gate.to(x.dtype).repeat_interleave(x.shape[-1] // len(self.input_gate))
        base = self.base_layer
        bias = None if base.bias is None else base.bias[: self.n_out]
        y = F.linear(x, base.weight[: self.n_out, : self.n_in], bias)
        if is_adapted(self.inner) and self.n_rank != 0:
            a, b, scaling = lora_maps(self.inner)
            dropped = self.inner.lora_dropout["default"](x)
            low = F.linear(dropped, a.weight[: self.n_rank, : self.n_in])
            y = y + F.linear(low, b.weight[: self.n_out, : self.n_rank]) * scaling
        return y


class NestedModel:
    """A model whose active member can be switched; use `nested` to make one for a while.

    Attributes:
        model: The `transformers` model that is run.
        shape: Its shape.
    """

    def __init__(self, model: Any, shape: BackboneShape) -> None:
        self.model = model
        self.shape = shape
        self._layout = Layout(model)
        family = self._layout.family
        self._views: list[dict[str, PrefixLinear]] = []
        self._present: list[dict[str, nn.Module]] = []
        self._absent: list[dict[str, nn.Module]] = []
        makers = {**family.without_attention, **family.without_ffn}
        for layer in self._layout.layers:
            self._views.append({s: PrefixLinear(get(layer, path)) for s, path in family.projections.items()})
            for site, path in family.projections.items():
                put(layer, path, self._views[-1][site])
            self._present.append({path: get(layer, path) for path in makers})
            self._absent.append({path: make() for path, make in makers.items()})

    def activate(self, subnet: Subnet) -> None:
        """Make the following passes those of one member.

        Raises:
            SubnetError: The member is not a prefix, or keeps an attention sub-layer without heads.
        """
        family, shape = self._layout.family, self.shape
        index = {site.name: m for m, site in enumerate(shape.sites)}
        for i, (layer, plan) in enumerate(zip(self._layout.layers, subnet.layers, strict=True)):
            kept = (plan.heads, plan.ffn_blocks, *(plan.ranks or ()))
            if any(units != tuple(range(len(units))) for units in kept) or (plan.attention and not plan.heads):
                raise SubnetError(
                    f"Layer {i} of subnet {subnet.key} is not a prefix. Order the backbone's heads and neurons first."
                )
            for paths, is_there in ((family.without_attention, plan.attention), (family.without_ffn, plan.ffn)):
                for path in paths:
                    put(layer, path, (self._present if is_there else self._absent)[i][path])
            kv = len(plan.heads) * shape.head_size
            neurons = len(plan.ffn_blocks) * shape.block_size
            query = kv * shape.queries_per_group
            hidden = shape.hidden
            sizes = {"q": (hidden, query), "k": (hidden, kv), "v": (hidden, kv), "o": (query, hidden)}
            sizes |= {"up": (hidden, neurons), "gate": (hidden, neurons), "down": (neurons, hidden)}
            for site, view in self._views[i].items():
                if plan.ffn if site in FFN_SITES else plan.attention:
                    view.n_in, view.n_out = sizes[site]
                    view.n_rank = None if plan.ranks is None or site not in index else len(plan.ranks[index[site]])

    def set_gates(self, heads: list[torch.Tensor | None], ffn_blocks: list[torch.Tensor | None]) -> None:
        """Multiply each kept head's and FFN block's output by a gate; None stands for no gate.

        Args:
            heads: Per layer a tensor (kept KV groups,) or None.
            ffn_blocks: Per layer a tensor (kept blocks,) or None.
        """
        for views, head_gate, block_gate in zip(self._views, heads, ffn_blocks, strict=True):
            views["o"].input_gate = head_gate
            views["down"].input_gate = block_gate

    def restore(self) -> None:
        """Put the model's own modules back."""
        for i, layer in enumerate(self._layout.layers):
            for path, module in self._present[i].items():
                put(layer, path, module)
            for site, path in self._layout.family.projections.items():
                put(layer, path, self._views[i][site].inner)


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
