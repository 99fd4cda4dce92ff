"""Android phones over adb: rails of the power chip (ODPM), the battery's charge counter, and its current.

* **Rails**: cumulative energy per supply rail, from the power-stats service of Pixels since the 6. Rails feed each
  other, so not all of them add up: the battery rail alone is the phone, where there is one and no cable charges it;
  else the rails of processors, graphics, TPU and memory are, whose parts do not contain each other.
* **Charge counter**: what has left the battery, times its voltage. It moves every few seconds: long windows.
* **Current**: of the moment, times voltage; about once a second. The kernel's convention is microamperes, and some
  phones give milliamperes; which, is decided once from several readings, by what a phone can draw, and kept.

A cable charges the phone and turns the battery's current round: for the battery meters unplug it, `adb tcpip 5555`,
`adb connect ADDRESS`. Windows are timed by this computer; a call of adb takes some 50 ms, and windows of seconds make
that small.

These meters read the phone, not passes: no command here runs a model on one. Whoever times passes there by other means
brings the numbers home with `metas profile plan` and `metas profile import`.
"""

import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from metas_peft.core.errors import MeterPermissionError, MeterUnavailableError
from metas_peft.core.units import J_PER_MJ
from metas_peft.devices.meters.base import EnergyCounter, PowerSampler

TIMEOUT_S = 10.0
RAILS_PERIOD_S = 0.25
CHARGE_PERIOD_S = 5.0
CURRENT_PERIOD_S = 1.0
MAX_PHONE_W = 30.0
RAILS_COMMAND = ("dumpsys", "android.hardware.power.stats.IPowerStats/default")
BATTERY_COMMAND = ("dumpsys", "battery")
CURRENT_COMMAND = ("cmd", "battery", "get", "-f", "current_now")
CURRENT_FILE = ("cat", "/sys/class/power_supply/battery/current_now")
BATTERY_RAIL = "VBATT"
ADDING_UP = ("CPU", "GPU", "TPU", "DDR", "MIF", "INT")
J_PER_UAH_V = 3600e-6
V_PER_MV = 1e-3
A_PER_UA = 1e-6
A_PER_MA = 1e-3
# What leaves the battery of a phone that talks to adb, in A, whatever it does: 4 mW to 30 W at 4 V.
LEAST_A, MOST_A = 1e-3, 7.5
UNIT_READINGS = 5

Shell = Callable[[Sequence[str]], str]

_RAIL = re.compile(r"^\s*\[(?P<rail>[^\]]+)\]:(?P<part>.+?)\s+(?P<mws>\d+(?:\.\d+)?) mWs")
_METER_HEADER = re.compile(r"energy meter", re.IGNORECASE)


