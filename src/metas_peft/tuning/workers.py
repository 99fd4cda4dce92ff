"""One run by several processes: all train on batches of their own, the first one measures, decides and writes.

What is removed depends on gradients and measurements, which differ in the last digit between processors, and much more
between two measurements. So every decision is the first process's, which `agreed` hands to the others.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState

from metas_peft.core.errors import StoppedError
from metas_peft.core.launched import is_first, processes

T = TypeVar("T")

PATIENCE = timedelta(days=2)  # the others wait while the first one measures and evaluates

_together: list[Any] = []  # the process group of a run, from `joined` until `alone`


@contextmanager
def joined() -> Iterator[None]:
    """Processes that a launcher has started agree inside the block, and leave it together.

    Raises:
        StoppedError: Another process has left it by an error.
    """
    if processes() == 1:
        yield
        return
    PartialState(cpu=not torch.cuda.is_available())  # opens the default group, and takes this process's own GPU
    # A group on the processor: waiting in one of NCCL's would keep a GPU busy that may be the target.
    group: Any = dist.new_group(backend="gloo", timeout=PATIENCE)
    _together.append(group)
    try:
        yield
        with _told():
            dist.barrier(group)
    finally:
        _together.clear()
        dist.destroy_process_group(group)


@contextmanager
def alone() -> Iterator[None]:
    """The first process decides for itself, while the others wait at the end of `joined`."""
    group, _together[:] = list(_together), []
    try:
        yield
    finally:
        _together[:] = group


def agreed(value: T) -> T:
    """The first process's value, in every process; all must ask, in the same order. What others give is ignored.

    Raises:
        StoppedError: Another process has stopped.
    """
    if not _together:
        return value
    box = [value if is_first() else None]
    with _told():
        dist.broadcast_object_list(box, src=0, group=_together[0])
    return box[0]  # type: ignore[return-value]


@contextmanager
def _told() -> Iterator[None]:
    """What a broken connection means, in a sentence."""
    try:
        yield
    except RuntimeError as error:
        raise StoppedError("Another process of this run has stopped; what it says tells why.") from error
