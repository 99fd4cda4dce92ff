"""Which surrogate a run uses: the shipped one, a checkpoint's, or one learnt on the pool."""

import pytest
import torch

from metas_peft.core.workload import Workload
from metas_peft.costs import MINILM
from metas_peft.devices import Purpose, Specimen, open_device
from metas_peft.experiment.pricing import calibration_subnets, fit_surrogate, kind_of, learn_pool
from metas_peft.surrogate import MetaTrained, shipped, training


def test_run_uses_the_shipped_surrogate_and_learns_nothing(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "meta_train", None)
    config = settings("surrogate.checkpoint_path=null")
    learnt = learn_pool(config, tmp_path, progress=False)
    assert learnt.trained is shipped()
    assert learnt.kept == []
    assert learnt.dropped == ["pixel-8"]
    assert kind_of(config, learnt.trained)[0] == "metas"


def test_roofline_is_learnt_on_the_pool_without_training_the_network(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "meta_train", None)
    config = settings("surrogate.checkpoint_path=null", "surrogate.kind=roofline", "surrogate.records=240")
    learnt = learn_pool(config, tmp_path, progress=False)
    assert set(learnt.trained.kinds) == {"roofline"}
    assert len(learnt.kept) == 5
    assert "pixel-8" not in learnt.trained.devices


@pytest.mark.parametrize("name", ["meta_surrogate_v1.pt", "meta.safetensors"])
def test_absent_checkpoint_is_written_and_then_read(name, settings, tmp_path):
    path = tmp_path / "checkpoints" / name
    config = settings(f"surrogate.checkpoint_path={path}")
    learn_pool(config, tmp_path, progress=False)
    if name.endswith(".pt"):
        held = torch.load(path, weights_only=True)
        assert all(isinstance(value, torch.Tensor) for value in held.values())
    again = learn_pool(config, tmp_path, progress=False)
    assert again.trained is not shipped()
    assert again.trained.kinds.keys() == shipped().kinds.keys()
    assert again.notes == []


def test_checkpoint_of_the_run_s_own_pool_is_used_and_another_is_left_as_it_is(settings, surrogate_file, tmp_path):
    own = learn_pool(settings(), tmp_path, progress=False)
    assert set(own.trained.kinds) == {"reference", "roofline"}
    before = surrogate_file.read_bytes()
    other = learn_pool(settings("surrogate.meta_training_devices=four"), tmp_path, progress=False)
    assert other.trained is shipped()
    assert "left as it is" in other.notes[0]
    assert surrogate_file.read_bytes() == before


def test_scale_and_shift_follow_only_where_the_run_file_asks_for_them(settings, tmp_path):
    device, workload = open_device("pixel-8"), Workload(seq_len=64)
    for method, wanted in (("auto", False), ("linear_scale_shift", True)):
        config = settings("surrogate.checkpoint_path=null", f"surrogate.calibration_method={method}")
        subnets = calibration_subnets(MINILM, workload, config)
        records = device.measure([Specimen(s, MINILM) for s in subnets], workload, purpose=Purpose.CALIBRATION)
        fitted = fit_surrogate(shipped(), "metas", records, device.spec, config)
        assert (fitted.scale_shift is not None) is wanted
    assert isinstance(shipped(), MetaTrained)
