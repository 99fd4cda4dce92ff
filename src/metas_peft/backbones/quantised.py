"""Quantised weights (torchao, bitsandbytes): whole sizes, and plain weights for what cuts or merges."""

import copy
from typing import Any

import torch
from torch import nn

from metas_peft.backbones.family import put

_BITSANDBYTES = ("Params4bit", "Int8Params")


def is_quantised(module: nn.Module) -> bool:
    """Whether a map's weight is stored in another form than as floating-point numbers."""
    kind = type(module._parameters.get("weight"))  # its own: a LoRA module shows that of the map inside it
    return kind.__module__.startswith("torchao.") or kind.__name__ in _BITSANDBYTES


@torch.no_grad()
def dequantise(model: nn.Module) -> None:
    """Replace every quantised map by a plain one of the same function, in place; the model forgets that it had any.

    Args:
        model: A `transformers` model, with or without LoRA modules.
    """
    for name, module in [(n, m) for n, m in model.named_modules() if is_quantised(m)]:
        from peft.utils.integrations import dequantize_module_weight

        map_: Any = module
        plain = nn.Linear(map_.in_features, map_.out_features, bias=False, device="meta")
        plain.weight = nn.Parameter(dequantize_module_weight(map_).detach(), requires_grad=False)
        plain.bias = map_.bias
        put(model, name, plain)
    # With these, `transformers` refuses to cast or to train the model.
    for mark in ("is_quantized", "hf_quantizer", "quantization_method", "is_loaded_in_4bit", "is_loaded_in_8bit"):
        vars(model).pop(mark, None)
    vars(getattr(model, "config", model)).pop("quantization_config", None)


def blueprint(model: Any) -> Any:
    """A model whose weights have the sizes of the maps they stand for.

    Args:
        model: A `transformers` model.

    Returns:
        The model itself, unless bytes hold several weights each: then its like without memory.
    """
    if not any(type(p).__name__ == "Params4bit" for p in model.parameters()):
        return model
    config = copy.deepcopy(model.config)
    vars(config).pop("quantization_config", None)
    with torch.device("meta"):
        return type(model)(config)
