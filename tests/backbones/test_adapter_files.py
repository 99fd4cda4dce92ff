"""Stored adapters: plain PEFT reads them as meant, and nothing loads where it does not belong."""

import copy
import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from metas_peft.backbones import add_lora, compact, load_adapter, reorder, save_adapter, shape_of
from metas_peft.backbones.adapter_files import NOTE, ORDER, read_order, without_adapters, write_adapter
from metas_peft.backbones.lora_config import Adapted, lora_config
from metas_peft.backbones.store import load, save_compact
from metas_peft.core.errors import CheckpointError, SubnetError
from metas_peft.core.subnet import LayerPlan, Subnet
from metas_peft.testing.families import TINY_FAMILIES
from metas_peft.testing.tiny import random_subnet, randomise_lora, tiny_adapted, tiny_batch, tiny_model


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


def orders(shape, seed=5):
    generator = torch.Generator().manual_seed(seed)
    heads = torch.stack([torch.randperm(shape.n_kv_heads, generator=generator) for _ in range(shape.n_layers)])
    neurons = torch.stack([torch.randperm(shape.ffn_size, generator=generator) for _ in range(shape.n_layers)])
    return heads, neurons


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_adapter_of_an_ordered_backbone_loads_onto_the_published_one(family, tmp_path):
    adapted, shape = tiny_adapted(family)
    network, batch = adapted.get_base_model(), tiny_batch()
    expected = logits(network, batch)
    heads, neurons = orders(shape)
    reorder(network, shape, heads, neurons)
    in_memory = {k: v.clone() for k, v in network.state_dict().items()}
    save_adapter(adapted, shape, heads, neurons, tmp_path)
    assert all(torch.equal(v, in_memory[k]) for k, v in network.state_dict().items())
    plain = PeftModel.from_pretrained(tiny_model(family), str(tmp_path)).eval()
    assert torch.allclose(logits(plain, batch), expected, atol=1e-5)
    assert torch.equal(logits(load_adapter(tiny_model(family), tmp_path), batch), logits(plain, batch))
    assert all(torch.equal(a, b) for a, b in zip(read_order(tmp_path), (heads, neurons), strict=True))


@pytest.mark.filterwarnings("error:Found missing adapter keys")
@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_adapter_of_a_member_gives_the_merged_members_logits_in_plain_peft(network, family, tmp_path):
    model, shape = network(family, TINY_FAMILIES[family].classifier is None)
    left_out = 0
    for seed in range(5):
        subnet, batch = random_subnet(shape, seed), tiny_batch(seed)
        small = compact(model, shape, subnet, merge=False)
        if not any(n.endswith("lora_A") for n, _ in small.named_modules()):
            with pytest.raises(SubnetError, match="No adapter has a rank left"):
                write_adapter(small, tmp_path / "none", about={})
            continue
        folder = tmp_path / str(seed)
        write_adapter(small, folder, about={"key": subnet.key})
        base = without_adapters(copy.deepcopy(small))
        save_compact(base, model.config, subnet, folder / "base", {})
        plain = PeftModel.from_pretrained(load(folder / "base"), str(folder)).eval()
        assert torch.allclose(logits(plain, batch), logits(compact(model, shape, subnet), batch), atol=1e-4, rtol=0)
        stored = load_file(folder / "adapter_model.safetensors")
        assert all(min(t.shape) > 0 for t in stored.values())
        n_maps = subnet.kept_layers * len(shape.sites)
        left_out += sum(n.endswith("lora_A.weight") for n in stored) < n_maps
    assert left_out > 0


def test_language_model_adapter_generates_the_same_in_plain_peft(network, tmp_path):
    model, shape = network("gpt2", True)
    subnet, prompt = random_subnet(shape, 3), tiny_batch(1, left=True, pad=0)
    small = compact(model, shape, subnet, merge=False)
    write_adapter(small, tmp_path, about={})
    save_compact(without_adapters(copy.deepcopy(small)), model.config, subnet, tmp_path / "base", {})
    plain = PeftModel.from_pretrained(load(tmp_path / "base"), str(tmp_path)).eval()
    expected = compact(model, shape, subnet).generate(**prompt, max_new_tokens=5, do_sample=False)
    assert torch.equal(plain.generate(**prompt, max_new_tokens=5, do_sample=False), expected)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["fan_in_fan_out"] is True


