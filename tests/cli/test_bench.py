"""`metas bench` as users meet it."""

import json

import pytest
import torch

from metas_peft import cli
from metas_peft.testing.front import save_tiny_front

QUICK = ("--seconds", "0.2", "--seq-len", "16")


def status_of(*arguments):
    with pytest.raises(SystemExit) as left:
        cli.main([str(a) for a in arguments])
    return left.value.code or 0


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.set_num_threads(1)
    return save_tiny_front(tmp_path_factory.mktemp("run"))


def test_members_are_timed_against_the_dense_model(run, capsys):
    assert status_of("bench", run, "--backend", "torch", *QUICK) == 0
    shown = capsys.readouterr().out
    for text in ("torch: batch 1, 16 tokens, 1 thread(s)", "dense", "60 %", "30 %", "two timings of the dense model"):
        assert text in shown


def test_result_is_given_as_json(run, capsys):
    command = ("bench", run, "--backend", "torch", "--backend", "torch-bf16", "--member", "30%", "--batch-size", "2")
    assert status_of(*command, *QUICK, "--json", "-") == 0
    tables = json.loads(capsys.readouterr().out)["tables"]
    assert [(t["backend"], t["batch_size"], [r["member"] for r in t["rows"]]) for t in tables] == [
        ("torch", 2, ["dense", "30 %"]),
        ("torch-bf16", 2, ["dense", "30 %"]),
    ]
    assert tables[1]["rows"][1]["size_bytes"] < tables[0]["rows"][1]["size_bytes"]


def test_folder_of_a_member_is_compared_with_a_dense_model_made_for_it(run, capsys):
    member = next((run / "models").iterdir())
    assert status_of("bench", member, "--backend", "torch", *QUICK, "--json", "-") == 0
    rows = json.loads(capsys.readouterr().out)["tables"][0]["rows"]
    assert [r["member"] for r in rows][0] == "dense"
    assert len(rows) == 2


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("--backend", "onx"), 2, "did you mean 'onnx'"),
        (("--seq-len", "65", "--backend", "torch"), 2, "at most 64 tokens, not 65"),
        (("--member", "31%"), 1, "did you mean '30 %'"),
        (("--seconds", "0"), 2, "--seconds"),
    ],
)
def test_mistakes_are_answered_in_a_sentence(run, capsys, arguments, status, message):
    assert status_of("bench", run, *arguments) == status
    assert message in capsys.readouterr().err
