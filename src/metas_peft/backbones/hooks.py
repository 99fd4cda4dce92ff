"""Gates on a layer by forward hooks: what multiplies a sub-layer's presence, and what multiplies its units.

Hooks change no module and leave no trace when their handles are removed. A gate that gives None is open: its hook does
nothing at all.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from metas_peft.backbones.family import SubLayer, get
from metas_peft.backbones.layout import Layout
from metas_peft.backbones.multiply import blend, scale_units
from metas_peft.backbones.parts import Part, lora_maps

Gate = Callable[[], torch.Tensor | None]
GATED = "_metas_gated"  # on a model: how many sets of gates are on it


def gate_layer(layer: nn.Module, gate: Gate) -> list[Any]:
    """Multiply a whole layer's presence: its input at 0, its output at 1.

    Args:
        layer: Transformer block.
        gate: Gives the present value, a scalar tensor in [0, 1].

    Returns:
        Handles to remove the hooks by.
    """

    def hook(module: Any, args: Any, kwargs: Any, out: Any) -> Any:
        z = gate()
        return out if z is None else _first(out, lambda y: blend(argument(args, kwargs, 0), y, z))

    return [layer.register_forward_hook(hook, with_kwargs=True)]


def gate_presence(layer: nn.Module, table: SubLayer, gate: Gate) -> list[Any]:
    """Multiply a sub-layer's presence: the residual alone at 0, the sub-layer at 1; as `gate_layer` else."""

    def hook(module: Any, args: Any, kwargs: Any, out: Any) -> Any:
        z, position = gate(), table.residual
        if z is None:
            return out
        if position is None:
            return _first(out, lambda y: scale_units(y, z[None]))
        return _first(out, lambda y: blend(argument(args, kwargs, position), y, z))

    return [get(layer, table.presence or table.block).register_forward_hook(hook, with_kwargs=True)]


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


def gate_ranks(module: Any, gate: Gate) -> Any:
    """Multiply each rank of an adapted projection between A and B; as `gate_units` else, with one handle."""

    def hook(module: Any, args: Any, out: torch.Tensor) -> torch.Tensor:
        z = gate()
        # What is so narrow may be kept twice; the plain product is the faster one.
        return out if z is None else out * z.to(out.dtype)

    return lora_maps(module)[0].register_forward_hook(hook)


def _gate_input(module: nn.Module, gate: Gate) -> Any:
    def hook(module: Any, args: Any) -> Any:
        z = gate()
        return args if z is None else (scale_units(args[0], z), *args[1:])

    return module.register_forward_pre_hook(hook)


def _gate_parameters(module: Any, part: Part, gate: Gate) -> list[Any]:
    """Scale the rows that lead out of the units: inside fused experts there is no module to put a hook on."""
    kept: dict[str, torch.Tensor] = {}

    def scale(module: Any, args: Any) -> None:
        z = gate()
        if z is None:
            return
        for name, axis in part.tensors:
            weight = kept[name] = module._parameters[name]
            shape = [-1 if a == axis else 1 for a in range(weight.ndim)]
            each = z.to(weight.dtype).repeat_interleave(weight.shape[axis] // len(z))
            module._parameters[name] = weight * each.view(shape)

    def restore(module: Any, args: Any, out: Any) -> None:
        module._parameters.update(kept)
        kept.clear()

    # The parameters come back even if the pass fails.
    return [module.register_forward_pre_hook(scale), module.register_forward_hook(restore, always_call=True)]


def _first(out: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Apply a function to what a block gives the residual: its output, or the first of its outputs."""
    return (function(out[0]), *out[1:]) if isinstance(out, tuple) else function(out)


def argument(args: Any, kwargs: Any, position: int) -> torch.Tensor:
    """The hidden states that a block is given, by position or by name."""
    return args[position] if len(args) > position else kwargs["hidden_states"]
