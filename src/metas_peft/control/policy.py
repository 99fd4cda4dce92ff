"""The policy that the tree replaces: per input, the cheapest member that answers as the largest does.

It needs no labels, only every member's answer, and so it can be recorded on any text; but it costs all members'
passes, which is why a tree takes its place.
"""

from collections.abc import Sequence

import numpy as np

from metas_peft.core.errors import InvalidRecordError


def cheapest_agreeing(answers: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """Choice of the policy for each recorded input.

    Args:
        answers: Each member's answer (a class, a token), shape (M, N).
        order: Members from cheapest to dearest, by measured cost; the last is the largest, whose answer counts.

    Returns:
        Index of the chosen member (a row of `answers`), shape (N,).

    Raises:
        InvalidRecordError: `order` does not name every member once.
    """
    answers = np.asarray(answers)
    if answers.ndim != 2 or sorted(order) != list(range(len(answers))):
        raise InvalidRecordError(
            f"The order {list(order)} must name each of the {len(answers)} members once, cheapest first."
        )
    ranked = np.asarray(order)
    agrees = answers[ranked] == answers[ranked[-1]]
    return ranked[agrees.argmax(axis=0)]
