"""Trackers through the Trainer's integrations."""

import pytest

from metas_peft import experiment
from metas_peft.core.errors import UsageError

SHORT = ("evaluation.baselines=[]", "training.joint_steps=12", "dataset.batch_size=8")  # reports come every 10 steps


def test_tensorboard_gets_the_loss_of_every_stage(settings, tmp_path):
    pytest.importorskip("tensorboard", reason="the package tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = settings("report_to=[tensorboard]", f"output_dir={tmp_path}", *SHORT)
    folder = experiment.run(config, config.run_folder, progress=False)
    stages = sorted(p.name for p in (folder / "tensorboard").iterdir())
    assert len(stages) >= 2
    found = 0
    for stage in stages:
        events = EventAccumulator(str(folder / "tensorboard" / stage))
        events.Reload()
        found += "train/loss" in events.Tags()["scalars"]
    assert found >= 2


def test_mlflow_gets_a_run_of_every_stage(settings, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="the package mlflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlruns'}")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "stages")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    config = settings("report_to=[mlflow]", *SHORT, run_id="followed")
    experiment.run(config, tmp_path / "run", progress=False)
    client = mlflow.MlflowClient()
    found = client.search_runs([client.get_experiment_by_name("stages").experiment_id])
    assert {run.info.run_name for run in found} == {"followed dense", "followed joint"}
    for run in found:
        assert run.info.status == "FINISHED"
        assert run.data.metrics["loss"] > 0


def test_wandb_gets_a_run_of_every_stage(settings, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="the package wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    begun = []
    begin = wandb.init

    def init(*args, **options):
        begun.append(begin(*args, **options))
        return begun[-1]

    monkeypatch.setattr(wandb, "init", init)
    experiment.run(settings("report_to=[wandb]", *SHORT, run_id="followed"), tmp_path / "run", progress=False)
    assert [run.name for run in begun] == ["followed dense", "followed joint"]
    kept = [file.read_bytes() for file in (tmp_path / "wandb").glob("offline-run-*/*.wandb")]
    assert len(kept) == 2
    assert all(b"train/loss" in log for log in kept)
    assert wandb.run is None


def test_tracker_that_is_not_installed_is_named(settings, tmp_path, monkeypatch):
    monkeypatch.setattr("metas_peft.experiment.workbench.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="report_to names wandb, but the package wandb is not installed"):
        experiment.run(settings("report_to=[wandb]"), tmp_path / "run", progress=False)
