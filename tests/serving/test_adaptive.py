"""The model that chooses a member per input, and per token."""

import dataclasses
import re
import shutil
import threading
from pathlib import Path

import pytest
import torch

import metas_peft
from metas_peft.backbones import compact
from metas_peft.control.runtime import distribution_entropy, from_json, read_information, token_entropy
from metas_peft.control.tree import LEAF, Controller, ControllerTree
from metas_peft.core.errors import CheckpointError, UnknownNameError, UnsupportedBackboneError, UsageError
from metas_peft.core.subnet import Subnet
from metas_peft.serving import AdaptiveModel, ServedFront, Switching
from metas_peft.testing.served import LONG, MAX_LENGTH, save_tiny_run
from metas_peft.testing.tiny import tiny_adapted

TEXTS = ["a fine film", "a fine film about nothing is dull , dull , dull", "dull", "it is a fine film about nothing"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return save_tiny_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def model(run):
    return AdaptiveModel.open(run)


@pytest.fixture
def copied(run, tmp_path):
    return shutil.copytree(run, tmp_path / "run")


def alone(run, member, ids):
    with torch.no_grad():
        return metas_peft.load(run / "models" / member.key)(torch.tensor([ids])).logits[0]


def test_each_text_is_answered_by_the_member_that_the_controller_chooses(run, model):
    answers = model.predict(TEXTS)
    controller = from_json((run / "controller.json").read_text())
    information = read_information(run / "self_information.f32")
    assert len({answer.member for answer in answers}) == 2
    for text, answer in zip(TEXTS, answers, strict=True):
        ids = model.tokenizer(text, truncation=True, max_length=MAX_LENGTH)["input_ids"]
        index = controller.decide(token_entropy(ids, information), len(ids) / MAX_LENGTH)
        assert index == int(len(ids) <= LONG)
        assert answer.member == controller.names[index]
        logits = alone(run, model.front[answer.member], ids)
        assert torch.allclose(answer.logits, logits, atol=1e-5)
        assert answer.label == ["bad", "good"][int(logits.argmax())]
        assert answer.probability == pytest.approx(float(logits.softmax(-1).max()), abs=1e-5)
        assert answer.decision_us > 0


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_answers_do_not_depend_on_batches(model, batch_size):
    together, singly = model.predict(TEXTS, batch_size=batch_size), [model(text) for text in TEXTS]
    for a, b in zip(together, singly, strict=True):
        assert (a.label, a.member) == (b.label, b.member)
        assert torch.allclose(a.logits, b.logits, atol=1e-5)
    assert model.predict([]) == []


def test_a_single_text_is_one_text(model):
    (answer,) = model.predict("a fine film")
    assert torch.equal(answer.logits, model("a fine film").logits)


def test_texts_without_tokens_and_unknown_tokens_are_refused(model):
    bare = AdaptiveModel(model.front, lambda texts, **_: {"input_ids": [[2, 3], []]}, model.controller, [0.0] * 99)
    with pytest.raises(UsageError, match="has no tokens"):
        bare.predict(["a", ""])
    for strange in (-1, 13):
        bare.tokenizer = lambda texts, token=strange, **_: {"input_ids": [[2, token]]}
        with pytest.raises(UsageError, match=f"knows the tokens 0 to 12, seen {strange}"):
            bare.predict(["a"])


def test_threads_take_turns(model, monkeypatch):
    """The second thread comes between the first one's choice of a member and its pass, if it can."""
    expected = {name: model(TEXTS[0], member=name).logits for name in ("60 %", "30 %")}
    assert not torch.allclose(expected["60 %"], expected["30 %"], atol=1e-3)
    found, activate = {}, model.front.activate
    other = threading.Thread(target=lambda: found.update({"30 %": model(TEXTS[0], member="30 %").logits}))

    def interrupted(name):
        member = activate(name)
        if name == "60 %" and other.ident is None:
            other.start()
            other.join(0.5)
        return member

    monkeypatch.setattr(model.front, "activate", interrupted)
    found["60 %"] = model(TEXTS[0], member="60 %").logits
    other.join()
    assert {name: torch.allclose(found[name], expected[name], atol=1e-6) for name in found} == dict.fromkeys(
        expected, True
    )


def test_a_named_member_answers_everything(model):
    answers = model.predict(TEXTS, member="30%")
    assert {answer.member for answer in answers} == {"30 %"}
    assert {answer.decision_us for answer in answers} == {None}
    with pytest.raises(UnknownNameError, match="no member '1 %'"):
        model("a film", member="1 %")


def test_pinned_model_needs_no_controller(copied):
    (copied / "controller.json").unlink()
    (copied / "self_information.f32").unlink()
    with pytest.raises(CheckpointError, match="has no controller"):
        AdaptiveModel.open(copied)
    model = AdaptiveModel.open(copied, pinned=True)
    assert model("a film", member="60 %").member == "60 %"
    with pytest.raises(UnknownNameError, match="name one of 60 %, 30 %"):
        model("a film")


def test_the_only_member_is_not_chosen_but_taken(run):
    whole = ServedFront.open(run)
    front = ServedFront([("all", whole.largest.subnet, whole.module("60 %"))])
    answer = AdaptiveModel(front, AdaptiveModel.open(run).tokenizer)("a film")
    assert (answer.member, answer.decision_us) == ("all", None)


def test_controller_of_another_run_is_refused(copied, model):
    text = (copied / "results.json").read_text()
    (copied / "results.json").write_text(text.replace('"tiny"', '"other"'))
    with pytest.raises(CheckpointError, match="belongs to another run"):
        AdaptiveModel.open(copied)
    strange = dataclasses.replace(model.controller, members=(Subnet.prefix([1], [1]),) * 2)
    with pytest.raises(CheckpointError, match="members that this front has not"):
        AdaptiveModel(model.front, model.tokenizer, strange, [0.0] * 99)
    with pytest.raises(CheckpointError, match="the self-information of 13 tokens, seen 3"):
        AdaptiveModel(model.front, model.tokenizer, model.controller, [0.0] * 3)
    unsaid = dataclasses.replace(model.controller, max_length=None)
    with pytest.raises(CheckpointError, match="max_length"):
        AdaptiveModel(model.front, model.tokenizer, unsaid, [0.0] * 99)


def test_member_without_a_tokeniser_is_refused(copied):
    for file in copied.glob("models/*/tokenizer*"):
        file.unlink()
    with pytest.raises(CheckpointError, match="has no tokeniser"):
        AdaptiveModel.open(copied)


def test_damaged_information_is_refused(copied):
    (copied / "self_information.f32").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="self_information.f32 cannot be read"):
        AdaptiveModel.open(copied)


