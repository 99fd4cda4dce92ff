"""Answers written by a language model: which tokens are judged, what a teacher keeps, and what comes out."""

import pytest
import torch
import torch.nn.functional as F

from metas_peft.backbones import compact, shape_of
from metas_peft.backbones.bytewise import byte_tokenizer
from metas_peft.core.errors import UnsupportedBackboneError
from metas_peft.tasks import PromptExamples
from metas_peft.testing.families import TINY_FAMILIES
from metas_peft.testing.tiny import random_subnet, tiny_adapted, tiny_model
from metas_peft.tuning import objectives
from metas_peft.tuning.objectives import Distillation, DistilledObjective, TaskObjective, Teacher, condensed
from metas_peft.tuning.order import importances
from metas_peft.tuning.writing import UNJUDGED, AnswerCollator, WritingForm, without_middle

TOKENIZER = byte_tokenizer()
PAD, START, END = 256, 257, 258
VOCABULARY = 259
FORM = WritingForm(TOKENIZER, max_new_tokens=6, weighs=True)
EXAMPLES = PromptExamples(
    tuple(f"{'very ' * (n % 4)}short {n}:" for n in range(12)),
    tuple((f"say {n}" * (n % 3 + 1), "or") for n in range(12)),
)
DATA = FORM.encode(TOKENIZER, EXAMPLES, 64)
COLLATOR = FORM.collator(PAD, None)
DECODERS = [family for family, tiny in TINY_FAMILIES.items() if tiny.language_model]


def decoder(family="llama", seed=0):
    return tiny_model(family, seed, language_model=True, vocab_size=VOCABULARY, pad_token_id=PAD)


def adapted_decoder(seed=0):
    return tiny_adapted("llama", seed=seed, language_model=True, vocab_size=VOCABULARY, pad_token_id=PAD)


def batch_of(*rows):
    return COLLATOR([DATA[i] for i in rows])


def by_hand(model, row):
    """Logits before each answer token of one text, and the tokens, without padding or shortcuts."""
    ids, labels = torch.tensor([DATA.ids[row]]), DATA.labels[row]
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[0]
    places = [i for i, label in enumerate(labels) if label != UNJUDGED]
    return logits[[i - 1 for i in places]].float(), torch.tensor([labels[i] for i in places])


# ---- examples


def test_sequence_is_prompt_first_answer_and_end():
    (ids, labels, prompt) = DATA.ids[1], DATA.labels[1], DATA.prompts[1]
    assert TOKENIZER.decode(ids) == "<s>very short 1: say 1say 1</s>"
    assert TOKENIZER.decode(prompt) == "<s>very short 1:"
    assert labels == [UNJUDGED] * len(prompt) + ids[len(prompt) :]
    assert FORM.row_counts(DATA)[1] == len(" say 1say 1") + 1


@pytest.mark.parametrize(("length", "prompt_tokens", "answer_tokens"), [(100, 31, 21), (40, 20, 20), (48, 27, 21)])
def test_what_is_too_long_loses_the_end_of_the_answer_then_the_middle_of_the_prompt(
    length, prompt_tokens, answer_tokens
):
    examples = PromptExamples(("abcdefghijklmnopqrstuvwxyz1234",), (("ABCDEFGHIJKLMNOPQRS",),))
    data = FORM.encode(TOKENIZER, examples, length)
    judged = [label for label in data.labels[0] if label != UNJUDGED]
    assert (len(data.ids[0]) - len(judged), len(judged)) == (prompt_tokens, answer_tokens)
    assert (judged[-1] == END) == (answer_tokens == 21)
    assert data.ids[0][0] == START
    assert TOKENIZER.decode(data.ids[0][:prompt_tokens]).endswith("1234")
    assert len(data.prompts[0]) == min(31, length)


def test_middle_goes_and_both_ends_stay():
    assert without_middle(list(range(20)), 8) == [0, 1, 14, 15, 16, 17, 18, 19]
    assert without_middle([1, 2], 8) == [1, 2]


def test_answer_that_the_tokeniser_merges_with_the_prompt_is_encoded_alone():
    class Merging:
        """Gives the joined text a last prompt token of its own."""

        eos_token_id, sep_token_id = END, None

        def __call__(self, texts, add_special_tokens=True):
            return {"input_ids": [[9] * text.count(" ") + [len(text)] for text in texts]}

    data = WritingForm(Merging(), 4, False).encode(Merging(), PromptExamples(("a b",), (("c d",),)), 64)
    assert data.ids == [[9, 3, 9, 3, END]]


def test_tokeniser_without_an_end_is_refused():
    class Endless:
        eos_token_id = None

    with pytest.raises(UnsupportedBackboneError, match="no end-of-text token"):
        WritingForm(Endless(), 4, False)


def test_collator_pads_labels_with_what_no_loss_looks_at():
    batch = AnswerCollator(PAD, length=9)([{"input_ids": [1, 2, 3], "labels": [UNJUDGED, 2, 3], "index": 4}])
    assert batch["input_ids"].tolist() == [[1, 2, 3] + [PAD] * 6]
    assert batch["labels"].tolist() == [[UNJUDGED, 2, 3] + [UNJUDGED] * 6]
    assert (batch["attention_mask"].sum().item(), batch["index"].tolist()) == (3, [4])


# ---- rows and losses


@pytest.mark.parametrize("family", DECODERS)
def test_rows_are_the_logits_before_each_answer_token(family):
    model, batch = decoder(family), batch_of(5, 0, 11)
    expected = [by_hand(model, row) for row in (5, 0, 11)]
    with torch.no_grad():
        rows = FORM.rows(model, batch)
    assert torch.equal(FORM.targets(batch), torch.cat([targets for _, targets in expected]))
    assert torch.allclose(rows, torch.cat([logits for logits, _ in expected]), atol=2e-4)


