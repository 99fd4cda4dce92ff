"""Compact models on disk: safetensors beside a JSON plan; loading needs neither PEFT nor the training code.

The plan holds the dense architecture's config and the subnet. Loading builds an empty skeleton of that architecture,
cuts it with the same `cut` that made the model, and fills in the stored weights.

`transformers`' own `from_pretrained` must not read such a folder: told to accept other sizes, it re-initialises the
sliced weights in silence. So the weights have a name of their own, their header says what they are, and there is no
`config.json`: every one of its paths ends in an error. The pruned shape is written down in its `per_layer_config` form
too, under another name, for the day that it can be loaded there.
"""

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from metas_peft.backbones import skeleton
from metas_peft.backbones.cutting import cut
from metas_peft.backbones.per_layer import per_layer_config
from metas_peft.backbones.shape import shape_of
from metas_peft.core.errors import CheckpointError
from metas_peft.core.files import replacing, write_json
from metas_peft.core.subnet import Subnet

FORMAT, VERSION = "metas-peft-compact", 3
DIGESTED = ("architecture", "config", "generation", "subnet", "key", "fingerprint")
WEIGHTS, PLAN, PER_LAYER = "compact.safetensors", "plan.json", "per_layer_config.json"
# Plans of version 1 have no digest of their own; the weights of 1 and 2 have the name that transformers looks for.
OLD_WEIGHTS = {1: "model.safetensors", 2: "model.safetensors"}
# Config entries that say how to run, some of which fetch code; a stored model says what it is, not how to run it.
RUN_TIME = ("attn_implementation", "experts_implementation", "quantization_config", "auto_map", "trust_remote_code")


def fingerprint(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 over names, types, shapes and values of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        values: Any = tensor.reshape(-1).view(torch.uint8).numpy()
        digest.update(values)
    return digest.hexdigest()


def save_compact(
    model: Any, dense_config: Any, subnet: Subnet, folder: Path, about: dict[str, Any], tokenizer: Any = None
) -> None:
    """Write a compact model; a folder with a plan is whole.

    Args:
        model: Compact model as `compact` made it.
        dense_config: `transformers` config of the backbone before it was cut.
        subnet: What was kept.
        folder: Where to; created.
        about: JSON facts to keep beside the plan (name, quality, origin of costs).
        tokenizer: What turns texts into its inputs; written beside it, where `AutoTokenizer` finds it.
    """
    tied = skeleton.tied_names(model)
    if not tied and dense_config.get_text_config().tie_word_embeddings and model.get_output_embeddings() is not None:
        # A head that was trained by itself would be overwritten by the embeddings when the model is loaded.
        dense_config = copy.deepcopy(dense_config)
        dense_config.tie_word_embeddings = dense_config.get_text_config().tie_word_embeddings = False
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in tied}
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}
    shape = shape_of(skeleton.build(type(model), copy.deepcopy(dense_config), buffers=False))
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    write_json(folder / PER_LAYER, per_layer_config(model, dense_config, shape, subnet))
    with replacing(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary, metadata={"format": FORMAT})
    plan = {
        "format": FORMAT,
        "version": VERSION,
        "architecture": type(model).__name__,
        "config": json.loads(dense_config.to_json_string(use_diff=False)),
        **_generation(model),
        "subnet": subnet.as_dict(),
        "key": subnet.key,
        "fingerprint": fingerprint(tensors),
        "about": about,
    }
    write_json(folder / PLAN, plan | {"digest": plan_digest(plan)})


def _generation(model: Any) -> dict[str, Any]:
    """How a model that writes does so (which tokens end a text, how they are drawn); nothing of another model."""
    config = getattr(model, "generation_config", None) if model.can_generate() else None
    return {} if config is None else {"generation": json.loads(config.to_json_string(use_diff=True))}


def plan_digest(plan: dict[str, Any]) -> str:
    """SHA-256 over what a plan says of its model (all but `about`)."""
    text = json.dumps({name: plan[name] for name in DIGESTED if name in plan}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def load(folder: str | Path, *, device: str | torch.device = "cpu") -> torch.nn.Module:
    """Load a compact model.

    Args:
        folder: Folder that `save_compact` wrote.
        device: Where its weights go.

    Returns:
        A plain module in evaluation mode, with `config`, `forward` and, for language models, `generate` of its
        architecture.

    Raises:
        CheckpointError: Absent, damaged, or weights that do not belong to the plan.
    """
    folder = Path(folder)
    plan = read_plan(folder)
    tensors = _read_weights(folder / OLD_WEIGHTS.get(plan["version"], WEIGHTS))
    if fingerprint(tensors) != plan.get("fingerprint"):
        raise CheckpointError(
            f"The weights in {folder} are not those its plan was written for. Keep {WEIGHTS} and {PLAN} of one export "
            "together, or export the member again."
        )
    # A plan with a digest of its own making may hold anything; so whatever comes of it is a statement about the plan.
    try:
        model = _build(plan, tensors)
    except (Exception, MemoryError) as error:
        raise CheckpointError(
            f"The plan in {folder} does not describe its weights ({error}). Export the member again."
        ) from error
    model.requires_grad_(False)
    return model.eval().to(device)


def _build(plan: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Any:
    subnet = Subnet.from_dict(plan["subnet"])
    if subnet.key != plan["key"]:
        raise ValueError(f"its subnet has the key {subnet.key}, not {plan['key']}")
    architecture, config = backbone_of(plan)
    n_layers = config.get_text_config().num_hidden_layers
    if n_layers != len(subnet.layers):
        raise ValueError(f"its config has {n_layers} layers, its subnet {len(subnet.layers)}")
    # First without any memory: what does not fit its weights may be of any size.
    empty = skeleton.build(architecture, config, buffers=False)
    shape = shape_of(empty)
    cut(empty, shape, subnet)
    expected = empty.state_dict()  # earlier versions stored maps of size 0 too
    tensors = {name: tensor for name, tensor in tensors.items() if tensor.numel() or name in expected}
    skeleton.check(empty, tensors)
    model = skeleton.build(architecture, backbone_of(plan)[1], buffers=True)
    cut(model, shape, subnet)
    skeleton.fill(model, tensors)
    if "generation" in plan:
        model.generation_config = transformers.GenerationConfig.from_dict(plan["generation"])
    return model


def backbone_of(plan: dict[str, Any]) -> tuple[Any, Any]:
    """Architecture and config of the backbone that a plan's model was cut from; nothing in them can fetch code.

    Raises:
        TypeError: The plan names no architecture.
    """
    architecture: Any = getattr(transformers, plan["architecture"])
    if not (isinstance(architecture, type) and issubclass(architecture, transformers.PreTrainedModel)):
        raise TypeError(f"{plan['architecture']!r} is no model architecture")
    values = {k: v for k, v in plan["config"].items() if not k.startswith("_") and k not in RUN_TIME}
    config_class: Any = architecture.config_class
    return architecture, config_class.from_dict(values)


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}). Export the member again.") from error


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
    if not isinstance(plan, dict) or plan.get("format") != FORMAT or plan.get("version") not in (*OLD_WEIGHTS, VERSION):
        found = (plan.get("format"), plan.get("version")) if isinstance(plan, dict) else type(plan).__name__
        raise CheckpointError(f"{folder / PLAN} is {found}, expected {(FORMAT, VERSION)}. Export the member again.")
    if plan["version"] > 1 and plan.get("digest") != plan_digest(plan):
        raise CheckpointError(f"{folder / PLAN} was altered since it was written. Export the member again.")
    return plan
