"""A finished run in miniature that can be served: front, results, controller and the tokens' self-information."""

from pathlib import Path

from transformers import AutoTokenizer

from metas_peft.control.features import self_information, write_information
from metas_peft.control.tree import LEAF, Controller, ControllerTree, run_tag
from metas_peft.core.files import read_json, write_json
from metas_peft.core.records import Subnet
from metas_peft.serving.folder import CONTROLLER, INFORMATION, RESULTS
from metas_peft.testing.front import TEXTS, save_tiny_front

RUN_ID, MAX_LENGTH, LONG = "tiny", 8, 6  # texts of more than `LONG` tokens go to the first member
TREE = ControllerTree((1, LEAF, LEAF), (LONG / MAX_LENGTH, 0.0, 0.0), (1, LEAF, LEAF), (2, LEAF, LEAF), (LEAF, 1, 0))


def save_tiny_run(folder: Path, family: str = "bert") -> Path:
    """Write a run's folder of two members whose controller sends long texts to the larger one; returns the folder."""
    save_tiny_front(folder, family)
    listed = read_json(folder / "subnets.json")["members"]
    subnets = [Subnet.from_dict(m["subnet"]) for m in listed]
    names = [m["name"] for m in listed]
    rows = [{"name": name, "key": subnet.key} for name, subnet in zip(names, subnets, strict=True)]
    write_json(folder / RESULTS, {"run_id": RUN_ID, "front": rows})
    controller = Controller(TREE, tuple(subnets), run_tag(RUN_ID), tuple(names), MAX_LENGTH)
    write_json(folder / CONTROLLER, controller.as_dict())
    tokenizer = AutoTokenizer.from_pretrained(folder / "backbone")
    ids = tokenizer(list(TEXTS))["input_ids"]
    write_information(folder / INFORMATION, self_information(ids, len(tokenizer)))
    return folder
