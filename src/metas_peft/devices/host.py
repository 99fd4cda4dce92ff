"""This computer: its processor, how many threads it has, and the range of power a model may assume for it.

The range is for the processors that this system sees. A virtual machine that sees 4 of 128 threads of a package is
charged 4/128 of the package: that is a convention, not a measurement, and everything computed from it is `modelled`.
"""

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class PackagePower:
    """Power of one processor package.

    Attributes:
        pattern: Regular expression that its model name matches.
        idle_w: Power at rest; assumed, vendors do not publish it.
        limit_w: The vendor's thermal design power.
        threads: Logical processors of the package.
    """

    pattern: str
    idle_w: float
    limit_w: float
    threads: int


# Thermal design power and threads: vendors' specification pages. Idle: assumptions in proportion to published cases.
PACKAGES = (
    PackagePower(r"EPYC 7763", 85.0, 280.0, 128),
    PackagePower(r"EPYC 9654", 100.0, 360.0, 192),
    PackagePower(r"EPYC 7742", 75.0, 225.0, 128),
    PackagePower(r"Xeon.* W-2123", 20.0, 120.0, 8),
    PackagePower(r"Xeon.* Gold 6248 ", 40.0, 150.0, 40),
    PackagePower(r"Xeon.* Platinum 8480", 90.0, 350.0, 112),
    PackagePower(r"Core.* i7-12700 ", 10.0, 65.0, 20),
    PackagePower(r"Core.* i7-8700K", 8.0, 95.0, 12),
    PackagePower(r"Core.* i5-8250U", 2.0, 15.0, 8),
    PackagePower(r"Ryzen 9 5950X", 20.0, 105.0, 32),
    PackagePower(r"Ryzen 7 5800X ", 18.0, 105.0, 16),
    PackagePower(r"Cortex-A72|BCM2711|Raspberry Pi 4", 2.1, 6.4, 4),
)
# For every other processor, per logical processor; between a laptop (1 to 2 W) and a desktop (6 to 9 W).
DEFAULT_IDLE_W = 1.0
DEFAULT_LIMIT_W = 4.0


@dataclass(frozen=True)
class Host:
    """A computer as far as measuring on it goes.

    Attributes:
        model_name: Name of the processor.
        processors: Logical processors that the system sees.
        idle_w: Power at rest of those processors, for the utilisation model.
        limit_w: Power when all of them work.
        power_note: Where these two come from.
    """

    model_name: str
    processors: int
    idle_w: float
    limit_w: float
    power_note: str


def describe_host(cpuinfo: str | None = None) -> Host:
    """What is known of this computer.

    Args:
        cpuinfo: Text in the form of `/proc/cpuinfo`; read from there if absent.
    """
    if cpuinfo is None:
        cpuinfo = CPUINFO.read_text(encoding="utf-8", errors="replace") if CPUINFO.exists() else ""
    fields = _fields(cpuinfo)
    name = next((fields[k] for k in ("Model", "model name", "Hardware") if fields.get(k)), "") or platform.processor()
    name = name or platform.machine() or "unknown processor"
    processors = len(re.findall(r"^processor\s*:", cpuinfo, flags=re.MULTILINE)) or os.cpu_count() or 1
    for package in PACKAGES:
        if re.search(package.pattern, name + " "):
            share = processors / package.threads
            note = (
                f"{processors} of {package.threads} threads of a package of {package.limit_w:g} W (vendor), "
                f"{package.idle_w:g} W idle (assumed)"
            )
            return Host(name, processors, package.idle_w * share, package.limit_w * share, note)
    note = f"assumed {DEFAULT_IDLE_W:g} W idle and {DEFAULT_LIMIT_W:g} W busy per processor, {processors} processors"
    return Host(name, processors, DEFAULT_IDLE_W * processors, DEFAULT_LIMIT_W * processors, note)


def _fields(cpuinfo: str) -> Mapping[str, str]:
    """The first value of each key."""
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip(), value.strip())
    return fields
