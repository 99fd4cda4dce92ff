"""Every family on disk: language models, tied weights, other precisions, and doors that must stay shut."""

import copy
import json
import shutil
import subprocess
import sys

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file

import metas_peft
from metas_peft.backbones import compact, skeleton
from metas_peft.backbones.store import PER_LAYER, PLAN, WEIGHTS, load, plan_digest, save_compact
from metas_peft.core.errors import CheckpointError
from metas_peft.core.subnet import LayerPlan, Subnet
from metas_peft.testing.families import TINY_FAMILIES
from metas_peft.testing.tiny import random_subnet, tiny_batch, tiny_model

DECODERS = [family for family, tiny in TINY_FAMILIES.items() if tiny.language_model]


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


def save(network, folder, family, language_model, seed):
    model, shape = network(family, language_model)
    small = compact(model, shape, random_subnet(shape, seed))
    save_compact(small, model.config, random_subnet(shape, seed), folder, {})
    return small


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_every_family_comes_back_as_it_was_saved(network, family, tmp_path):
    for language_model in {TINY_FAMILIES[family].classifier is None, family in DECODERS}:
        for seed in range(4):
            folder = tmp_path / f"{language_model}-{seed}"
            small = save(network, folder, family, language_model, seed)
            again, batch = load(folder), tiny_batch(seed)
            assert type(again) is type(small)
            assert not any(p.is_meta for p in (*again.parameters(), *again.buffers()))
            assert {k: tuple(v.shape) for k, v in again.named_buffers()} == {
                k: tuple(v.shape) for k, v in small.named_buffers()
            }
            assert torch.equal(logits(again, batch), logits(small, batch)), seed


@pytest.mark.parametrize("family", DECODERS)
def test_loaded_language_model_generates_what_the_saved_one_did(network, family, tmp_path):
    small, prompt = save(network, tmp_path, family, True, 3), tiny_batch(1, left=True, pad=0)
    expected = small.generate(**prompt, max_new_tokens=6, do_sample=False)
    assert torch.equal(load(tmp_path).generate(**prompt, max_new_tokens=6, do_sample=False), expected)


def test_tied_weights_are_stored_once_and_tied_again(tmp_path):
    model = tiny_model("qwen3", language_model=True, tie_word_embeddings=True)
    from metas_peft.backbones import shape_of

    shape = shape_of(model)
    small, batch = compact(model, shape, random_subnet(shape, 3)), tiny_batch()
    save_compact(small, model.config, random_subnet(shape, 3), tmp_path, {})
    assert "lm_head.weight" not in load_file(tmp_path / WEIGHTS)
    again = load(tmp_path)
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert torch.equal(logits(again, batch), logits(small, batch))


def test_bfloat16_weights_come_back_as_such(network, tmp_path):
    model, shape = network("bert", False)
    small = compact(copy.deepcopy(model).bfloat16(), shape, random_subnet(shape, 3))
    save_compact(small, model.config, random_subnet(shape, 3), tmp_path, {})
    again, batch = load(tmp_path), tiny_batch()
    assert {p.dtype for p in again.parameters()} == {torch.bfloat16}
    assert torch.equal(logits(again, batch), logits(small, batch))


def test_language_model_generates_in_a_fresh_process_without_the_training_stack(network, tmp_path):
    small = save(network, tmp_path, "gpt2", True, 3)
    script = (
        "import sys\n"
        "for name in ('peft', 'datasets', 'accelerate', 'optuna', 'hydra'): sys.modules[name] = None\n"
        "import metas_peft, torch\n"
        f"model = metas_peft.load({str(tmp_path)!r})\n"
        "ids = torch.arange(2, 9)[None]\n"
        "print(model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False).tolist())\n"
        "mine = [m for m in sys.modules if m.startswith('metas_peft.')]\n"
        "bad = [m for m in mine if m.split('.')[1] not in ('backbones', 'core', 'costs')]\n"
        "assert not bad, bad\n"
        "assert 'transformers.trainer' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    ids = torch.arange(2, 9)[None]
    expected = small.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False)
    assert json.loads(done.stdout) == expected.tolist()


