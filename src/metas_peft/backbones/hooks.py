"""Gates on a layer by forward hooks: what multiplies a sub-layer's presence, and what multiplies its units.

Hooks change no module and leave no trace when their handles are removed.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from metas_peft.backbones.family import SubLayer, get
from metas_peft.backbones.layout import Layout
from metas_peft.backbones.parts import Part

Gate = Callable[[], torch.Tensor]


def lerp(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Exactly x at z = 0 and exactly y at z = 1, which x + z (y - x) is not in floating point."""
    return torch.lerp(x.to(y.dtype), y, z.to(y.dtype))


def gate_layer(layer: nn.Module, gate: Gate) -> list[Any]:
    """Multiply a whole layer's presence: its input at 0, its output at 1.

    Args:
        layer: Transformer block.
        gate: Gives the present value, a scalar tensor in [0, 1].

    Returns:
        Handles to remove the hooks by.
    """

    def hook(module: Any, args: Any, kwargs: Any, out: Any) -> Any:
        return _first(out, lambda y: lerp(_argument(args, kwargs, 0), y, gate()))

    return [layer.register_forward_hook(hook, with_kwargs=True)]


def gate_presence(layer: nn.Module, table: SubLayer, gate: Gate) -> list[Any]:
    """Multiply a sub-layer's presence: the residual alone at 0, the sub-layer at 1; as `gate_layer` else."""

    def hook(module: Any, args: Any, kwargs: Any, out: Any) -> Any:
        position = table.residual
        if position is None:
            return _first(out, lambda y: y * gate().to(y.dtype))
        return _first(out, lambda y: lerp(_argument(args, kwargs, position), y, gate()))

    return [get(layer, table.block).register_forward_hook(hook, with_kwargs=True)]


def gate_units(layout: Layout, layer: nn.Module, table: SubLayer, gate: Gate) -> list[Any]:
    """Multiply what each unit (head, block of neurons, neuron) gives to the residual.

    Args:
        layout: Layout of the model.
        layer: Transformer block.
        table: Its attention or feed-forward table.
        gate: Gives one value per unit, (units,); the number must divide the width.

    Returns:
        Handles to remove the hooks by.
    """
    handles: list[Any] = []
    for part in layout.parts(table):
        if part.side == "in":
            module = get(layer, part.path)
            handles += _gate_parameters(module, part, gate) if part.tensors else [_gate_input(module, gate)]
    return handles


def _gate_input(module: nn.Module, gate: Gate) -> Any:
    def hook(module: Any, args: Any) -> Any:
        z = gate().to(args[0].dtype)
        return (args[0] * z.repeat_interleave(args[0].shape[-1] // len(z)), *args[1:])

    return module.register_forward_pre_hook(hook)


def _gate_parameters(module: Any, part: Part, gate: Gate) -> list[Any]:
    """Scale the rows that lead out of the units: inside fused experts there is no module to put a hook on."""
    kept: dict[str, torch.Tensor] = {}

    def scale(module: Any, args: Any) -> None:
        for name, axis in part.tensors:
            weight = kept[name] = module._parameters[name]
            z = gate().to(weight.dtype)
            shape = [-1 if a == axis else 1 for a in range(weight.ndim)]
            module._parameters[name] = weight * z.repeat_interleave(weight.shape[axis] // len(z)).view(shape)

    def restore(module: Any, args: Any, out: Any) -> None:
        module._parameters.update(kept)
        kept.clear()

    # The parameters come back even if the pass fails.
    return [module.register_forward_pre_hook(scale), module.register_forward_hook(restore, always_call=True)]


def _first(out: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Apply a function to what a block gives the residual: its output, or the first of its outputs."""
    return (function(out[0]), *out[1:]) if isinstance(out, tuple) else function(out)


def _argument(args: Any, kwargs: Any, position: int) -> torch.Tensor:
    return args[position] if len(args) > position else kwargs["hidden_states"]
