"""Every meter that the project knows, by the name under which it is asked for: to open one, and to say which work.

A row of the table is all that a new meter adds here.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from metas_peft.core.errors import MeterPermissionError, MeterUnavailableError, UnknownNameError, UsageError, nearest
from metas_peft.core.units import MS_PER_S
from metas_peft.devices.meters import android, ina219, zeus, zeus_soc
from metas_peft.devices.meters.base import MIN_UPDATES, SHORTEST_WINDOW_S, EnergyCounter, PowerSampler

INSTALL_ZEUS = zeus.INSTALL
UTILISATION_ROW = "utilisation model (no meter: CPU time and range of power)"


@dataclass(frozen=True)
class Meter:
    """An open meter: a counter, a sampler, or both."""

    counter: EnergyCounter | None
    sampler: PowerSampler | None


@dataclass(frozen=True)
class Part:
    """One of the readings of a meter, for the table of what works."""

    title: str
    probe: Callable[..., object]
    update_period_s: float
    min_window_s: float


@dataclass(frozen=True)
class MeterKind:
    """A kind of meter.

    Attributes:
        name: What users call it.
        runtimes: Runtimes on this computer whose energy it can read; none for a meter of something else.
        permission: What it takes to read it, as commands.
        open: Finds and opens it; takes the values of `options` by name.
        parts: Its readings.
        is_automatic: Whether it may be used without being asked for by name.
        options: What can be said of it, and how a text becomes a value.
    """

    name: str
    runtimes: tuple[str, ...]
    permission: str
    open: Callable[..., Meter]
    parts: tuple[Part, ...]
    is_automatic: bool = True
    options: Mapping[str, Callable[[str], Any]] = field(default_factory=dict[str, Callable[[str], Any]])

    def opened(self, given: Mapping[str, str] | None = None) -> Meter:
        """Open it with what the user said of it: `meter.option` -> text; options of other meters are left alone.

        Raises:
            MeterUnavailableError: It is not there.
            UsageError: A value that cannot be read.
        """
        return self.open(**self.values(given))

    def values(self, given: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Its own options among those that were given, as values.

        Raises:
            UsageError: One cannot be read.
        """
        found: dict[str, Any] = {}
        for key, text in (given or {}).items():
            meter, _, option = key.partition(".")
            if meter == self.name:
                try:
                    found[option] = self.options[option](text)
                except ValueError as error:
                    raise UsageError(f"--meter-option {key}={text}: {error}.") from error
        return found


@dataclass(frozen=True)
class MeterRow:
    """One reading of a meter as a table for people shows it.

    Attributes:
        name: The reading.
        works: Whether it answered just now.
        why_not: What it said, empty if it works.
        permission: What it takes to read it.
        update_period_ms: Time between two values; None where there is no such thing.
        origin: What its numbers may call themselves.
        meter: Name under which it is asked for.
        min_window_ms: Shortest window whose energy is worth having.
        runtimes: Runtimes on this computer whose passes it can price; none for a meter of something else.
    """

    name: str
    works: bool
    why_not: str
    permission: str
    update_period_ms: float | None
    origin: str
    meter: str = ""
    min_window_ms: float | None = None
    runtimes: tuple[str, ...] = ()


CPU, ONNX, CUDA, ROCM = "pytorch_cpu", "onnxruntime_cpu", "pytorch_cuda", "pytorch_rocm"
ON_CPU = (CPU, ONNX)


def _nvidia() -> Meter:
    return Meter(zeus.NvmlCounter.open(), zeus.NvmlPower.open())


def _amd() -> Meter:
    return Meter(zeus.AmdCounter.open(), zeus.AmdPower.open())


def _amd_power() -> Meter:
    return Meter(None, zeus.AmdPower.open())


def _rapl() -> Meter:
    counter = zeus.RaplCounter.open()
    return Meter(counter, counter.power())


def _apple() -> Meter:
    counter = zeus_soc.AppleCounter.open()
    return Meter(counter, counter.power())


def _jetson() -> Meter:
    counter = zeus_soc.JetsonCounter.open()
    return Meter(counter, counter.power())


def _ina219(**options: Any) -> Meter:
    return Meter(None, ina219.Ina219Power.open(**options))


