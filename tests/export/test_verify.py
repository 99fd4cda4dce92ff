"""The check that stands between an artefact and its users must see a wrong number."""

import numpy as np
import pytest
import torch

from metas_peft.core.errors import ExportError
from metas_peft.export.verify import TRIALS, check, compare, runner, trial_batches
from metas_peft.testing.tiny import tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model("bert")


def test_trial_batches_differ_in_size_and_are_padded(model):
    batches = trial_batches(model)
    assert [tuple(b["input_ids"].shape) for b in batches] == list(TRIALS)
    assert [int(b["attention_mask"].sum()) for b in batches] == [8, 36, 9]


def test_model_agrees_with_itself(model):
    agreement = check(compare(model, runner(model)), "It")
    assert (agreement.gap, agreement.same_choice) == (0.0, 1.0)
    assert agreement.scale > 0


@pytest.mark.parametrize("wrong", [0.01, np.nan, np.inf])
def test_wrong_logit_of_one_sequence_is_refused(model, wrong):
    def run(batch):
        logits = runner(model)(batch)
        if len(logits) == 3:
            logits[2, 1] += wrong
        return logits

    for bits in (32, 8) if wrong != 0.01 else (32,):
        with pytest.raises(ExportError, match=f"It answers differently .*{'inf' if wrong != 0.01 else '0.01'}"):
            check(compare(model, run), "It", bits)


def test_quantised_answers_are_reported_not_judged(model):
    agreement = check(compare(model, lambda batch: runner(model)(batch) + 0.5), "It", 8)
    assert agreement.gap == pytest.approx(0.5)


def test_answers_of_another_shape_are_refused(model):
    with pytest.raises(ExportError, match=r"shape \(1, 1\), the model \(1, 2\)"):
        compare(model, lambda batch: runner(model)(batch)[:, :1])


def test_answers_at_padding_do_not_count():
    decoder = tiny_model("gpt2", language_model=True)

    def run(batch):
        logits = runner(decoder)(batch)
        logits[batch["attention_mask"].numpy() == 0] = np.nan
        return logits

    assert check(compare(decoder, run), "It").gap == 0.0


def test_adapter_left_out_is_noticed(model):
    """What a runtime that forgets the attention mask would answer."""

    def run(batch):
        return runner(model)({**batch, "attention_mask": torch.ones_like(batch["input_ids"])})

    with pytest.raises(ExportError, match="answers differently"):
        check(compare(model, run), "It")
