"""Adapters on disk, in PEFT's own format."""

from pathlib import Path

import torch
from peft import PeftModel

from metas_peft.backbones.adapters import inverse, reorder
from metas_peft.core.records import BackboneShape


def save_adapter(
    adapted: PeftModel, shape: BackboneShape, heads: torch.Tensor, neurons: torch.Tensor, folder: Path
) -> None:
    """Write the adapter in PEFT's own format, in the order of the original backbone.

    The backbone in memory is ordered by importance; a stored adapter has to fit the published backbone, so the
    order is undone for the moment of writing.
    """
    model = adapted.get_base_model()
    reorder(model, shape, inverse(heads), inverse(neurons))
    try:
        adapted.save_pretrained(str(folder), safe_serialization=True)
    finally:
        reorder(model, shape, heads, neurons)