def test_classifiers_do_not_generate(model):
    with pytest.raises(UnsupportedBackboneError, match="generates no text"):
        model.stream("a film")


# ---- language models

MEMBERS = {"large": ([2, 2, 2], [12, 6, 12]), "small": ([0, 1, 0], [3, 0, 0]), "middle": ([1, 2, 0], [9, 0, 4])}
# By entropy, then by position: all three members are chosen in a short text.
TREE = ControllerTree(
    (1, 0, LEAF, LEAF, LEAF), (0.59375, 3.9375, 0.0, 0.0, 0.0), (1, 2, LEAF, LEAF, LEAF), (4, 3, LEAF, LEAF, LEAF),
    (LEAF, LEAF, 2, 0, 1),
)  # fmt: skip
VOCABULARY, LENGTH = 97, 20
INFORMATION = [0.05 * i for i in range(VOCABULARY)]  # nats per token


class Letters:
    """A tokeniser of single signs."""

    pad_token_id, eos_token_id, sep_token_id = 0, None, None

    def __call__(self, text):
        return {"input_ids": [ord(c) - 30 for c in text]}

    def decode(self, ids, skip_special_tokens):
        return "".join(chr(i + 30) for i in ids)


def writer(family):
    adapted, shape = tiny_adapted(family, language_model=True)
    network = adapted.get_base_model()
    with torch.no_grad():
        network.lm_head.weight.mul_(2.0)  # so that entropies lie on both sides of the threshold
    subnets = {name: Subnet.prefix(*counts) for name, counts in MEMBERS.items()}
    front = ServedFront((name, s, compact(network, shape, s)) for name, s in subnets.items())
    controller = Controller(TREE, tuple(subnets.values()), names=tuple(subnets), max_length=LENGTH)
    return AdaptiveModel(front, Letters(), controller, INFORMATION)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_stream_chooses_a_member_per_token_as_the_controller_says(family):
    model = writer(family)
    ids = model.tokenizer("prompt")["input_ids"]
    tokens = list(model.stream("prompt", max_new_tokens=14))
    assert len(tokens) == 14
    assert len({token.member for token in tokens}) == 3
    assert "".join(t.text for t in tokens) == model.tokenizer.decode([t.token_id for t in tokens], True)
    switching = Switching(model.front, list(model.front))
    cache, waiting = switching.cache(), ids
    index = model.controller.decide(token_entropy(ids, INFORMATION), len(ids) / LENGTH)
    for token in tokens:
        member = list(model.front)[index]
        assert token.member == member.name
        assert token.fill_flops == switching.fill_flops(member)
        logits = switching.step(torch.tensor([waiting]), cache, member)
        assert token.token_id == int(logits.argmax())
        ids, waiting = [*ids, token.token_id], [token.token_id]
        index = model.controller.decide(distribution_entropy(logits.softmax(-1).tolist()), (len(ids) - 1) / LENGTH)


