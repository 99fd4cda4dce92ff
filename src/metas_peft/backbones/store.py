"""Compact models on disk: safetensors beside a JSON plan; loading needs neither PEFT nor the training code.

The plan holds the dense architecture's config and the subnet. Loading builds that architecture, cuts it with the
same `cut` that made the model, and fills in the stored weights. `transformers`' own `from_pretrained` is not used:
told to accept other sizes, it re-initialises the sliced weights in silence.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from metas_peft.backbones.cutting import cut
from metas_peft.backbones.shape import shape_of
from metas_peft.core.errors import CheckpointError, MetasPeftError
from metas_peft.core.files import replacing, write_json
from metas_peft.core.records import Subnet

FORMAT, VERSION = "metas-peft-compact", 2
READABLE = (1, VERSION)  # plans of version 1 have no digest of their own
DIGESTED = ("architecture", "config", "subnet", "key", "fingerprint")
WEIGHTS, PLAN = "model.safetensors", "plan.json"


def fingerprint(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 over names, types, shapes and values of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_compact(model: Any, dense_config: Any, subnet: Subnet, folder: Path, about: dict[str, Any]) -> None:
    """Write a compact model; a folder with a plan is whole.

    Args:
        model: Compact model as `compact` made it.
        dense_config: `transformers` config of the backbone before it was cut.
        subnet: What was kept.
        folder: Where to; created.
        about: JSON facts to keep beside the plan (name, quality, origin of costs).
    """
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items()}
    with replacing(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    plan = {
        "format": FORMAT,
        "version": VERSION,
        "architecture": type(model).__name__,
        "config": json.loads(dense_config.to_json_string(use_diff=False)),
        "subnet": subnet.as_dict(),
        "key": subnet.key,
        "fingerprint": fingerprint(tensors),
        "about": about,
    }
    write_json(folder / PLAN, plan | {"digest": plan_digest(plan)})


def plan_digest(plan: dict[str, Any]) -> str:
    """SHA-256 over what a plan says of its model (all but `about`)."""
    text = json.dumps({name: plan.get(name) for name in DIGESTED}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def load(folder: str | Path) -> torch.nn.Module:
    """Load a compact model.

    Args:
        folder: Folder that `save_compact` wrote.

    Returns:
        A plain module in evaluation mode, with `config` and `forward` of its architecture.

    Raises:
        CheckpointError: Absent, damaged, or weights that do not belong to the plan.
    """
    folder = Path(folder)
    plan = read_plan(folder)
    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / WEIGHTS} cannot be read ({error}). Export the member again.") from error
    if fingerprint(tensors) != plan.get("fingerprint"):
        raise CheckpointError(
            f"The weights in {folder} are not those its plan was written for. Keep {WEIGHTS} and {PLAN} of one export "
            "together, or export the member again."
        )
    try:
        architecture = getattr(transformers, plan["architecture"])
        config = architecture.config_class.from_dict(plan["config"])
        with torch.random.fork_rng(devices=[]):
            model = architecture(config)
        subnet = Subnet.from_dict(plan["subnet"])
        cut(model, shape_of(model), subnet)
        model.load_state_dict(tensors, strict=True)
    except (
        ArithmeticError, AssertionError, AttributeError, LookupError, MetasPeftError, RuntimeError,
        StrictDataclassError, TypeError, ValueError,
    ) as error:  # fmt: skip
        raise CheckpointError(
            f"The plan in {folder} does not describe its weights ({error}). Export the member again."
        ) from error
    model.requires_grad_(False)
    return model.eval()


def read_plan(folder: Path) -> dict[str, Any]:
    """The plan of a compact model.

    Raises:
        CheckpointError: Absent, not JSON, of another format or version, or altered since it was written.
    """
    try:
        plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} holds no compact model: {PLAN} is missing. Give the folder of a member, "
                              "such as outputs/RUN/models/KEY.") from error  # fmt: skip
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / PLAN} cannot be read ({error}). Export the member again.") from error
    if not isinstance(plan, dict) or plan.get("format") != FORMAT or plan.get("version") not in READABLE:
        found = (plan.get("format"), plan.get("version")) if isinstance(plan, dict) else type(plan).__name__
        raise CheckpointError(f"{folder / PLAN} is {found}, expected {(FORMAT, VERSION)}. Export the member again.")
    if plan["version"] > 1 and plan.get("digest") != plan_digest(plan):
        raise CheckpointError(f"{folder / PLAN} was altered since it was written. Export the member again.")
    return plan
