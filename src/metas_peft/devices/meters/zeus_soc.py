"""Chips that carry everything (Apple silicon, Jetson), read through Zeus (`pip install "metas-peft[meters]"`).

Apple counts energy per block of the chip; the blocks add up. Jetson boards have an INA3221 whose rails do *not* add up:
the input rail contains the others, so it alone is the total. Zeus integrates its power ten times a second.
"""

from collections.abc import Mapping
from typing import Any

from metas_peft.core.errors import MeterUnavailableError
from metas_peft.core.units import J_PER_MJ
from metas_peft.devices.meters.base import CounterPower, EnergyCounter, PowerSampler
from metas_peft.devices.meters.zeus import answered, zeus_module

SOC_PERIOD_S = 0.1
APPLE_BLOCKS = ("cpu_total_mj", "gpu_mj", "gpu_sram_mj", "ane_mj", "dram_mj")
JETSON_PARTS = ("cpu_energy_mj", "gpu_energy_mj")


class _SocCounter(EnergyCounter):
    """Energy of a chip since Zeus began to look."""

    update_period_s = SOC_PERIOD_S
    kind: str
    hint: str

    def __init__(self, soc: Any) -> None:
        self._soc = soc

    @classmethod
    def _find(cls) -> Any:
        module = zeus_module("zeus.device.soc")
        try:
            soc = answered(cls.name, module.get_soc)
        except MeterUnavailableError as error:
            raise MeterUnavailableError(f"{cls.name}: no such chip on this machine. {cls.hint}") from error
        if type(soc).__name__ != cls.kind:
            raise MeterUnavailableError(f"{cls.name}: this machine has another chip. {cls.hint}")
        return soc

    def _values(self) -> Any:
        return answered(self.name, self._soc.get_total_energy_consumption)

    def power(self) -> PowerSampler:
        """Power from the counter's own steps."""
        return CounterPower(self, self.update_period_s)


class AppleCounter(_SocCounter):
    """Energy of an Apple chip: processors, graphics, neural engine and memory, as far as the chip counts them."""

    name = "Apple silicon energy counters"
    boundary = "chip: CPU, GPU, neural engine, DRAM where counted (an estimate by Apple)"
    kind = "AppleSilicon"
    hint = 'It needs macOS on Apple silicon and: pip install "zeus[apple]"'

    @classmethod
    def open(cls) -> "AppleCounter":
        """Find the chip.

        Raises:
            MeterUnavailableError: Not an Apple chip, or its library is missing.
        """
        counter = cls(cls._find())
        counter.read_j()
        return counter

    def read_j(self) -> Mapping[str, float]:
        """Energy by block in J."""
        values = self._values()
        found = {block: getattr(values, block) for block in APPLE_BLOCKS}
        rails = {b.removesuffix("_mj"): mj * J_PER_MJ for b, mj in found.items() if mj is not None}
        if not rails:
            raise MeterUnavailableError(f"{self.name}: the chip counts none of {', '.join(APPLE_BLOCKS)}.")
        return rails


class JetsonCounter(_SocCounter):
    """Energy of a Jetson module: its input rail, or processors and graphics where it has no such rail."""

    name = "Jetson INA3221"
    kind = "Jetson"
    hint = "It needs a Jetson board with an INA3221 (the 2 GB Nano has none)."

    def __init__(self, soc: Any, fields: tuple[str, ...]) -> None:
        super().__init__(soc)
        self._fields = fields
        is_whole = fields == ("total_energy_mj",)
        self.boundary = "module input rail" if is_whole else "CPU and GPU rails only; no input rail on this board"

    @classmethod
    def open(cls) -> "JetsonCounter":
        """Find the board and choose rails that do not contain each other.

        Raises:
            MeterUnavailableError: Not a Jetson, or one without rails that can be read.
        """
        soc = cls._find()
        values = answered(cls.name, soc.get_total_energy_consumption)
        if values.total_energy_mj is not None:
            return cls(soc, ("total_energy_mj",))
        parts = tuple(field for field in JETSON_PARTS if getattr(values, field) is not None)
        if not parts:
            raise MeterUnavailableError(f"{cls.name}: no rail can be read. {cls.hint}")
        return cls(soc, parts)

    def read_j(self) -> Mapping[str, float]:
        """Energy by rail in J."""
        values = self._values()
        return {field.removesuffix("_energy_mj"): getattr(values, field) * J_PER_MJ for field in self._fields}
