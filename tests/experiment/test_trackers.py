"""Trackers through the Trainer's integrations."""

import pytest

from metas_peft import experiment
from metas_peft.core.errors import UsageError


def test_tensorboard_gets_the_loss_of_every_stage(settings, tmp_path):
    pytest.importorskip("tensorboard", reason="the package tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = settings(
        "report_to=[tensorboard]", f"output_dir={tmp_path}", "evaluation.baselines=[]", "training.joint_steps=12"
    )
    folder = experiment.run(config, config.run_folder, progress=False)
    stages = sorted(p.name for p in (folder / "tensorboard").iterdir())
    assert len(stages) >= 2
    found = 0
    for stage in stages:
        events = EventAccumulator(str(folder / "tensorboard" / stage))
        events.Reload()
        found += "train/loss" in events.Tags()["scalars"]
    assert found >= 2


def test_tracker_that_is_not_installed_is_named(settings, tmp_path, monkeypatch):
    monkeypatch.setattr("metas_peft.experiment.workbench.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="report_to names wandb, but the package wandb is not installed"):
        experiment.run(settings("report_to=[wandb]"), tmp_path / "run", progress=False)
