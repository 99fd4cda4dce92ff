"""Gates on a model by forward hooks: attaching changes no module, detaching leaves no trace."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from metas_peft.backbones.adapters import is_adapted, lora_maps
from metas_peft.backbones.family import Layout, get
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
    family = layout.family
    current: list[GateValues] = []
    device = next(model.parameters()).device

    def begin(module: Any, args: Any, kwargs: Any) -> None:
        current[:] = [GateValues(**{name: z.to(device) for name, z in vars(draw()).items()})]

    def lerp(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        # Exactly x at 0 and exactly y at 1, which x + z (y - x) is not in floating point.
        return torch.lerp(x.to(y.dtype), y, z.to(y.dtype))

    def first(args: Any, kwargs: Any) -> torch.Tensor:
        return args[0] if args else kwargs["hidden_states"]

    handles = [model.base_model.register_forward_pre_hook(begin, with_kwargs=True)]
    for i, layer in enumerate(layout.layers):

        def whole(module: Any, args: Any, kwargs: Any, out: Any, i: int = i) -> Any:
            z, x = current[0].layer[i], first(args, kwargs)
            return (lerp(x, out[0], z), *out[1:]) if isinstance(out, tuple) else lerp(x, out, z)

        def attention(module: Any, args: Any, kwargs: Any, out: Any, i: int = i) -> Any:
            z = current[0].attention[i]
            y = lerp(first(args, kwargs), out[0], z) if family.residual == "inside" else out[0] * z.to(out[0].dtype)
            return (y, *out[1:])

        def feed_forward(module: Any, args: Any, kwargs: Any, out: Any, i: int = i) -> Any:
            z = current[0].ffn[i]
            return lerp(args[1], out, z) if family.residual == "inside" else out * z.to(out.dtype)

        def heads(module: Any, args: Any, i: int = i) -> Any:
            gate = current[0].head[i].to(args[0].dtype).repeat_interleave(args[0].shape[-1] // shape.n_kv_heads)
            return (args[0] * gate, *args[1:])

        def blocks(module: Any, args: Any, i: int = i) -> Any:
            gate = current[0].ffn_block[i].to(args[0].dtype).repeat_interleave(shape.block_size)
            return (args[0] * gate, *args[1:])

        handles += [
            layer.register_forward_hook(whole, with_kwargs=True),
            get(layer, family.attention_block).register_forward_hook(attention, with_kwargs=True),
            get(layer, family.ffn_block).register_forward_hook(feed_forward, with_kwargs=True),
            layout.projection(layer, "o").register_forward_pre_hook(heads),
            layout.projection(layer, "down").register_forward_pre_hook(blocks),
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
