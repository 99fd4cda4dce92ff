"""Features of whole data sets, in numpy: the same numbers that `runtime` computes one by one."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from metas_peft.control.runtime import token_entropy
from metas_peft.core.files import replacing


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


def write_information(path: Path, information: np.ndarray) -> None:
    """Store nats per vocabulary entry for devices: 32-bit floats, least byte first, nothing else.

    Raises:
        OutputError: The file cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(np.asarray(information, dtype="<f4").tobytes())


def next_token_entropy(logits: np.ndarray) -> np.ndarray:
    """Shannon entropy of next-token distributions, the feature of causal decoding.

    Args:
        logits: One distribution per row, shape (..., V).

    Returns:
        Nats, float32, shape (...).
    """
    shifted = np.asarray(logits, np.float64)
    shifted = shifted - shifted.max(axis=-1, keepdims=True)
    weights = np.exp(shifted)
    total = weights.sum(axis=-1)
    # 0 * -inf is no number, but a token that cannot come adds nothing.
    parts = np.where(weights > 0, weights * np.where(weights > 0, shifted, 0.0), 0.0)
    return np.maximum(np.log(total) - parts.sum(axis=-1) / total, 0.0).astype(np.float32)


def step_features(logits: np.ndarray, first: int, max_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of decoding steps, each from what the step before it said.

    Args:
        logits: Of the step before each of `S` steps, shape (S, V).
        first: Index in the sequence of the first of these steps' tokens.
        max_length: Tokens at which `position` is 1.

    Returns:
        Entropy in nats (S,) and position (S,), both float32.
    """
    entropy = next_token_entropy(logits)
    return entropy, (np.arange(first, first + len(entropy)) / max_length).astype(np.float32)
