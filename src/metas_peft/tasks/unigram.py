"""How surprising a text is under a unigram model of the training set: a feature known before any pass is run."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from metas_peft.core.errors import DatasetError


@dataclass(frozen=True)
class UnigramModel:
    """Smoothed token frequencies of a training set.

    Attributes:
        surprisal: Self-information of every token id of the vocabulary, in nats, shape (V,).
    """

    surprisal: np.ndarray

    @classmethod
    def fit(cls, sequences: Iterable[Sequence[int]], vocabulary_size: int) -> "UnigramModel":
        """Count token ids, each one more than seen, so that no token is impossible.

        Args:
            sequences: Token ids of the training texts, without padding.
            vocabulary_size: Number of token ids, V.

        Raises:
            DatasetError: A token id lies outside the vocabulary.
        """
        counts = np.ones(vocabulary_size, dtype=np.float64)
        for sequence in sequences:
            np.add.at(counts, _ids(sequence, vocabulary_size), 1.0)
        return cls(np.log(counts.sum()) - np.log(counts))

    def mean_self_information(self, sequence: Sequence[int]) -> float:
        """Mean self-information of a text's tokens in nats; 0 for a text without tokens.

        Args:
            sequence: Token ids without padding.

        Raises:
            DatasetError: A token id lies outside the vocabulary.
        """
        ids = _ids(sequence, len(self.surprisal))
        return float(self.surprisal[ids].mean()) if len(ids) else 0.0


def _ids(sequence: Sequence[int], vocabulary_size: int) -> np.ndarray:
    ids = np.asarray(sequence, dtype=np.int64)
    if len(ids) and not (0 <= ids.min() and ids.max() < vocabulary_size):
        raise DatasetError(
            f"Token ids from {ids.min()} to {ids.max()} for a vocabulary of {vocabulary_size}. "
            "Use the tokeniser that the unigram model was fitted with."
        )
    return ids