def test_rank_of_layer_1_is_not_that_of_layer_11(tmp_path):
    model = tiny_model("bert", num_hidden_layers=12)
    adapted, sites = add_lora(model, ["q", "o"], rank=4, alpha=8.0, dropout=0.0, seed=1)
    randomise_lora(adapted, 2)
    network = adapted.get_base_model().eval()
    shape = shape_of(network, sites)
    heads, blocks = tuple(range(4)), tuple(range(12))
    ranks = {1: ((0,), (1, 2)), 11: ((0, 2, 3), ()), 10: ((), ())}
    subnet = Subnet(tuple(LayerPlan(True, True, heads, blocks, ranks.get(i)) for i in range(12)))
    write_adapter(compact(network, shape, subnet, merge=False), tmp_path, about={})
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["rank_pattern"] == {
        r"^bert\.encoder\.layer\.1\.attention\.self\.query": 1,
        r"^bert\.encoder\.layer\.1\.attention\.output\.dense": 2,
        r"^bert\.encoder\.layer\.11\.attention\.self\.query": 3,
    }
    assert set(config["alpha_pattern"].values()) == {2, 4, 6}
    batch, small = tiny_batch(), compact(network, shape, subnet)
    base = without_adapters(compact(network, shape, subnet, merge=False))
    plain = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    assert torch.allclose(logits(plain, batch), logits(small, batch), atol=1e-5)


def test_stored_adapter_is_the_same_in_every_process(tmp_path):
    """Sets of names have another order in each; files must not."""
    adapted, _ = tiny_adapted("bert")
    write_adapter(adapted.get_base_model(), tmp_path, about={})
    names = json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"]
    assert names == sorted(names)
    assert len(names) == 18


def test_config_of_uniform_ranks_needs_no_patterns():
    config = lora_config({"a.0.q": Adapted(4, 2.0), "a.1.q": Adapted(4, 2.0)}, task_type="SEQ_CLS")
    assert (config.r, config.lora_alpha, config.rank_pattern, config.alpha_pattern) == (4, 8, {}, {})


@pytest.fixture
def stored(tmp_path):
    adapted, shape = tiny_adapted("bert")
    heads, neurons = torch.arange(4).repeat(3, 1), torch.arange(48).repeat(3, 1)
    save_adapter(adapted, shape, heads, neurons, tmp_path)
    return tmp_path


def test_adapter_loads_onto_its_backbone_in_another_precision(stored):
    load_adapter(tiny_model("bert").bfloat16(), stored)


@pytest.mark.parametrize("change", ["other weights", "other order", "a head fewer", "a layer fewer"])
def test_adapter_is_refused_by_another_backbone(stored, change):
    model = tiny_model("bert", seed=1 if change == "other weights" else 0)
    shape = shape_of(model)
    if change == "other order":
        reorder(model, shape, *orders(shape))
    elif change != "other weights":
        plans = [LayerPlan(True, True, (0, 1, 2, 3), tuple(range(12)))] * 3
        plans[1] = LayerPlan(change == "a head fewer", change == "a head fewer", (0, 1, 2), tuple(range(12)))
        model = compact(model, shape, Subnet(tuple(plans)))
    with pytest.raises(CheckpointError, match=r"belongs to another backbone.*trained on \(bert\)"):
        load_adapter(model, stored)


def test_adapter_without_its_note_is_refused(stored):
    (stored / NOTE).unlink()
    with pytest.raises(CheckpointError, match=NOTE):
        load_adapter(tiny_model("bert"), stored)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json", NOTE])
