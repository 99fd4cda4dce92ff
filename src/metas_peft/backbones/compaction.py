"""Compaction: a sub-network becomes a physically smaller `transformers` model.

Removed layers and sub-layers are gone, projections are sliced, adapters are merged over their kept ranks or sliced to
them. The merged result is a plain module that needs neither PEFT nor this package to run. The same `cut` gives shape
to an empty skeleton when a saved model is loaded, so saving and loading cannot disagree about the structure.
"""

import copy
from typing import Any

import torch
from torch import nn

from metas_peft.backbones.adapters import check_plain, is_adapted, lora_maps, merged_weight, plain_heads
from metas_peft.backbones.cutting import check_fit, cut
from metas_peft.backbones.family import put
from metas_peft.backbones.hooks import GATED
from metas_peft.backbones.layout import Layout
from metas_peft.backbones.parts import base_of
from metas_peft.backbones.quantised import dequantise
from metas_peft.core.errors import UsageError
from metas_peft.core.shape import FFN_SITES, BackboneShape
from metas_peft.core.subnet import Subnet

__all__ = ["compact", "cut"]


def compact(model: Any, shape: BackboneShape, subnet: Subnet, *, merge: bool = True) -> Any:
    """Cut a sub-network out of a model; the model itself is left untouched.

    Args:
        model: `transformers` model, with or without injected LoRA modules.
        shape: Shape of the model.
        subnet: What to keep, in the model's present order of heads and neurons.
        merge: Merge the adapters' kept ranks into the weights; else the adapters stay beside them, sliced to their
            kept ranks, and a projection without a rank left is a plain map.

    Returns:
        A new model in evaluation mode whose logits equal those of the masked model; in floating-point numbers, if the
        model is quantised.

    Raises:
        SubnetError: The subnet does not fit the model.
        UnsupportedBackboneError: An adapter is no plain LoRA, is not the active one, or is merged already.
        UsageError: Gates are on the model; a copy would be multiplied by what is drawn for the original.
    """
    if getattr(model.base_model, GATED, 0):
        raise UsageError(
            "The model has gates attached, and a model is cut without them. Decide first, then cut after the "
            "`with attach(...)` block or after Attachment.detach()."
        )
    check_fit(shape, subnet)
    check_plain(model)
    smaller = copy.deepcopy(model)
    plain_heads(smaller)
    dequantise(smaller)  # what is cut and merged is cut and merged as floating-point numbers
    vars(smaller).pop("peft_config", None)  # PEFT's mark on a model that it has been at
    _settle_adapters(smaller, shape, subnet, merge)
    cut(smaller, shape, subnet)
    smaller.requires_grad_(False)
    return smaller.eval()


@torch.no_grad()
def _settle_adapters(model: Any, shape: BackboneShape, subnet: Subnet, merge: bool) -> None:
    layout = Layout(model)
    index = {site.name: m for m, site in enumerate(shape.sites)}
    for layer, plan in zip(layout.layers, subnet.layers, strict=True):
        for site in layout.sites:
            module = layout.projection(layer, site)
            if not is_adapted(module):
                continue
            ranks = None if plan.ranks is None or site not in index else plan.ranks[index[site]]
            if not (plan.ffn_blocks if site in FFN_SITES else plan.heads):
                ranks = ()  # maps from or to nothing have no use for an adapter
            if merge or ranks == ():
                base = base_of(module)
                base.weight = nn.Parameter(merged_weight(module, ranks))
                put(layer, layout.path_of(layer, site), base)
            elif ranks is not None:
                _keep_ranks(module, torch.tensor(ranks, dtype=torch.long))
    if merge:  # `all-linear` of PEFT adapts maps outside of the layers too, such as a pooler
        for name, module in [(n, m) for n, m in model.named_modules() if is_adapted(m)]:
            base = base_of(module)
            base.weight = nn.Parameter(merged_weight(module, None))
            put(model, name, base)


def _keep_ranks(module: Any, ranks: torch.Tensor) -> None:
    a, b, _ = lora_maps(module)
    a.weight = nn.Parameter(a.weight.detach()[ranks.to(a.weight.device)].contiguous())
    b.weight = nn.Parameter(b.weight.detach()[:, ranks.to(b.weight.device)].contiguous())
    a.out_features = b.in_features = len(ranks)
    # The scaling stays that of the full rank: PEFT gets it back as alpha = scaling x rank.
    for name in module.r:
        module.r[name] = len(ranks)
