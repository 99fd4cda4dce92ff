"""Compact models in fewer bits, in torch: 16 (bfloat16), 8 and 4 (weights only, through torchao).

Weight-only quantisation stores matrices in few bits and multiplies in the model's own precision; it saves memory, and
time where reading weights is what takes it.
"""

import copy
from typing import Any

import torch
from torch import nn

from metas_peft.backbones.skeleton import cast
from metas_peft.core.errors import ExportError
from metas_peft.export.quiet import quiet
from metas_peft.export.traceable import with_plain_maps

BITS = (32, 16, 8, 4)
DTYPES = {32: torch.float32, 16: torch.bfloat16}
EXTRA = "pip install 'metas-peft[torchao]'"


def in_bits(model: Any, bits: int) -> Any:
    """A copy of a model whose weights are stored in so many bits.

    In 8 and 4 bits that is said of the maps; embeddings and norms stay in the model's precision. Buffers always do.

    Args:
        model: Plain `transformers` model.
        bits: 32 (float32), 16 (bfloat16), 8, or 4 (which torchao multiplies on CUDA alone).

    Raises:
        ExportError: Another number of bits, torchao is missing or has no kernel here, or experts are fused.
    """
    if bits not in BITS:
        raise ExportError(f"Weights come in {', '.join(map(str, BITS))} bits, not {bits}.")
    if bits in DTYPES:
        smaller = copy.deepcopy(model)
        cast(smaller, DTYPES[bits])
        return smaller
    smaller = with_plain_maps(model)
    if any(parameter.ndim > 2 for parameter in smaller.parameters()):
        raise ExportError(f"torchao stores no fused experts in {bits} bits, and they are most of this model. Use 16.")
    try:
        with quiet():
            from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise ExportError(f"Weights of {bits} bits in torch need torchao, which is not installed: {EXTRA}.") from error
    try:
        with quiet():
            if bits == 8:
                quantize_(smaller, Int8WeightOnlyConfig(), _is_matrix)
            else:
                smaller = smaller.bfloat16()
                layout: Any = "tile_packed_to_4d"  # the one that needs no further package
                quantize_(smaller, Int4WeightOnlyConfig(group_size=32, int4_packing_format=layout), _is_matrix)
    # torchao names what is missing (a CUDA build, another package) in many ways.
    except Exception as error:
        raise ExportError(
            f"torchao has no {bits}-bit weights for this computer ({error}). Use ONNX: --format onnx --bits {bits}."
        ) from error
    return smaller


def stored_bytes(model: nn.Module) -> int:
    """Bytes of a model's weights and buffers, quantised ones as they are stored; tied ones once."""
    seen: set[int] = set()
    return sum(_bytes(t, seen) for t in (*model.parameters(), *model.buffers()))


def _bytes(tensor: torch.Tensor, seen: set[int]) -> int:
    names = getattr(tensor, "tensor_data_names", None)  # torchao's way of telling what a tensor is made of
    if names:
        return sum(_bytes(getattr(tensor, name), seen) for name in names)
    if tensor.data_ptr() in seen and tensor.numel():
        return 0
    seen.add(tensor.data_ptr())
    return tensor.numel() * tensor.element_size()


def _is_matrix(module: nn.Module, name: str) -> bool:
    return isinstance(module, nn.Linear) and module.weight.numel() > 0
