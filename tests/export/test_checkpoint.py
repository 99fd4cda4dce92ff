"""Members as model files: what other programs load answers as the member does, or is refused by them."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
import transformers

import metas_peft
from metas_peft.backbones import compact, shape_of
from metas_peft.backbones.store import load, save_compact
from metas_peft.core.errors import CheckpointError, ExportError, OutputError
from metas_peft.core.subnet import LayerPlan, Subnet
from metas_peft.export.checkpoint import COMPACT, PLAIN, export_checkpoint
from metas_peft.export.members import find_member
from metas_peft.testing.families import TINY_FAMILIES
from metas_peft.testing.tiny import tiny_batch, tiny_model

# Their head size is in the config, so that any number of heads is a model of theirs.
FREE_HEADS = ("llama", "mistral", "qwen3", "gemma3", "gpt-oss", "llama4", "deepseek-v3")


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


def uniform_member(family, folder, **generation):
    """A stored member with half of the heads and neurons in two of three layers."""
    model = tiny_model(family, language_model=TINY_FAMILIES[family].language_model is not None)
    if generation:
        model.generation_config.update(**generation)
    shape = shape_of(model)
    half = LayerPlan(True, True, tuple(range(shape.n_kv_heads // 2)), tuple(range(shape.ffn_blocks // 2)))
    subnet = Subnet((half, LayerPlan(False, False, (), ()), half))
    save_compact(compact(model, shape, subnet), model.config, subnet, folder, {"name": "half"})
    return find_member(folder, None)


def test_exported_member_is_the_member_bit_for_bit(front, tmp_path):
    member = find_member(front(), "30 %")
    done = export_checkpoint(member, tmp_path / "out")
    assert (done.kind, done.agreement.gap) == (COMPACT, 0.0)
    assert done.load == f"metas_peft.load({str(tmp_path / 'out')!r})"
    assert done.size_bytes == (tmp_path / "out" / "compact.safetensors").stat().st_size
    again, model = metas_peft.load(tmp_path / "out"), load(member.folder)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())
    assert again.config.id2label == {0: "bad", 1: "good"}
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out")("a fine film")["input_ids"]


@pytest.mark.parametrize("options", [{}, {"ignore_mismatched_sizes": True}])
def test_transformers_refuses_the_compact_model(front, tmp_path, options):
    export_checkpoint(find_member(front(), "30 %"), tmp_path / "out")
    with pytest.raises((OSError, ValueError)):
        transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", **options)
    with pytest.raises((OSError, ValueError)):
        transformers.BertForSequenceClassification.from_pretrained(tmp_path / "out", **options)


def test_bfloat16_halves_the_file(front, tmp_path):
    member = find_member(front(), "60 %")
    whole, half = (export_checkpoint(member, tmp_path / str(bits), bits=bits) for bits in (32, 16))
    tensors = load(tmp_path / "16").state_dict()
    assert {t.dtype for t in tensors.values()} == {torch.bfloat16}
    stored = sum(t.numel() for t in tensors.values())
    assert whole.size_bytes - half.size_bytes == pytest.approx(2 * stored, abs=200)  # the headers differ a little
    assert 0 < half.agreement.gap < 2e-2 * max(1.0, half.agreement.scale)


def test_other_widths_and_full_folders_are_refused(front, tmp_path):
    member = find_member(front(), "60 %")
    with pytest.raises(ExportError, match="32, 16 bits, not 8"):
        export_checkpoint(member, tmp_path / "out", bits=8)
    (tmp_path / "mine").touch()
    with pytest.raises(OutputError, match="not empty"):
        export_checkpoint(member, tmp_path)


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_uniform_member_is_a_plain_checkpoint_where_a_config_can_say_it(family, tmp_path):
    member = uniform_member(family, tmp_path / "member")
    done = export_checkpoint(member, tmp_path / "out")
    if done.kind == PLAIN:
        again = type(load(member.folder)).from_pretrained(tmp_path / "out", attn_implementation="eager").eval()
        model = load(member.folder)
        model.set_attn_implementation("eager")
        batch = tiny_batch()
        assert torch.allclose(logits(again, batch), logits(model, batch), atol=1e-6)
        assert again.config.num_hidden_layers == 2
    assert (done.kind == PLAIN) == (family in FREE_HEADS), done.kind


def test_plain_checkpoint_loads_where_this_package_is_not(tmp_path):
    member = uniform_member("llama", tmp_path / "member")
    done = export_checkpoint(member, tmp_path / "out")
    script = (
        "import sys\n"
        "for name in ('metas_peft', 'peft'): sys.modules[name] = None\n"
        f"import torch, transformers\nmodel = {done.load}.eval()\n"
        "ids = torch.arange(2, 9)[None]\n"
        "print(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -1].tolist())\n"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr[-2000:]
    ids = torch.arange(2, 9)[None]
    expected = logits(load(member.folder), {"input_ids": ids, "attention_mask": torch.ones_like(ids)})[0, -1]
    assert torch.allclose(torch.tensor(json.loads(found.stdout)), expected, atol=1e-5)


def test_plain_checkpoint_keeps_how_its_model_writes(tmp_path):
    member = uniform_member("llama", tmp_path / "member", eos_token_id=[2, 7], do_sample=True, temperature=0.6)
    done = export_checkpoint(member, tmp_path / "out")
    found = json.loads((done.folder / "generation_config.json").read_text())
    assert done.kind == PLAIN
    assert (found["eos_token_id"], found["do_sample"], found["temperature"]) == ([2, 7], True, 0.6)


def test_plain_checkpoint_may_have_settings_that_contradict_each_other(tmp_path):
    """As some published models have; `transformers` reads them, but refuses to save them."""
    member = uniform_member("llama", tmp_path / "member", temperature=0.9, top_p=0.6)
    done = export_checkpoint(member, tmp_path / "out")
    assert json.loads((done.folder / "generation_config.json").read_text())["top_p"] == 0.6


@pytest.mark.parametrize("bits", [32, 16])
def test_member_of_an_earlier_version_is_written_in_this_one(front, tmp_path, bits):
    from safetensors.torch import load_file

    from metas_peft.backbones.store import OLD_WEIGHTS, PLAN, VERSION, WEIGHTS, plan_digest, read_plan

    member = find_member(front(), "30 %")
    old = tmp_path / "old"
    shutil.copytree(member.folder, old)
    (old / WEIGHTS).rename(old / OLD_WEIGHTS[2])
    plan = json.loads((old / PLAN).read_text()) | {"version": 2}
    (old / PLAN).write_text(json.dumps(plan | {"digest": plan_digest(plan)}))
    done = export_checkpoint(find_member(old, None), tmp_path / "out", bits=bits)
    assert read_plan(done.folder)["version"] == VERSION
    assert not (done.folder / OLD_WEIGHTS[2]).exists()
    assert len(load_file(done.folder / WEIGHTS)) > 5


@pytest.mark.parametrize("damage", [b"", b"{}", b"not json at all"])
def test_damaged_member_is_refused(front, tmp_path, damage):
    import shutil

    folder = shutil.copytree(find_member(front(), "30 %").folder, tmp_path / "member")
    member = find_member(folder, None)
    (folder / "plan.json").write_bytes(damage)
    with pytest.raises(CheckpointError, match="plan.json"):
        export_checkpoint(member, tmp_path / "out")
