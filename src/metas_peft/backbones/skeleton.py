"""Architectures without weights: built in no time and no memory, to be filled from a file.

`transformers` fills what it builds with random numbers, which takes minutes and the full memory for large models.
Here parameters stay on the meta device until stored ones take their place; buffers that no file holds (rotary
frequencies, position numbers) are computed.
"""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

_LOCK = threading.Lock()


def build(architecture: type[Any], config: Any, *, buffers: bool) -> Any:
    """An architecture whose parameters are on the meta device.

    Args:
        architecture: A `transformers` model class.
        config: Its config.
        buffers: Whether buffers are computed; else they are on the meta device too, and nothing at all is allocated.
    """
    place = _parameters_on_meta() if buffers else torch.device("meta")
    with torch.random.fork_rng(devices=[]), place:
        return architecture(config)


def prefer_sdpa(model: Any) -> None:
    """Compute attention by torch's fused kernel, in models that have a way to."""
    if model._supports_sdpa:
        model.set_attn_implementation("sdpa")


def cast(model: nn.Module, dtype: torch.dtype) -> None:
    """Store parameters in another format, in place; buffers, such as rotary frequencies, stay exact."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


@contextlib.contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Move every parameter to the meta device the moment it is registered, before anything initialises it."""
    register = nn.Module.register_parameter

    def register_on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:  # a tied one must stay the same object
            parameter = nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
        register(module, name, parameter)

    # The hook is torch-wide: two skeletons at once would undo each other's.
    with _LOCK:
        nn.Module.register_parameter = register_on_meta  # type: ignore[method-assign]
        try:
            yield
        finally:
            nn.Module.register_parameter = register  # type: ignore[method-assign]


def fill(model: Any, tensors: dict[str, torch.Tensor]) -> None:
    """Put stored tensors in the place of a skeleton's parameters and persistent buffers.

    Args:
        model: Skeleton, cut to its shape.
        tensors: State dict; of tied weights one name is enough.

    Raises:
        ValueError: Names or shapes differ from the skeleton's.
    """
    check(model, tensors)
    model.load_state_dict(tensors, strict=False, assign=True)
    model.tie_weights()
    left = [name for name, p in model.named_parameters() if p.is_meta]
    if left:
        raise ValueError(f"no stored values for {', '.join(left[:4])}")


def check(model: Any, tensors: dict[str, torch.Tensor]) -> None:
    """Compare names and shapes of stored tensors with those of a skeleton.

    Raises:
        ValueError: They differ.
    """
    expected = model.state_dict()
    tied = tied_names(model)
    unknown = sorted(set(tensors) - set(expected))
    missing = sorted(name for name in set(expected) - set(tensors) if tied.get(name, name) not in tensors)
    if unknown or missing:
        raise ValueError(f"names differ: {len(unknown)} unknown {unknown[:3]}, {len(missing)} missing {missing[:3]}")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise ValueError(f"{name} is {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}")


def tied_names(model: nn.Module) -> dict[str, str]:
    """Second name of each parameter that a model uses twice -> its first."""
    first: dict[int, str] = {}
    second: dict[str, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in first:
            second[name] = first[id(parameter)]
        else:
            first[id(parameter)] = name
    return second
