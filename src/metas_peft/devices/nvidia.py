"""Which of several NVIDIA boards passes run on, as the driver's library knows it.

`CUDA_VISIBLE_DEVICES` says which boards a process sees: by number, or by identifier. CUDA may count them fastest first,
the driver always counts by their place on the bus. So torch is asked for the identifier of its first board, where it
can tell; else the variable decides. Zeus takes the numbers in the variable for the driver's; where that is another
board than torch's, its energy would be that of a board at rest, which is refused.
"""

import importlib
import os
from collections.abc import Mapping
from typing import Any

from metas_peft.core.errors import MeterUnavailableError

VISIBLE = "CUDA_VISIBLE_DEVICES"
UUID_PREFIX, SLICE_PREFIX = "GPU-", "MIG-"


def find_board(nvml: Any, *, environment: Mapping[str, str] | None = None, uuid: str | None = None) -> Any | None:
    """The driver's handle of the board that passes run on; None where the process sees no whole board.

    Args:
        nvml: The module `pynvml`, initialised.
        environment: Where `CUDA_VISIBLE_DEVICES` is looked up; the process's own if absent.
        uuid: Identifier of the board, as torch knows it.

    Raises:
        MeterUnavailableError: Meters of this process would read another board than passes run on.
    """
    environment = environment if environment is not None else os.environ
    visible = environment.get(VISIBLE)
    first = None if visible is None else visible.split(",")[0].strip()
    if first is not None and (not first or first.startswith(SLICE_PREFIX)):
        return None
    if first is not None and not first.isdecimal():
        return nvml.nvmlDeviceGetHandleByUUID(uuid if uuid is not None else _whole(nvml, first))
    metered = nvml.nvmlDeviceGetHandleByIndex(0 if first is None else int(first))
    if uuid is not None and nvml.nvmlDeviceGetUUID(metered) != uuid:
        raise MeterUnavailableError(
            f"NVIDIA: passes run on board {uuid}, but by its number the meter reads {nvml.nvmlDeviceGetUUID(metered)}: "
            "CUDA counts boards in another order than the driver. Run: export CUDA_DEVICE_ORDER=PCI_BUS_ID"
        )
    return metered


def torch_board() -> str | None:
    """Identifier of the first board that torch sees, as the driver writes it; None where it cannot tell."""
    try:
        torch: Any = importlib.import_module("torch")
        if not torch.cuda.is_available():
            return None
        text = str(torch.cuda.get_device_properties(0).uuid)
    except (ImportError, AttributeError, RuntimeError):
        return None
    return text if text.startswith(UUID_PREFIX) else UUID_PREFIX + text


def describe_board() -> str | None:
    """Name and identifier of the first board that torch sees, of any maker; None where it sees none."""
    try:
        torch: Any = importlib.import_module("torch")
        name = str(torch.cuda.get_device_name(0)) if torch.cuda.is_available() else None
    except (ImportError, AssertionError, RuntimeError):
        return None
    return name and " ".join(part for part in (name, torch_board()) if part)


def _whole(nvml: Any, start: str) -> str:
    """The identifier that begins so; CUDA lets it be cut short."""
    for index in range(nvml.nvmlDeviceGetCount()):
        found = str(nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByIndex(index)))
        if found.startswith(start):
            return found
    return start
