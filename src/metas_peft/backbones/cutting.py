"""Cutting a plain model in place. The loader uses it too, so it knows nothing of PEFT."""

from typing import Any

import torch
from torch import nn

from metas_peft.backbones.blocks import BiasMap, NoMap
from metas_peft.backbones.family import SubLayer, get, put
from metas_peft.backbones.layout import Layout
from metas_peft.backbones.parts import sizes_of
from metas_peft.core.errors import SubnetError
from metas_peft.core.shape import BackboneShape
from metas_peft.core.subnet import LayerPlan, Subnet


@torch.no_grad()
def cut(model: Any, shape: BackboneShape, subnet: Subnet) -> None:
    """Remove from a model, in place, everything the subnet does not keep.

    Projections may still have their LoRA modules around them; these are cut with them.

    Raises:
        SubnetError: The subnet does not fit the model.
    """
    check_fit(shape, subnet)
    layout = Layout(model)
    kept = nn.ModuleList()
    places = [i for i, plan in enumerate(subnet.layers) if plan.is_kept]
    for layer, plan in zip(layout.layers, subnet.layers, strict=True):
        if not plan.is_kept:
            continue
        attention, ffn = layout.attention(layer), layout.ffn(layer)
        for table, is_there, units, total in (
            (attention, plan.attention, plan.heads, shape.n_kv_heads),
            (ffn, plan.ffn, plan.ffn_blocks, shape.ffn_blocks),
        ):
            if is_there:
                _keep_units(layout, layer, table, units, total)
            else:
                for path, make in table.absent.items():
                    put(layer, path, make())
        for module in layer.modules():
            # A cache holds one entry per remaining layer, counted from 0.
            holder: Any = module
            if getattr(holder, "layer_idx", None) is not None:
                holder.layer_idx = len(kept)
        kept.append(layer)
    put(model, layout.stack_path, kept)
    for config in text_configs(model):
        config.num_hidden_layers = len(kept)
        for name in layout.family.per_layer_lists:
            values = getattr(config, name, None)
            if values is not None and len(values) == len(subnet.layers):
                setattr(config, name, [values[i] for i in places])
    _choose_experts(model, layout)


ALIGNED = 8  # entries: the grouped product of experts wants strides of 16 bytes, in bfloat16 too


def _choose_experts(model: Any, layout: Layout) -> None:
    """Let experts whose width the grouped product cannot take be computed one after another."""
    for layer in layout.layers:
        table = next((t for t in layout.family.ffn if t.is_in(layer)), None)
        for part in () if table is None else table.parts:
            if not part.tensors:
                continue
            width = part.length(get(layer, part.path)) // part.segments
            if width == 0 or width % ALIGNED:
                for config in text_configs(model):
                    config._experts_implementation = "eager"
                return


def text_configs(model: nn.Module) -> list[Any]:
    """All configuration objects that the model's modules read the number of layers from."""
    found = {}
    for module in model.modules():
        config = getattr(module, "config", None)
        if config is not None and hasattr(config, "get_text_config"):
            text = config.get_text_config()
            found[id(text)] = text
    return list(found.values())


def check_fit(shape: BackboneShape, subnet: Subnet) -> None:
    """Refuse a subnet that was made for another backbone.

    Raises:
        SubnetError: Another number of layers, or units that the model does not have.
    """
    if len(subnet.layers) != shape.n_layers:
        raise SubnetError(
            f"The subnet {subnet.key} has {len(subnet.layers)} layers, the model has {shape.n_layers}. "
            "Use a subnet that was made for this backbone."
        )
    for i, plan in enumerate(subnet.layers):
        _check_units(i, "head", plan.heads, shape.n_kv_heads)
        _check_units(i, "FFN block", plan.ffn_blocks, shape.ffn_blocks)
        if plan.ranks is not None and shape.sites:
            _check_ranks(i, plan, shape)


def _check_units(layer: int, kind: str, units: tuple[int, ...], total: int) -> None:
    if len(set(units)) != len(units) or any(not 0 <= u < total for u in units):
        raise SubnetError(
            f"Layer {layer} of the subnet keeps {kind}s {list(units)}, the model has {total} of them. "
            "Use a subnet that was made for this backbone."
        )


def _check_ranks(layer: int, plan: LayerPlan, shape: BackboneShape) -> None:
    assert plan.ranks is not None
    if len(plan.ranks) != len(shape.sites):
        raise SubnetError(
            f"Layer {layer} of the subnet lists ranks of {len(plan.ranks)} adapter sites, the model has "
            f"{len(shape.sites)}. Use a subnet that was made for this backbone and these adapters."
        )
    for site, ranks in zip(shape.sites, plan.ranks, strict=True):
        _check_units(layer, f"{site.name} rank", ranks, site.rank)


def _keep_units(layout: Layout, layer: nn.Module, table: SubLayer, units: tuple[int, ...], total: int) -> None:
    kept = torch.tensor(units, dtype=torch.long)
    for part in layout.parts(table):
        module = get(layer, part.path)
        part.keep(module, part.index(module, kept, total))
        if not units and not part.tensors:
            (_, width) = sizes_of(module)
            put(layer, part.path, NoMap() if part.side == "out" else BiasMap(module.bias, width))
    for path, name in layout.counters(table):
        owner = get(layer, path)
        setattr(owner, name, getattr(owner, name) // total * len(units))
    if not units and table.empty is not None:
        path, make = table.empty
        put(layer, path, make(get(layer, path)))
