"""What a model replied to prompts, as one array: it can be stacked, stored without pickle, and compared."""

from collections.abc import Collection, Sequence

import numpy as np

NOT_ASKED = float("nan")


def as_array(texts: Sequence[str], nats: Sequence[float] | None = None) -> np.ndarray:
    """Replies to N prompts.

    Args:
        texts: What was written to each prompt; empty texts where nothing was to be written.
        nats: Mean negative log-likelihood per token of each prompt's first reference; None where it was not computed.

    Returns:
        Shape (N,), with the fields `text` and `nats`.
    """
    width = max((1, *map(len, texts)))
    measured = [NOT_ASKED] * len(texts) if nats is None else nats
    return np.array(list(zip(texts, measured, strict=True)), dtype=[("text", f"U{width}"), ("nats", "f8")])


def left_open(ids: Sequence[int], closing: Collection[int | None]) -> list[int]:
    """Token ids of a prompt without the tokens by which a tokeniser closes a text: an answer follows."""
    end = len(ids)
    while end > 1 and ids[end - 1] in closing:
        end -= 1
    return list(ids[:end])
