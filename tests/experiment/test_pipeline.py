"""What a run says when it ends early."""

import json

import pytest
import torch

from metas_peft.core.errors import MetasPeftError, OutOfMemoryError
from metas_peft.experiment import pipeline
from metas_peft.experiment.stages import FOLDER, SETTINGS, Stages


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), MemoryError()]
)
def test_want_of_memory_is_told_in_a_sentence(monkeypatch, tmp_path, error):
    def full(*args):
        raise error

    monkeypatch.setattr(pipeline.RunState, "open", full)
    with pytest.raises(OutOfMemoryError, match=r"more memory than there is: .*Lower dataset\.batch_size") as caught:
        pipeline.run(None, tmp_path)
    assert isinstance(caught.value, MetasPeftError)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("known", [{}, {"optuna": {"storage": "postgresql://me:secret@old/db", "n_trials": 2}}])
def test_settings_of_a_search_do_not_keep_a_run_from_going_on(tmp_path, known):
    settings = {"run_id": "trial-0000", "method": "EChorda", **known}
    Stages(tmp_path, settings).begin()
    (tmp_path / FOLDER / SETTINGS).write_text(json.dumps(settings))  # as older versions wrote them
    Stages(tmp_path, settings).run("dense", lambda folder: {})
    resumed = Stages(tmp_path, {"method": "EChorda", "optuna": {"storage": None, "n_trials": 5}})
    resumed.begin()
    assert "secret" not in (tmp_path / FOLDER / SETTINGS).read_text()