# ---- from_pretrained must never fill sliced weights with random numbers


@pytest.fixture(scope="module")
def stored(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored")
    save(network, folder, "bert", False, 4)
    return folder


def test_transformers_finds_no_checkpoint_in_the_folder(stored):
    config = transformers.BertConfig(**json.loads((stored / PLAN).read_text())["config"])
    for options in ({}, {"ignore_mismatched_sizes": True}):
        with pytest.raises((OSError, ValueError), match=r"config\.json"):
            transformers.AutoModelForSequenceClassification.from_pretrained(stored, **options)
        with pytest.raises(OSError, match="no file named"):
            transformers.BertForSequenceClassification.from_pretrained(stored, config=config, **options)


def test_renamed_weights_are_refused(stored, tmp_path):
    folder = shutil.copytree(stored, tmp_path / "copy")
    (folder / WEIGHTS).rename(folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=WEIGHTS):
        load(folder)
    with pytest.raises((OSError, ValueError), match=r"config\.json"):
        transformers.AutoModelForSequenceClassification.from_pretrained(folder, ignore_mismatched_sizes=True)


def test_per_layer_config_is_accepted_by_transformers_and_tells_what_was_kept(network, tmp_path):
    # (The config classes of Llama and Gemma-3 trip over it themselves in transformers 5.23.)
    model, shape = network("qwen3", True)
    plans = (LayerPlan(True, True, (1,), (0, 1, 2)), LayerPlan(False, False, (), ()), LayerPlan(False, True, (), (5,)))
    small = compact(model, shape, Subnet(plans))
    save_compact(small, model.config, Subnet(plans), tmp_path, {})
    values = json.loads((tmp_path / PER_LAYER).read_text())
    config = transformers.AutoConfig.for_model(**{k: v for k, v in values.items() if v is not None})
    assert config.num_hidden_layers == 2
    first, second = config.per_layer_config
    assert (first.num_attention_heads, first.num_key_value_heads, first.intermediate_size) == (2, 1, 12)
    assert (second.skip, second.intermediate_size) == (["attention"], 4)
    assert config.layer_types == ["sliding_attention", "sliding_attention"]


# ---- loading: no random numbers, no memory for what does not fit, no code


def test_skeleton_allocates_no_weights_and_draws_no_random_numbers(network, monkeypatch):
    model, _ = network("llama", True)
    monkeypatch.setattr(torch.Tensor, "normal_", lambda tensor, *a, **k: tensor.is_meta or pytest.fail("initialised"))
    state = torch.get_rng_state()
    empty = skeleton.build(type(model), copy.deepcopy(model.config), buffers=True)
    assert all(p.is_meta for p in empty.parameters())
    assert not any(b.is_meta for b in empty.buffers())
    assert torch.equal(torch.get_rng_state(), state)


def test_plan_of_version_2_still_loads(stored, tmp_path):
    folder = shutil.copytree(stored, tmp_path / "copy")
    (folder / WEIGHTS).rename(folder / "model.safetensors")
    plan = json.loads((folder / PLAN).read_text()) | {"version": 2}
    (folder / PLAN).write_text(json.dumps(plan))
    assert torch.equal(logits(load(folder), tiny_batch()), logits(load(stored), tiny_batch()))


HOSTILE = [
    {"architecture": "pipeline"},
    {"architecture": "Trainer"},
    {"architecture": "__builtins__"},
    {"architecture": "GPT2LMHeadModel"},
    {"key": "0000000000"},
    {"config": {"hidden_size": 2**40}},
    {"config": {"vocab_size": 2**60}},
    {"config": {"num_hidden_layers": 10**9}},
    {"config": {"num_attention_heads": 0}},
    {"config": {"intermediate_size": -5}},
    {"config": {"max_position_embeddings": 10**15}},
    {"config": {"hidden_act": "__import__('os').system('true')"}},
    {"config": {"id2label": 3}},
    {"subnet": {"layers": []}},
    {"subnet": {"layers": [{"attention": True, "ffn": True, "heads": [0, 99], "ffn_blocks": [0]}] * 3}},
    {"subnet": {"layers": [{"attention": True, "ffn": True, "heads": ["a"], "ffn_blocks": [0]}] * 3}},
]


@pytest.mark.parametrize("change", HOSTILE, ids=str)
def test_plan_that_lies_with_a_good_digest_is_refused(stored, tmp_path, change):
    folder = shutil.copytree(stored, tmp_path / "copy")
    plan = json.loads((folder / PLAN).read_text())
    for name, value in change.items():
        plan[name] = plan[name] | value if isinstance(value, dict) and name == "config" else value
    (folder / PLAN).write_text(json.dumps(plan | {"digest": plan_digest(plan)}))
    with pytest.raises(CheckpointError, match="does not describe its weights"):
        load(folder)


@pytest.mark.parametrize("entry", ["auto_map", "_attn_implementation", "attn_implementation", "quantization_config"])
def test_config_entries_that_would_fetch_code_are_ignored(stored, tmp_path, entry):
    folder = shutil.copytree(stored, tmp_path / "copy")
    plan = json.loads((folder / PLAN).read_text())
    plan["config"][entry] = "nobody/kernels" if "attn" in entry else {"AutoModel": "nobody/repo--x.X"}
    (folder / PLAN).write_text(json.dumps(plan | {"digest": plan_digest(plan)}))
    assert torch.equal(logits(load(folder), tiny_batch()), logits(load(stored), tiny_batch()))


def test_random_damage_is_refused_by_name_and_executes_nothing(stored, tmp_path, monkeypatch):
    """Bytes changed, cut out, doubled or swapped in either file: a `CheckpointError`, or the very same model."""
    import pickle

    for name in ("load", "loads"):
        monkeypatch.setattr(pickle, name, lambda *a, **k: pytest.fail("something was unpickled"))
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("something was unpickled"))
    folder, expected = shutil.copytree(stored, tmp_path / "copy"), load_file(stored / WEIGHTS)
    generator = torch.Generator().manual_seed(0)

    def draw(high):
        return int(torch.randint(high, (1,), generator=generator))

    refused = 0
    for trial in range(120):
        name = (WEIGHTS, PLAN)[trial % 2]
        data = bytearray((stored / name).read_bytes())
        # Half of the damage goes to the header, where there is something to misread.
        place = draw(len(data)) if draw(2) else draw(min(2000, len(data)))
        length = 1 + draw(16)
        kind = draw(4)
        if kind == 0:
            data[place : place + length] = bytes(draw(256) for _ in range(length))
        elif kind == 1:
            del data[place : place + length]
        elif kind == 2:
            data[place:place] = data[place : place + length]
        else:
            data[place : place + 8] = data[place : place + 8][::-1]
        (folder / name).write_bytes(data)
        try:
            found = load(folder).state_dict()
        except CheckpointError:
            refused += 1
        else:
            assert all(torch.equal(found[k], v) for k, v in expected.items()), trial
        shutil.copy(stored / name, folder / name)
    assert refused > 100


def test_weights_file_holds_no_pickle_and_says_what_it_is(stored):
    with safe_open(stored / WEIGHTS, framework="pt") as file:
        assert file.metadata() == {"format": "metas-peft-compact"}
    assert sorted(p.name for p in stored.iterdir()) == sorted([WEIGHTS, PLAN, PER_LAYER])


def test_public_load_is_the_loader(stored):
    assert torch.equal(logits(metas_peft.load(stored), tiny_batch()), logits(load(stored), tiny_batch()))
