"""Commands that put things in order when they are told to stop."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from metas_peft.cli.output import say

EXIT_TERMINATED = 143


@contextmanager
def leaving_when_told(message: str) -> Iterator[None]:
    """Let SIGTERM, by which a cluster takes its machine back, end a block as an interruption does.

    Args:
        message: What is said then.
    """

    def leave(number: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not disturb the leaving
        raise SystemExit(EXIT_TERMINATED)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    except SystemExit:
        say(f"Told to stop. {message}")
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
