"""LoRA adapters through Hugging Face PEFT: adding, merging, ordering."""

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from metas_peft.backbones.family import get, put
from metas_peft.backbones.layout import Layout
from metas_peft.backbones.lora_config import Adapted, lora_config
from metas_peft.backbones.parts import ADAPTER, base_of, is_adapted, lora_maps, map_axes, rows_of, sizes_of
from metas_peft.backbones.quantised import blueprint
from metas_peft.core.errors import UnsupportedBackboneError
from metas_peft.core.shape import AdapterSite, BackboneShape
from metas_peft.costs.paper import site_ends

if TYPE_CHECKING:
    from peft import PeftModel, TaskType  # what only looks at adapters runs where PEFT is not installed

__all__ = [
    "ADAPTER",
    "add_lora",
    "adapter_site",
    "adapter_sites",
    "inverse",
    "is_adapted",
    "lora_maps",
    "merged_weight",
    "plain_heads",
    "reorder",
    "rows_of",
    "task_type",
]


def add_lora(
    model: Any, targets: str | list[str], *, rank: int, alpha: float, dropout: float, seed: int
) -> "tuple[PeftModel, tuple[AdapterSite, ...]]":
    """Put LoRA adapters around the targeted projections of every layer; a task head is trained whole.

    Args:
        model: A `transformers` model of a known family, for sequence classification or causal language modelling.
        targets: `all-linear` or projection names in any family's spelling.
        rank: LoRA rank.
        alpha: LoRA alpha; the product of B and A is scaled by alpha / rank.
        dropout: Dropout before A.
        seed: Seed of A's initial values (B starts at zero).

    Returns:
        The PEFT model and its adapter sites, in the layout's order.
    """
    from peft import get_peft_model

    layout = Layout(model)
    names = layout.resolve_sites(targets)
    sites = tuple(adapter_site(layout, name, rank) for name in names)
    paths = [f"{layout.stack_path}.{i}.{layout.path_of(x, n)}" for i, x in enumerate(layout.layers) for n in names]
    config = lora_config(
        dict.fromkeys(paths, Adapted(rank, alpha / rank)),
        task_type=task_type(model),
        dropout=dropout,
        modules_to_save=layout.head_modules(),
        fan_in_fan_out=any(map_axes(layout.base(layout.layers[0], s), "out")[0] == ("weight", 1) for s in names),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted = get_peft_model(model, config)
    return adapted, sites


def task_type(model: Any) -> "TaskType":
    """What PEFT calls the model's task."""
    from peft import TaskType

    return TaskType.CAUSAL_LM if model.can_generate() else TaskType.SEQ_CLS


def adapter_site(layout: Layout, name: str, rank: int) -> AdapterSite:
    """A site with the sizes of what its adapter reads and writes, where the backbone's shape does not tell them."""
    layer = layout.layers[0]
    rows = layout.family.positions(layout.model)[0] if name in layout.family.position_sites(layout.model) else 0
    site = AdapterSite(name, rank, extra_rows=rows)
    table, units = (
        (layout.ffn(layer), layout.ffn_units) if site.is_ffn else (layout.attention(layer), layout.head_units)
    )
    path = layout.path_of(layer, name)
    total = sum(sizes_of(base_of(get(layer, path))))
    owned = sum(p.length(get(layer, p.path)) for p in layout.parts(table) if p.path == path)
    ends = (total - owned, owned // units)
    return site if ends == plain_ends(layout).get(name) else replace(site, ends=ends)


def adapter_sites(model: Any) -> tuple[AdapterSite, ...]:
    """The sites of the LoRA adapters that a `transformers` model has already.

    Raises:
        UnsupportedBackboneError: Layers differ in what is adapted or in its rank, or an adapter is no plain LoRA.
    """
    check_plain(model)
    layout = Layout(model)
    found: list[dict[str, int]] = []
    for layer in layout.layers:
        modules = {name: layout.projection(layer, name) for name in layout.sites}
        adapted = {name: module for name, module in modules.items() if is_adapted(module)}
        found.append({name: lora_maps(module)[0].weight.shape[0] for name, module in adapted.items()})
    for i, ranks in enumerate(found):
        if ranks != found[0]:
            raise UnsupportedBackboneError(
                f"Layer {i} has adapters of other ranks ({ranks}) than layer 0 ({found[0]}). Gates need the same "
                "targets and ranks in every layer: leave out layers_to_transform and the patterns for single layers."
            )
    sizes = Layout(blueprint(model))
    return tuple(adapter_site(sizes, name, rank) for name, rank in found[0].items())


def check_plain(model: nn.Module) -> None:
    """Refuse what PEFT did to a model and what would be gated, cut or merged as something else.

    Raises:
        UnsupportedBackboneError: An adapter is no plain LoRA, has another name than `default`, is not the active one,
            is merged already, or has a bias.
    """
    if "peft" not in sys.modules:
        return  # nobody can have been at the model
    from peft.tuners.lora import LoraLayer
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer) and (why := _objection(module, LoraLayer)):
            raise UnsupportedBackboneError(f"The adapter of {name} {why}.")


def _objection(module: Any, lora: type) -> str:
    """Why an adapter is not one that can be gated, cut and merged; empty if it is."""
    if type(module).__name__ == "TrainableTokensLayer":
        return "trains single tokens, which are not cut. Leave out trainable_token_indices"
    if type(module).__name__ == "ParamWrapper":
        return (
            "adapts a parameter, such as fused experts, which are cut without adapters. Name the projections of "
            "attention as targets, not all-linear or target_parameters"
        )
    if isinstance(module, lora) and not isinstance(module.lora_A, nn.ModuleDict):
        return "is AdaLoRA, whose ranks are its own to choose. Use LoraConfig"
    if not isinstance(module, lora):
        return f"is a {type(module).__name__} of PEFT; gates and cuts know LoRA alone. Use LoraConfig"
    if module.merged:
        return "is merged into its weights. Call model.unmerge_adapter() first"
    if list(module.active_adapters) != [ADAPTER]:
        return (
            f"that is active is called {', '.join(module.active_adapters)}; the one called {ADAPTER!r} is used. "
            "Make it the only active one, or name yours so"
        )
    if not is_adapted(module):
        return "adapts an embedding, which is not cut. Leave it out of target_modules"
    if getattr(module, "lora_variant", None):
        variant = type(next(iter(module.lora_variant.values()))).__name__
        return f"is a variant of LoRA ({variant}), whose ranks cannot be gated or cut one by one. Use plain LoRA"
    if module.lora_B[ADAPTER].bias is not None:
        return "has a bias, which belongs to no rank. Leave out lora_bias"
    return ""


def plain_ends(layout: Layout) -> dict[str, tuple[int, int]]:
    """Ends of the sites of a plain transformer with this one's width and heads, as the cost formulas take them."""
    out = layout.base(layout.layers[0], "o")
    inputs, width = sizes_of(out)
    head = inputs // layout.n_heads
    query = head * (layout.n_heads // layout.head_units)
    return site_ends(width, query, head)


def merged_weight(module: Any, ranks: tuple[int, ...] | None) -> torch.Tensor:
    """W + scaling * B A over the kept ranks, in the base weight's own shape and type.

    Args:
        module: A linear map or the LoRA module around one.
        ranks: Kept rank indices; None keeps all.
    """
    base = base_of(module)
    weight = base.weight.detach()
    if not is_adapted(module):
        return weight
    a, b, scaling = lora_maps(module)
    keep = slice(None) if ranks is None else torch.tensor(ranks, dtype=torch.long)
    delta = scaling * (b.weight.detach()[:, keep] @ a.weight.detach()[keep])
    (_, out_axis), *_ = map_axes(base, "out")
    return weight + (delta if out_axis == 0 else delta.T).to(weight.dtype)


def plain_heads(model: nn.Module) -> None:
    """Replace PEFT's wrappers of wholly trained modules by the trained modules themselves, in place."""
    from peft.utils import ModulesToSaveWrapper

    wrappers = [(n, m) for n, m in model.named_modules() if isinstance(m, ModulesToSaveWrapper)]
    for name, wrapper in wrappers:
        put(model, name, wrapper.modules_to_save[ADAPTER])


@torch.no_grad()
def reorder(model: Any, shape: BackboneShape, heads: torch.Tensor, neurons: torch.Tensor) -> None:
    """Permute heads and feed-forward neurons, weights and adapters alike; the function stays the same.

    Args:
        model: `transformers` model, with or without LoRA modules; changed in place.
        shape: Its shape.
        heads: Head units (KV groups) in their new order, shape (L, G).
        neurons: Neurons in their new order, shape (L, ffn_size).
    """
    layout = Layout(model)
    for layer, head_order, neuron_order in zip(layout.layers, heads, neurons, strict=True):
        for table, order in ((layout.attention(layer), head_order), (layout.ffn(layer), neuron_order)):
            for part in layout.parts(table):
                module = get(layer, part.path)
                part.permute(module, part.index(module, order, len(order)))


def inverse(order: torch.Tensor) -> torch.Tensor:
    """Permutation that undoes each row of `order`, same shape (L, n)."""
    return torch.argsort(order, dim=-1)
