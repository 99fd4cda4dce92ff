"""Scores of predicted labels, by hand: few lines of numpy instead of a second's import."""

from collections.abc import Sequence

import numpy as np

from metas_peft.core.errors import DatasetError

# Headline metrics that are means over examples of a mark in [0, 1].
MEANS = ("accuracy", "exact_match", "rouge_l", "inverse_perplexity")


def confusion(predictions: Sequence[int], labels: Sequence[int], n_labels: int) -> np.ndarray:
    """Counts of (true, predicted) pairs, shape (n_labels, n_labels).

    Raises:
        DatasetError: Nothing to score, lengths differ, or an index is outside the range.
    """
    predicted, true = np.asarray(predictions), np.asarray(labels)
    if predicted.shape != true.shape or predicted.ndim != 1 or not len(true):
        raise DatasetError(
            f"Predictions of shape {predicted.shape} for labels of shape {true.shape}: one index per example is needed."
        )
    for what, values in (("prediction", predicted), ("label", true)):
        # A NaN fails the comparison, so it is caught here too.
        wrong = np.flatnonzero(~((values >= 0) & (values < n_labels) & (values == np.floor(values))))
        if len(wrong):
            raise DatasetError(
                f"The {what} of example {wrong[0]} is {values[wrong[0]]}; 0 to {n_labels - 1} were expected."
            )
    counts = np.zeros((n_labels, n_labels), dtype=np.int64)
    np.add.at(counts, (true.astype(np.int64), predicted.astype(np.int64)), 1)
    return counts


def accuracy(counts: np.ndarray) -> float:
    """Share of right answers."""
    return float(np.trace(counts) / counts.sum())


def balanced_accuracy(counts: np.ndarray) -> float:
    """Mean share of right answers over the labels that occur."""
    occurring = counts.sum(axis=1) > 0
    return float((np.diag(counts)[occurring] / counts.sum(axis=1)[occurring]).mean())


def macro_f1(counts: np.ndarray) -> float:
    """F1 averaged over the labels that occur or are predicted."""
    sizes = counts.sum(axis=0) + counts.sum(axis=1)
    occurring = sizes > 0
    return float((2 * np.diag(counts)[occurring] / sizes[occurring]).mean())


def matthews(counts: np.ndarray) -> float:
    """Matthews correlation in [-1, 1] for any number of labels (Gorodkin 2004); 0 where one side is constant."""
    values = counts.astype(np.float64)
    total, right = values.sum(), np.trace(values)
    true, predicted = values.sum(axis=1), values.sum(axis=0)
    spread = (total**2 - predicted @ predicted) * (total**2 - true @ true)
    return float((right * total - true @ predicted) / np.sqrt(spread)) if spread > 0 else 0.0


def accuracy_scores(counts: np.ndarray) -> dict[str, float]:
    """Accuracy first, with what shows a lopsided classifier beside it."""
    return {
        "accuracy": accuracy(counts),
        "balanced_accuracy": balanced_accuracy(counts),
        "macro_f1": macro_f1(counts),
        "matthews_correlation": matthews(counts),
    }


def matthews_scores(counts: np.ndarray) -> dict[str, float]:
    """Matthews correlation first, clipped to [0, 1] as a quality must be; the unclipped value comes last."""
    correlation = matthews(counts)
    return {
        "matthews_correlation": min(1.0, max(0.0, correlation)),
        "accuracy": accuracy(counts),
        "macro_f1": macro_f1(counts),
        "matthews_unclipped": correlation,
    }
