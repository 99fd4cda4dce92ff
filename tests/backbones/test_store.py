"""Compact models on disk: what comes back is what was saved, and everything else is refused by name."""

import copy
import json
import shutil
import subprocess
import sys

import pytest
import torch

import metas_peft
from metas_peft.backbones import compact
from metas_peft.backbones.store import PLAN, WEIGHTS, load, save_compact
from metas_peft.core.errors import CheckpointError
from metas_peft.core.subnet import Subnet
from metas_peft.testing.tiny import TINY_CONFIGS, random_subnet, tiny_adapted, tiny_batch


def save(folder, family="bert", seed=4):
    """A stored compact model, the model itself, and its subnet."""
    adapted, shape = tiny_adapted(family, seed=seed)
    network = adapted.get_base_model()
    config, subnet = copy.deepcopy(network.config), random_subnet(shape, seed)
    model = compact(network, shape, subnet)
    save_compact(model, config, subnet, folder, {"name": "half"})
    return model, subnet


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored")
    save(folder)
    return folder


@pytest.fixture
def damaged(stored, tmp_path):
    """A copy to damage."""
    return shutil.copytree(stored, tmp_path / "copy")


@pytest.mark.parametrize("family", sorted(TINY_CONFIGS))
@pytest.mark.parametrize("seed", range(4))
def test_loaded_model_equals_the_saved_one_bit_for_bit(family, seed, tmp_path):
    model, _ = save(tmp_path, family, seed)
    again, batch = load(tmp_path), tiny_batch(seed)
    assert type(again) is type(model)
    assert not again.training
    assert not any(p.requires_grad for p in again.parameters())
    mine, theirs = model.state_dict(), again.state_dict()
    assert list(mine) == list(theirs)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    again.set_attn_implementation("eager")
    model.set_attn_implementation("eager")
    assert torch.equal(logits(again, batch), logits(model, batch))


def test_loading_leaves_the_global_random_state_alone(stored):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    load(stored)
    assert torch.equal(torch.rand(4), expected)


def test_plan_tells_the_subnet_and_what_was_noted(tmp_path):
    _, subnet = save(tmp_path)
    plan = json.loads((tmp_path / PLAN).read_text())
    assert Subnet.from_dict(plan["subnet"]) == subnet
    assert (plan["key"], plan["about"]) == (subnet.key, {"name": "half"})


def test_compact_model_loads_where_peft_cannot_be_imported(stored):
    script = (
        "import sys; sys.modules['peft'] = None\n"
        "import metas_peft, torch\n"
        f"model = metas_peft.load({str(stored)!r})\n"
        "ids = torch.arange(2, 9)[None]\n"
        "print(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.tolist())\n"
        "assert not [m for m in sys.modules if m.startswith(('metas_peft.tuning', 'metas_peft.gates'))]\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    ids = torch.arange(2, 9)[None]
    expected = metas_peft.load(stored)(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    assert torch.allclose(torch.tensor(json.loads(done.stdout)), expected, atol=1e-6)


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 9, 300, 0.5, -2])
@pytest.mark.parametrize("name", [WEIGHTS, PLAN])
def test_truncated_file_is_refused(damaged, name, kept):
    data = (damaged / name).read_bytes()
    (damaged / name).write_bytes(data[: int(len(data) * kept) if isinstance(kept, float) else kept])
    with pytest.raises(CheckpointError, match=rf"{name}|weights"):
        load(damaged)


@pytest.mark.parametrize("place", [0.02, 0.3, 0.6, 0.999])
def test_flipped_bit_of_a_weight_is_refused(damaged, place):
    data = bytearray((damaged / WEIGHTS).read_bytes())
    header = 8 + int.from_bytes(data[:8], "little")
    data[header + int(place * (len(data) - header))] ^= 1
    (damaged / WEIGHTS).write_bytes(data)
    with pytest.raises(CheckpointError, match="not those its plan was written for"):
        load(damaged)


