"""Serving: one set of weights for all members of a front, and the model that chooses among them per input.

Names are looked up on first use, so that importing the package does not import torch.
"""

import importlib
from typing import Any

_WHERE: dict[str, str] = {
    "AdaptiveModel": "adaptive",
    "Answer": "adaptive",
    "ServedFront": "front",
    "ServedMember": "front",
    "Switching": "decoding",
    "Token": "adaptive",
}

__all__ = [*_WHERE]


def __getattr__(name: str) -> Any:
    try:
        module = _WHERE[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
