"""Tuning a method, storing its members, and asking them the evaluation texts."""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tqdm.auto import tqdm

from metas_peft.backbones.store import WEIGHTS, load, save_compact
from metas_peft.core.files import replacing, write_json
from metas_peft.core.subnet import Subnet
from metas_peft.experiment.workbench import Workbench
from metas_peft.tuning.context import TuningContext
from metas_peft.tuning.data import EncodedTexts
from metas_peft.tuning.methods import METHODS, TunedFront

logger = logging.getLogger(__name__)

MODELS = "models"
DENSE = "dense"  # the ungated model: its folder, and its name among those of methods


@dataclass(frozen=True)
class StoredMember:
    """One member of a front on disk.

    Attributes:
        name: Label such as `50 %`.
        subnet: What it keeps.
        folder: Where its compact model is.
        gap: Largest difference between masked and compact logits.
        model_bytes: Size of its weights on disk.
    """

    name: str
    subnet: Subnet
    folder: Path
    gap: float
    model_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """JSON facts; the folder is known from the key."""
        return {"name": self.name, "subnet": self.subnet.as_dict(), "gap": self.gap, "model_bytes": self.model_bytes}

    @classmethod
    def from_dict(cls, data: dict[str, Any], models: Path) -> "StoredMember":
        """Inverse of `as_dict`, given the folder of all models."""
        subnet = Subnet.from_dict(data["subnet"])
        return cls(data["name"], subnet, models / subnet.key, data["gap"], data["model_bytes"])


def store_front(front: TunedFront, bench: Workbench, folder: Path, method: str) -> dict[str, Any]:
    """Write every member's compact model, the gates and the subnets; returns JSON facts.

    Args:
        front: What the method found.
        bench: Gives the dense config.
        folder: Folder of the method; `models/<key>/`, `gates.safetensors` and `subnets.json` are written into it.
        method: Name of the method, kept beside each plan.
    """
    models = folder / MODELS
    shutil.rmtree(models, ignore_errors=True)
    members = []
    for member in front.members:
        target = models / member.subnet.key
        about = {"name": member.name, "method": method}
        save_compact(member.model, bench.dense_config, member.subnet, target, about, bench.tokenizer)
        size = (target / WEIGHTS).stat().st_size
        members.append(StoredMember(member.name, member.subnet, target, member.gap, size).as_dict())
    if front.gates:
        with replacing(folder / "gates.safetensors") as temporary:
            save_file({n: t.detach().contiguous() for n, t in front.gates.items()}, temporary)
    facts = {"members": members, "notes": front.notes}
    write_json(folder / "subnets.json", {**facts, "path": [s.as_dict() for s in front.path]})
    return facts


def tune(context: TuningContext, method: str, front: str) -> TunedFront:
    """Run one method from the shared start."""
    logger.info("Method %s begins.", method)
    return METHODS[method](front=front).tune(context)


def answers(
    members: Sequence[StoredMember], data: EncodedTexts, bench: Workbench, *, title: str, progress: bool
) -> np.ndarray:
    """Predictions of every member for every text, in float32, shape (M, N)."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = []
    for member in tqdm(members, desc=title, delay=2.0, leave=False, disable=not progress, dynamic_ncols=True):
        model = load(member.folder, device=device)
        rows.append(bench.form.answer(model, data, bench.collator.pad_token_id))
    return np.stack(rows)
