"""Features of whole data sets, in numpy: the same numbers that `runtime` computes one by one."""

from collections.abc import Sequence

import numpy as np

from metas_peft.control.runtime import token_entropy


def self_information(sequences: Sequence[Sequence[int]], vocabulary: int, smoothing: float = 1.0) -> np.ndarray:
    """Nats per token of a unigram model of the training set.

    Args:
        sequences: Token ids of the training examples, not padded.
        vocabulary: Size of the vocabulary, `V`.
        smoothing: Added to each count, so that a token never seen has a finite value.

    Returns:
        -ln p(token), float32 (a table for devices), shape (V,).
    """
    counts = np.full(vocabulary, smoothing, dtype=np.float64)
    for sequence in sequences:
        np.add.at(counts, np.asarray(sequence, dtype=np.int64), 1.0)
    return (np.log(counts.sum()) - np.log(counts)).astype(np.float32)


def sequence_features(
    sequences: Sequence[Sequence[int]], information: np.ndarray, max_length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Features of each sequence for an encoder or a prefill.

    Args:
        sequences: Token ids, not padded, N of them.
        information: Nats per vocabulary entry, shape (V,).
        max_length: Tokens at which `position` is 1.

    Returns:
        Token entropy in nats (N,) and position (N,), both float32.
    """
    table = information.tolist()
    entropy = np.array([token_entropy(sequence, table) for sequence in sequences], dtype=np.float32)
    position = np.array([len(sequence) / max_length for sequence in sequences], dtype=np.float32)
    return entropy, position