def adb_shell(serial: str | None = None) -> Shell:
    """A function that runs a command on the phone and returns what it printed.

    Args:
        serial: Which phone, as in `adb devices`; needed where there are several.
    """

    def run(command: Sequence[str]) -> str:
        line = ["adb", *(("-s", serial) if serial else ()), "shell", *command]
        try:
            done = subprocess.run(line, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except FileNotFoundError as error:
            raise MeterUnavailableError("adb is not installed. Run: sudo apt install adb") from error
        except subprocess.TimeoutExpired as error:
            raise MeterUnavailableError(f"adb did not answer within {TIMEOUT_S:g} s. Check the cable.") from error
        if done.returncode != 0:
            _refuse(done.stderr.strip() or done.stdout.strip())
        return done.stdout

    return run


class AndroidRails(EnergyCounter):
    """Energy of the rails that add up to the phone, or to its processors and memory."""

    update_period_s = RAILS_PERIOD_S
    max_power_w = MAX_PHONE_W

    def __init__(self, shell: Shell, rails: tuple[str, ...], boundary: str) -> None:
        self.name = "Android power rails (ODPM)"
        self.boundary = boundary
        self._shell = shell
        self._rails = rails

    @classmethod
    def open(cls, shell: Shell | None = None) -> "AndroidRails":
        """Find the rails.

        Raises:
            MeterPermissionError: The phone has not allowed this computer, or the service needs more rights.
            MeterUnavailableError: No phone, or one without rails.
        """
        shell = shell if shell is not None else adb_shell()
        found = _parse_rails(shell(RAILS_COMMAND))
        whole = tuple(rail for rail in found if BATTERY_RAIL in rail[0])
        if whole and not _is_plugged(parse_battery(shell(BATTERY_COMMAND))):
            return cls(shell, (whole[0][0],), "phone (battery rail)")
        parts = [(rail, part) for rail, part in found if part.split("(")[0] in ADDING_UP]
        if not parts:
            raise MeterUnavailableError(
                f"Android power rails: none of {', '.join(ADDING_UP)} among {', '.join(p for _, p in found)}. Use the "
                "battery's current instead."
            )
        boundary = f"rails {', '.join(sorted({part for _, part in parts}))}"
        return cls(shell, tuple(rail for rail, _ in parts), boundary)

    def read_j(self) -> Mapping[str, float]:
        """Energy by rail in J."""
        found = {rail: joules for (rail, _), joules in _parse_rails(self._shell(RAILS_COMMAND)).items()}
        missing = [rail for rail in self._rails if rail not in found]
        if missing:
            raise MeterUnavailableError(f"{self.name}: rail {missing[0]} is gone. Open the meter again.")
        return {rail: found[rail] for rail in self._rails}


class AndroidCharge(EnergyCounter):
    """Energy that has left the battery since the meter was opened, from its charge counter."""

    name = "Android battery charge counter"
    boundary = "phone (battery)"
    update_period_s = CHARGE_PERIOD_S
    max_power_w = MAX_PHONE_W

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._last_uah: float | None = None
        self._energy_j = 0.0

    @classmethod
    def open(cls, shell: Shell | None = None) -> "AndroidCharge":
        """Find the battery.

        Raises:
            MeterUnavailableError: No phone, a cable that charges it, or a battery that does not count.
        """
        counter = cls(shell if shell is not None else adb_shell())
        counter.read_j()
        return counter

    def read_j(self) -> Mapping[str, float]:
        """Energy in J."""
        state = _discharging(parse_battery(self._shell(BATTERY_COMMAND)), self.name)
        charge_uah = _number(state, "Charge counter", self.name)
        if charge_uah <= 0:
            raise MeterUnavailableError(f"{self.name}: the battery of this phone does not count its charge.")
        volts = _number(state, "voltage", self.name) * V_PER_MV
        if self._last_uah is not None:
            self._energy_j += (self._last_uah - charge_uah) * volts * J_PER_UAH_V
        self._last_uah = charge_uah
        return {"battery": self._energy_j}


class AndroidCurrent(PowerSampler):
    """Power that leaves the battery at the moment."""

    name = "Android battery current"
    boundary = "phone (battery)"
    update_period_s = CURRENT_PERIOD_S
    max_power_w = MAX_PHONE_W

    def __init__(self, shell: Shell, command: Sequence[str]) -> None:
        self._shell = shell
        self._command = command
        self._unit_a = A_PER_UA

    @classmethod
    def open(cls, shell: Shell | None = None) -> "AndroidCurrent":
        """Find the battery and a way to read its current.

        Raises:
            MeterUnavailableError: No phone, a cable that charges it, no current to be read, or one of unknown unit.
        """
        shell = shell if shell is not None else adb_shell()
        for command in (CURRENT_COMMAND, CURRENT_FILE):
            sampler = cls(shell, command)
            if sampler._current() is not None:
                _discharging(parse_battery(shell(BATTERY_COMMAND)), cls.name)
                sampler._unit_a = sampler._find_unit()
                sampler.read_w()
                return sampler
        raise MeterUnavailableError(
            f"{cls.name}: neither `{' '.join(CURRENT_COMMAND)}` nor `{' '.join(CURRENT_FILE)}` gives a current on this "
            "phone; the second needs root on many."
        )

    def read_w(self) -> float:
        """Power in W."""
        state = _discharging(parse_battery(self._shell(BATTERY_COMMAND)), self.name)
        current = self._current()
        if current is None:
            raise MeterUnavailableError(f"{self.name}: the phone gives no current any more. Check the connection.")
        return abs(current) * self._unit_a * _number(state, "voltage", self.name) * V_PER_MV

    def _find_unit(self) -> float:
        """Amperes of one unit of the phone's numbers: the one in which all readings are currents of a phone."""
        readings = [abs(value) for _ in range(UNIT_READINGS) if (value := self._current()) is not None]
        fitting = [
            unit_a
            for unit_a in (A_PER_UA, A_PER_MA)
            if readings and all(LEAST_A <= reading * unit_a <= MOST_A for reading in readings)
        ]
        if len(fitting) == 1:
            return fitting[0]
        shown = ", ".join(f"{reading:g}" for reading in readings) or "nothing"
        raise MeterUnavailableError(
            f"{self.name}: the phone gives {shown}, which could be {'both' if fitting else 'neither'} microamperes "
            f"{'and' if fitting else 'nor'} milliamperes ({LEAST_A * 1e3:g} mA to {MOST_A:g} A are a phone's). Switch "
            "its screen on, so that it draws more, and open the meter again."
        )

    def _current(self) -> float | None:
        try:
            text = self._shell(self._command).strip()
        except MeterPermissionError:
            return None
        return float(text) if re.fullmatch(r"-?\d+", text) and int(text) != 0 else None


def parse_battery(text: str) -> dict[str, str]:
    """The lines `key: value` of `dumpsys battery`; of a key that appears twice, the first."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.strip().partition(":")
        if colon:
            found.setdefault(key, value.strip())
    return found


def _parse_rails(text: str) -> dict[tuple[str, str], float]:
    """Rail and the part it feeds -> energy in J."""
    in_meter = False
    found: dict[tuple[str, str], float] = {}
    for line in text.splitlines():
        if line.startswith("==="):
            in_meter = bool(_METER_HEADER.search(line)) and not line.lower().startswith("========== end")
        match = _RAIL.match(line) if in_meter else None
        if match:
            found[match["rail"], match["part"]] = float(match["mws"]) * J_PER_MJ
    if not found:
        raise MeterUnavailableError(
            "Android power rails: the power-stats service lists no rail. Pixels since the 6 have them; use the "
            "battery's current on other phones."
        )
    return found


def _discharging(state: dict[str, str], name: str) -> dict[str, str]:
    if _is_plugged(state):
        raise MeterUnavailableError(
            f"{name}: the phone is being charged, so the battery's current says nothing of its power. Unplug it and "
            "use adb over the network: adb tcpip 5555, unplug, adb connect ADDRESS."
        )
    return state


def _is_plugged(state: Mapping[str, str]) -> bool:
    return any(key.endswith(" powered") and value == "true" for key, value in state.items())


def _number(state: Mapping[str, str], key: str, name: str) -> float:
    try:
        return float(state[key])
    except (KeyError, ValueError):
        raise MeterUnavailableError(
            f"{name}: `dumpsys battery` gave {state.get(key)!r} for {key!r}, a number was expected."
        ) from None


def _refuse(message: str) -> NoReturn:
    """Turn what adb said into what to do."""
    text = message.lower()
    if "unauthorized" in text:
        raise MeterPermissionError("adb: the phone has not allowed this computer. Accept the question on its screen.")
    if "permission" in text or "not allowed" in text:
        raise MeterPermissionError(f"adb: {message}. This reading needs a debuggable build or root (adb root).")
    if "no devices" in text or "not found" in text or "offline" in text:
        raise MeterUnavailableError(
            f"adb: {message}. Switch on USB debugging in the phone's developer options and connect it; check with: adb "
            "devices"
        )
    if "more than one device" in text:
        raise MeterUnavailableError(f"adb: {message}. Choose one: export ANDROID_SERIAL=...")
    raise MeterUnavailableError(f"adb: {message or 'the command failed without a word'}.")
