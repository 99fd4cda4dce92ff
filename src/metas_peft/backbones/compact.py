"""Compaction: a sub-network becomes a physically smaller `transformers` model.

Removed layers and sub-layers are gone, projections are sliced, adapters are merged over their kept ranks.
The result is a plain module that needs neither PEFT nor this package to run. The same `cut` gives shape to an
empty skeleton when a saved model is loaded, so saving and loading cannot disagree about the structure.
"""

import copy
from typing import Any

import torch
from torch import nn

from metas_peft.backbones.adapters import merged_weight, plain_heads, rows_of
from metas_peft.backbones.family import Layout, get, put
from metas_peft.core.errors import SubnetError
from metas_peft.core.records import BackboneShape, LayerPlan, Subnet


def compact(model: Any, shape: BackboneShape, subnet: Subnet) -> Any:
    """Cut a sub-network out of a model; the model itself is left untouched.

    Args:
        model: `transformers` model, with or without injected LoRA modules.
        shape: Shape of the model.
        subnet: What to keep, in the model's present order of heads and neurons.

    Returns:
        A new model in evaluation mode whose logits equal those of the masked model.

    Raises:
        SubnetError: The subnet does not fit the model.
    """
    if len(subnet.layers) != shape.n_layers:
        raise SubnetError(
            f"The subnet {subnet.key} has {len(subnet.layers)} layers, the model has {shape.n_layers}. "
            "Use a subnet that was made for this backbone."
        )
    smaller = copy.deepcopy(model)
    plain_heads(smaller)
    _merge(smaller, shape, subnet)
    cut(smaller, shape, subnet)
    smaller.requires_grad_(False)
    return smaller.eval()


@torch.no_grad()
def _merge(model: Any, shape: BackboneShape, subnet: Subnet) -> None:
    layout = Layout(model)
    index = {site.name: m for m, site in enumerate(shape.sites)}
    for layer, plan in zip(layout.layers, subnet.layers, strict=True):
        for site in layout.sites:
            module, base = layout.projection(layer, site), layout.base(layer, site)
            if module is base:
                continue
            ranks = None if plan.ranks is None else plan.ranks[index[site]]
            base.weight = nn.Parameter(merged_weight(module, ranks))
            put(layer, layout.family.projections[site], base)


@torch.no_grad()
def cut(model: Any, shape: BackboneShape, subnet: Subnet) -> None:
    """Remove from a plain model, in place, everything the subnet does not keep."""
    layout = Layout(model)
    family = layout.family
    kept = nn.ModuleList()
    attention_index = 0
    for layer, plan in zip(layout.layers, subnet.layers, strict=True):
        if not plan.is_kept:
            continue
        if plan.attention:
            _cut_heads(layout, layer, plan, shape)
            carrier = get(layer, family.index_path)
            if getattr(carrier, "layer_idx", None) is not None:
                # A cache holds one entry per remaining attention, counted from 0.
                carrier.layer_idx = attention_index
            attention_index += 1
        else:
            for path, make in family.without_attention.items():
                put(layer, path, make())
        if plan.ffn:
            _cut_neurons(layout, layer, plan, shape)
        else:
            for path, make in family.without_ffn.items():
                put(layer, path, make())
        kept.append(layer)
    put(model.base_model, family.stack, kept)
    model.config.get_text_config().num_hidden_layers = len(kept)


def _cut_heads(layout: Layout, layer: nn.Module, plan: LayerPlan, shape: BackboneShape) -> None:
    heads = torch.tensor(plan.heads, dtype=torch.long)
    kv_rows = rows_of(heads, shape.head_size)
    query_rows = rows_of(heads, shape.head_size * shape.queries_per_group)
    for site, rows in (("q", query_rows), ("k", kv_rows), ("v", kv_rows)):
        _keep(layout.base(layer, site), rows=rows)
    _keep(layout.base(layer, "o"), columns=query_rows)
    if not plan.heads:
        path, make = layout.family.without_heads
        put(layer, path, make(get(layer, path)))


def _cut_neurons(layout: Layout, layer: nn.Module, plan: LayerPlan, shape: BackboneShape) -> None:
    neurons = rows_of(torch.tensor(plan.ffn_blocks, dtype=torch.long), shape.block_size)
    for site in ("up", "gate"):
        if site in layout.sites:
            _keep(layout.base(layer, site), rows=neurons)
    _keep(layout.base(layer, "down"), columns=neurons)


def _keep(linear: nn.Linear, rows: torch.Tensor | None = None, columns: torch.Tensor | None = None) -> None:
    """Keep some output rows or input columns of a Linear, in place; the order of the indices is kept."""
    weight = linear.weight.detach()
    if rows is not None:
        weight = weight[rows]
        if linear.bias is not None:
            linear.bias = nn.Parameter(linear.bias.detach()[rows].clone())
        linear.out_features = len(rows)
    if columns is not None:
        weight = weight[:, columns]
        linear.in_features = len(columns)
    linear.weight = nn.Parameter(weight.contiguous().clone())
