"""The INA219 against register values worked out by hand from its data sheet."""

import sys
import types
from pathlib import Path

import pytest

from metas_peft.core.errors import (
    MeasurementError,
    MeterPermissionError,
    MeterUnavailableError,
    UnknownNameError,
    UsageError,
)
from metas_peft.devices import open_local
from metas_peft.devices.host import Host
from metas_peft.devices.meters import check_meters, ina219
from metas_peft.devices.meters.ina219 import Ina219Power

HOST = Host("Test CPU", 4, 2.0, 10.0, "a test")


class FakeBus:
    """A chip at 0x40: registers as the wire carries them, high byte first."""

    def __init__(self, shunt=0, bus=0, address=0x40):
        self.address = address
        self.registers = {0: 0x399F, 1: shunt, 2: bus}
        self.is_gone = False

    def read_i2c_block_data(self, address, register, length):
        if self.is_gone or address != self.address:
            raise OSError(121, "Remote I/O error")
        assert length == 2
        return [self.registers[register] >> 8, self.registers[register] & 0xFF]

    def write_i2c_block_data(self, address, register, data):
        if address != self.address:
            raise OSError(121, "Remote I/O error")
        self.registers[register] = data[0] << 8 | data[1]


@pytest.mark.parametrize(
    ("shunt", "bus", "shunt_ohm", "watts"),
    [
        # 100 mV on 0.1 Ohm is 1 A; 5.1 V is 1275 steps of 4 mV, above three status bits.
        (10_000, 1275 << 3 | 0b010, 0.1, 5.1),
        # 12.34 mV is 123.4 mA; at 5 V.
        (1_234, 1250 << 3, 0.1, 0.617),
        # 10 mOhm: ten times the current.
        (1_234, 1250 << 3, 0.01, 6.17),
        (0, 1250 << 3, 0.1, 0.0),
        # Two's complement: -0.1 mV.
        (0x10000 - 10, 1250 << 3, 0.1, -0.005),
    ],
)
def test_power_is_bus_voltage_times_shunt_current(shunt, bus, shunt_ohm, watts):
    sampler = Ina219Power.on(FakeBus(shunt, bus), 1, 0x40, shunt_ohm)
    assert sampler.read_w() == pytest.approx(watts)


def test_chip_averages_the_current_and_hardly_ever_looks_away():
    bus = FakeBus()
    sampler = Ina219Power.on(bus, 1, 0x40, 0.1)
    conversions = {0b0011: 1, 0b1111: 128}
    assert bus.registers[0] & 0b1_1_1_11_0000_0000_111 == 0b0_0_1_11_0000_0000_111
    for_voltage, for_current = conversions[bus.registers[0] >> 7 & 15], conversions[bus.registers[0] >> 3 & 15]
    assert sampler.averaging_s == pytest.approx(for_current * 532e-6, rel=0.001)
    # The chip does the one after the other: its cycle is no longer than the time between two values.
    assert (for_voltage + for_current) * 532e-6 == pytest.approx(sampler.update_period_s, rel=0.01)
    assert sampler.min_window_s > 20 * sampler.averaging_s


def test_shunt_at_the_end_of_its_range_is_refused():
    sampler = Ina219Power.on(FakeBus(32_000, 1250 << 3), 1, 0x40, 0.1)
    with pytest.raises(MeasurementError, match=r"more than 3.2 A"):
        sampler.read_w()


def test_chip_that_disappears_is_said():
    bus = FakeBus(1000, 1250 << 3)
    sampler = Ina219Power.on(bus, 1, 0x40, 0.1)
    bus.is_gone = True
    with pytest.raises(MeterUnavailableError, match="Check its cable"):
        sampler.read_w()


def test_wrong_address_says_how_to_look_for_it():
    with pytest.raises(MeterUnavailableError, match="i2cdetect -y 1"):
        Ina219Power.on(FakeBus(), 1, 0x41, 0.1)


def test_other_chip_is_refused():
    bus = FakeBus()
    bus.write_i2c_block_data = lambda *arguments: None
    with pytest.raises(MeterUnavailableError, match="is it an INA219"):
        Ina219Power.on(bus, 1, 0x40, 0.1)


def test_absent_bus_says_how_to_enable_it():
    with pytest.raises(MeterUnavailableError, match="do_i2c 0"):
        Ina219Power.open(bus=99)


def test_bus_address_and_shunt_are_the_users_to_say(present_bus, monkeypatch):
    numbers, bus = [], FakeBus(1000, 1250 << 3, address=0x41)
    monkeypatch.setitem(
        sys.modules, "smbus2", types.SimpleNamespace(SMBus=lambda number: numbers.append(number) or bus)
    )
    options = {"ina219.bus": "7", "ina219.address": "0x41", "ina219.shunt_ohm": "0.01"}
    local = open_local(power="ina219", meter_options=options, host=HOST)
    assert numbers == [7]
    assert local.meters == ("INA219 at 0x41 on I2C bus 7 (what flows through its shunt of 0.01 Ohm)",)
    (row,) = [row for row in check_meters(options) if row.meter == "ina219"]
    assert row.works
    assert numbers == [7, 7]


@pytest.mark.parametrize(
    ("power", "key", "value", "error", "message"),
    [
        ("ina219", "ina219.shunt", "1", UnknownNameError, "did you mean 'ina219.shunt_ohm'"),
        ("ina219", "ina219.shunt_ohm", "0", UsageError, "a number above 0"),
        ("ina219", "ina219.shunt_ohm", "nan", UsageError, "a number above 0"),
        ("ina219", "ina219.shunt_ohm", "R100", UsageError, "ina219.shunt_ohm=R100"),
        ("ina219", "ina219.address", "4x", UsageError, "such as 1 or 0x40"),
        ("modelled", "ina219.bus", "1", UsageError, "--power ina219"),
    ],
)
def test_option_of_a_meter_that_makes_no_sense_is_named(power, key, value, error, message):
    with pytest.raises(error, match=message):
        open_local(power=power, meter_options={key: value}, host=HOST)


@pytest.fixture
def present_bus(monkeypatch):
    class Present(type(Path())):
        def exists(self, **options):
            return True

    monkeypatch.setattr(ina219, "Path", Present)


def test_bus_without_permission_gives_the_command(present_bus, monkeypatch):
    def refuse(number):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setitem(sys.modules, "smbus2", types.SimpleNamespace(SMBus=refuse))
    with pytest.raises(MeterPermissionError, match="usermod -aG i2c"):
        Ina219Power.open()


def test_library_that_is_not_installed_is_said(present_bus, monkeypatch):
    monkeypatch.setitem(sys.modules, "smbus2", None)
    with pytest.raises(MeterUnavailableError, match="pip install"):
        Ina219Power.open()
