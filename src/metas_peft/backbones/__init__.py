"""Backbones: where their parts are, adapters on them, nested views of them, and cutting them for good.

Names are looked up on first use: loading a compact model must not import PEFT.
"""

import importlib
from typing import Any

_WHERE: dict[str, str] = {
    "FAMILIES": "family",
    "Layout": "layout",
    "NestedModel": "views",
    "add_lora": "adapters",
    "compact": "compaction",
    "load_adapter": "adapter_files",
    "has_views": "views",
    "nested": "views",
    "reorder": "adapters",
    "save_adapter": "adapter_files",
    "shape_of": "shape",
}

__all__ = [*_WHERE]


def __getattr__(name: str) -> Any:
    try:
        module = _WHERE[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
