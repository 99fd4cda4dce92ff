"""A candidate as files, through `metas export`'s own code, which checks that they answer as the model does."""

import copy
import tempfile
from pathlib import Path
from typing import Any

from metas_peft.backbones.store import backbone_of, read_plan, save_compact
from metas_peft.deploy.candidates import Candidate, FinishedRun
from metas_peft.deploy.sources import Format
from metas_peft.export.checkpoint import export_checkpoint
from metas_peft.export.graphs import export_graph
from metas_peft.export.members import StoredMember, copy_tokenizer


def export(run: FinishedRun, candidate: Candidate, folder: Path, kind: Format) -> dict[str, Any]:
    """Export a candidate, checked against the model that it is made of; JSON facts."""
    with tempfile.TemporaryDirectory(prefix="metas-deploy-") as scratch:
        member = _as_member(run, candidate, Path(scratch) / candidate.subnet.key)
        if kind == "onnx":
            graph = export_graph("onnx", member, folder)
            return {"format": kind, "file": f"{folder.name}/{graph.file.name}", "size_bytes": graph.size_bytes,
                    "logit_gap": graph.agreement.gap}  # fmt: skip
        done = export_checkpoint(member, folder)
        return {"format": kind, "file": folder.name, "size_bytes": done.size_bytes, "logit_gap": done.agreement.gap,
                "load": done.load}  # fmt: skip


def _as_member(run: FinishedRun, candidate: Candidate, folder: Path) -> StoredMember:
    """A candidate as a stored member; what was never stored is stored for the moment."""
    for member in run.members:
        if member.subnet.key == candidate.subnet.key:
            return member
    largest = run.members[0]
    plan = read_plan(largest.folder)
    about = {**(plan.get("about") or {}), "name": candidate.name}
    save_compact(candidate.open(), copy.deepcopy(backbone_of(plan)[1]), candidate.subnet, folder, about)
    copy_tokenizer(largest.folder, folder)
    return StoredMember(candidate.subnet.key, candidate.name, folder, candidate.subnet)
