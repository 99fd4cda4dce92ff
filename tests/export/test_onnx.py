"""ONNX files in plain ONNX Runtime: the model's own answers, at sizes other than the one they were made with."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from metas_peft.backbones import compact, shape_of
from metas_peft.backbones.store import load, save_compact
from metas_peft.core.errors import ExportError
from metas_peft.core.subnet import Subnet
from metas_peft.export import onnx as exporting
from metas_peft.export.graphs import export_graph
from metas_peft.export.members import find_member
from metas_peft.export.onnx import export_onnx, open_session, quantise, run
from metas_peft.export.verify import runner
from metas_peft.testing.families import TINY_FAMILIES
from metas_peft.testing.tiny import random_subnet, save_tiny_backbone, tiny_batch, tiny_model

pytest.importorskip("onnx", reason="the packages of the extra `onnx` are not installed")
pytest.importorskip("onnxscript", reason="the packages of the extra `onnx` are not installed")
pytest.importorskip("onnxruntime", reason="the packages of the extra `onnx` are not installed")

import onnx

SIZES = ((1, 1), (1, 17), (4, 3), (3, 20))


def small(family, seed=3, language_model=False, **changes):
    """A compact model of a tiny random one."""
    model = tiny_model(family, language_model=language_model, **changes)
    shape = shape_of(model)
    return compact(model, shape, random_subnet(shape, seed))


def gap(model, session, batch):
    found, expected = run(session, batch), runner(model)(batch)
    real = batch["attention_mask"].bool().numpy() if found.ndim == 3 else ...
    return float(np.abs(found - expected)[real].max())


def initialisers(path, kind):
    """Values that a file stores in one number format."""
    tensors = onnx.load(str(path)).graph.initializer
    return sum(int(np.prod(t.dims)) for t in tensors if onnx.TensorProto.DataType.Name(t.data_type) == kind)


def check_family(family, language_model, folder):
    model = small(family, language_model=language_model)
    before = model.state_dict()
    done = export_onnx(model, folder / "model.onnx")
    assert done.agreement.gap < 1e-4 * max(1.0, done.agreement.scale)
    assert done.size_bytes == done.path.stat().st_size
    session = open_session(done.path)
    for i, (batch, length) in enumerate(SIZES):
        assert gap(model, session, tiny_batch(i, batch=batch, length=max(length, batch))) < 1e-4, (batch, length)
    assert [f.name for f in folder.iterdir()] == ["model.onnx"]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(("family", "language_model"), [("bert", False), ("gpt2", True)])
def test_file_answers_as_the_model_at_other_sizes(family, language_model, tmp_path):
    check_family(family, language_model, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("family", [f for f in TINY_FAMILIES if f not in ("bert", "llama4")])
def test_every_family_answers_as_the_model(family, tmp_path):
    for language_model in {False, TINY_FAMILIES[family].language_model is not None}:
        folder = tmp_path / str(language_model)
        folder.mkdir()
        check_family(family, language_model, folder)


@pytest.mark.slow
def test_family_that_the_exporter_cannot_translate_is_refused_with_the_reason(tmp_path):
    with pytest.raises(ExportError, match="Llama4ForCausalLM cannot be exported .*complex numbers.*--format hf"):
        export_onnx(small("llama4"), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A model whose matrices are most of it, and its file in float32."""
    model = small("gpt2", language_model=False, hidden_size=64, n_inner=256, vocab_size=500)
    path = tmp_path_factory.mktemp("wide") / "model.onnx"
    export_onnx(model, path)
    return model, path


@pytest.mark.parametrize(("bits", "kinds"), [(8, ("INT8", "UINT8")), (4, ("UINT8", "INT4"))])
def test_weights_are_stored_in_so_many_bits(wide, tmp_path, bits, kinds):
    """GPT-2: its maps are transposed and its embeddings are half of it, and both are quantised."""
    model, plain = wide
    path = tmp_path / "small.onnx"
    quantise(plain, path, bits)
    weights = sum(p.numel() for p in model.parameters() if p.ndim == 2)
    stored = [initialisers(path, kind) for kind in kinds]
    # Two 4-bit weights of a matrix share a UINT8; INT4 is a type of its own.
    counted = sum(stored) if bits == 8 else 2 * stored[0] + stored[1]
    assert counted == pytest.approx(weights, rel=0.05)
    assert initialisers(path, "FLOAT") < 0.15 * weights
    assert path.stat().st_size < plain.stat().st_size * (0.1 + 1.25 * bits / 32)
    bound = 0.2 if bits == 8 else 0.6
    assert gap(model, open_session(path), tiny_batch(vocabulary=500)) < bound


