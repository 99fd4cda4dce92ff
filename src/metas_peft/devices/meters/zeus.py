"""Graphics boards and x86 packages, read through Zeus (`pip install "metas-peft[meters]"`), imported when asked for.

Zeus speaks millijoules and milliwatts; both become joules and watts here. Its monitor returns empty values where
there is no meter; so its devices are asked directly, and an absent one is an error that says what to do.

NVML's counter moves every 0.1 s or so, hence windows of 2 s. Of its two power fields the instant one is read: the
other is an average over one second since Ampere (except GA100), which hides peaks.
"""

import importlib
import os
import queue
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from metas_peft.core.errors import MeterPermissionError, MeterUnavailableError
from metas_peft.core.units import J_PER_MJ, J_PER_UJ, W_PER_MW
from metas_peft.devices.meters.base import CounterPower, EnergyCounter, PowerSampler
from metas_peft.devices.nvidia import VISIBLE

RAPL_FOLDER = Path("/sys/class/powercap/intel-rapl")
RAPL_COMMAND = "sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj /sys/class/powercap/intel-rapl:*:*/energy_uj"
INSTALL = 'pip install "metas-peft[meters]"'
BOARD_PERIOD_S = 0.1
BOARD_POWER_PERIOD_S = 0.05
RAPL_PERIOD_S = 0.001
RAPL_POWER_PERIOD_S = 0.05


def zeus_module(module: str) -> Any:
    """A module of Zeus.

    Raises:
        MeterUnavailableError: Zeus is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MeterUnavailableError(
            f"Reading power meters needs Zeus, which is not installed ({error}). Run: {INSTALL}"
        ) from error


def answered(name: str, call: Any, *arguments: Any) -> Any:
    """The answer of a meter; whatever Zeus raises becomes a meter that is not available."""
    base_error: type[Exception] = zeus_module("zeus.exception").ZeusBaseError
    try:
        return call(*arguments)
    except PermissionError as error:
        raise MeterPermissionError(f"{name}: permission denied ({error}).") from error
    except (base_error, OSError, RuntimeError, ValueError, EOFError, queue.Empty) as error:
        kind = MeterPermissionError if "NoPermission" in type(error).__name__ else MeterUnavailableError
        what = str(error).rstrip(".") or type(error).__name__
        raise kind(f"{name} does not answer: {what}. Check that it is there and its driver is loaded.") from error


def _boards(index: int, vendor: str, title: str) -> Any:
    """Zeus' handle on the graphics boards of a vendor, with board `index` among them."""
    module = zeus_module("zeus.device.gpu")
    visible = os.environ.get(VISIBLE, "0")
    if vendor == "NVIDIA" and not visible.replace(",", "").replace(" ", "").isdecimal():
        raise MeterUnavailableError(
            f"{title}: Zeus knows boards by number only, but {VISIBLE} is {visible!r}. Give the number of the whole "
            "board in `nvidia-smi -L`, with CUDA_DEVICE_ORDER=PCI_BUS_ID."
        )
    gpus = answered(title, module.get_gpus)
    if len(gpus) <= index:
        raise MeterUnavailableError(f"{title}: board {index} was asked for, {len(gpus)} can be seen.")
    if type(gpus).__name__ != f"{vendor}GPUs":
        raise MeterUnavailableError(f"{title}: the graphics boards of this machine are not {vendor}'s.")
    return gpus


class _BoardCounter(EnergyCounter):
    """Energy of one graphics board since its driver was loaded."""

    boundary = "board"
    update_period_s = BOARD_PERIOD_S
    vendor: str
    library: str
    newest_without = ""

    def __init__(self, gpus: Any, index: int) -> None:
        self.name = f"{self.library} energy counter, board {index}"
        self._gpus = gpus
        self._index = index

    @classmethod
    def open(cls, index: int = 0) -> Self:
        """Find the board.

        Raises:
            MeterUnavailableError: No board, no driver, or a board without a counter that can be trusted.
        """
        counter = cls(_boards(index, cls.vendor, f"{cls.vendor} board ({cls.library})"), index)
        if not answered(counter.name, counter._gpus.supports_get_total_energy_consumption, index):
            raise MeterUnavailableError(f"{counter.name}: {cls.newest_without}")
        counter.read_j()
        return counter

    def read_j(self) -> Mapping[str, float]:
        """Energy of the board in J."""
        energy_mj = answered(self.name, self._gpus.get_total_energy_consumption, self._index)
        return {f"gpu{self._index}": energy_mj * J_PER_MJ}


