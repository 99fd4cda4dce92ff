"""Finished runs in miniature, with a path between their members."""

import functools
import shutil

import pytest
import torch
import transformers

from metas_peft.core.files import read_json, write_json
from metas_peft.core.subnet import Subnet
from metas_peft.core.workload import Workload
from metas_peft.deploy.candidates import open_run
from metas_peft.deploy.sources import OpenDevice, Runs
from metas_peft.devices import open_device
from metas_peft.testing.front import save_tiny_front

BETWEEN = (([3, 2, 1], [8, 6, 4]), ([3, 1, 1], [7, 5, 2]), ([2, 1, 1], [6, 4, 1]), ([2, 0, 1], [5, 3, 1]))
DENSE = ([4, 4, 4], [12, 12, 12])
WORKLOAD = Workload(seq_len=16)


@pytest.fixture(scope="session", autouse=True)
def _quiet_and_single_threaded():
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def finish(folder, quality=(0.90, 0.84), held_out=(0.91, 0.85)):
    """What a run writes beside its members."""
    listed = read_json(folder / "subnets.json")
    members = [Subnet.from_dict(m["subnet"]) for m in listed["members"]]
    most = max(len(layer.heads) for s in members for layer in s.layers)
    path = [Subnet.prefix([min(h, most) for h in heads], blocks) for heads, blocks in BETWEEN]
    write_json(folder / "subnets.json", {**listed, "path": [s.as_dict() for s in [members[0], *path, members[1]]]})
    write_json(
        folder / "results.json",
        {
            "schema_version": 1, "run_id": "tiny", "backbone": "tiny-bert", "task": "sst2", "task_origin": "synthetic",
            "quality_metric": "accuracy", "target_device": "pixel-8",
            "workload": {"phase": "prefill", "batch_size": 1, "seq_len": 16},
            "front": [
                {"key": s.key, "name": m["name"], "quality": q}
                for s, m, q in zip(members, listed["members"], quality, strict=True)
            ],
            "controller": {
                "recorded_texts": "held-out",
                "recorded_quality": {m["name"]: q for m, q in zip(listed["members"], held_out, strict=True)},
            },
        },
    )  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def stored(tmp_path_factory):
    """Family -> folder of a finished run; nobody writes into it."""
    return functools.cache(lambda family="bert": finish(save_tiny_front(tmp_path_factory.mktemp("run"), family)))


@pytest.fixture
def folder(stored, tmp_path):
    """A copy that may be written into."""
    return shutil.copytree(stored(), tmp_path / "run")


@pytest.fixture(scope="session")
def run(stored):
    """The finished run, read."""
    return open_run(stored())


@pytest.fixture
def simulated(run, tmp_path):
    """Name of a simulated device -> who measures on it."""

    def make(name="jetson-nano", seed=0):
        return OpenDevice(open_device(name), run.shape, run.workload, Runs("hf", tmp_path, 1), seed=seed)

    return make