def test_loss_is_the_mean_over_answer_tokens():
    model = decoder()
    logits, targets = zip(*(by_hand(model, row) for row in range(4)), strict=True)
    expected = F.cross_entropy(torch.cat(logits), torch.cat(targets))
    with torch.no_grad():
        assert float(TaskObjective(FORM).loss(model, batch_of(0, 1, 2, 3))) == pytest.approx(float(expected), rel=1e-4)


def test_others_together_weigh_what_they_weigh_one_by_one():
    rows = torch.randn(5, 40, generator=torch.Generator().manual_seed(0)) * 3
    tokens = rows.topk(6).indices
    for temperature in (1.0, 2.0):
        soft = (rows / temperature).softmax(-1)
        found = (condensed(rows, tokens, temperature) / temperature).softmax(-1)
        assert torch.allclose(found[:, :6], soft.gather(-1, tokens), atol=1e-6)
        assert torch.allclose(found[:, 6], 1 - soft.gather(-1, tokens).sum(-1), atol=1e-6)


def record(model, width, temperature=2.0, **settings):
    form = WritingForm(TOKENIZER, 6, True)
    form.teacher_width = width
    settings = {"hidden": True, "bf16": False, "progress": False, **settings}
    return Teacher.record(model, DATA, COLLATOR, form=form, temperature=temperature, **settings)


def divergences(width, rows=(3, 8, 0)):
    teacher_model, student = decoder(seed=1), decoder(seed=2)
    batch = batch_of(*rows)
    with torch.no_grad():
        own = FORM.rows(student, batch)
        kept = float(record(teacher_model, width).divergence(own, batch, 2.0))
        p = (torch.cat([by_hand(teacher_model, row)[0] for row in rows]).double() / 2).softmax(-1)
        q = (own.double() / 2).softmax(-1)
    return kept, float((p * (p / q).log()).sum(-1).mean())


def test_divergence_over_the_whole_vocabulary_is_exact():
    kept, exact = divergences(None)
    assert kept == pytest.approx(exact, rel=1e-4)


def test_divergence_of_what_is_kept_grows_to_the_exact_one():
    found = [divergences(width)[0] for width in (1, 16, 64, 200, 258)]
    exact = divergences(None)[1]
    assert found == sorted(found)
    assert found[-1] == pytest.approx(exact, rel=1e-3)
    assert found[2] > 0.3 * exact
    assert all(value <= exact * (1 + 1e-4) for value in found)


def test_teacher_keeps_fewer_logits_where_memory_is_short(monkeypatch):
    rows = sum(FORM.row_counts(DATA))
    monkeypatch.setattr(objectives, "CACHE_LIMIT_GB", rows * 8 * 10 / 1e9)
    teacher = record(decoder(), 64, hidden=False)
    assert teacher.tokens is not None
    assert teacher.tokens.shape == (rows, 10)
    assert teacher.logits.shape == (rows, 11)


def test_teacher_itself_has_nothing_to_learn_from_its_answers():
    adapted, _ = adapted_decoder()
    network = adapted.get_base_model()
    objective = DistilledObjective(network, record(network, 64), Distillation(2.0, 0.0, 1.0, 1.0), FORM)
    with torch.no_grad():
        assert float(objective.loss(adapted, batch_of(*range(12)))) < 1e-4


def test_importance_of_a_head_is_the_slope_of_the_loss_on_answer_tokens():
    adapted, shape = adapted_decoder()
    network = adapted.get_base_model()
    heads, neurons = importances(network, shape, DATA, COLLATOR, batches=1, batch_size=12, seed=0, form=FORM)
    assert heads.shape == (3, shape.n_kv_heads)
    assert neurons.shape == (3, shape.ffn_size)
    assert (heads > 0).all()


# ---- replies


def test_likelihood_is_that_of_the_first_answer():
    model = decoder()
    found = FORM.answer(model, DATA, PAD)["nats"]
    for row in (0, 7, 11):
        logits, targets = by_hand(model, row)
        assert found[row] == pytest.approx(float(F.cross_entropy(logits, targets)), rel=1e-4)


def one_by_one(model, tokens):
    """Greedy replies without cache, padding or batches."""
    texts = []
    for prompt in DATA.prompts:
        ids, reply = list(prompt), []
        while len(reply) < tokens:
            with torch.no_grad():
                token = int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
            if token == END:
                break
            ids.append(token)
            reply.append(token)
        texts.append(TOKENIZER.decode(reply, skip_special_tokens=True).replace("\0", "").strip())
    return texts


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3"])
def test_batches_padded_on_the_left_write_what_single_prompts_write(family):
    model = decoder(family)
    assert FORM.answer(model, DATA, PAD)["text"].tolist() == one_by_one(model, 6)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_compact_models_write_too(family):
    model = decoder(family)
    shape = shape_of(model)
    for seed in range(3):
        small = compact(model, shape, random_subnet(shape, seed))
        assert FORM.answer(small, DATA, PAD)["text"].tolist() == one_by_one(small, 6)


def test_reply_ends_before_its_end():
    class Fixed(torch.nn.Module):
        """Writes A, the end, then B."""

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def generate(self, input_ids, attention_mask, generation_config):
            tail = torch.tensor([[TOKENIZER("A")["input_ids"][-1], END, TOKENIZER("B")["input_ids"][-1]]])
            return torch.cat([input_ids, tail.expand(len(input_ids), -1)], dim=1)

    form = WritingForm(TOKENIZER, 3, False)
    assert set(form.answer(Fixed(), DATA, PAD)["text"].tolist()) == {"A"}
