"""Named pools of devices to learn from, and the guard that keeps the target out of them."""

import logging
from collections.abc import Sequence
from types import MappingProxyType

from metas_peft.core.errors import UnknownNameError, nearest
from metas_peft.devices.loading import catalogue

logger = logging.getLogger(__name__)

# The six of the source's run files; the target among them is dropped on use. The four of its design document.
POOLS = MappingProxyType(
    {
        "six": ("rtx-a6000", "jetson-orin-nx", "macbook-m2", "iphone-15", "pixel-8", "raspberry-pi-4"),
        "four": ("rtx-a6000", "jetson-orin-nx", "macbook-m2", "iphone-15"),
    }
)


def resolve_pool(names: str | Sequence[str], target: str) -> tuple[list[str], list[str]]:
    """Canonical names of a pool without the target, which must stay unseen.

    Args:
        names: Name of a pool, or names and aliases of devices.
        target: Name or alias of the target; one outside the catalogue (such as `local`) is in no pool.

    Returns:
        Devices kept, without repetition and in order, and devices dropped because they are the target.

    Raises:
        UnknownNameError: A pool or device has no such name.
    """
    if isinstance(names, str):
        if names not in POOLS:
            raise UnknownNameError(f"Unknown pool {names!r}: {nearest(names, POOLS)}")
        names = POOLS[names]
    devices = catalogue()
    unseen = devices.resolve(target) if target in devices else target
    kept: list[str] = []
    dropped: list[str] = []
    for name in names:
        device = devices.resolve(name)
        if device == unseen:
            logger.warning(
                "The pool lists %s, which is the target %s; it is dropped, so that the target stays unseen.",
                name,
                target,
            )
        chosen = dropped if device == unseen else kept
        if device not in chosen:
            chosen.append(device)
    return kept, dropped
