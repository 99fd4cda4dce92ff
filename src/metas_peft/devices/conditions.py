"""Temperature, clocks, power mode and throttling of this computer, as far as it tells.

Nothing here needs a permission, and nothing is guessed: what the machine does not tell is None. A virtual machine
usually tells none of it. Throttling is read from what the machine itself counts or reports, not inferred from slow
passes, which other programs cause as well.
"""

import importlib
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metas_peft.core.errors import MeterUnavailableError
from metas_peft.core.records import Conditions
from metas_peft.core.units import W_PER_MW
from metas_peft.devices.nvidia import find_board, torch_board

logger = logging.getLogger(__name__)

C_PER_MILLI = 1e-3
MHZ_PER_KHZ = 1e-3
# Sensors of the chip itself, best first; boards have many others (disks, batteries, wireless).
CHIP_SENSORS = (
    "coretemp",
    "k10temp",
    "zenpower",
    "cpu_thermal",
    "cpu-thermal",
    "soc_thermal",
    "x86_pkg_temp",
    "CPU-therm",
)
# Raspberry Pi, bits of get_throttled: 0 to 3 are now, 16 to 19 since boot; voltage, clock cap, throttled, soft limit.
PI_NOW, PI_EVER = 0xF, 16
# NVML: software power cap, hardware slowdown, software thermal, hardware thermal, power brake. An idle or
# application-limited clock is none of them.
NVML_THROTTLING = {0x4: "power cap", 0x8: "hardware slowdown", 0x20: "heat", 0x40: "heat", 0x80: "power brake"}


@dataclass(frozen=True)
class State:
    """What a machine tells of itself at one moment.

    Attributes:
        temperature_c: Of the chip.
        clock_mhz: Mean over processors, or of the accelerator.
        power_mode: Governor, power profile, limit.
        throttle_events: A count, or a time, that rises when the machine throttles.
        is_throttling: Whether it says that it throttles now.
        has_throttled: Whether it has since it was started; once it has, this tells nothing new.
        load_average: Runnable processes, mean of a minute.
    """

    temperature_c: float | None = None
    clock_mhz: float | None = None
    power_mode: str = ""
    throttle_events: int | None = None
    is_throttling: bool | None = None
    has_throttled: bool | None = None
    load_average: float | None = None


class ConditionProbe(ABC):
    """Reads the state of a machine."""

    @abstractmethod
    def read(self) -> State:
        """The state now."""


def between(before: State, after: State) -> Conditions:
    """Conditions of what was done between two states."""
    clocks = [s.clock_mhz for s in (before, after) if s.clock_mhz is not None]
    loads = [s.load_average for s in (before, after) if s.load_average is not None]
    # Both looks are outside of the passes: only what is counted meanwhile can say no.
    signs = [True for s in (before, after) if s.is_throttling]
    if before.throttle_events is not None and after.throttle_events is not None:
        signs.append(after.throttle_events > before.throttle_events)
    if before.has_throttled is False and after.has_throttled is not None:
        signs.append(after.has_throttled)
    return Conditions(
        temperature_before_c=before.temperature_c,
        temperature_after_c=after.temperature_c,
        clock_mhz=sum(clocks) / len(clocks) if clocks else None,
        power_mode=after.power_mode,
        is_throttled=any(signs) if signs else None,
        load_average=max(loads) if loads else None,
    )


def open_probe(*, is_nvidia: bool = False) -> ConditionProbe:
    """The probe for passes on the processor, or on the first NVIDIA board that this process sees.

    Raises:
        MeterUnavailableError: Meters of this process would read another board than passes run on.
    """
    if is_nvidia:
        probe = NvidiaProbe.find()
        if probe is not None:
            return probe
        logger.info("The NVIDIA driver's library is not there; temperature and clocks are those of the processor.")
    return HostProbe()


