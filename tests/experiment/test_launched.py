"""A whole run by several processes of `accelerate launch`."""

import os
import socket
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from metas_peft import experiment
from metas_peft.conf import dump
from metas_peft.core.errors import UsageError
from metas_peft.core.files import read_json

SECONDS = 300
WHOLE = ("dataset.train_limit=71", "model.peft.dropout=0.0")  # 64 texts: as many batches for each of two processes


def launch(*arguments):
    """`accelerate launch` of two processes, as for two GPUs; without any, processors take their places."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no",
               "--dynamo_backend", "no", "--main_process_port", str(port)]  # fmt: skip
    command = [sys.executable, "-m", "accelerate.commands.launch", *options, "-m", "metas_peft", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)


@pytest.fixture(scope="module")
def finished(settings, tmp_path_factory):
    """A run with a rival that measures, by two processes: its folder and what was printed."""
    folder = tmp_path_factory.mktemp("many")
    file = folder / "shared.yaml"
    file.write_text(dump(settings(*WHOLE, "evaluation.baselines=[EChorda]", f"output_dir={folder}", run_id="shared")))
    done = launch("run", file)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "shared", done, file


def test_run_of_two_processes_is_one_run(finished):
    folder, done, _ = finished
    results = read_json(folder / "results.json")
    assert results["n_train"] == 64
    assert results["processes"] == 2
    assert any("2 processes trained together" in note for note in results["notes"])
    assert len(results["front"]) == 3
    assert (folder / "report.html").exists()
    assert done.stdout.count("80 %") == 1  # one of them reports
    assert results["measurements"]["calibration"] == 5  # and one of them measures


def test_two_processes_train_as_one_that_accumulates(finished, settings, tmp_path):
    folder, _, _ = finished
    config = settings(*WHOLE, "evaluation.baselines=[]", "training.gradient_accumulation_steps=2")
    alone = experiment.run(config, tmp_path / "alone", progress=False)
    expected, found = (load_file(f / "stages" / "dense" / "trained.safetensors") for f in (alone, folder))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(found[name], value, atol=1e-4), name


@pytest.mark.slow
def test_finished_run_is_found_by_two_processes(finished):
    folder, _, file = finished
    before = (folder / "stages" / "dense" / "trained.safetensors").stat().st_mtime_ns
    done = launch("run", file)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (folder / "stages" / "dense" / "trained.safetensors").stat().st_mtime_ns == before


def test_one_process_does_not_go_on_with_a_run_of_two(finished, settings):
    folder, _, _ = finished
    config = settings(*WHOLE, "evaluation.baselines=[EChorda]", f"output_dir={folder.parent}", run_id="shared")
    with pytest.raises(UsageError, match="processes was 2, is None"):
        experiment.run(config, folder, progress=False)


@pytest.mark.slow
def test_error_of_the_first_process_is_told_by_it(finished):
    _, _, file = finished
    done = launch("run", file, "hardware_profiling.power=meter", "device=local", "run_id=other")
    assert done.returncode != 0
    assert "process 1 of 2: " in done.stderr
    assert "process 2 of 2: Another process of this run has stopped" in done.stderr
    assert "should not happen" not in done.stderr
