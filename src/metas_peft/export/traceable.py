"""Models in the form that graph exporters take: two inputs, one output, no loop whose length depends on values."""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from metas_peft.backbones.family import put


class Logits(nn.Module):
    """A model with two inputs and one output.

    Args:
        model: `transformers` model.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.options = {"use_cache": False} if model.can_generate() else {}

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(B, T) twice -> (B, C), or (B, T, V) of a language model."""
        return self.model(input_ids=input_ids, attention_mask=attention_mask, **self.options).logits


def with_plain_maps(model: Any) -> Any:
    """A copy of a model in float32 whose maps are all `Linear`: quantisers pass over GPT-2's transposed ones."""
    plain = copy.deepcopy(model).float()
    for name, module in list(plain.named_modules()):
        if isinstance(module, Conv1D):
            linear = nn.Linear(module.nx, module.nf, device="meta")
            linear.weight, linear.bias = nn.Parameter(module.weight.detach().T.contiguous()), module.bias
            put(plain, name, linear)
    return plain.requires_grad_(False)


@contextlib.contextmanager
def traceable(model: nn.Module) -> Iterator[None]:
    """A model under implementations that a graph can be made of, for the length of a block."""
    configs = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}.values()
    before = [(c, c._attn_implementation, c._experts_implementation) for c in configs]
    for config in configs:
        config._experts_implementation = "batched_mm"  # the usual one loops over the experts that were hit
        config._attn_implementation = "eager"  # fewer and faster nodes than scaled dot products taken apart
    try:
        yield
    finally:
        for config, attention, experts in before:
            config._attn_implementation, config._experts_implementation = attention, experts
