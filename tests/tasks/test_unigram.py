import math

import numpy as np
import pytest

from metas_peft.core.errors import DatasetError
from metas_peft.tasks import UnigramModel


@pytest.fixture
def model() -> UnigramModel:
    """Counts 3, 1, 0, 0 over four tokens, each one more after smoothing: 4/8, 2/8, 1/8, 1/8."""
    return UnigramModel.fit([[0, 0, 1], [0]], vocabulary_size=4)


def test_surprisal_is_minus_log_of_smoothed_frequency(model):
    assert model.surprisal == pytest.approx([math.log(2), math.log(4), math.log(8), math.log(8)])
    assert np.exp(-model.surprisal).sum() == pytest.approx(1.0)


def test_mean_self_information_is_in_nats_per_token(model):
    assert model.mean_self_information([0, 3]) == pytest.approx(2 * math.log(2))
    assert model.mean_self_information([0, 0, 0]) == pytest.approx(math.log(2))


def test_mean_self_information_of_nothing_is_zero(model):
    assert model.mean_self_information([]) == 0.0


def test_token_outside_the_vocabulary_is_refused(model):
    with pytest.raises(DatasetError, match="Token ids from 1 to 4 for a vocabulary of 4"):
        model.mean_self_information([1, 4])
    with pytest.raises(DatasetError, match="Token ids from -1"):
        UnigramModel.fit([[-1]], vocabulary_size=4)
