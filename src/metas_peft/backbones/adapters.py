"""LoRA adapters through Hugging Face PEFT: adding, ordering, merging, saving."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from metas_peft.backbones.family import ATTENTION_SITES, Layout, put
from metas_peft.core.records import AdapterSite, BackboneShape

if TYPE_CHECKING:
    from peft import PeftModel  # a stored compact model loads where PEFT is not installed

ADAPTER = "default"  # PEFT's own name for the only adapter


def add_lora(
    model: Any, targets: str | list[str], *, rank: int, alpha: float, dropout: float, seed: int
) -> "tuple[PeftModel, tuple[AdapterSite, ...]]":
    """Put LoRA adapters around the targeted projections of every layer; the head is trained whole.

    Args:
        model: A `transformers` sequence-classification model of a known family.
        targets: `all-linear` or projection names in any family's spelling.
        rank: LoRA rank.
        alpha: LoRA alpha; the product of B and A is scaled by alpha / rank.
        dropout: Dropout before A.
        seed: Seed of A's initial values (B starts at zero).

    Returns:
        The PEFT model and its adapter sites, in the layout's order.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    layout = Layout(model)
    sites = layout.resolve_sites(targets)
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=layout.target_pattern(sites),
        modules_to_save=layout.head_modules(),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted = get_peft_model(model, config)
    return adapted, tuple(AdapterSite(site, rank) for site in sites)


def is_adapted(module: nn.Module) -> bool:
    """Whether a projection carries a LoRA adapter."""
    return ADAPTER in getattr(module, "lora_A", {})


def lora_maps(module: Any) -> tuple[nn.Linear, nn.Linear, float]:
    """The A map (rank x in), the B map (out x rank) and the scaling of an adapted projection."""
    return module.lora_A[ADAPTER], module.lora_B[ADAPTER], float(module.scaling[ADAPTER])


def merged_weight(module: Any, ranks: tuple[int, ...] | None) -> torch.Tensor:
    """W + scaling * B A over the kept ranks, of shape (out, in), in the base weight's type.

    Args:
        module: A Linear or the LoRA module around one.
        ranks: Kept rank indices; None keeps all.
    """
    weight = getattr(module, "base_layer", module).weight.detach()
    if not is_adapted(module):
        return weight
    a, b, scaling = lora_maps(module)
    keep = slice(None) if ranks is None else torch.tensor(ranks, dtype=torch.long)
    delta = b.weight.detach()[:, keep] @ a.weight.detach()[keep]
    return weight + (scaling * delta).to(weight.dtype)


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
        heads: KV groups in their new order, shape (L, G).
        neurons: Neurons in their new order, shape (L, ffn_size).
    """
    layout = Layout(model)
    for layer, head_order, neuron_order in zip(layout.layers, heads, neurons, strict=True):
        kv_rows = rows_of(head_order, shape.head_size)
        query_rows = rows_of(head_order, shape.head_size * shape.queries_per_group)
        outputs = {"q": query_rows, "k": kv_rows, "v": kv_rows, "up": neuron_order, "gate": neuron_order}
        inputs = {"o": query_rows, "down": neuron_order}
        for site in layout.sites:
            module = layout.projection(layer, site)
            base = layout.base(layer, site)
            if site in outputs:
                base.weight.copy_(base.weight[outputs[site]])
                if base.bias is not None:
                    base.bias.copy_(base.bias[outputs[site]])
                if is_adapted(module):
                    b = lora_maps(module)[1]
                    b.weight.copy_(b.weight[outputs[site]])
            else:
                base.weight.copy_(base.weight[:, inputs[site]])
                if is_adapted(module):
                    a = lora_maps(module)[0]
                    a.weight.copy_(a.weight[:, inputs[site]])


def rows_of(units: torch.Tensor, size: int) -> torch.Tensor:
    """Indices of the rows that belong to units of `size` consecutive rows, in the units' order."""
    return (units.long()[:, None] * size + torch.arange(size)).reshape(-1)


def inverse(order: torch.Tensor) -> torch.Tensor:
    """Permutation that undoes each row of `order`, same shape (L, n)."""
    return torch.argsort(order, dim=-1)


def save_adapter(
    adapted: "PeftModel", shape: BackboneShape, heads: torch.Tensor, neurons: torch.Tensor, folder: Path
) -> None:
    """Write the adapter in PEFT's own format, in the order of the original backbone.

    The backbone in memory is ordered by importance; a stored adapter has to fit the published backbone, so the
    order is undone for the moment of writing.
    """
    model = adapted.get_base_model()
    reorder(model, shape, inverse(heads), inverse(neurons))
    try:
        adapted.save_pretrained(str(folder), safe_serialization=True)
    finally:
        reorder(model, shape, heads, neurons)


def is_attention_site(site: str) -> bool:
    """Whether a site belongs to the attention sub-layer (else to the feed-forward one)."""
    return site in ATTENTION_SITES
