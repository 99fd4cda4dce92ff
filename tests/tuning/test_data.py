"""Texts as tensors."""

import os

import numpy as np
import pytest
import torch

from metas_peft.testing.tiny import tiny_model
from metas_peft.testing.tuning import tiny_texts
from metas_peft.tuning.data import Collator, EncodedTexts, batches_by_length, predict
from metas_peft.tuning.kernels import CAPACITY, keep_kernels
from metas_peft.tuning.writing import AnswerCollator


def test_collator_pads_on_the_right_and_masks_the_padding():
    data = EncodedTexts([[5, 6, 7], [8]], [1, 0])
    batch = Collator(pad_token_id=3)([data[0], data[1]])
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 3, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert (batch["labels"].tolist(), batch["index"].tolist()) == ([1, 0], [0, 1])
    assert Collator(3, length=5)([data[1]])["input_ids"].shape == (1, 5)


@pytest.mark.parametrize(
    ("longest", "limit", "width"), [(3, 64, 8), (8, 64, 8), (9, 64, 16), (9, 12, 12), (13, 12, 13)]
)
def test_lengths_are_rounded_up_where_the_longest_text_is_known(longest, limit, width):
    data = EncodedTexts([[5] * longest, [6, 7]], [0, 1])
    batch = Collator(0, limit=limit)([data[0], data[1]])
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, width)
    assert batch["attention_mask"].sum(-1).tolist() == [longest, 2]
    answers = AnswerCollator(0, limit=limit)([{"input_ids": [1, 2], "labels": [1, 2], "index": 0}])
    assert answers["labels"].shape == answers["input_ids"].shape
    assert data.longest == longest


def test_predictions_come_in_the_order_of_the_texts():
    data, model = tiny_texts(70), tiny_model("bert")
    logits = predict(model, data, Collator(0), batch_size=16)
    for index in (0, 13, 69):
        ids = torch.tensor([data.ids[index]])
        with torch.no_grad():
            alone = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
        assert torch.allclose(logits[index], alone, atol=1e-5)


def test_batches_by_length_hold_every_text_once_and_little_padding():
    data = tiny_texts(70)
    batches = list(batches_by_length(data, Collator(0), 16))
    assert sorted(i for b in batches for i in b["index"].tolist()) == list(range(70))
    padding = sum(int((b["attention_mask"] == 0).sum()) for b in batches)
    assert padding < 0.25 * sum(map(len, data.ids))
    assert np.all(np.diff([b["input_ids"].shape[1] for b in batches]) >= 0)


def test_environment_decides_how_many_kernels_are_kept(monkeypatch):
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    monkeypatch.setenv(name, "1")  # so that what was there comes back
    monkeypatch.delenv(name)
    keep_kernels()
    assert os.environ[name] == str(CAPACITY)
    monkeypatch.setenv(name, "7")
    keep_kernels()
    assert os.environ[name] == "7"
