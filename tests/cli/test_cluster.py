"""Seeds and searches on a local cluster of two workers."""

import dataclasses
import json
from pathlib import Path

import pytest

from metas_peft.cli import main
from metas_peft.conf.compose import Flags, jobs, launch, load
from metas_peft.core.errors import UsageError

SMALL = """
run_id: small
method: static-lora
device: pixel-8
model: {name: minilm, precision: float32}
dataset: {name: builtin, train_limit: 40, evaluation_limit: 20, max_length: 16}
training: {num_epochs: 1}
evaluation: {primary_metric: accuracy, baselines: []}
optuna:
  n_trials: 3
  search_space:
    lr: {type: loguniform, low: 1e-4, high: 1e-2}
"""


@pytest.fixture
def run_file(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return str(path)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """Folder with a tiny BERT."""
    from metas_peft.tasks import load_task
    from metas_peft.testing.tiny import save_tiny_backbone

    return save_tiny_backbone(tmp_path_factory.mktemp("backbone"), load_task("builtin").train.texts,
                              max_position_embeddings=64)  # fmt: skip


@pytest.fixture
def cluster(monkeypatch):
    """Ray, where it is installed and this computer lets it start."""
    try:
        import ray  # noqa: F401
    except Exception as error:
        pytest.skip(f"Ray cannot be imported here ({type(error).__name__}: {error})")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")


@pytest.mark.parametrize(
    "overrides",
    [
        ["training.seed=0,1", "model.peft.r=2,4", "training.lr=0.01"],
        ["training.seed=0,1", "dataset.name='builtin'", "run_id=other"],
        ["training.lr=0.01"],
    ],
)
def test_jobs_of_a_sweep_have_the_folders_that_hydra_gives_them(run_file, tmp_path, overrides):
    told = [*overrides, f"output_dir={tmp_path}"]
    found = [load(run_file, job) for job in jobs(run_file, told)]
    by_hydra = launch(run_file, told, Flags(multirun=True), lambda config, folder: (config, folder))
    assert [(c.output_dir, c.run_id) for c in found] == [(c.output_dir, c.run_id) for c, _ in by_hydra]
    assert [Path(c.output_dir) / c.run_id for c in found] == [folder for _, folder in by_hydra]
    # A job may still say that its values came by the command line.
    plain = [dataclasses.replace(c, given=frozenset()) for c in (*found, *(c for c, _ in by_hydra))]
    assert plain[: len(found)] == plain[len(found) :]
    assert len({c.run_id for c in found}) == len(found)


def test_launcher_without_a_sweep_is_refused(run_file, capsys):
    with pytest.raises(SystemExit) as left:
        main(["run", run_file, "--launcher", "ray"])
    assert left.value.code == 2
    assert "--multirun" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "what"), [(["run", "-m", "training.seed=0,1"], "A sweep"), (["sweep"], "A search")]
)
def test_what_one_process_does_is_refused_as_one_of_several(run_file, monkeypatch, capsys, command, what):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(SystemExit) as left:
        main([command[0], run_file, *command[1:]])
    assert left.value.code == 2
    assert f"{what} is not for several processes, but this is one of 4." in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "sweep"])
def test_workers_without_a_launcher_are_refused(run_file, capsys, command):
    with pytest.raises(SystemExit) as left:
        main([command, run_file, "--workers", "3"])
    assert left.value.code == 2
    assert "--workers is for --launcher" in capsys.readouterr().err


def test_launcher_without_ray_is_refused(run_file, tmp_path, monkeypatch):
    from metas_peft.cli.cluster import on_ray

    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(UsageError, match=r"metas-peft\[cluster\]"):
        on_ray(len, [("a",)], workers=1)


@pytest.mark.parametrize(("resources", "gpus"), [({"CPU": 8.0}, 0), ({"CPU": 8.0, "GPU": 4.0}, 1), ({"GPU": 0.0}, 0)])
def test_job_asks_for_a_gpu_where_the_cluster_has_any(resources, gpus):
    from metas_peft.cli.cluster import needs

    assert needs(resources) == {"num_cpus": 1, "num_gpus": gpus}


@pytest.mark.usefixtures("cluster")
def test_seeds_run_on_two_workers(run_file, tmp_path, backbone):
    told = [f"output_dir={tmp_path}", f"model.name={backbone}", "training.seed=0,1"]
    main_exits(["run", run_file, "-m", *told, "--launcher", "ray", "--json", str(tmp_path / "all.json")])
    results = json.loads((tmp_path / "all.json").read_text())
    assert [r["seeds"] for r in results] == [[0], [1]]
    assert len(list((tmp_path / "small.multirun").glob("*/results.json"))) == 2


@pytest.mark.usefixtures("cluster")
def test_search_runs_on_two_workers(run_file, tmp_path, backbone):
    told = [f"output_dir={tmp_path}", f"model.name={backbone}"]
    main_exits(["sweep", run_file, *told, "--launcher", "ray", "--json", str(tmp_path / "sweep.json")])
    summary = json.loads((tmp_path / "sweep.json").read_text())
    assert summary["states"]["complete"] == 3
    assert sorted(t["number"] for t in summary["trials"]) == [0, 1, 2]


def main_exits(arguments):
    """Run a command that ends well."""
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code in (0, None)
