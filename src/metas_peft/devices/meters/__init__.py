"""Meters of energy and power: which ones this machine has, and why not the others."""

from collections.abc import Callable
from dataclasses import dataclass

from metas_peft.core.errors import MeterPermissionError, MeterUnavailableError
from metas_peft.core.units import MS_PER_S
from metas_peft.devices.meters.base import EnergyCounter, MeterReading, PowerSampler, Window
from metas_peft.devices.meters.zeus import (
    NVML_PERIOD_S,
    NVML_POWER_PERIOD_S,
    RAPL_COMMAND,
    RAPL_PERIOD_S,
    NvmlCounter,
    NvmlPower,
    RaplCounter,
)

__all__ = [
    "EnergyCounter",
    "MeterReading",
    "MeterRow",
    "NvmlCounter",
    "NvmlPower",
    "PowerSampler",
    "RaplCounter",
    "Window",
    "check_meters",
]


@dataclass(frozen=True)
class MeterRow:
    """One meter as a table for people shows it.

    Attributes:
        name: The meter.
        works: Whether it answered just now.
        why_not: What it said, empty if it works.
        permission: What it takes to read it.
        update_period_ms: Time between two values; None where there is no such thing.
        origin: What its numbers may call themselves.
    """

    name: str
    works: bool
    why_not: str
    permission: str
    update_period_ms: float | None
    origin: str


def check_meters() -> list[MeterRow]:
    """Ask every meter that the project knows, once."""
    probes: list[tuple[str, Callable[[], object], str, float]] = [
        ("NVIDIA energy counter (NVML)", NvmlCounter.open, "none", NVML_PERIOD_S),
        ("NVIDIA instant power (NVML)", NvmlPower.open, "none", NVML_POWER_PERIOD_S),
        ("CPU package energy (RAPL)", RaplCounter.open, f"root, or once: {RAPL_COMMAND}", RAPL_PERIOD_S),
    ]
    rows = [_row(name, probe, permission, period_s) for name, probe, permission, period_s in probes]
    rows.append(
        MeterRow("utilisation model (no meter: CPU time and range of power)", True, "", "none", None, "modelled")
    )
    return rows


def _row(name: str, probe: Callable[[], object], permission: str, period_s: float) -> MeterRow:
    why_not = ""
    try:
        probe()
    except MeterPermissionError as error:
        why_not = f"permission: {error}"
    except MeterUnavailableError as error:
        why_not = str(error)
    return MeterRow(name, not why_not, why_not, permission, period_s * MS_PER_S, "measured")
