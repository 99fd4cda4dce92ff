"""The computer that does the measuring, in words that tell it from others."""

import platform

from metas_peft.devices.host import describe_host
from metas_peft.devices.meters.registry import CUDA, ROCM
from metas_peft.devices.nvidia import describe_board


def describe_machine(runtime: str = "") -> str:
    """The computer, with its board where passes of the runtime run on one.

    Without the board, records of another one in the same computer would pass for its own.
    """
    host = describe_host()
    board = describe_board() if runtime in (CUDA, ROCM) else None
    parts = [host.model_name, f"{host.processors} processors", f"{platform.system()} {platform.machine()}", board]
    return ", ".join(part for part in parts if part)
