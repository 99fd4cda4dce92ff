"""A member as a PEFT adapter: the cut backbone without it, and the adapter sliced to its heads, neurons and ranks.

Many tasks can share one cut backbone that way. The adapter that a run stores fits the published backbone; here both
are brought into the run's order of importance and cut like the member.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metas_peft.backbones import compact, load_adapter, reorder, shape_of
from metas_peft.backbones.adapter_files import read_order, without_adapters, write_adapter
from metas_peft.backbones.adapters import adapter_site, is_adapted, lora_maps
from metas_peft.backbones.layout import Layout
from metas_peft.backbones.store import load, save_compact
from metas_peft.core.errors import CheckpointError, ExportError
from metas_peft.core.files import write_text
from metas_peft.core.shape import BackboneShape
from metas_peft.export.members import README, StoredMember, copy_tokenizer, filling
from metas_peft.export.quiet import quiet
from metas_peft.export.verify import Agreement, check, compare, runner

BASE = "base"
DRIFT = 1e-3  # of the largest logit: more than float32 explains, less than training does


@dataclass(frozen=True)
class ExportedAdapter:
    """What was written.

    Attributes:
        folder: The adapter, and the cut backbone in `base/`.
        adapter_bytes: Size of the adapter.
        base_bytes: Size of the cut backbone.
        agreement: Answers of both together in plain PEFT against the member's.
    """

    folder: Path
    adapter_bytes: int
    base_bytes: int
    agreement: Agreement


def ordered_network(model: Any, adapter: Path) -> tuple[Any, BackboneShape]:
    """A published backbone with a run's adapter on it, in the run's order of importance.

    Args:
        model: The backbone as published, without adapters; changed in place.
        adapter: The run's `adapter/`.

    Returns:
        The `transformers` model with LoRA modules in it, and its shape.

    Raises:
        CheckpointError: The adapter is damaged or belongs to another backbone.
    """
    heads, neurons = read_order(adapter)
    with quiet():
        network = load_adapter(model, adapter).get_base_model()
    layout = Layout(network)
    first = layout.layers[0]
    sites = tuple(
        adapter_site(layout, name, lora_maps(module)[0].out_features)
        for name in layout.sites if is_adapted(module := layout.projection(first, name))
    )  # fmt: skip
    shape = shape_of(network, sites)
    wanted = (shape.n_layers, shape.n_kv_heads), (shape.n_layers, shape.ffn_size)
    if (tuple(heads.shape), tuple(neurons.shape)) != wanted:
        raise CheckpointError(
            f"The order of importance in {adapter} is of {tuple(heads.shape)} heads and {tuple(neurons.shape)} "
            f"neurons, the backbone has {wanted[0]} and {wanted[1]}. Run it again."
        )
    reorder(network, shape, heads, neurons)
    return network.eval(), shape


def export_adapter(network: Any, shape: BackboneShape, member: StoredMember, folder: Path) -> ExportedAdapter:
    """Write a member's adapter and cut backbone.

    Args:
        network: What `ordered_network` gave.
        shape: Its shape.
        member: What to export.
        folder: Where to.

    Raises:
        ExportError: The member is not what the run's adapter gives (its weights were trained further on their own).
        SubnetError: The member has no adapter rank.
        OutputError: The folder holds something already.
    """
    with filling(folder):
        return _write(network, shape, member, folder)


def _write(network: Any, shape: BackboneShape, member: StoredMember, folder: Path) -> ExportedAdapter:
    from peft import PeftModel

    reference, subnet = load(member.folder), member.subnet
    dense_config = copy.deepcopy(network.config)
    small = compact(network, shape, subnet, merge=False)
    drift = compare(reference, runner(small))
    if drift.gap > DRIFT * max(1.0, drift.scale):
        raise ExportError(
            f"The member {subnet.key} is not what this run's adapter gives (logits differ by {drift.gap:.3g}): its "
            "weights were trained further on their own. Export it merged: --format hf."
        )
    write_adapter(small, folder, about={"key": subnet.key, "model_id": shape.model_id, "base": BASE}, base=BASE)
    save_compact(without_adapters(small), dense_config, subnet, folder / BASE, {"name": f"base of {subnet.key}"})
    copy_tokenizer(member.folder, folder)
    with quiet():
        plain = PeftModel.from_pretrained(load(folder / BASE), str(folder)).eval()
    agreement = check(compare(reference, runner(plain)), "The adapter in PEFT")
    write_text(folder / README, _readme(folder, member))
    return ExportedAdapter(folder, _size(folder), _size(folder / BASE), agreement)


def _size(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.glob("*.safetensors"))


def _readme(folder: Path, member: StoredMember) -> str:
    return (
        f"# Adapter of {member.name}\n\nA LoRA adapter in PEFT's format and the cut backbone that it belongs to, "
        f"written by metas-peft (member {member.key}).\n\n"
        "```python\nimport metas_peft\nfrom peft import PeftModel\n\n"
        f"model = PeftModel.from_pretrained(metas_peft.load({str(folder / BASE)!r}), {str(folder)!r})\n```\n"
    )
