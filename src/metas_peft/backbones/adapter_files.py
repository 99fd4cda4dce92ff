"""Adapters on disk, in PEFT's own format, with a note of what they belong to.

PEFT loads an adapter onto any model whose modules have the right names and sizes; on another backbone, or on the right
one with its heads in another order, it then does nothing or harm, and nobody says so. So a fingerprint of the backbone
lies beside the adapter, and `load_adapter` compares it.
"""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from metas_peft.backbones.adapters import ADAPTER, inverse, is_adapted, lora_maps, reorder, task_type
from metas_peft.backbones.family import put
from metas_peft.backbones.layout import Layout
from metas_peft.backbones.lora_config import Adapted, lora_config
from metas_peft.backbones.parts import base_of
from metas_peft.core.errors import CheckpointError
from metas_peft.core.files import replacing, write_json
from metas_peft.core.shape import BackboneShape

if TYPE_CHECKING:
    from peft import PeftModel

FORMAT, VERSION = "metas-peft-adapter", 2
NOTE, ORDER = "metas_peft.json", "order.safetensors"
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"  # the names that PEFT looks for
SAMPLED = 64  # values of each tensor that the fingerprint looks at


def backbone_fingerprint(model: Any) -> str:
    """SHA-256 over names, shapes and some values of a backbone's own weights.

    Adapters and task heads do not count, nor does the precision that the weights are loaded in.

    Args:
        model: `transformers` model, with or without LoRA modules.
    """
    layout = Layout(model)
    heads = set(layout.family.head_modules)
    digest = hashlib.sha256()
    named = {n.replace(".base_layer", ""): p for n, p in model.named_parameters() if ".lora_" not in n}
    for name in sorted(named):
        if not name.startswith(layout.base_path) or heads & set(name.split(".")):
            continue
        values = named[name].detach().reshape(-1)
        step = max(1, len(values) // SAMPLED)
        # Rounded to the coarsest precision in which weights are usually loaded.
        sample = values[::step][:SAMPLED].to("cpu", torch.bfloat16).contiguous().view(torch.uint8).numpy()
        digest.update(f"{name}|{tuple(named[name].shape)}|".encode())
        digest.update(sample)
    return digest.hexdigest()


def write_adapter(model: Any, folder: Path, *, about: dict[str, Any], base: str | None = None) -> None:
    """Write the adapters in a model, and what is trained whole, so that plain PEFT reads them.

    Args:
        model: `transformers` model with LoRA modules in it, whole or compact.
        folder: Where to; created.
        about: JSON facts for the note.
        base: Name or folder of the model that it belongs to, for PEFT's own record.

    Raises:
        SubnetError: No adapter has a rank.
    """
    from peft.utils import ModulesToSaveWrapper

    modules: dict[str, Adapted] = {}
    tensors: dict[str, torch.Tensor] = {}
    heads = Layout(model).head_modules()
    transposed = False
    for name, module in model.named_modules():
        if is_adapted(module):
            a, b, scaling = lora_maps(module)
            modules[name] = Adapted(a.out_features, scaling)
            tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"] = a.weight, b.weight
            transposed = transposed or bool(module.fan_in_fan_out)
        elif name.rpartition(".")[2] in heads:
            trained = module.modules_to_save[ADAPTER] if isinstance(module, ModulesToSaveWrapper) else module
            tensors |= {f"{name}.{n}": p for n, p in trained.state_dict().items()}
    config = lora_config(
        modules, task_type=task_type(model), modules_to_save=heads, fan_in_fan_out=transposed, base=base
    )
    config.inference_mode = True
    config.target_modules = sorted(config.target_modules or ())  # PEFT keeps a set, whose order changes from run to run
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / WEIGHTS) as temporary:
        save_file({f"base_model.model.{n}": t.detach().cpu().contiguous() for n, t in tensors.items()}, temporary,
                  metadata={"format": "pt"})  # fmt: skip
    config.save_pretrained(str(folder))
    digests = {name: file_digest(folder / name) for name in (WEIGHTS, CONFIG)}
    note = {"format": FORMAT, "version": VERSION, "backbone": backbone_fingerprint(model), "files": digests}
    write_json(folder / NOTE, note | {"about": about})


