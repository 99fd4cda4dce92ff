"""INA219: a sensor chip on I2C that measures the current through a shunt, for boards without a meter of their own.

Bus voltage is register 2, bits 15 to 3, 4 mV each; shunt voltage is register 1, signed, 10 uV each. Power is their
product by the shunt's resistance, computed here: the chip's own power register adds rounding of its own. It is set to
average 128 conversions of the current (68 ms), so that fast passes do not fall between two looks, and to convert the
voltage once between them: the chip does the one after the other, and is blind to the current meanwhile.

Bus, address and shunt are the user's to say: `--power ina219 --meter-option ina219.shunt_ohm=0.01` and the like.

It measures what flows through it: put it in the supply line of the board under test and let another computer read it.
"""

import importlib
from pathlib import Path
from typing import Any, Protocol

from metas_peft.core.errors import MeasurementError, MeterPermissionError, MeterUnavailableError
from metas_peft.devices.meters.base import PowerSampler

INSTALL = 'pip install "metas-peft[ina219]"'
ENABLE = "sudo raspi-config nonint do_i2c 0 (or load the module i2c-dev)"
PERMIT = 'sudo usermod -aG i2c "$USER", then log in again'
PERIOD_S = 0.069
AVERAGING_S = 0.0681  # 128 conversions of 532 us; one more for the voltage makes 68.6 ms
CONFIG, SHUNT, BUS = 0x00, 0x01, 0x02
# 32 V range, shunt range 320 mV, one conversion of 12 bits for the bus, 128 averaged for the shunt, continuous.
SETTINGS = 0x39FF
SHUNT_STEP_V = 10e-6
BUS_STEP_V = 4e-3
SHUNT_LIMIT = 32_000  # steps: the end of the 320 mV range
MAX_BUS_V = 26.0


class Bus(Protocol):
    """What is used of `smbus2.SMBus`."""

    def read_i2c_block_data(self, i2c_addr: int, register: int, length: int) -> list[int]:
        """Bytes of a register."""
        ...

    def write_i2c_block_data(self, i2c_addr: int, register: int, data: list[int]) -> None:
        """Set bytes of a register."""
        ...


class Ina219Power(PowerSampler):
    """Power through an INA219.

    Args:
        bus: The I2C bus.
        number: Its number, for messages.
        address: Address of the chip.
        shunt_ohm: Resistance of its shunt; 0.1 on most breakout boards.
    """

    update_period_s = PERIOD_S
    averaging_s = AVERAGING_S

    def __init__(self, bus: Bus, number: int, address: int, shunt_ohm: float) -> None:
        self.name = f"INA219 at {address:#04x} on I2C bus {number}"
        self.boundary = f"what flows through its shunt of {shunt_ohm:g} Ohm"
        self.max_power_w = MAX_BUS_V * SHUNT_LIMIT * SHUNT_STEP_V / shunt_ohm
        self._bus = bus
        self._address = address
        self._shunt_ohm = shunt_ohm

    @classmethod
    def open(cls, bus: int = 1, address: int = 0x40, shunt_ohm: float = 0.1) -> "Ina219Power":
        """Find the chip and set it up.

        Args:
            bus: Number of the I2C bus.
            address: Address of the chip.
            shunt_ohm: Resistance of its shunt.

        Raises:
            MeterPermissionError: The bus is there but this user may not use it.
            MeterUnavailableError: No bus, no chip at the address, or `smbus2` is not installed.
        """
        path = Path(f"/dev/i2c-{bus}")
        if not path.exists():
            raise MeterUnavailableError(f"INA219: {path} does not exist. Enable I2C: {ENABLE}.")
        try:
            module: Any = importlib.import_module("smbus2")
        except ImportError as error:
            raise MeterUnavailableError(f"INA219: needs smbus2, which is not installed. Run: {INSTALL}") from error
        try:
            opened = module.SMBus(bus)
        except PermissionError as error:
            raise MeterPermissionError(f"INA219: {path} may not be used. Run: {PERMIT}.") from error
        except OSError as error:
            raise MeterUnavailableError(f"INA219: {path} cannot be opened ({error}). Enable I2C: {ENABLE}.") from error
        return cls.on(opened, bus, address, shunt_ohm)

    @classmethod
    def on(cls, bus: Bus, number: int, address: int, shunt_ohm: float) -> "Ina219Power":
        """Set up a chip on an open bus."""
        sampler = cls(bus, number, address, shunt_ohm)
        try:
            bus.write_i2c_block_data(address, CONFIG, [SETTINGS >> 8, SETTINGS & 0xFF])
        except OSError as error:
            raise MeterUnavailableError(
                f"{sampler.name}: no answer ({error}). Look for its address with: i2cdetect -y {number}"
            ) from error
        if sampler._register(CONFIG) != SETTINGS:
            raise MeterUnavailableError(f"{sampler.name}: the chip there does not keep its settings; is it an INA219?")
        return sampler

    def read_w(self) -> float:
        """Power in W; a current against the arrow of the board is negative, which a window refuses.

        Raises:
            MeasurementError: The shunt's range is exceeded.
        """
        steps = self._register(SHUNT)
        steps -= 0x10000 if steps & 0x8000 else 0
        if abs(steps) >= SHUNT_LIMIT:
            raise MeasurementError(
                f"{self.name}: more than {SHUNT_LIMIT * SHUNT_STEP_V / self._shunt_ohm:.1f} A, the end of its range. "
                "Use a smaller shunt."
            )
        current_a = steps * SHUNT_STEP_V / self._shunt_ohm
        return (self._register(BUS) >> 3) * BUS_STEP_V * current_a

    def _register(self, register: int) -> int:
        try:
            high, low = self._bus.read_i2c_block_data(self._address, register, 2)
        except OSError as error:
            raise MeterUnavailableError(f"{self.name}: no answer ({error}). Check its cable.") from error
        return high << 8 | low
