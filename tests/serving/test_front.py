"""A front on disk, opened to be served."""

import shutil

import pytest
import torch

import metas_peft
from metas_peft.core.errors import CheckpointError, UnknownNameError
from metas_peft.core.files import read_json, write_json
from metas_peft.serving import ServedFront
from metas_peft.testing.served import save_tiny_run
from metas_peft.testing.tiny import tiny_batch


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return save_tiny_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def copied(run, tmp_path):
    return shutil.copytree(run, tmp_path / "run")


def test_opened_members_answer_as_their_compact_models(run):
    front, batch = ServedFront.open(run), tiny_batch(vocabulary=12)
    assert [member.name for member in front] == ["60 %", "30 %"]
    for member in front:
        front.activate(member.name)
        with torch.no_grad():
            expected = metas_peft.load(run / "models" / member.key)(**batch).logits
        assert torch.allclose(front(**batch).logits, expected, atol=1e-6)
    assert front.own_bytes == 0
    assert front.run_id == "tiny"
    assert front.labels == {0: "bad", 1: "good"}


def test_the_largest_member_is_found_wherever_it_is_listed(copied):
    results = read_json(copied / "results.json")
    write_json(copied / "results.json", {**results, "front": results["front"][::-1]})
    front = ServedFront.open(copied)
    assert [member.name for member in front] == ["30 %", "60 %"]
    assert front.largest.name == "60 %"
    assert front.own_bytes == 0


def test_an_interrupted_switch_is_made_up_for(run, monkeypatch):
    front, batch = ServedFront.open(run), tiny_batch(vocabulary=12)
    expected = front(**batch).logits
    switch = front._switches[front["30 %"].key]

    def interrupted():
        switch()
        raise KeyboardInterrupt

    monkeypatch.setitem(front._switches, front["30 %"].key, interrupted)
    with pytest.raises(KeyboardInterrupt):
        front.activate("30 %")
    assert front.active.name == "60 %"
    assert torch.equal(front(**batch).logits, expected)


def test_members_are_found_by_name_and_by_key(run):
    front = ServedFront.open(run)
    assert front["30%"] is front["30 %"] is front[front["30 %"].key]
    assert front.activate("30%") is front.active
    with pytest.raises(UnknownNameError, match="no member '50 %'.*Known: 30 %, 60 %"):
        front.activate("50 %")


def test_no_member_is_no_front():
    with pytest.raises(CheckpointError, match="without members"):
        ServedFront([])


@pytest.mark.parametrize(("lost", "message"), [
    (["results.json"], "has not finished"),
    (["results.json", "config.yaml"], "holds no run"),
    (["models"], "has no front"),
])  # fmt: skip
def test_folders_that_cannot_be_served_are_refused_in_a_sentence(copied, lost, message):
    for name in lost:
        path = copied / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(CheckpointError, match=message):
        ServedFront.open(copied)


@pytest.mark.parametrize(("results", "message"), [
    ({"run_id": "x", "front": []}, "has no front"), ([], "has no front"),
    ({"run_id": "x", "front": [{"name": "a"}]}, "lists a member without 'key'"),
    ({"run_id": "x", "front": [{"name": "a", "key": "gone"}]}, "holds no compact model"),
])  # fmt: skip
def test_results_that_name_no_members_are_refused(copied, results, message):
    write_json(copied / "results.json", results)
    with pytest.raises(CheckpointError, match=message):
        ServedFront.open(copied)


def test_damaged_results_and_weights_are_refused(copied):
    weights = next((copied / "models").glob("*/*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="cannot be read"):
        ServedFront.open(copied)
    (copied / "results.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"results\.json cannot be read"):
        ServedFront.open(copied)