def save_adapter(
    adapted: "PeftModel", shape: BackboneShape, heads: torch.Tensor, neurons: torch.Tensor, folder: Path
) -> None:
    """Write an adapter for the published order of its backbone, and the order of importance beside it.

    The backbone in memory is ordered by importance; a stored adapter has to fit the published backbone, so the
    order is undone for the moment of writing.

    Args:
        adapted: PEFT model.
        shape: Shape of its backbone.
        heads: Published number of the head unit at each place, (L, G).
        neurons: Published number of the neuron at each place, (L, ffn_size).
        folder: Where to; created.
    """
    model = adapted.get_base_model()
    reorder(model, shape, inverse(heads), inverse(neurons))
    try:
        about = {"family": shape.family, "model_id": shape.model_id, "n_layers": shape.n_layers}
        write_adapter(model, folder, about=about, base=str(getattr(model.config, "name_or_path", "")) or None)
    finally:
        reorder(model, shape, heads, neurons)
    with replacing(folder / ORDER) as temporary:
        save_file({"heads": heads.to(torch.int32), "neurons": neurons.to(torch.int32)}, temporary)


def read_order(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Order of importance of heads (L, G) and neurons (L, ffn_size) that was written beside an adapter.

    Raises:
        CheckpointError: Absent or damaged.
    """
    try:
        stored = load_file(folder / ORDER)
        orders = stored["heads"].long(), stored["neurons"].long()
        for order in orders:
            if not torch.equal(order.sort(-1).values, torch.arange(order.shape[-1]).expand_as(order)):
                raise ValueError("it is no order")
        return orders
    except (OSError, SafetensorError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder / ORDER} cannot be read ({error}). Members can only be cut from an adapter that a run has "
            "written together with its order; run it again."
        ) from error


def load_adapter(model: Any, folder: str | Path) -> "PeftModel":
    """Put a stored adapter on the backbone that it belongs to.

    Args:
        model: `transformers` model without adapters: the backbone, or the compact model it was cut to.
        folder: Folder that `write_adapter` or `save_adapter` wrote.

    Returns:
        The PEFT model in evaluation mode.

    Raises:
        CheckpointError: The adapter is absent, damaged, or belongs to another backbone or other masks.
    """
    from peft import PeftModel

    folder = Path(folder)
    note = _read_note(folder)
    found = backbone_fingerprint(model)
    if note.get("backbone") != found:
        raise CheckpointError(
            f"The adapter in {folder} belongs to another backbone, or to one with other heads and layers "
            f"(fingerprint {str(note.get('backbone'))[:10]}, this model has {found[:10]}). Give the model that it was "
            f"trained on{_named(note)}."
        )
    _check_files(folder, note)
    # A note of its own making may vouch for anything; so whatever comes of it is a statement about the adapter.
    try:
        return PeftModel.from_pretrained(model, str(folder)).eval()
    except Exception as error:
        raise CheckpointError(f"The adapter in {folder} cannot be read ({error}). Export it again.") from error


def _read_note(folder: Path) -> dict[str, Any]:
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder} holds no adapter with a fingerprint: {NOTE} is missing. Load it with peft.PeftModel if you know "
            "what it belongs to."
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / NOTE} cannot be read ({error}). Export the adapter again.") from error
    if not isinstance(note, dict) or note.get("format") != FORMAT or note.get("version") not in (1, VERSION):
        raise CheckpointError(f"{folder / NOTE} is no note of an adapter of version {VERSION}. Export it again.")
    return note


def _check_files(folder: Path, note: dict[str, Any]) -> None:
    """Refuse files that the note was not written for; PEFT would also take a pickle, or fetch what is not there."""
    noted = note.get("files")
    digests = noted if isinstance(noted, dict) else {}
    for name in (WEIGHTS, CONFIG):
        try:
            found = file_digest(folder / name)
        except OSError as error:
            raise CheckpointError(
                f"{folder / name} cannot be read ({error.strerror}). Export the adapter again."
            ) from error
        if note["version"] > 1 and digests.get(name) != found:  # notes of version 1 have no digests
            raise CheckpointError(
                f"{folder / name} is not the file that {NOTE} was written for. Keep the files of one export together, "
                "or export the adapter again."
            )


def file_digest(path: Path) -> str:
    """SHA-256 over the bytes of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _named(note: dict[str, Any]) -> str:
    about = note.get("about")
    name = about.get("model_id") if isinstance(about, dict) else None
    return f" ({name})" if name else ""


def without_adapters(model: Any) -> Any:
    """Take the LoRA modules out of a model, in place, and leave the frozen maps that were inside; returns it."""
    for name, module in list(model.named_modules()):
        if is_adapted(module):
            put(model, name, base_of(module))
    return model
