"""A finished run in miniature: what `metas export` and `metas bench` are pointed at."""

import copy
from pathlib import Path

import torch
from transformers import AutoTokenizer

from metas_peft.backbones import add_lora, compact, reorder, save_adapter, shape_of
from metas_peft.backbones.load import load_backbone
from metas_peft.backbones.store import save_compact
from metas_peft.conf import dump
from metas_peft.conf.compose import load
from metas_peft.conf.runfile import RunFile
from metas_peft.core.files import write_json, write_text
from metas_peft.core.subnet import Subnet
from metas_peft.testing.tiny import randomise_lora, save_tiny_backbone

TEXTS = ("a fine film about nothing", "a dull film", "nothing about it is fine", "it is dull, dull, dull")
LABELS = {0: "bad", 1: "good"}
MEMBERS = {"60 %": ([3, 2, 1], [9, 7, 6]), "30 %": ([2, 0, 1], [4, 3, 0])}


def save_tiny_front(folder: Path, family: str = "bert") -> Path:
    """Write the folder of a run of a tiny backbone: two members, the dense model, adapter, settings.

    Args:
        folder: Where to; the backbone goes into `backbone/` in it.
        family: Key of `TINY_FAMILIES`.

    Returns:
        The folder.
    """
    source = save_tiny_backbone(folder / "backbone", TEXTS, family, max_position_embeddings=64)
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = load_backbone(str(source), n_labels=2).model
    model.config.id2label, model.config.label2id = dict(LABELS), {name: i for i, name in LABELS.items()}
    adapted, sites = add_lora(model, "all-linear", rank=3, alpha=6.0, dropout=0.0, seed=1)
    randomise_lora(adapted, 2)
    network = adapted.get_base_model().eval()
    shape = shape_of(network, sites)
    generator = torch.Generator().manual_seed(3)
    heads, neurons = (
        torch.stack([torch.randperm(n, generator=generator) for _ in range(shape.n_layers)])
        for n in (shape.n_kv_heads, shape.ffn_size)
    )
    reorder(network, shape, heads, neurons)
    most = shape.n_kv_heads
    front = {
        name: Subnet.prefix([min(h, most) for h in heads_kept], blocks)
        for name, (heads_kept, blocks) in MEMBERS.items()
    }
    for place, members in ((folder, front), (folder / "dense", {"dense": Subnet.dense(shape)})):
        for name, subnet in members.items():
            small, config = compact(network, shape, subnet), copy.deepcopy(network.config)
            save_compact(small, config, subnet, place / "models" / subnet.key, {"name": name}, tokenizer)
        listed = [{"name": name, "subnet": subnet.as_dict()} for name, subnet in members.items()]
        write_json(place / "subnets.json", {"members": listed})
    save_adapter(adapted, shape, heads, neurons, folder / "adapter")
    settings = load(RunFile("tiny", {}), [f"model.name={source}", "model.peft.r=3", "device=pixel-8"])
    write_text(folder / "config.yaml", dump(settings))
    return folder
