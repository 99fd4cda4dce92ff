"""Backbones by name: from a folder, at random, and the sentence when there are none."""

import shutil

import pytest
import torch

from metas_peft.backbones import load, shape_of
from metas_peft.backbones.load import load_backbone, with_padding, without_dropout
from metas_peft.core.errors import BackboneUnavailableError, UnknownNameError, UnsupportedBackboneError
from metas_peft.costs import MINILM
from metas_peft.tasks import TextExamples
from metas_peft.testing.tiny import save_tiny_backbone, tiny_model
from metas_peft.tuning.data import Collator
from metas_peft.tuning.forms import CLASSES

TEXTS = ["a plain film", "not a good film at all", "good", "a film that is good but not plain"]


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setattr(load, "hub_is_reachable", lambda: False)
    monkeypatch.setattr(load, "_is_cached", lambda hub_id: False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_backbone(tmp_path_factory.mktemp("bert"), TEXTS, hidden_dropout_prob=0.3)


def logits(loaded, texts, length=None):
    data = CLASSES.encode(loaded.tokenizer, TextExamples(tuple(texts), (0,) * len(texts)), 16)
    batch = Collator(loaded.tokenizer.pad_token_id, length)([data[i] for i in range(len(data))])
    with torch.no_grad():
        return loaded.model.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


def test_folder_is_loaded_in_float32_without_dropout(folder):
    loaded = load_backbone(str(folder), n_labels=2)
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    assert not any(m.p for m in loaded.model.modules() if isinstance(m, torch.nn.Dropout))
    assert loaded.source == f"folder {folder.name}"


def test_dropout_that_attention_keeps_as_a_number_is_off_too():
    model = tiny_model("llama", attention_dropout=0.5)
    inputs = {"input_ids": torch.randint(3, 90, (2, 9), generator=torch.Generator().manual_seed(0))}
    one, two = (model.train()(**inputs).logits for _ in range(2))
    assert not torch.equal(one, two)
    without_dropout(model)
    one, two = (model.train()(**inputs).logits for _ in range(2))
    assert torch.equal(one, two)


def test_new_head_follows_its_seed_alone(folder, tmp_path):
    headless = tmp_path / "headless"
    loaded = load_backbone(str(folder), n_labels=2)
    loaded.model.base_model.save_pretrained(headless)
    loaded.tokenizer.save_pretrained(headless)

    def head(seed, state):
        torch.manual_seed(state)
        return load_backbone(str(headless), n_labels=4, seed=seed).model.classifier.weight

    assert torch.equal(head(1, 0), head(1, 7))
    assert not torch.equal(head(1, 0), head(2, 0))


def test_stored_head_of_another_task_is_refused_and_not_drawn_anew(folder):
    with pytest.raises(BackboneUnavailableError, match="for 3 classes .*as many classes"):
        load_backbone(str(folder), n_labels=3)


def test_folder_without_a_model_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(BackboneUnavailableError, match="config.json"):
        load_backbone(str(tmp_path), n_labels=2)


def test_folder_without_a_tokeniser_is_refused_in_a_sentence(folder, tmp_path):
    bare = shutil.copytree(folder, tmp_path / "bare")
    for file in bare.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(BackboneUnavailableError, match="has no vocabulary for its tokeniser"):
        load_backbone(str(bare), n_labels=2)


def test_damaged_weights_are_refused_in_a_sentence(folder, tmp_path):
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    weights = (damaged / "model.safetensors").read_bytes()
    (damaged / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(BackboneUnavailableError, match="cannot be loaded"):
        load_backbone(str(damaged), n_labels=2)


def test_tokeniser_without_padding_pads_with_another_special_token(folder):
    loaded = load_backbone(str(folder), n_labels=2)
    loaded.tokenizer.pad_token = None
    model, tokenizer = with_padding(loaded.model, loaded.tokenizer)
    assert tokenizer.pad_token in tokenizer.all_special_tokens
    assert model.config.pad_token_id == tokenizer.pad_token_id is not None


@pytest.mark.parametrize("family", ["bert", "roberta", "llama"])
def test_answer_to_a_text_does_not_depend_on_its_batch(family, tmp_path):
    sizes = {"max_position_embeddings": 64}
    if family == "llama":
        sizes["pad_token_id"] = 1  # another id than the tokeniser's: what the head finds the end of a text by
    folder = save_tiny_backbone(tmp_path / family, TEXTS, family, **sizes)
    loaded = load_backbone(str(folder), n_labels=2)
    together = logits(loaded, TEXTS, length=16)
    for row, text in enumerate(TEXTS):
        assert torch.allclose(together[row], logits(loaded, [text])[0], atol=1e-5)


def test_random_weights_have_the_real_architecture_and_a_word_tokeniser():
    loaded = load_backbone("minilm", n_labels=2, weights="random", texts=TEXTS)
    shape = shape_of(loaded.model, (), MINILM.model_id)
    assert shape == MINILM
    assert loaded.source == "random initialisation"
    assert loaded.tokenizer.tokenize("a good film") == ["a", "good", "film"]


@pytest.mark.parametrize(("name", "words"), [
    ("Llama-2-7B", ["meta-llama/Llama-2-7b-hf", "licence", "pucpr-br/Clinical-BR-LlaMA-2-7B", "model.weights=random"]),
    ("roberta-base", ["FacebookAI/roberta-base", "hub", "model.weights=random"]),
    ("somebody/their-model", ["somebody/their-model", "hub"]),
])  # fmt: skip
def test_missing_weights_are_explained_in_one_paragraph(name, words):
    with pytest.raises(BackboneUnavailableError) as error:
        load_backbone(name, n_labels=2)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_typo_in_a_backbone_names_the_nearest():
    with pytest.raises(UnknownNameError, match="'minilmm'.*did you mean 'minilm'"):
        load_backbone("minilmm", n_labels=2)


# ---- language models


def test_language_model_is_loaded_with_the_head_it_has(tmp_path):
    stored = save_tiny_backbone(tmp_path / "llama", TEXTS, "llama", language_model=True)
    loaded = load_backbone(str(stored), n_labels=None)
    assert type(loaded.model).__name__ == "LlamaForCausalLM"
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    expected = tiny_model("llama", language_model=True, vocab_size=loaded.model.config.vocab_size, pad_token_id=0)
    assert torch.equal(loaded.model.lm_head.weight, expected.lm_head.weight)


def test_tied_head_counts_as_trained(tmp_path):
    stored = save_tiny_backbone(tmp_path / "qwen3", TEXTS, "qwen3", language_model=True, tie_word_embeddings=True)
    model = load_backbone(str(stored), n_labels=None).model
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_head_that_was_not_stored_is_not_made_up(tmp_path):
    stored = save_tiny_backbone(tmp_path / "llama", TEXTS, "llama")
    with pytest.raises(BackboneUnavailableError, match=r"no trained weights for lm_head.weight: it was not stored as"):
        load_backbone(str(stored), n_labels=None)


def test_encoder_is_no_language_model(folder):
    with pytest.raises(UnsupportedBackboneError, match="is an encoder: it cannot write answers"):
        load_backbone(str(folder), n_labels=None)


def test_tiny_decoder_has_no_trained_weights():
    with pytest.raises(BackboneUnavailableError, match=r"Nobody has trained tiny-decoder.*model.weights=random"):
        load_backbone("tiny-decoder", n_labels=None)


def test_tiny_decoder_reads_and_writes_bytes():
    loaded = load_backbone("tiny-decoder", n_labels=None, weights="random", seed=3)
    again = load_backbone("tiny-decoder", n_labels=None, weights="random", seed=3)
    text = "Grüße,\n 7 × 3 = 21\t✓"
    ids = loaded.tokenizer(text)["input_ids"]
    assert len(ids) == len(text.encode()) + 1
    assert loaded.tokenizer.decode(ids, skip_special_tokens=True) == text
    config = loaded.model.config
    assert len(loaded.tokenizer) == config.vocab_size == 259
    assert (config.bos_token_id, config.eos_token_id) == (loaded.tokenizer.bos_token_id, loaded.tokenizer.eos_token_id)
    assert all(torch.equal(a, b) for a, b in zip(loaded.model.parameters(), again.model.parameters(), strict=True))
    assert loaded.source == "random initialisation"
