"""`metas export` as users meet it."""

import json
import shutil

import pytest
import torch
import transformers

import metas_peft
from metas_peft import cli
from metas_peft.testing.front import save_tiny_front
from metas_peft.testing.tiny import tiny_batch


def status_of(*arguments):
    with pytest.raises(SystemExit) as left:
        cli.main([str(a) for a in arguments])
    return left.value.code or 0


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    return save_tiny_front(tmp_path_factory.mktemp("run"))


def logits(model):
    with torch.no_grad():
        return model(**tiny_batch(vocabulary=12)).logits


def test_member_is_exported_where_nothing_else_is_said(run, capsys):
    assert status_of("export", run, "--format", "hf", "--member", "30%", "--json", "-") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["member"], result["format"], result["bits"], result["kind"]) == ("30 %", "hf", 32, "compact model")
    folder = run / "export" / f"{result['key']}-hf"
    assert result["folder"] == str(folder)
    assert result["logit_gap"] == 0.0
    expected = logits(metas_peft.load(run / "models" / result["key"]))
    assert torch.equal(logits(eval(result["load"], {"metas_peft": metas_peft})), expected)
    assert status_of("export", run, "--format", "hf", "--member", "30%") == 1
    assert "is not empty. Choose another folder with --out" in capsys.readouterr().err


def test_folder_of_a_member_needs_no_name(run, tmp_path, capsys):
    member = next((run / "models").iterdir())
    assert status_of("export", member, "--format", "hf", "--out", tmp_path / "out") == 0
    shown = capsys.readouterr().out
    assert "compact model" in shown
    assert "MB" in shown
    assert metas_peft.load(tmp_path / "out").config.id2label == {0: "bad", 1: "good"}


def test_peft_needs_the_run_and_gives_backbone_and_adapter(run, tmp_path, capsys):
    from peft import PeftModel

    out = tmp_path / "out"
    assert status_of("export", run, "--format", "peft", "--member", "60 %", "--out", out, "--json", "-") == 0
    result = json.loads(capsys.readouterr().out)
    assert 0 < result["adapter_bytes"] < result["base_bytes"]
    plain = PeftModel.from_pretrained(metas_peft.load(out / "base"), str(out)).eval()
    assert torch.allclose(logits(plain), logits(metas_peft.load(run / "models" / result["key"])), atol=1e-5)
    member = run / "models" / result["key"]
    assert status_of("export", member, "--format", "peft", "--out", tmp_path / "other") == 2
    assert "is no run's folder (config.yaml is missing)" in capsys.readouterr().err


def test_uniform_member_keeps_the_same_in_every_layer(run, tmp_path, capsys):
    out = tmp_path / "out"
    command = ("export", run, "--format", "hf", "--member", "30 %", "--uniform", "--out", out, "--json", "-")
    assert status_of(*command) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["member"] == "30 %, uniform"
    assert "its quality was not evaluated" in told.err
    layers = json.loads((out / "plan.json").read_text())["subnet"]["layers"]
    assert len({json.dumps([x["heads"], x["ffn_blocks"]]) for x in layers if x["attention"] or x["ffn"]}) == 1
    assert transformers.AutoTokenizer.from_pretrained(out)("a fine film")["input_ids"]


def test_onnx_in_8_bits_is_smaller(run, tmp_path, capsys):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="the packages of the extra `onnx` are not installed")
    sizes = {}
    for bits in (32, 8):
        out = tmp_path / str(bits)
        command = ("export", run, "--format", "onnx", "--bits", bits, "--member", "60%", "--out", out, "--json", "-")
        assert status_of(*command) == 0
        result = json.loads(capsys.readouterr().out)
        assert result["file"] == str(out / "model.onnx")
        assert {"README.md", "model.onnx", "tokenizer.json"} <= {f.name for f in out.iterdir()}
        sizes[bits] = result["size_bytes"]
    assert sizes[8] < sizes[32]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("--format", "tflite"), 2, "'tflite' is not one of"),
        (("--format", "hf"), 1, "No member was named"),
        (("--format", "hf", "--member", "10 %"), 1, "has no member '10 %'"),
        (("--format", "hf", "--bits", "8"), 2, "--format hf comes in 32, 16 bits, not 8"),
        (("--format", "peft", "--member", "30%", "--backbone", "nowhere"), 1, "'nowhere'"),
        ((), 2, "Missing option"),
    ],
)
def test_mistakes_are_answered_in_a_sentence(run, capsys, arguments, status, message):
    assert status_of("export", run, *arguments) == status
    assert message in capsys.readouterr().err


def test_run_without_an_adapter_points_to_other_formats(run, tmp_path, capsys):
    folder = shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(folder / "adapter")
    assert status_of("export", folder, "--format", "peft", "--member", "30%") == 1
    assert "holds no adapter" in capsys.readouterr().err


def test_folder_that_is_no_run_is_refused(tmp_path, capsys):
    assert status_of("export", tmp_path, "--format", "hf") == 1
    assert "neither a front" in capsys.readouterr().err
