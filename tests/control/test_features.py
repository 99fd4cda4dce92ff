"""Features of whole data sets against those that a device computes one by one, and the table that devices read."""

import math
from pathlib import Path

import numpy as np
import pytest

from metas_peft.control.features import (
    next_token_entropy,
    self_information,
    sequence_features,
    step_features,
    write_information,
)
from metas_peft.control.runtime import distribution_entropy, logits_entropy, read_information
from metas_peft.core.errors import CheckpointError


def test_self_information_of_counted_tokens() -> None:
    information = self_information([[0, 0, 1], [0]], vocabulary=4, smoothing=1.0)
    assert information == pytest.approx(-np.log(np.array([4, 2, 1, 1]) / 8))
    entropy, position = sequence_features([[0, 1], [2]], information, max_length=4)
    assert entropy == pytest.approx([(np.log(2) + np.log(4)) / 2, np.log(8)])
    assert position.tolist() == [0.5, 0.25]


def test_next_token_entropy_is_that_of_the_softmax_in_numpy_and_alone() -> None:
    logits = np.random.default_rng(0).normal(0, 4, (5, 300)).astype(np.float32)
    logits[4] += 80.0  # no overflow
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    expected = [distribution_entropy(row.tolist()) for row in weights / weights.sum(-1, keepdims=True)]
    assert next_token_entropy(logits) == pytest.approx(expected, rel=1e-5)
    assert [logits_entropy(row.tolist()) for row in logits] == pytest.approx(expected, rel=1e-5)


def test_next_token_entropy_at_its_ends() -> None:
    assert next_token_entropy(np.zeros(8)) == pytest.approx(math.log(8))
    sure = np.array([0.0, -math.inf, -2000.0])
    assert next_token_entropy(sure) == 0.0
    assert logits_entropy(sure.tolist()) == 0.0


def test_entropy_of_what_is_no_number_is_no_number() -> None:
    logits = [0.0, math.nan, 1.0]
    assert np.isnan(next_token_entropy(np.array(logits)))
    assert math.isnan(logits_entropy(logits))


def test_steps_have_the_entropy_of_the_step_before_and_their_own_position() -> None:
    logits = np.zeros((3, 4))
    logits[1, 0] = 50.0
    entropy, position = step_features(logits, first=6, max_length=16)
    assert entropy == pytest.approx([math.log(4), 0.0, math.log(4)], abs=1e-6)
    assert position.tolist() == [6 / 16, 7 / 16, 8 / 16]


def test_information_of_a_run_is_read_without_numpy(tmp_path: Path) -> None:
    information = self_information([[0, 1, 1, 3]], vocabulary=5)
    write_information(tmp_path / "self_information.f32", information)
    assert (tmp_path / "self_information.f32").stat().st_size == 20
    assert read_information(tmp_path / "self_information.f32") == information.tolist()


@pytest.mark.parametrize("content", [None, b"", b"abc", np.array([np.nan], "<f4").tobytes()])
def test_damaged_information_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "table.f32").write_bytes(content)
    with pytest.raises(CheckpointError, match="again"):
        read_information(tmp_path / "table.f32")