class HostProbe(ConditionProbe):
    """The processor, from the files of the Linux kernel.

    Args:
        root: Where `proc` and `sys` are.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def read(self) -> State:
        """The state now."""
        throttled = self._pi_flags()
        return State(
            temperature_c=self._temperature_c(),
            clock_mhz=self._clock_mhz(),
            power_mode=self._power_mode(),
            throttle_events=self._throttle_events(),
            is_throttling=None if throttled is None else bool(throttled & PI_NOW),
            has_throttled=None if throttled is None else bool(throttled >> PI_EVER),
            load_average=_first_number(self._text("proc/loadavg")),
        )

    def _temperature_c(self) -> float | None:
        sensors: dict[str, list[float]] = {}
        for name in self._root.glob("sys/class/hwmon/hwmon*/name"):
            values = _numbers(name.parent.glob("temp*_input"))
            sensors.setdefault(_read(name), []).extend(values)
        for kind in self._root.glob("sys/class/thermal/thermal_zone*/type"):
            sensors.setdefault(_read(kind), []).extend(_numbers([kind.parent / "temp"]))
        for chip in CHIP_SENSORS:
            if sensors.get(chip):
                return max(sensors[chip]) * C_PER_MILLI
        return None

    def _clock_mhz(self) -> float | None:
        khz = _numbers(self._root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"))
        return sum(khz) / len(khz) * MHZ_PER_KHZ if khz else None

    def _power_mode(self) -> str:
        cpu = self._root / "sys/devices/system/cpu/cpu0/cpufreq"
        found = {
            "governor": _read(cpu / "scaling_governor"),
            "preference": _read(cpu / "energy_performance_preference"),
            "profile": _read(self._root / "sys/firmware/acpi/platform_profile"),
            "nvpmodel": _read(self._root / "var/lib/nvpmodel/status"),
            "battery": _read(self._root / "sys/class/power_supply/BAT0/status"),
        }
        return ", ".join(f"{name} {value}" for name, value in found.items() if value)

    def _throttle_events(self) -> int | None:
        cores = self._root.glob("sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/*_throttle_count")
        counts = _numbers(cores)
        return int(sum(counts)) if counts else None

    def _pi_flags(self) -> int | None:
        for path in self._root.glob("sys/devices/platform/soc/*firmware/get_throttled"):
            text = _read(path)
            if re.fullmatch(r"(0x)?[0-9a-fA-F]+", text):
                return int(text, 16)
        return None

    def _text(self, path: str) -> str:
        return _read(self._root / path)


class NvidiaProbe(ConditionProbe):
    """One NVIDIA board, through the driver's own library.

    Args:
        nvml: The module `pynvml`, initialised.
        handle: The board.
    """

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml = nvml
        self._handle = handle
        self._host = HostProbe()

    @classmethod
    def find(cls) -> "NvidiaProbe | None":
        """The probe of the board that passes run on; None without the library or the board."""
        try:
            nvml: Any = importlib.import_module("pynvml")
            nvml.nvmlInit()
            board = find_board(nvml, uuid=torch_board())
            return None if board is None else cls(nvml, board)
        except MeterUnavailableError:
            raise
        except Exception as error:  # pynvml raises one class per code, and ImportError without it
            logger.debug("No NVIDIA board to ask for its temperature: %s", error)
            return None

    def read(self) -> State:
        """The state now."""
        nvml, handle = self._nvml, self._handle
        reasons = self._ask(nvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle)
        limit_mw = self._ask(nvml.nvmlDeviceGetEnforcedPowerLimit, handle)
        level = self._ask(nvml.nvmlDeviceGetPerformanceState, handle)
        policies = (nvml.NVML_PERF_POLICY_POWER, nvml.NVML_PERF_POLICY_THERMAL)
        held_back = [v for p in policies if (v := self._ask(nvml.nvmlDeviceGetViolationStatus, handle, p)) is not None]
        why = [] if reasons is None else sorted({t for bit, t in NVML_THROTTLING.items() if reasons & bit})
        mode = [
            "" if level is None else f"P{level}",
            "" if limit_mw is None else f"limit {limit_mw * W_PER_MW:g} W",
            "" if not why else f"throttled by {', '.join(why)}",
        ]
        return State(
            temperature_c=self._ask(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
            clock_mhz=self._ask(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM),
            power_mode=", ".join(part for part in mode if part),
            throttle_events=sum(v.violationTime for v in held_back) if held_back else None,
            is_throttling=None if reasons is None else bool(why),
            load_average=self._host.read().load_average,
        )

    def _ask(self, call: Any, *arguments: Any) -> Any:
        """An answer, or None where this board does not give it."""
        try:
            return call(*arguments)
        except self._nvml.NVMLError:
            return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _numbers(paths: Iterable[Path]) -> list[float]:
    texts = (_read(path) for path in paths)
    return [float(text) for text in texts if re.fullmatch(r"-?\d+(\.\d+)?", text)]


def _first_number(text: str) -> float | None:
    match = re.match(r"\d+(\.\d+)?", text)
    return float(match[0]) if match else None
