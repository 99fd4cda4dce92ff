"""Devices: simulators of a catalogue, this computer, their meters, and the ledger of measurements. No torch."""

from metas_peft.devices.base import Device, Ledger, Purpose, Specimen
from metas_peft.devices.entry import DeviceEntry
from metas_peft.devices.loading import catalogue, load_entry
from metas_peft.devices.local import LOCAL, LocalDevice
from metas_peft.devices.meters import MeterRow, check_meters
from metas_peft.devices.opening import find_entry, is_file, open_device, open_local
from metas_peft.devices.pools import POOLS, resolve_pool
from metas_peft.devices.protocol import TimingRules
from metas_peft.devices.simulated import SimulatedDevice

__all__ = [
    "LOCAL",
    "POOLS",
    "Device",
    "DeviceEntry",
    "Ledger",
    "LocalDevice",
    "MeterRow",
    "Purpose",
    "SimulatedDevice",
    "Specimen",
    "TimingRules",
    "catalogue",
    "check_meters",
    "find_entry",
    "is_file",
    "load_entry",
    "open_device",
    "open_local",
    "resolve_pool",
]
