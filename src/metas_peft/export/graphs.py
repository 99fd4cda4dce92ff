"""A member as one file with a graph inside, its tokeniser and a note on how to run it beside it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from metas_peft.backbones.store import load
from metas_peft.core.files import write_text
from metas_peft.export import executorch, onnx
from metas_peft.export.members import README, StoredMember, copy_tokenizer, filling
from metas_peft.export.verify import Agreement


@dataclass(frozen=True)
class Graph:
    """What was written.

    Attributes:
        file: The file.
        size_bytes: Its size.
        agreement: Its answers against the member's.
    """

    file: Path
    size_bytes: int
    agreement: Agreement


def export_graph(kind: Literal["onnx", "executorch"], member: StoredMember, folder: Path, *, bits: int = 32) -> Graph:
    """Write a member for a runtime that needs no Python.

    Args:
        kind: Which runtime.
        member: What to export.
        folder: Where to; must not hold anything else.
        bits: Width of the weights, as far as the runtime has it.

    Raises:
        CheckpointError: The member is damaged.
        ExportError: The runtime is not installed, cannot run this architecture, or answers differently.
        OutputError: The folder holds something already.
    """
    with filling(folder):
        model: Any = load(member.folder)
        if kind == "onnx":
            file = folder / "model.onnx"
            how = onnx.HOW_TO_WRITE if model.can_generate() else onnx.HOW_TO_RUN
            agreement = onnx.export_onnx(model, file, bits=bits).agreement
        else:
            file, how = folder / "model.pte", executorch.HOW_TO_RUN
            agreement = executorch.export_executorch(model, file).agreement
        copy_tokenizer(member.folder, folder)
        title = f"# {type(model).__name__}, {member.name}\n\nWritten by metas-peft (member {member.key}).\n\n"
        write_text(folder / README, f"{title}```python\n{how.format(file=str(file), folder=str(folder))}```\n")
        return Graph(file, file.stat().st_size, agreement)
