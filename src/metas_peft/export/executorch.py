"""ExecuTorch files (`.pte`) of compact models, for phones: XNNPACK on the processor, checked against the model.

A file takes `input_ids` and `attention_mask` (batch, length; int64), up to sizes that are fixed now, because its memory
is laid out in advance.
"""

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metas_peft.backbones.shape import longest_sequence
from metas_peft.core.errors import ExportError
from metas_peft.core.files import replacing
from metas_peft.export.quiet import quiet
from metas_peft.export.traceable import Logits, traceable, with_plain_maps
from metas_peft.export.verify import Agreement, Batch, check, compare

LARGEST_BATCH, LONGEST = 8, 512
EXTRA = "pip install 'metas-peft[executorch]'"
HOW_TO_RUN = """\
import torch
from executorch.runtime import Runtime
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({folder!r})
forward = Runtime.get().load_program({file!r}).load_method("forward")
texts = tokenizer(["a text", "another one"], padding=True, return_tensors="pt")
(logits,) = forward.execute([texts["input_ids"], texts["attention_mask"]])
"""


@dataclass(frozen=True)
class ExecutorchFile:
    """One exported file.

    Attributes:
        path: Where it is.
        size_bytes: Its size.
        longest: Tokens that it reads at most.
        agreement: Its answers against the model's.
    """

    path: Path
    size_bytes: int
    longest: int
    agreement: Agreement


def export_executorch(model: Any, path: Path) -> ExecutorchFile:
    """Write a model as an ExecuTorch file in float32 and check it.

    Args:
        model: Plain `transformers` model on the CPU, in evaluation mode.
        path: Where to; replaced whole.

    Raises:
        ExportError: The package is missing, the architecture cannot be exported, or the file answers differently.
    """
    if importlib.util.find_spec("executorch") is None:
        raise ExportError(f"ExecuTorch files need executorch, which is not installed: {EXTRA}. Or use --format onnx.")
    limit = longest_sequence(model) or getattr(model.config.get_text_config(), "max_position_embeddings", LONGEST)
    longest = min(LONGEST, limit)
    try:
        plain = with_plain_maps(model)
        with quiet(), traceable(plain), torch.no_grad():
            program = _lower(plain, longest)
    # The exporter raises many kinds, with pages of text.
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ExportError(
            f"{type(model).__name__} cannot be exported to ExecuTorch ({type(error).__name__}: {reason}). "
            "Use --format onnx or hf."
        ) from error
    with replacing(path) as temporary:
        temporary.write_bytes(program)
        agreement = check(compare(model, _runner(temporary)), "The ExecuTorch file")
    return ExecutorchFile(path, len(program), longest, agreement)


def _lower(model: Any, longest: int) -> bytes:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    batch, length = torch.export.Dim("batch", max=LARGEST_BATCH), torch.export.Dim("length", max=longest)
    ids = torch.ones(2, 6, dtype=torch.long)
    sizes = {name: {0: batch, 1: length} for name in ("input_ids", "attention_mask")}
    graph = torch.export.export(Logits(model), (ids, torch.ones_like(ids)), dynamic_shapes=sizes)
    lowered = to_edge_transform_and_lower(graph, partitioner=[XnnpackPartitioner()]).to_executorch()
    return bytes(lowered.buffer)


def _runner(path: Path) -> Any:
    with _silent():
        from executorch.runtime import Runtime

        program = Runtime.get().load_program(str(path))
        forward = program.load_method("forward")

    def run(batch: Batch) -> np.ndarray:
        try:
            with _silent():
                (logits,) = forward.execute([batch["input_ids"], batch["attention_mask"]])
        except RuntimeError as error:
            raise ExportError(f"ExecuTorch cannot run the file it wrote ({error}). Use --format onnx or hf.") from error
        return logits.numpy()

    return run


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without what the runtime writes past Python about the processor it found."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