@pytest.mark.parametrize("name", [WEIGHTS, PLAN])
def test_absent_file_is_refused(damaged, name):
    (damaged / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        load(damaged)


def test_folder_in_place_of_the_weights_is_refused(damaged):
    (damaged / WEIGHTS).unlink()
    (damaged / WEIGHTS).mkdir()
    with pytest.raises(CheckpointError, match=WEIGHTS):
        load(damaged)


@pytest.mark.parametrize("name", [WEIGHTS, PLAN])
def test_file_of_another_member_is_refused(damaged, tmp_path, name):
    save(tmp_path / "other", seed=4)
    other, _ = save(tmp_path / "another", seed=6)
    shutil.copy(tmp_path / "another" / name, damaged / name)
    with pytest.raises(CheckpointError, match="not those its plan was written for"):
        load(damaged)


def test_tensors_under_exchanged_names_are_refused(damaged):
    from safetensors.torch import load_file, save_file

    tensors = load_file(damaged / WEIGHTS)
    first, second = next(
        (a, b) for a in tensors for b in tensors if a < b and tensors[a].shape == tensors[b].shape
    )  # fmt: skip
    tensors[first], tensors[second] = tensors[second], tensors[first]
    save_file(tensors, damaged / WEIGHTS)
    with pytest.raises(CheckpointError, match="not those its plan was written for"):
        load(damaged)


def entries(node, path=()):
    """Paths of everything inside nested dicts and of the first element of each list."""
    inside = node.items() if isinstance(node, dict) else enumerate(node[:1]) if isinstance(node, list) else ()
    for name, value in inside:
        yield (*path, name)
        yield from entries(value, (*path, name))


@pytest.mark.parametrize("value", ["absent", None, "abc", -1, 10**6, [], [99], {}, 0.5])
def test_altered_plan_is_refused_and_by_no_other_error(damaged, value):
    plan = json.loads((damaged / PLAN).read_text())
    places = [p for p in entries(plan) if p[0] != "about"]
    assert len(places) > 50
    for path in places:
        altered = copy.deepcopy(plan)
        node = altered
        for name in path[:-1]:
            node = node[name]
        if value == "absent":
            del node[path[-1]]
        else:
            node[path[-1]] = value
        if altered == plan:
            continue
        (damaged / PLAN).write_text(json.dumps(altered))
        with pytest.raises(CheckpointError):
            load(damaged)


@pytest.mark.parametrize(
    "change", [{"subnet": None}, {"config": {}}, {"architecture": "BertNever"}, {"config": "text"}]
)
def test_plan_that_describes_no_model_is_refused_even_with_its_digest(damaged, change):
    from metas_peft.backbones.store import plan_digest

    plan = json.loads((damaged / PLAN).read_text()) | change
    (damaged / PLAN).write_text(json.dumps(plan | {"digest": plan_digest(plan)}))
    with pytest.raises(CheckpointError, match="does not describe its weights"):
        load(damaged)


def test_plan_of_an_unknown_version_names_what_was_expected(damaged):
    plan = json.loads((damaged / PLAN).read_text()) | {"version": 99}
    (damaged / PLAN).write_text(json.dumps(plan))
    with pytest.raises(CheckpointError, match="99.*expected"):
        load(damaged)


def test_maps_of_size_0_that_earlier_versions_stored_are_passed_over(stored, tmp_path):
    from safetensors.torch import load_file, save_file

    from metas_peft.backbones.store import fingerprint, plan_digest

    folder = shutil.copytree(stored, tmp_path / "copy")
    tensors = load_file(folder / WEIGHTS) | {
        "bert.encoder.layer.0.attention.self.query.weight_gone": torch.empty(0, 32)
    }
    save_file(tensors, folder / WEIGHTS)
    plan = json.loads((folder / PLAN).read_text()) | {"fingerprint": fingerprint(tensors)}
    (folder / PLAN).write_text(json.dumps(plan | {"digest": plan_digest(plan)}))
    assert torch.equal(logits(load(folder), tiny_batch()), logits(load(stored), tiny_batch()))


def test_member_with_tokeniser_and_names_of_classes_answers_a_text(tmp_path):
    """What a user does with a folder: load the model and its tokeniser, and read the answer."""
    import transformers

    from metas_peft.backbones import shape_of
    from metas_peft.testing.tiny import save_tiny_backbone

    texts = ["a fine film", "a dull film"]
    source = save_tiny_backbone(tmp_path / "backbone", texts)
    names = {0: "bad", 1: "good"}
    model = transformers.AutoModelForSequenceClassification.from_pretrained(source, id2label=names).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    shape = shape_of(model)
    small, subnet = compact(model, shape, random_subnet(shape, 3)), random_subnet(shape, 3)
    save_compact(small, model.config, subnet, tmp_path / "member", {}, tokenizer)
    again = metas_peft.load(tmp_path / "member")
    own = transformers.AutoTokenizer.from_pretrained(tmp_path / "member")
    assert own(texts)["input_ids"] == tokenizer(texts)["input_ids"]
    answer = transformers.pipeline("text-classification", model=again, tokenizer=own)(texts)
    expected = logits(small, tokenizer(texts, padding=True, return_tensors="pt")).argmax(-1).tolist()
    assert [a["label"] for a in answer] == [names[i] for i in expected]
    with pytest.raises((OSError, ValueError)):
        transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "member")


def test_writing_member_ends_a_text_where_its_dense_model_does(tmp_path):
    """A chat model has more than one token that ends an answer, and only its generation config names them."""
    adapted, shape = tiny_adapted("llama", language_model=True)
    network, subnet = adapted.get_base_model(), random_subnet(shape, 3)
    prompt = {"input_ids": torch.tensor([[5, 6, 7]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    free = compact(network, shape, subnet).generate(**prompt, max_new_tokens=12, do_sample=False, pad_token_id=0)
    first_words = free[0, 3:5].tolist()
    network.generation_config.update(eos_token_id=[first_words[1], 2], max_new_tokens=12, pad_token_id=0)
    small = compact(network, shape, subnet)
    save_compact(small, network.config, subnet, tmp_path, {})
    again = load(tmp_path)
    assert again.generation_config.to_dict() == small.generation_config.to_dict()
    assert again.generate(**prompt)[0].tolist() == small.generate(**prompt)[0].tolist()
    assert again.generate(**prompt)[0, 3:].tolist() == first_words[: 1 if first_words[0] == first_words[1] else 2]
    plan = json.loads((tmp_path / PLAN).read_text())
    plan["generation"]["max_new_tokens"] = 3
    (tmp_path / PLAN).write_text(json.dumps(plan))
    with pytest.raises(CheckpointError, match="was altered"):
        load(tmp_path)
