"""Backbones: where their parts are, adapters on them, nested views of them, and cutting them for good."""

from metas_peft.backbones import bert, llama  # noqa: F401 - they register their families
from metas_peft.backbones.adapters import add_lora, reorder, save_adapter
from metas_peft.backbones.compact import compact
from metas_peft.backbones.family import FAMILIES, Layout, shape_of
from metas_peft.backbones.nested import NestedModel, nested

__all__ = [
    "FAMILIES",
    "Layout",
    "NestedModel",
    "add_lora",
    "compact",
    "nested",
    "reorder",
    "save_adapter",
    "shape_of",
]
