"""Gates on a model by forward hooks: attaching changes no module, detaching leaves no trace."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from metas_peft.backbones import Layout
from metas_peft.backbones.adapters import is_adapted, lora_maps
from metas_peft.backbones.hooks import gate_layer, gate_presence, gate_units
from metas_peft.core.records import BackboneShape, Subnet
from metas_peft.gates.gate_set import GateValues, gate_shapes


def gate_values(subnet: Subnet, shape: BackboneShape) -> GateValues:
    """Zeros and ones that mask a model to a subnet."""
    tensors = {name: torch.zeros(size) for name, size in gate_shapes(shape).items()}
    for i, plan in enumerate(subnet.layers):
        tensors["layer"][i] = float(plan.is_kept)
        tensors["attention"][i] = float(plan.attention)
        tensors["ffn"][i] = float(plan.ffn)
        tensors["head"][i, list(plan.heads)] = 1.0
        tensors["ffn_block"][i, list(plan.ffn_blocks)] = 1.0
        for m, site in enumerate(shape.sites):
            kept = range(site.rank) if plan.ranks is None else plan.ranks[m]
            tensors["rank"][i, m, list(kept)] = 1.0
    return GateValues(**tensors)


@contextlib.contextmanager
def gated(model: Any, shape: BackboneShape, draw: Callable[[], GateValues]) -> Iterator[None]:
    """Run a model under gates for the length of a block.

    Args:
        model: `transformers` model, with or without LoRA modules.
        shape: Its shape.
        draw: Called once at the start of every pass; gives that pass's gate values.
    """
    layout = Layout(model)
    current: list[GateValues] = []
    device = next(model.parameters()).device

    def begin(module: Any, args: Any, kwargs: Any) -> None:
        current[:] = [GateValues(**{name: z.to(device) for name, z in vars(draw()).items()})]

    def value(name: str, i: int) -> Callable[[], torch.Tensor]:
        return lambda: getattr(current[0], name)[i]

    handles = [model.base_model.register_forward_pre_hook(begin, with_kwargs=True)]
    for i, layer in enumerate(layout.layers):
        attention, ffn = layout.attention(layer), layout.ffn(layer)
        handles += [
            *gate_layer(layer, value("layer", i)),
            *gate_presence(layer, attention, value("attention", i)),
            *gate_presence(layer, ffn, value("ffn", i)),
            *gate_units(layout, layer, attention, value("head", i)),
            *gate_units(layout, layer, ffn, value("ffn_block", i)),
        ]
        for m, site in enumerate(shape.sites):
            module = layout.projection(layer, site.name)
            if is_adapted(module):

                def ranks(module: Any, args: Any, out: Any, i: int = i, m: int = m, r: int = site.rank) -> Any:
                    return out * current[0].rank[i, m, :r].to(out.dtype)

                handles.append(lora_maps(module)[0].register_forward_hook(ranks))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def masked(model: Any, shape: BackboneShape, subnet: Subnet) -> Iterator[None]:
    """Run the whole model with everything outside a subnet multiplied by zero: the reference for compaction."""
    values = gate_values(subnet, shape)
    with gated(model, shape, lambda: values):
        yield