def test_float32_file_stores_float32(wide):
    model, plain = wide
    assert initialisers(plain, "FLOAT") == pytest.approx(sum(p.numel() for p in model.parameters()), rel=0.02)


def test_quantised_file_that_would_stay_in_float32_is_refused(wide, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "UNTOUCHED", 0.0)
    with pytest.raises(ExportError, match="can be stored in 8 bits"):
        quantise(wide[1], tmp_path / "small.onnx", 8)


def test_file_tells_nothing_of_the_computer_that_wrote_it(wide):
    from pathlib import Path

    import transformers

    assert str(Path(transformers.__file__).parent).encode() not in wide[1].read_bytes()


def test_no_addition_is_fused_with_the_norm_behind_it(wide):
    graph = onnx.load(str(wide[1])).graph
    made_by = {out: node.op_type for node in graph.node for out in node.output}
    before = [made_by.get(node.input[0]) for node in graph.node if node.op_type == "LayerNormalization"]
    assert before.count("Sum") >= 3
    assert "Add" not in before


def test_exported_member_answers_a_text_in_a_process_without_this_package(front, tmp_path):
    member = find_member(front(), "30 %")
    done = export_graph("onnx", member, tmp_path / "out")
    code = (tmp_path / "out" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    blocked = "import sys\nfor name in ('metas_peft', 'peft', 'torch', 'onnxscript'): sys.modules[name] = None\n"
    script = blocked + code.replace("a text", "a fine film").replace("another one", "a dull film about nothing")
    found = subprocess.run(
        [sys.executable, "-c", f"{script}\nimport json; print(json.dumps(logits.tolist()))"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr[-2000:]
    labels, logits = found.stdout.strip().splitlines()
    texts = AutoTokenizer.from_pretrained(member.folder)(
        ["a fine film", "a dull film about nothing"], padding=True, return_tensors="pt"
    )
    expected = runner(load(member.folder))({k: texts[k] for k in ("input_ids", "attention_mask")})
    assert np.allclose(json.loads(logits), expected, atol=1e-5)
    assert labels == str([("bad", "good")[i] for i in expected.argmax(-1)])
    assert done.agreement.gap < 1e-5


def test_exported_language_model_tells_the_next_token_of_each_text(tmp_path):
    source = save_tiny_backbone(tmp_path / "backbone", ["a fine film", "a dull film about nothing"], "llama")
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = tiny_model("llama", language_model=True, vocab_size=len(tokenizer))
    subnet = Subnet.dense(shape_of(model))
    save_compact(model, model.config, subnet, tmp_path / "member", {"name": "all"}, tokenizer)
    export_graph("onnx", find_member(tmp_path / "member", None), tmp_path / "out")
    code = (tmp_path / "out" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    script = code.replace("a text", "a fine").replace("another one", "a dull film about")
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr[-2000:]
    texts = tokenizer(["a fine", "a dull film about"], padding=True, padding_side="right", return_tensors="pt")
    written = [
        load(tmp_path / "member").generate(ids[mask > 0][None], max_new_tokens=1, do_sample=False)[0, -1:]
        for ids, mask in zip(texts["input_ids"], texts["attention_mask"], strict=True)
    ]
    assert found.stdout.strip() == str(tokenizer.batch_decode(written))


def test_absent_package_is_named_with_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(exporting.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(ExportError, match=r"needs onnxscript, .*pip install 'metas-peft\[onnx\]'"):
        export_onnx(None, tmp_path / "model.onnx")


def test_width_without_a_file_is_refused(tmp_path):
    with pytest.raises(ExportError, match="32, 8, 4 bits, not 16"):
        export_onnx(None, tmp_path / "model.onnx", bits=16)


def test_model_beyond_a_files_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "LARGEST_FILE", 1000)
    with pytest.raises(ExportError, match="GB of weights"):
        export_onnx(tiny_model("bert"), tmp_path / "model.onnx")
