"""`gates.safetensors`: log-odds, the state of the samples' generator, and what else training has to remember."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from metas_peft.core.errors import CheckpointError
from metas_peft.core.files import replacing
from metas_peft.core.shape import BackboneShape
from metas_peft.gates.gate_set import GateSet

FILE = "gates.safetensors"
_LOG_ALPHA, _GENERATOR = "log_alpha.", "generator"


def save_gates(gates: GateSet, folder: Path, *, step: int = 0, more: Mapping[str, torch.Tensor] | None = None) -> Path:
    """Write gates in one piece.

    Args:
        gates: The gates.
        folder: Where `gates.safetensors` goes.
        step: Optimiser steps done.
        more: Further tensors, such as an optimiser's.

    Returns:
        The file.
    """
    tensors = {f"{_LOG_ALPHA}{name}": a.detach().cpu().contiguous() for name, a in gates.log_alpha.items()}
    tensors[_GENERATOR] = gates.generator.get_state()
    path = folder / FILE
    with replacing(path) as temporary:
        save_file({**tensors, **(more or {})}, temporary, metadata={**_identity(gates), "step": str(step)})
    return path


def load_gates(gates: GateSet, folder: Path, *, step: int | None = None) -> dict[str, torch.Tensor]:
    """Bring gates back to where they were saved, their samples included.

    Args:
        gates: Gates made with the same arguments.
        folder: Where `gates.safetensors` is.
        step: Optimiser steps after which it must have been written, if that matters.

    Returns:
        The further tensors.

    Raises:
        CheckpointError: Absent, damaged, of another step, or of gates for another model.
    """
    path = folder / FILE
    try:
        with safe_open(path, framework="pt") as file:
            metadata, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} is absent or damaged ({error}). Name the checkpoint that training resumes from, or start over."
        ) from error
    for key, expected in _identity(gates).items():
        if metadata.get(key) != expected:
            raise CheckpointError(
                f"{path} holds gates of another {key}: {metadata.get(key)!r}, where {expected!r} was expected. "
                "Make the gates for the model and with the arguments that the checkpoint was written with."
            )
    if step is not None and metadata["step"] != str(step):
        raise CheckpointError(
            f"{path} was written after step {metadata['step']}, but training resumes at step {step}. Name the "
            "checkpoint that training resumes from."
        )
    with torch.no_grad():
        for name, log_alpha in gates.log_alpha.items():
            log_alpha.copy_(tensors.pop(f"{_LOG_ALPHA}{name}"))
    gates.generator.set_state(tensors.pop(_GENERATOR))
    return tensors


def _identity(gates: GateSet) -> dict[str, str]:
    """What must agree between a file and the gates it is read into, in words."""
    return {
        "shape": _in_words(gates.shape),
        "granularity": ", ".join(gates.granularities),
        "temperature": repr(float(gates.temperature)),
    }


def _in_words(shape: BackboneShape) -> str:
    ranks = ", ".join(f"{site.name} {site.rank}" for site in shape.sites)
    return (
        f"{shape.n_layers} layers of {shape.n_kv_heads} head units and {shape.ffn_blocks} FFN blocks, "
        f"ranks {ranks or 'none'}"
    )