class _BoardPower(PowerSampler):
    """Instant power of one graphics board."""

    boundary = "board"
    update_period_s = BOARD_POWER_PERIOD_S
    vendor: str
    library: str

    def __init__(self, gpus: Any, index: int) -> None:
        self.name = f"{self.library} instant power, board {index}"
        self._gpus = gpus
        self._index = index

    @classmethod
    def open(cls, index: int = 0) -> Self:
        """Find the board.

        Raises:
            MeterUnavailableError: No board or no driver.
        """
        sampler = cls(_boards(index, cls.vendor, f"{cls.vendor} board ({cls.library})"), index)
        sampler.read_w()
        return sampler

    def read_w(self) -> float:
        """Power of the board in W."""
        return answered(self.name, self._gpus.get_instant_power_usage, self._index) * W_PER_MW


class NvmlCounter(_BoardCounter):
    """Energy of one NVIDIA board."""

    vendor, library = "NVIDIA", "NVML"
    newest_without = "this board has no energy counter (Volta and newer have)."


class NvmlPower(_BoardPower):
    """Instant power of one NVIDIA board."""

    vendor, library = "NVIDIA", "NVML"


class AmdCounter(_BoardCounter):
    """Energy of one AMD board. Zeus holds the counter against the power when it opens, since some count nonsense."""

    vendor, library = "AMD", "AMD SMI"
    newest_without = (
        "the energy counter of this board does not fit its power (a known fault of some AMD boards). Ask for the "
        "meter amd-power instead."
    )


class AmdPower(_BoardPower):
    """Instant power of one AMD board."""

    vendor, library = "AMD", "AMD SMI"


@dataclass(frozen=True)
class _Zone:
    """A power zone: how its energy is read, in J, and where its counter starts again at zero."""

    read_j: Callable[[], float]
    wrap_j: float | None = None

    @classmethod
    def of_file(cls, zone: Any) -> "_Zone":
        """A zone by Zeus' handle on its files.

        The file is read here: Zeus notices a wrap-around in a process of its own, up to a second late, and gives less
        than before until then.
        """
        path = Path(zone.energy_uj_path)
        return cls(lambda: float(path.read_text()) * J_PER_UJ, zone.max_energy_range_uj * J_PER_UJ)


class RaplCounter(EnergyCounter):
    """Energy of all processor packages, and of their memory where the processor counts it (Intel servers).

    Every process on the machine is in it.

    Args:
        zones: Rail -> its zone.
    """

    boundary = "CPU packages (DRAM where counted), all processes"
    update_period_s = RAPL_PERIOD_S
    name = "RAPL"

    def __init__(self, zones: Mapping[str, _Zone]) -> None:
        self._zones = zones

    @classmethod
    def open(cls) -> "RaplCounter":
        """Find the packages.

        Raises:
            MeterPermissionError: The counters are there but only root may read them.
            MeterUnavailableError: No counters, as in most virtual machines and containers.
        """
        module = zeus_module("zeus.device.cpu")
        if not module.rapl_is_available():
            raise MeterUnavailableError(
                f"RAPL: {RAPL_FOLDER} does not exist here; virtual machines and most containers do not have it."
            )
        try:
            cpus = answered(cls.name, module.get_cpus)
        except MeterPermissionError as error:
            raise MeterPermissionError(f"RAPL: only root may read the counters. Run: {RAPL_COMMAND}") from error
        zones: dict[str, _Zone] = {}
        for position, cpu in enumerate(cpus.cpus):
            # Zeus takes every zone for a package. `psys` of laptops is the whole platform, packages included.
            folder = Path(cpus.rapl_dir) / f"intel-rapl:{cpu.cpu_index}"
            if answered(cls.name, (folder / "name").read_text).startswith("package"):
                zones |= _zones(cpus, position, cpu)
        if not zones:
            raise MeterUnavailableError("RAPL: no package among the power zones of this machine.")
        counter = cls(zones)
        counter.read_j()
        return counter

    def read_j(self) -> Mapping[str, float]:
        """Energy by package and by its memory in J."""
        return {rail: answered(self.name, zone.read_j) for rail, zone in self._zones.items()}

    def wrap_j(self) -> Mapping[str, float]:
        """Ranges of the counters in J."""
        return {rail: zone.wrap_j for rail, zone in self._zones.items() if zone.wrap_j is not None}

    def power(self) -> PowerSampler:
        """Power from the counter's own steps."""
        return CounterPower(self, RAPL_POWER_PERIOD_S)


def _zones(cpus: Any, position: int, cpu: Any) -> dict[str, _Zone]:
    """Zones of one package by rail."""
    package, memory = f"package{position}", f"dram{position}"
    files = getattr(cpu, "rapl_file", None)
    if files is not None:
        return {package: _Zone.of_file(files)} | ({memory: _Zone.of_file(cpu.dram)} if cpu.dram is not None else {})

    # Zeus' daemon reads on behalf of users without permission, and follows the wrap-around itself.
    def ask(part: str) -> float:
        return getattr(cpus.get_total_energy_consumption(position), part) * J_PER_MJ

    found = {package: _Zone(lambda: ask("cpu_mj"))}
    return found | ({memory: _Zone(lambda: ask("dram_mj"))} if cpu.supports_get_dram_energy_consumption() else {})
