"""A member as files for `transformers`: a plain checkpoint where its shape is one that a config can say, else ours.

A config has one number of heads and one width for all layers. A member of a uniform shape in an architecture with a
free head size (Llama and its like) is therefore a checkpoint like any other; all other members are stored as compact
models, which `metas_peft.load` reads.
"""

import copy
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from metas_peft.backbones import skeleton
from metas_peft.backbones.per_layer import layer_entry
from metas_peft.backbones.shape import shape_of
from metas_peft.backbones.store import PER_LAYER, PLAN, VERSION, WEIGHTS, backbone_of, load, read_plan, save_compact
from metas_peft.core.errors import ExportError
from metas_peft.core.files import write_text
from metas_peft.core.subnet import Subnet
from metas_peft.export.members import README, StoredMember, copy_tokenizer, filling
from metas_peft.export.quiet import quiet
from metas_peft.export.verify import Agreement, check, compare, runner

PLAIN, COMPACT = "transformers checkpoint", "compact model"
DTYPES = {32: torch.float32, 16: torch.bfloat16}


@dataclass(frozen=True)
class Checkpoint:
    """What was written.

    Attributes:
        folder: Where to.
        kind: `transformers checkpoint` or `compact model`.
        load: Python expression that loads it.
        size_bytes: Size of its weights.
        agreement: Its answers against the member's.
    """

    folder: Path
    kind: str
    load: str
    size_bytes: int
    agreement: Agreement


def export_checkpoint(member: StoredMember, folder: Path, *, bits: int = 32) -> Checkpoint:
    """Write a member in the form that most programs can load.

    Args:
        member: What to export.
        folder: Where to; must not hold anything else.
        bits: Width of the weights: 32, or 16 for bfloat16.

    Raises:
        CheckpointError: The member is damaged.
        ExportError: Another width, or what was written does not answer as the member.
        OutputError: The folder holds something already.
    """
    if bits not in DTYPES:
        raise ExportError(f"Checkpoints come in {', '.join(map(str, DTYPES))} bits, not {bits}. ONNX files come in 8.")
    with filling(folder):
        return _write(member, folder, bits)


def _write(member: StoredMember, folder: Path, bits: int) -> Checkpoint:
    model: Any = load(member.folder)
    plan = read_plan(member.folder)
    smaller = copy.deepcopy(model)
    skeleton.cast(smaller, DTYPES[bits])
    config = uniform_config(model, plan)
    copy_tokenizer(member.folder, folder)
    if config is None:
        kind, how = COMPACT, f"metas_peft.load({str(folder)!r})"
        if plan["version"] == VERSION and all(p.dtype == DTYPES[bits] for p in model.parameters()):
            for name in (WEIGHTS, PLAN, PER_LAYER):
                shutil.copyfile(member.folder / name, folder / name)
        else:
            save_compact(smaller, backbone_of(plan)[1], member.subnet, folder, plan["about"])
        again = load(folder)
    else:
        kind, how = PLAIN, f"transformers.{type(model).__name__}.from_pretrained({str(folder)!r})"
        with quiet():
            twin = skeleton.build(type(model), config, buffers=True)
            skeleton.fill(twin, smaller.state_dict())
            twin.save_pretrained(folder)
            if twin.can_generate():  # as they are: `transformers` refuses to save some that it has read
                model.generation_config.to_json_file(folder / "generation_config.json")
            again = type(model).from_pretrained(folder, dtype=DTYPES[bits]).eval()
    check(compare(smaller, runner(again)), f"The {kind}", bits)
    agreement = compare(model, runner(again))
    write_text(folder / README, _readme(type(model).__name__, member, kind, how))
    size = sum(f.stat().st_size for f in folder.glob("*.safetensors"))
    return Checkpoint(folder, kind, how, size, agreement)


def uniform_config(model: Any, plan: dict[str, Any]) -> Any | None:
    """The config under which `transformers` builds a compact model's very shape; None where there is no such config.

    Args:
        model: Compact model.
        plan: Its plan.
    """
    architecture, dense = backbone_of(plan)
    shape = shape_of(skeleton.build(architecture, copy.deepcopy(dense), buffers=False))
    kept = [layer for layer in Subnet.from_dict(plan["subnet"]).layers if layer.is_kept]
    entries = [layer_entry(layer, dense.get_text_config(), shape) for layer in kept]
    if any(entry != entries[0] for entry in entries) or "skip" in entries[0]:
        return None
    config = copy.deepcopy(model.config)
    text = config.get_text_config()
    try:
        for name, value in entries[0].items():
            setattr(text, name, value)
        skeleton.check(skeleton.build(architecture, config, buffers=False), model.state_dict())
    # Architectures say in many ways that they do not have such a shape.
    except Exception:
        return None
    return config


def _readme(architecture: str, member: StoredMember, kind: str, how: str) -> str:
    return (
        f"# {architecture}, {member.name}\n\nA {kind} written by metas-peft (member {member.key}).\n\n"
        f"```python\nimport {how.partition('.')[0]}\n\nmodel = {how}\n```\n"
    )
