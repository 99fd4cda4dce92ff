"""What comes before an answer, and what was replied."""

import numpy as np
import pytest

from metas_peft.tasks.replies import as_array, left_open


@pytest.mark.parametrize(
    ("ids", "expected"), [([5, 6, 3], [5, 6]), ([5, 3, 6], [5, 3, 6]), ([5, 9, 3, 9], [5]), ([3], [3]), ([], [])]
)
def test_prompt_is_left_open_for_an_answer(ids, expected):
    assert left_open(ids, {3, 9, None}) == expected


def test_replies_are_stored_whole_without_pickle():
    found = as_array(["yes", ""], [0.5, float("nan")])
    assert found["text"].tolist() == ["yes", ""]
    assert np.isnan(as_array(["yes"])["nats"]).all()