def test_damaged_adapter_is_refused(stored, name):
    (stored / name).write_bytes((stored / name).read_bytes()[:40])
    with pytest.raises(CheckpointError):
        load_adapter(tiny_model("bert"), stored)


def test_order_that_is_absent_is_refused(stored):
    (stored / ORDER).unlink()
    with pytest.raises(CheckpointError, match="written together with its order"):
        read_order(stored)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_file_of_another_adapter_is_refused(stored, tmp_path_factory, name):
    other = tmp_path_factory.mktemp("other")
    adapted, shape = tiny_adapted("bert", rank=3 if name.endswith("safetensors") else 2)
    randomise_lora(adapted, 9)
    save_adapter(adapted, shape, torch.arange(4).repeat(3, 1), torch.arange(48).repeat(3, 1), other)
    (stored / name).write_bytes((other / name).read_bytes())
    with pytest.raises(CheckpointError, match=f"{name} is not the file that {NOTE} was written for"):
        load_adapter(tiny_model("bert"), stored)


def test_adapter_of_version_1_loads_without_digests(stored):
    note = json.loads((stored / NOTE).read_text())
    del note["files"]
    (stored / NOTE).write_text(json.dumps(note | {"version": 1}))
    load_adapter(tiny_model("bert"), stored)


def test_pickled_adapter_is_not_opened(stored, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("something was unpickled"))
    torch.save(load_file(stored / "adapter_model.safetensors"), stored / "adapter_model.bin")
    (stored / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="adapter_model.safetensors cannot be read"):
        load_adapter(tiny_model("bert"), stored)


@pytest.mark.parametrize("value", [None, 3, "nobody/repo", [], {"parent_library": "os"}])
def test_config_that_lies_with_a_good_digest_is_refused_or_does_no_harm(stored, value, monkeypatch):
    from metas_peft.backbones.adapter_files import CONFIG, file_digest

    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("something was unpickled"))
    config, note = json.loads((stored / CONFIG).read_text()), json.loads((stored / NOTE).read_text())
    refused = 0
    for key in config:
        (stored / CONFIG).write_text(json.dumps(config | {key: value}))
        note["files"][CONFIG] = file_digest(stored / CONFIG)
        (stored / NOTE).write_text(json.dumps(note))
        try:
            load_adapter(tiny_model("bert"), stored)
        except CheckpointError:
            refused += 1
    assert len(config) > 20
    assert refused > 3


def test_random_damage_is_refused_by_name(stored, monkeypatch):
    """Bytes changed, cut out, doubled or turned round in any file: a `CheckpointError`, or the very same adapter."""
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("something was unpickled"))
    generator, refused = torch.Generator().manual_seed(0), 0

    def draw(high):
        return int(torch.randint(high, (1,), generator=generator))

    names = ["adapter_model.safetensors", "adapter_config.json", NOTE, ORDER]
    good = {name: (stored / name).read_bytes() for name in names}
    for trial in range(48):
        name = names[trial % 4]
        data = bytearray(good[name])
        place, length, kind = draw(len(data)), 1 + draw(16), draw(4)
        if kind == 0:
            data[place : place + length] = bytes(draw(256) for _ in range(length))
        elif kind == 1:
            del data[place:]
        elif kind == 2:
            data[place:place] = data[place : place + length]
        else:
            data[place : place + 8] = data[place : place + 8][::-1]
        (stored / name).write_bytes(data)
        try:
            read_order(stored) if name == ORDER else load_adapter(tiny_model("bert"), stored)
        except CheckpointError:
            refused += 1
        (stored / name).write_bytes(good[name])
    assert refused > 36


@pytest.mark.parametrize("heads", [[[0, 0, 1, 2]] * 3, [[0, 1, 2, 7]] * 3, 5])
def test_order_that_is_none_is_refused(stored, heads):
    from safetensors.torch import save_file

    save_file({"heads": torch.tensor(heads), "neurons": torch.arange(48).repeat(3, 1)}, stored / ORDER)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_order(stored)
