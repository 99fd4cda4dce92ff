"""Processes that a launcher (`accelerate launch`, `torchrun`) has started together, as its variables tell."""

import os

from metas_peft.core.errors import UsageError


def processes() -> int:
    """How many there are; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def number() -> int:
    """This process's number, from 0."""
    return int(os.environ.get("RANK") or 0) if processes() > 1 else 0


def is_first() -> bool:
    """Whether this is the process that measures, writes and reports."""
    return number() == 0


def refuse_many(what: str, instead: str) -> None:
    """Refuse to be one of several processes.

    Args:
        what: What cannot be shared, the subject of a sentence.
        instead: What to do, a sentence.

    Raises:
        UsageError: There are several.
    """
    if processes() > 1:
        raise UsageError(f"{what} is not for several processes, but this is one of {processes()}. {instead}")
