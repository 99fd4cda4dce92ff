"""Measuring a backbone's shape from its modules and parameters, so that costs are counted on what is there."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from metas_peft.backbones.family import SubLayer, get
from metas_peft.backbones.layout import Layout
from metas_peft.backbones.parts import Part, base_of
from metas_peft.core.shape import AdapterSite, BackboneShape, MapSizes, SubLayerSizes
from metas_peft.costs.paper import plain_sizes


def shape_of(model: Any, sites: tuple[AdapterSite, ...] = (), model_id: str = "") -> BackboneShape:
    """Measure a model's shape.

    Args:
        model: A dense `transformers` model whose layers can be located; LoRA modules are not counted.
        sites: Adapter sites present in every layer.
        model_id: Name for records; the config's own by default.
    """
    layout = Layout(model)
    config, family = model.config.get_text_config(), layout.family
    layer = layout.layers[0]
    attention, ffn = layout.attention(layer), layout.ffn(layer)
    exits = {p.path: p for p in attention.parts if p.side == "in"}
    ((path, part),) = exits.items()
    head_size = part.length(get(layer, path)) // layout.n_heads

    def count(name_filter: Callable[[str], bool]) -> int:
        added = ("lora_", "original_module")  # by PEFT: adapters, and the frozen twin of what is trained whole
        return sum(p.numel() for n, p in model.named_parameters() if name_filter(n) and not any(a in n for a in added))

    inside = f"{layout.stack_path}."
    is_head = _head_filter(layout)
    head_linears = [
        m
        for n, m in model.named_modules()
        if isinstance(m, nn.Linear) and is_head(n) and "original_module" not in n and "lora_" not in n
    ]
    head_flops = sum(2 * m.in_features * m.out_features for m in head_linears)
    shape = BackboneShape(
        model_id=model_id or config.name_or_path or config.model_type,
        family=family.name,
        n_layers=len(layout.layers),
        hidden=config.hidden_size,
        n_heads=layout.n_heads,
        n_kv_heads=layout.head_units,
        head_size=head_size,
        ffn_size=layout.ffn_units,
        ffn_matrices=3 if _is_gated(ffn) else 2,
        ffn_blocks=ffn_blocks_for(layout.ffn_units),
        attention_bias=_has_bias(layout, layer, attention, "out"),
        output_bias=_has_bias(layout, layer, attention, "in"),
        ffn_bias=_has_bias(layout, layer, ffn, "in"),
        norm_params=_numel(p for n in attention.norms for p in _own(get(layer, n))),
        embedding_params=count(lambda n: not n.startswith(inside) and not is_head(n)),
        head_params=count(is_head),
        head_flops_per_sequence=0 if _is_per_token(model, layout) else head_flops,
        head_flops_per_token=head_flops if _is_per_token(model, layout) else 0,
        causal=family.causal,
        sites=sites,
    )
    measured = tuple(
        (dataclasses.replace(sizes, window=_window(layout, i)), rest)
        for i, layer in enumerate(layout.layers) for sizes, rest in [_measure(layout, layer)]
    )  # fmt: skip
    is_plain = all(sizes == plain_sizes(shape) for sizes in measured)
    return shape if is_plain else dataclasses.replace(shape, layer_sizes=measured)


SLIDING = ("sliding_attention", "chunked_attention")
POSITION_TABLES = ("position_embeddings", "wpe")


def longest_sequence(model: Any) -> int | None:
    """Tokens that a model with learnt absolute positions can read; None where positions are computed."""
    for name, module in model.base_model.named_modules():
        if name.rpartition(".")[2] in POSITION_TABLES and isinstance(module, nn.Embedding):
            # Families that number positions from behind the padding's lose the first places of the table.
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    return None


def ffn_blocks_for(ffn_size: int) -> int:
    """Blocks into which an FFN is divided: 12 or 16 where that divides it, else the largest divisor below 16."""
    for blocks in (12, 16, *range(15, 0, -1)):
        if ffn_size % blocks == 0:
            return blocks
    return 1


def _is_per_token(model: Any, layout: Layout) -> bool:
    """Whether what follows the layers runs on every token: a language model's head always does."""
    return layout.family.head_per_token or model.get_output_embeddings() is not None


def _head_filter(layout: Layout) -> Callable[[str], bool]:
    """Tells whether a parameter or module comes after the layers."""
    base = layout.base_path
    bare = get(layout.model, base.rstrip("."))
    children = [name for name, _ in bare.named_children()]
    after_stack = children[children.index(layout.family.stack.split(".")[0]) + 1 :]

    def is_head(name: str) -> bool:
        return not name.startswith(base) or any(f"{name}.".startswith(f"{base}{c}.") for c in after_stack)

    return is_head


