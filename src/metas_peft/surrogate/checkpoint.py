"""Tensors and a card of plain facts in one file, whole or refused.

`*.safetensors` carries the card as JSON in its header. The paths that users' run files name end in `.pt`: such a file
holds tensors only (the card as bytes in one of them) and is read with `weights_only=True`, which runs no code.
"""

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from metas_peft.core.errors import CheckpointError
from metas_peft.core.files import replacing

CARD = "metas_peft"
# What the two readers raise on damaged bytes (found by feeding them some); torch's has no error of its own.
UNREADABLE = (
    safetensors.SafetensorError,
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")


def write(path: Path, tensors: Mapping[str, torch.Tensor], card: Mapping[str, Any]) -> None:
    """Write in one piece.

    Args:
        path: Where to; the suffix decides the format.
        tensors: Named tensors.
        card: JSON-safe facts.

    Raises:
        OutputError: The folder cannot be written.
    """
    text = json.dumps(card, sort_keys=True, allow_nan=False)
    whole = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        if path.suffix in TORCH_SUFFIXES:
            whole[CARD] = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
            torch.save(whole, temporary)
        else:
            safetensors.torch.save_file(whole, temporary, metadata={CARD: text})


def read(path: Path, schema_version: int) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read a file that `write` wrote.

    Args:
        path: The file.
        schema_version: What the card must say under `schema_version`.

    Returns:
        Tensors and card.

    Raises:
        CheckpointError: Absent, truncated, something else, or of another schema version.
    """
    if not path.is_file():
        raise CheckpointError(f"There is no surrogate checkpoint at {path}. Train one, or correct the path.")
    try:
        tensors, text = _read_torch(path) if path.suffix in TORCH_SUFFIXES else _read_safetensors(path)
    except UNREADABLE as error:
        raise CheckpointError(
            f"{path} cannot be read as tensors ({type(error).__name__}: {str(error).partition(chr(10))[0]}); it is "
            "truncated or of another format. Delete it to have it written anew, or name another file."
        ) from error
    if text is None:
        raise CheckpointError(
            f"{path} holds tensors, but no card of this project: it belongs to something else. "
            "Name a surrogate that this project wrote, or a path where none exists yet."
        )
    try:
        card = json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"The card in {path} is not JSON: {error}. Delete the file and train anew.") from error
    found = card.get("schema_version") if isinstance(card, dict) else None
    if found != schema_version:
        raise CheckpointError(
            f"{path} has schema version {found}, this program reads {schema_version}. "
            "Train the surrogate anew, or use the version of the program that wrote it."
        )
    return tensors, card


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], str | None]:
    with safetensors.safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        return tensors, (file.metadata() or {}).get(CARD)


def _read_torch(path: Path) -> tuple[dict[str, torch.Tensor], str | None]:
    found = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(found, dict) or not all(isinstance(v, torch.Tensor) for v in found.values()):
        raise ValueError("expected a dictionary of tensors")
    card = found.pop(CARD, None)
    return found, None if card is None else bytes(card.tolist()).decode()
