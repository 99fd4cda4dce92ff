"""Order heads and FFN neurons once by importance, so that every member of a front is a prefix."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from metas_peft.backbones import Layout
from metas_peft.backbones.hooks import gate_units
from metas_peft.core.shape import BackboneShape
from metas_peft.tuning.data import Batches, EncodedTexts
from metas_peft.tuning.forms import CLASSES, Form


def importances(
    model: Any,
    shape: BackboneShape,
    data: EncodedTexts,
    collator: Batches,
    *,
    batches: int,
    batch_size: int,
    seed: int,
    form: Form = CLASSES,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean |d cross-entropy / d gate| of a gate fixed at 1 on every KV group and every FFN neuron.

    First-order Taylor importance (Michel et al. 2019, equation 2; Molchanov et al. 2017).

    Args:
        model: `transformers` model with trained adapters.
        shape: Its shape.
        data: Training texts.
        collator: Makes batches.
        batches: Number of batches.
        batch_size: Sequences per batch.
        seed: Seed of the choice of texts.
        form: What the task asks of the model.

    Returns:
        Importance of KV groups (L, G) and of neurons (L, ffn_size).
    """
    layout = Layout(model)
    device = next(model.parameters()).device
    heads = [torch.ones(shape.n_kv_heads, requires_grad=True, device=device) for _ in layout.layers]
    neurons = [torch.ones(shape.ffn_size, requires_grad=True, device=device) for _ in layout.layers]
    handles = []
    for i, layer in enumerate(layout.layers):
        for table, gate in ((layout.attention(layer), heads[i]), (layout.ffn(layer), neurons[i])):
            handles += gate_units(layout, layer, table, lambda gate=gate: gate)
    frozen = [p for p in model.parameters() if p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    sums = [torch.zeros(shape.n_layers, shape.n_kv_heads), torch.zeros(shape.n_layers, shape.ffn_size)]
    chosen = np.random.default_rng(seed).permutation(len(data))[: batches * batch_size]
    chosen = sorted(chosen.tolist(), key=lambda i: len(data.ids[i]))
    model.eval()
    try:
        for start in range(0, len(chosen), batch_size):
            batch = collator([data[i] for i in chosen[start : start + batch_size]])
            batch = {k: v.to(device) for k, v in batch.items()}
            loss = F.cross_entropy(form.rows(model, batch), form.targets(batch))
            gradients = torch.autograd.grad(loss, heads + neurons)
            sums[0] += torch.stack(gradients[: shape.n_layers]).abs().cpu()
            sums[1] += torch.stack(gradients[shape.n_layers :]).abs().cpu()
    finally:
        for handle in handles:
            handle.remove()
        for parameter in frozen:
            parameter.requires_grad_(True)
    passes = -(-len(chosen) // batch_size)
    return sums[0] / passes, sums[1] / passes


def descending(importance: torch.Tensor) -> torch.Tensor:
    """Order of each row from most to least important, ties by index, shape as given."""
    return torch.argsort(importance, dim=-1, descending=True, stable=True)
