import numpy as np
import pytest
from sklearn import metrics as reference

from metas_peft.core.errors import DatasetError
from metas_peft.tasks.metrics import accuracy_scores, confusion, matthews, matthews_scores


@pytest.mark.parametrize(("n_labels", "seed"), [(2, 0), (2, 1), (4, 2)])
def test_scores_agree_with_scikit_learn(n_labels, seed):
    rng = np.random.default_rng(seed)
    true = rng.integers(n_labels, size=200)
    predicted = np.where(rng.random(200) < 0.6, true, rng.integers(n_labels, size=200))
    scores = accuracy_scores(confusion(predicted, true, n_labels))
    assert scores == pytest.approx(
        {
            "accuracy": reference.accuracy_score(true, predicted),
            "balanced_accuracy": reference.balanced_accuracy_score(true, predicted),
            "macro_f1": reference.f1_score(true, predicted, average="macro"),
            "matthews_correlation": reference.matthews_corrcoef(true, predicted),
        }
    )


def test_matthews_is_zero_when_one_side_is_constant():
    assert matthews(confusion([1, 1, 1, 1], [0, 1, 0, 1], 2)) == 0.0


def test_matthews_headline_is_clipped_and_keeps_the_raw_value():
    scores = matthews_scores(confusion([1, 0, 1, 0], [0, 1, 0, 1], 2))
    assert list(scores)[:2] == ["matthews_correlation", "accuracy"]
    assert (scores["matthews_correlation"], scores["matthews_unclipped"], scores["accuracy"]) == (0.0, -1.0, 0.0)


@pytest.mark.parametrize(
    ("predictions", "labels", "message"),
    [
        ([0, 1], [0], "shape"),
        ([0, 2], [0, 1], "prediction of example 1 is 2"),
        ([0, 1], [0, -1], "label of example 1 is -1"),
        ([0.0, float("nan")], [0, 1], "prediction of example 1 is nan"),
        ([0.5, 1], [0, 1], "prediction of example 0 is 0.5"),
    ],
)
def test_confusion_refuses_what_is_no_label_index(predictions, labels, message):
    with pytest.raises(DatasetError, match=message):
        confusion(predictions, labels, 2)
