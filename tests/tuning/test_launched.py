"""Training in several processes: the same everywhere, and the same as in one process with all the data."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SCRIPTS = Path(__file__).parent / "launched"
SECONDS = 300


def launch(processes, script, *arguments):
    """Run a script in some processes on this computer's processor."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    many = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", str(port)]
    command = [sys.executable, *(many if processes > 1 else []), str(SCRIPTS / script), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def results(folder):
    return [load_file(path) for path in sorted(folder.glob("rank*.safetensors"))]


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 2])
def test_two_processes_have_the_same_gates_and_train_as_one_with_all_the_data(tmp_path, accumulation):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, processes in ((one, 1), (two, 2)):
        folder.mkdir()
        more = {"gradient_accumulation_steps": accumulation}
        launch(processes, "gated_steps.py", folder, 8 // processes // accumulation, json.dumps(more))
    (alone,), (first, second) = results(one), results(two)
    assert json.loads((two / "rank1.json").read_text())["world"] == 2
    assert len(first) == len(alone) > 20
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
        if accumulation == 1:  # otherwise the batches are put together in another order
            assert torch.allclose(value.float(), alone[name].float(), atol=1e-4), name
    assert sum(name.startswith("gate.") for name in first) == 3


@pytest.mark.slow
def test_two_processes_that_resume_end_as_if_they_had_not_been_interrupted(tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    for folder, more in (
        (whole, {"save_strategy": "steps", "save_steps": 3}), (resumed, {"resume": str(whole / "trainer/checkpoint-3")})
    ):  # fmt: skip
        folder.mkdir()
        launch(2, "gated_steps.py", folder, 4, json.dumps(more))
    for expected, found in zip(results(whole), results(resumed), strict=True):
        for name, value in expected.items():
            assert torch.equal(found[name], value), name


@pytest.mark.slow
def test_sharded_parameters_give_the_gates_the_gradients_of_whole_ones(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, processes in ((one, 1), (two, 2)):
        folder.mkdir()
        launch(processes, "sharded_gradients.py", folder)
    (alone,), (first, second) = results(one), results(two)
    assert len(alone) == 6
    for name, value in alone.items():
        assert torch.equal(first[name], second[name]), name
        assert torch.allclose(first[name], value, rtol=1e-4, atol=1e-7), name
        assert (value != 0).any(), name


def test_stages_of_a_run_train_in_two_processes_as_in_one_that_accumulates(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, processes in ((one, 1), (two, 2)):
        folder.mkdir()
        launch(processes, "stages.py", folder, 2 // processes)
    (alone,), (first, second) = results(one), results(two)
    kinds = {name.split(".")[0] for name in first}
    assert kinds == {"dense", "joint", "heads", "path", "log_alpha"}
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
        if name.startswith("dense."):  # later stages draw members and gates, once per pass
            assert torch.allclose(value, alone[name], atol=1e-5), name
