"""A finished run in miniature that can be served: front, results, controller and the tokens' self-information."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from metas_peft.backbones import compact
from metas_peft.backbones.store import save_compact
from metas_peft.control.features import self_information, write_information
from metas_peft.control.tree import LEAF, Controller, ControllerTree, run_tag
from metas_peft.core.files import read_json, write_json
from metas_peft.core.subnet import Subnet
from metas_peft.serving.folder import CONTROLLER, INFORMATION, MODELS, RESULTS
from metas_peft.testing.front import TEXTS, save_tiny_front
from metas_peft.testing.tiny import save_tiny_backbone, tiny_adapted

RUN_ID, MAX_LENGTH, LONG = "tiny", 8, 6  # texts of more than `LONG` tokens go to the first member
TREE = ControllerTree((1, LEAF, LEAF), (LONG / MAX_LENGTH, 0.0, 0.0), (1, LEAF, LEAF), (2, LEAF, LEAF), (LEAF, 1, 0))


WRITERS = {"large": ([2, 2, 2], [12, 6, 12]), "small": ([0, 1, 0], [3, 0, 0])}


def save_tiny_writer(folder: Path) -> Path:
    """Write a run's folder of two language models, controlled as those of `save_tiny_run`; returns the folder."""
    tokenizer = AutoTokenizer.from_pretrained(save_tiny_backbone(folder / "backbone", TEXTS, "llama"))
    adapted, shape = tiny_adapted("llama", language_model=True, vocab_size=len(tokenizer))
    network = adapted.get_base_model()
    members = {name: Subnet.prefix(*counts) for name, counts in WRITERS.items()}
    for name, subnet in members.items():
        place, config = folder / MODELS / subnet.key, copy.deepcopy(network.config)
        save_compact(compact(network, shape, subnet), config, subnet, place, {"name": name}, tokenizer)
    _finish(folder, members, tokenizer)
    return folder


def save_tiny_run(folder: Path, family: str = "bert") -> Path:
    """Write a run's folder of two members whose controller sends long texts to the larger one; returns the folder."""
    save_tiny_front(folder, family)
    listed = read_json(folder / "subnets.json")["members"]
    members = {m["name"]: Subnet.from_dict(m["subnet"]) for m in listed}
    _finish(folder, members, AutoTokenizer.from_pretrained(folder / "backbone"))
    return folder


def _finish(folder: Path, members: Mapping[str, Subnet], tokenizer: Any) -> None:
    """Write what a run writes last."""
    rows = [{"name": name, "key": subnet.key} for name, subnet in members.items()]
    write_json(folder / RESULTS, {"run_id": RUN_ID, "front": rows})
    controller = Controller(TREE, tuple(members.values()), run_tag(RUN_ID), tuple(members), MAX_LENGTH)
    write_json(folder / CONTROLLER, controller.as_dict())
    write_information(folder / INFORMATION, self_information(tokenizer(list(TEXTS))["input_ids"], len(tokenizer)))