def _number_above_0(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise ValueError(f"a number above 0 was expected, not {text}")
    return value


def _whole_number(text: str) -> int:
    """Also in hexadecimal digits: 0x40."""
    try:
        return int(text, 0)
    except ValueError:
        raise ValueError(f"a whole number was expected, such as 1 or 0x40, not {text}") from None


def _rails() -> Meter:
    return Meter(android.AndroidRails.open(), None)


def _battery() -> Meter:
    return Meter(None, android.AndroidCurrent.open())


def _charge() -> Meter:
    return Meter(android.AndroidCharge.open(), None)


def _counter_part(title: str, kind: type[EnergyCounter], probe: Callable[[], object]) -> Part:
    return Part(title, probe, kind.update_period_s, max(SHORTEST_WINDOW_S, MIN_UPDATES * kind.update_period_s))


def _sampler_part(title: str, kind: type[PowerSampler], probe: Callable[[], object]) -> Part:
    shortest_s = MIN_UPDATES * kind.update_period_s + 2 * kind.averaging_s
    return Part(title, probe, kind.update_period_s, max(SHORTEST_WINDOW_S, shortest_s))


USB_DEBUGGING = "USB debugging on the phone; sudo apt install adb"
I2C = f"{INSTALL_ZEUS.replace('meters', 'ina219')}; {ina219.PERMIT}"

METERS: tuple[MeterKind, ...] = (
    MeterKind("nvml", (CUDA,), "none", _nvidia, (
        _counter_part("NVIDIA energy counter (NVML)", zeus.NvmlCounter, lambda: zeus.NvmlCounter.open()),
        _sampler_part("NVIDIA instant power (NVML)", zeus.NvmlPower, lambda: zeus.NvmlPower.open()),
    )),
    MeterKind("amd", (ROCM,), 'sudo usermod -aG render,video "$USER", then log in again', _amd, (
        _counter_part("AMD energy counter (AMD SMI)", zeus.AmdCounter, lambda: zeus.AmdCounter.open()),
        _sampler_part("AMD instant power (AMD SMI)", zeus.AmdPower, lambda: zeus.AmdPower.open()),
    )),
    MeterKind("amd-power", (ROCM,), "as amd", _amd_power, (), is_automatic=False),
    MeterKind("rapl", ON_CPU, f"root, or once: {zeus.RAPL_COMMAND}", _rapl, (
        _counter_part("CPU package energy (RAPL)", zeus.RaplCounter, lambda: zeus.RaplCounter.open()),
    )),
    MeterKind("apple", ON_CPU, 'pip install "zeus[apple]"', _apple, (
        _counter_part("Apple silicon energy", zeus_soc.AppleCounter, lambda: zeus_soc.AppleCounter.open()),
    )),
    MeterKind("jetson", (*ON_CPU, CUDA), "none; on some images: sudo", _jetson, (
        _counter_part("Jetson rails (INA3221)", zeus_soc.JetsonCounter, lambda: zeus_soc.JetsonCounter.open()),
    )),
    MeterKind("ina219", (*ON_CPU, CUDA, ROCM), I2C, _ina219, (
        _sampler_part("INA219 on I2C", ina219.Ina219Power, ina219.Ina219Power.open),
    ), is_automatic=False, options={"bus": _whole_number, "address": _whole_number, "shunt_ohm": _number_above_0}),
    MeterKind("android-rails", (), USB_DEBUGGING, _rails, (
        _counter_part("Android power rails (ODPM)", android.AndroidRails, lambda: android.AndroidRails.open()),
    )),
    MeterKind("android-battery", (), f"{USB_DEBUGGING}; unplugged", _battery, (
        _sampler_part("Android battery current", android.AndroidCurrent, lambda: android.AndroidCurrent.open()),
    )),
    MeterKind("android-charge", (), f"{USB_DEBUGGING}; unplugged", _charge, (
        _counter_part("Android battery charge", android.AndroidCharge, lambda: android.AndroidCharge.open()),
    )),
)  # fmt: skip


def find_meter(name: str) -> MeterKind:
    """A kind of meter by name.

    Raises:
        UnknownNameError: No such meter.
    """
    for kind in METERS:
        if kind.name == name:
            return kind
    raise UnknownNameError(f"Unknown meter {name!r}: {nearest(name, (k.name for k in METERS))}")


def check_options(given: Mapping[str, str]) -> None:
    """Options of meters, `meter.option` -> text, that some meter has and can read.

    Raises:
        UnknownNameError: No such meter or option.
        UsageError: A value that cannot be read.
    """
    known = [f"{kind.name}.{option}" for kind in METERS for option in kind.options]
    for key in given:
        if key not in known:
            raise UnknownNameError(f"Unknown option of a meter {key!r}: {nearest(key, known)}")
    for kind in METERS:
        kind.values(given)


def open_first(runtime: str, options: Mapping[str, str] | None = None) -> Meter:
    """The first meter that works here and reads what a runtime draws, opened with its `meter.option` -> text.

    Raises:
        MeterUnavailableError: None does; the message says why not each of them.
    """
    refused: list[MeterUnavailableError] = []
    for kind in METERS:
        if runtime in kind.runtimes and kind.is_automatic:
            try:
                return kind.opened(options)
            except MeterUnavailableError as error:
                refused.append(error)
    # Several meters may lack the same thing.
    reasons = " ".join(dict.fromkeys(str(error) for error in refused))
    permission = next((error for error in refused if isinstance(error, MeterPermissionError)), None)
    if permission is not None:
        raise MeterPermissionError(str(permission)) from permission
    raise MeterUnavailableError(f"No meter reads what {runtime} draws on this machine. {reasons}")


def check_meters(options: Mapping[str, str] | None = None) -> list[MeterRow]:
    """Ask every meter that the project knows, once, with its `meter.option` -> text.

    Raises:
        UnknownNameError: No such meter or option.
        UsageError: A value that cannot be read.
    """
    check_options(options or {})
    rows = [_row(kind, part, options) for kind in METERS for part in kind.parts]
    rows.append(MeterRow(UTILISATION_ROW, True, "", "none", None, "modelled", "modelled"))
    return rows


def _row(kind: MeterKind, part: Part, options: Mapping[str, str] | None) -> MeterRow:
    why_not = ""
    try:
        part.probe(**kind.values(options))
    except MeterPermissionError as error:
        why_not = f"permission: {error}"
    except MeterUnavailableError as error:
        why_not = str(error)
    return MeterRow(
        name=part.title,
        works=not why_not,
        why_not=why_not,
        permission=kind.permission,
        update_period_ms=part.update_period_s * MS_PER_S,
        origin="measured",
        meter=kind.name,
        min_window_ms=part.min_window_s * MS_PER_S,
        runtimes=kind.runtimes,
    )