def test_page_shows_how_to_stream(capsys):
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    (example,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "stream" in block]
    exec(example, {"model": writer("llama")})
    assert len(capsys.readouterr().out) == 40


def test_stream_with_a_named_member_equals_its_generation():
    model = writer("llama")
    ids = model.tokenizer("prompt")["input_ids"]
    expected = model.front.module("small").generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False)[0, 6:]
    tokens = list(model.stream(ids, max_new_tokens=8, member="small"))
    assert [t.token_id for t in tokens] == expected.tolist()
    assert {(t.member, t.fill_flops, t.decision_us) for t in tokens} == {("small", 0, None)}


def test_stream_ends_with_the_end_token_and_with_the_longest_text():
    model = writer("llama")
    free = [t.token_id for t in model.stream("prompt", max_new_tokens=6)]
    model.front.config.eos_token_id = free[2]
    assert [t.token_id for t in model.stream("prompt", max_new_tokens=6)] == free[: free.index(free[2]) + 1]
    model.front.config.eos_token_id = None
    assert len(list(model.stream("p" * 60, max_new_tokens=99))) == 4  # it reads 64 tokens


def test_stream_ends_with_the_end_tokens_of_the_generation_settings():
    model = writer("llama")
    settings = model.front._model.generation_config
    model.front.config.eos_token_id = settings.eos_token_id = None
    free = [t.token_id for t in model.stream("prompt", max_new_tokens=6)]
    assert len(free) == 6
    model.front.config.eos_token_id, settings.eos_token_id = 96, [95, free[2]]
    assert model.front.end_tokens == {96, 95, free[2]}
    assert [t.token_id for t in model.stream("prompt", max_new_tokens=6)] == free[: free.index(free[2]) + 1]


@pytest.mark.parametrize(("prompt", "message"), [([], "has no tokens"), ("", "has no tokens"), ([5, 97], "seen 97")])
def test_prompts_without_tokens_and_unknown_tokens_are_refused(prompt, message):
    with pytest.raises(UsageError, match=message):
        writer("llama").stream(prompt)


@pytest.mark.parametrize("length", [64, 65])
def test_prompt_that_fills_the_context_is_refused(length):
    with pytest.raises(UsageError, match=f"has {length} tokens and the model reads 64"):
        writer("llama").stream("p" * length)
    assert len(list(writer("llama").stream("p" * 63))) == 1


def test_drawn_tokens_depend_on_the_seed_alone():
    model = writer("llama")

    def drawn(seed):
        return [t.token_id for t in model.stream("prompt", max_new_tokens=8, temperature=2.0, seed=seed)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_language_models_give_no_classes():
    with pytest.raises(UnsupportedBackboneError, match="gives no classes"):
        writer("llama").predict(["a"])