def _is_gated(table: SubLayer) -> bool:
    """Whether a feed-forward block multiplies two maps (three matrices) or has one (two)."""
    into = [p for p in table.parts if p.side == "out"]
    return len(into) > 1 or into[0].segments == 2 or bool(into[0].tensors)


def _has_bias(layout: Layout, layer: nn.Module, table: SubLayer, side: str) -> bool:
    module = base_of(get(layer, next(p for p in table.parts if p.side == side).path))
    return getattr(module, "bias", None) is not None


def _window(layout: Layout, index: int) -> int:
    """Tokens that a layer's cache keeps while decoding, the new one included; 0 for all of them."""
    config = layout.model.config.get_text_config()
    size = getattr(config, "sliding_window", None) or getattr(config, "attention_chunk_size", None) or 0
    kinds = getattr(config, "layer_types", None)
    is_sliding = kinds is None or kinds[index] in SLIDING
    return size if layout.family.causal and is_sliding else 0


def _measure(layout: Layout, layer: nn.Module) -> tuple[SubLayerSizes, SubLayerSizes]:
    """Attention and feed-forward sizes of one layer."""
    attention, ffn = layout.attention(layer), layout.ffn(layer)
    sizes = _sub_layer(layout, layer, attention, layout.head_units)
    exit_part = next(p for p in attention.parts if p.side == "in")
    values = exit_part.length(get(layer, exit_part.path)) // layout.head_units
    keys = layout.family.key_width(layout.model, values)
    rows, maps, ways = layout.family.positions(layout.model)
    cache = layout.family.cache(layout.model)
    if cache is None:
        per_head = values // (layout.n_heads // layout.head_units)
        cache = (2 * per_head, 0) if layout.shares_key_value else (0, 2 * per_head)
    return (
        dataclasses.replace(
            sizes,
            scores=keys + values,
            cache=cache,
            positions=rows,
            position_macs=maps * values * layout.model.config.get_text_config().hidden_size,
            position_scores=ways * values,
        ),
        _sub_layer(layout, layer, ffn, layout.ffn_units),
    )


def _sub_layer(layout: Layout, layer: nn.Module, table: SubLayer, units: int) -> SubLayerSizes:
    config = layout.model.config.get_text_config()
    share = getattr(config, "num_experts_per_tok", 1)
    parts = layout.parts(table)
    entry_params, exit_params = (_owned(layer, parts, side, units) for side in ("out", "in"))
    entry_macs, exit_macs = (_owned(layer, parts, side, units, share) for side in ("out", "in"))
    placed = {id(p) for part in parts for p in _unit_parameters(layer, part)}
    exit_fixed = [
        p for part in parts if part.side == "in"
        for p in _own(base_of(get(layer, part.path)), recurse=False) if id(p) not in placed
    ]  # fmt: skip
    placed |= {id(p) for p in exit_fixed}
    # What is left inside the module that goes with the last unit serves all units; what is left outside are norms.
    inner = [] if table.empty is None else [p for p in _own(get(layer, table.empty[0])) if id(p) not in placed]
    placed |= {id(p) for p in inner}
    rest = [p for path in table.absent for p in _own(get(layer, path)) if id(p) not in placed]
    shared = [*inner, *(p for p in rest if p.ndim > 1)]  # the latter: a router
    shared_macs = _numel(p for p in shared if p.ndim > 1)
    return SubLayerSizes(
        entry=MapSizes(_numel(shared), entry_params, shared_macs, entry_macs),
        exit=MapSizes(_numel(exit_fixed), exit_params, 0, exit_macs),
        norm_params=_numel(p for p in rest if p.ndim == 1),
    )


def _owned(layer: nn.Module, parts: Iterable[Part], side: str, units: int, share: int | None = None) -> int:
    """Parameters that a unit owns on one side; with `share`, multiply-adds per token for so many experts in use."""
    total = 0
    for part in parts:
        if part.side == side:
            for p in _unit_parameters(layer, part):
                if share is None:
                    total += p.numel()
                elif part.is_for_positions:
                    continue
                elif p.ndim == 3:  # one matrix per expert
                    total += p.numel() // p.shape[0] * share
                elif p.ndim == 2 and not part.tensors:  # else the biases of experts
                    total += p.numel()
    return total // units


def _unit_parameters(layer: nn.Module, part: Part) -> list[torch.Tensor]:
    base = base_of(get(layer, part.path))
    return [getattr(base, name) for name, _ in part.axes(base)]


def _own(module: nn.Module, recurse: bool = True) -> list[torch.Tensor]:
    """A module's parameters without those of LoRA maps."""
    return [p for n, p in module.named_parameters(recurse=recurse) if "lora_" not in n]


def _numel(parameters: Iterable[torch.Tensor]) -> int:
    return sum(p.numel() for p in parameters)
