"""Meters of energy and power: which ones this machine has, why not the others, and how they are read."""

from metas_peft.devices.meters.base import EnergyCounter, MeterReading, PowerSampler
from metas_peft.devices.meters.registry import (
    METERS,
    Meter,
    MeterKind,
    MeterRow,
    check_meters,
    check_options,
    find_meter,
    open_first,
)
from metas_peft.devices.meters.window import Window
from metas_peft.devices.meters.zeus import NvmlCounter, NvmlPower, RaplCounter

__all__ = [
    "METERS",
    "EnergyCounter",
    "Meter",
    "MeterKind",
    "MeterReading",
    "MeterRow",
    "NvmlCounter",
    "NvmlPower",
    "PowerSampler",
    "RaplCounter",
    "Window",
    "check_meters",
    "check_options",
    "find_meter",
    "open_first",
]
