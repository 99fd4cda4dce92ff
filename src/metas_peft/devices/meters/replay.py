"""Meters that play back a recording: for tests and demonstrations on machines without a meter.

A recording is a CSV file. Its first lines say what the meter was; an empty cell means that it did not answer.

    # meter: NVML, board 0
    # counter_period_s: 0.1
    # pass_s: 0.02          time of a pass, 0 for work that does not repeat itself; a sampler without a counter needs it
    # start_s: 0.5          when the work began
    # end_s: 4.5            when it ended
    # expected_j: 412.0     energy of the work, where it is known from elsewhere
    time_s,energy_j,power_w
    0.000,1042.1,61.2

What comes out was measured when and where the recording was made, not now: a replayed reading is for looking at, and no
device of the catalogue measures with one.
"""

import csv
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metas_peft.core.errors import InvalidRecordError, MeasurementError, MeterUnavailableError, nearest
from metas_peft.core.files import replacing
from metas_peft.devices.meters.base import IMPLAUSIBLE_W, KNOWN_TO_PCT, EnergyCounter, MeterReading, PowerSampler
from metas_peft.devices.meters.sampled import missing_s
from metas_peft.devices.meters.track import EDGE_UPDATES
from metas_peft.devices.meters.window import Window

Array = np.ndarray

RAIL = "all"
COLUMNS = ("time_s", "energy_j", "power_w")


@dataclass(frozen=True, eq=False)
class Trace:
    """A recording of a counter, a sampler, or both.

    Attributes:
        meter: What was recorded.
        times_s: When the meter was read, shape (N,).
        energy_j: Counter values, shape (N,); NaN where it did not answer; None without a counter.
        power_w: Samples, shape (N,); NaN where it did not answer; None without a sampler.
        start_s: When the work began.
        end_s: When it ended.
        counter_period_s: Update period of the counter.
        sampler_period_s: Update period of the sampler.
        averaging_s: Time over which a sample averages.
        wrap_j: Range of the counter; None if it is not known to wrap around.
        pass_s: Time of a pass; 0 for work that does not repeat itself; None if it is not known.
        max_power_w: More than this the meter cannot have seen.
        expected_j: Energy between start and end where it is known from elsewhere.
    """

    meter: str
    times_s: Array
    energy_j: Array | None
    power_w: Array | None
    start_s: float
    end_s: float
    counter_period_s: float = 0.1
    sampler_period_s: float = 0.05
    averaging_s: float = 0.0
    wrap_j: float | None = None
    pass_s: float | None = None
    max_power_w: float = IMPLAUSIBLE_W
    expected_j: float | None = None

    def playhead(self) -> "Playhead":
        """A position in the recording, at the last reading before the work began."""
        before = np.flatnonzero(self.times_s <= self.start_s)
        return Playhead(self, int(before[-1]) if len(before) else 0)

    def passes_s(self) -> list[float]:
        """When passes ended; none where the work does not repeat itself."""
        if not self.pass_s:
            return []
        count = math.ceil((self.end_s - self.start_s) / self.pass_s)
        return [self.start_s + self.pass_s * number for number in range(1, count + 1)]

    def doubtful_s(self) -> float:
        """Time between start and end that readings are missing for, or that the clock jumped by.

        A counter goes on counting while nobody looks; only at the edges of the work it matters when that was.
        """
        edge_s = math.inf if self.energy_j is None else EDGE_UPDATES * self.counter_period_s
        return missing_s(self.times_s, self.start_s, self.end_s, edge_s=edge_s)


class Playhead:
    """A position in a recording, and the meters and the clock as they were there.

    Args:
        trace: The recording.
        index: Reading to begin at.
    """

    def __init__(self, trace: Trace, index: int) -> None:
        self.trace = trace
        self.index = index
        self._now_s = trace.start_s
        self.counter = None if trace.energy_j is None else _ReplayCounter(self, trace.energy_j)
        self.sampler = None if trace.power_w is None else _ReplaySampler(self, trace.power_w)

    def clock_s(self) -> float:
        """The time in the recording."""
        return self._now_s

    def advance(self) -> bool:
        """Go to the next reading; false at the end of the recording."""
        if self.index + 1 >= len(self.trace.times_s):
            return False
        self.index += 1
        self._now_s = float(self.trace.times_s[self.index])
        return True

    def finish(self) -> None:
        """Let the clock show the end of the work."""
        self._now_s = self.trace.end_s

    def value(self, values: Array) -> float:
        """The present value of a meter.

        Raises:
            MeterUnavailableError: It did not answer.
        """
        value = float(values[self.index])
        if math.isnan(value):
            raise MeterUnavailableError(f"{self.trace.meter}: no answer at {self.clock_s():.3f} s of the recording.")
        return value


def replay(trace: Trace) -> MeterReading:
    """Play a recording through the window that live meters are read in.

    A live window has a clock that never jumps; that of a recording may be any. So time for which the recording has no
    readings counts as not known, unless a counter went on counting at a distance from the edges of the work.

    Raises:
        InvalidRecordError: What the recording says of itself makes no sense.
        MeterUnavailableError: The meter did not answer at some time between start and end.
        MeasurementError: The readings make no sense, are too few, or tell the energy too coarsely.
    """
    _check(trace)
    head = trace.playhead()
    last = int(np.flatnonzero(trace.times_s <= trace.end_s).max(initial=0))
    with Window(head.counter, head.sampler, clock_s=head.clock_s, background=False) as window:
        for ended_s in trace.passes_s():
            window.passed(ended_s)
        while head.index < last and head.advance():
            window.poll()
        head.finish()
    reading = window.reading
    doubt_pct = 100.0 * trace.doubtful_s() / reading.duration_s
    reading = dataclasses.replace(reading, known_to_pct=math.hypot(reading.known_to_pct, doubt_pct))
    if reading.known_to_pct > KNOWN_TO_PCT:
        raise MeasurementError(
            f"{trace.meter}: the energy is only known to {reading.known_to_pct:.1f} %, {KNOWN_TO_PCT} % are wanted. "
            "The power swings more slowly than the meter steps, its samples fall in step with the passes, readings are "
            "missing, or the clock jumped; record again, for longer."
        )
    return reading


def _check(trace: Trace) -> None:
    """A recording whose facts can be true.

    Raises:
        InvalidRecordError: One cannot.
    """
    needs: dict[str, tuple[float | None, bool, str]] = {
        "counter_period_s": (trace.counter_period_s, trace.counter_period_s > 0, "above 0"),
        "sampler_period_s": (trace.sampler_period_s, trace.sampler_period_s > 0, "above 0"),
        "averaging_s": (trace.averaging_s, trace.averaging_s >= 0, "0 or more"),
        "wrap_j": (trace.wrap_j, trace.wrap_j is None or trace.wrap_j > 0, "above 0"),
        "pass_s": (trace.pass_s, trace.pass_s is None or trace.pass_s >= 0, "0 or more"),
        "max_power_w": (trace.max_power_w, trace.max_power_w > 0, "above 0"),
        "expected_j": (trace.expected_j, trace.expected_j is None or trace.expected_j > 0, "above 0"),
        "start_s": (trace.start_s, True, "a time"),
        "end_s": (trace.end_s, trace.end_s > trace.start_s, f"after start_s, {trace.start_s:g}"),
    }
    for name, (value, is_right, expected) in needs.items():
        if value is not None and not (is_right and math.isfinite(value)):
            raise InvalidRecordError(f"{trace.meter}: {name} is {value:g}; a number was expected, {expected}.")
    if not len(trace.times_s) or (trace.energy_j is None and trace.power_w is None):
        raise InvalidRecordError(f"{trace.meter}: there is no value of a meter in the recording.")
    if not np.isfinite(trace.times_s).all():
        raise InvalidRecordError(f"{trace.meter}: a time in the recording is not a number.")
    if trace.energy_j is None and trace.averaging_s == 0 and trace.pass_s is None:
        raise InvalidRecordError(
            f"{trace.meter}: samples of the moment may fall in step with passes. Say how long a pass took, in a line "
            "`# pass_s: 0.02`, or 0 if the work did not repeat itself."
        )


def save_trace(trace: Trace, path: Path) -> None:
    """Write a recording."""
    skipped = ("times_s", "energy_j", "power_w")
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        for field in dataclasses.fields(trace):
            value = getattr(trace, field.name)
            if field.name not in skipped and value is not None:
                file.write(f"# {field.name}: {value}\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        absent = np.full(len(trace.times_s), np.nan)
        energy_j = absent if trace.energy_j is None else trace.energy_j
        power_w = absent if trace.power_w is None else trace.power_w
        for row in zip(trace.times_s, energy_j, power_w, strict=True):
            writer.writerow("" if math.isnan(value) else repr(float(value)) for value in row)


def load_trace(path: Path) -> Trace:
    """Read a recording.

    Raises:
        InvalidRecordError: The file cannot be read, or a line of it makes no sense.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRecordError(f"Cannot read the recording {path}: {error}. Check the path.") from error
    facts = dict(_fact(line, number, path) for number, line in enumerate(lines, 1) if line.startswith("#"))
    table = [(n, line.split(",")) for n, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]
    if not table or [cell.strip() for cell in table[0][1]] != list(COLUMNS):
        raise InvalidRecordError(f"{path}: the columns {','.join(COLUMNS)} were expected after the lines with #.")
    for number, cells in table[1:]:
        if len(cells) != len(COLUMNS) or not cells[0].strip():
            raise InvalidRecordError(
                f"{path}, line {number}: {len(cells)} cells; each row needs a time and {len(COLUMNS)} cells, of which "
                "two may be empty."
            )
    if len(table) == 1:
        raise InvalidRecordError(f"{path}: there is no reading after the line of column names.")
    times_s, energy_j, power_w = np.array([[_number(cell, n, path) for cell in cells] for n, cells in table[1:]]).T
    return _built(facts, times_s, energy_j, power_w, path)


def _built(facts: Mapping[str, str], times_s: Array, energy_j: Array, power_w: Array, path: Path) -> Trace:
    known = {f.name for f in dataclasses.fields(Trace)} - {"times_s", "energy_j", "power_w"}
    for name in facts:
        if name not in known:
            raise InvalidRecordError(f"{path}: unknown fact {name!r}; {nearest(name, known)}")
    try:
        numbers = {name: float(text) for name, text in facts.items() if name != "meter"}
    except ValueError as error:
        raise InvalidRecordError(f"{path}: a fact is not a number: {error}.") from error
    return Trace(
        meter=facts.get("meter", path.stem),
        times_s=times_s,
        energy_j=None if np.isnan(energy_j).all() else energy_j,
        power_w=None if np.isnan(power_w).all() else power_w,
        **({"start_s": float(times_s[0]), "end_s": float(times_s[-1])} | numbers),
    )


class _ReplayCounter(EnergyCounter):
    """The counter of a recording."""

    boundary = "recording"

    def __init__(self, head: Playhead, energy_j: Array) -> None:
        self.name = head.trace.meter
        self.update_period_s = head.trace.counter_period_s
        self.max_power_w = head.trace.max_power_w
        self._head, self._energy_j = head, energy_j

    def read_j(self) -> Mapping[str, float]:
        return {RAIL: self._head.value(self._energy_j)}

    def wrap_j(self) -> Mapping[str, float]:
        range_j = self._head.trace.wrap_j
        return {} if range_j is None else {RAIL: range_j}


class _ReplaySampler(PowerSampler):
    """The sampler of a recording."""

    boundary = "recording"

    def __init__(self, head: Playhead, power_w: Array) -> None:
        self.name = head.trace.meter
        self.update_period_s = head.trace.sampler_period_s
        self.averaging_s = head.trace.averaging_s
        self.max_power_w = head.trace.max_power_w
        self._head, self._power_w = head, power_w

    def read_w(self) -> float:
        return self._head.value(self._power_w)


def _fact(line: str, number: int, path: Path) -> tuple[str, str]:
    name, colon, value = line.lstrip("# ").partition(":")
    if not colon:
        raise InvalidRecordError(f"{path}, line {number}: {line!r}; expected `# name: value`.")
    return name.strip(), value.strip()


def _number(cell: str, number: int, path: Path) -> float:
    try:
        return float(cell) if cell.strip() else math.nan
    except ValueError:
        raise InvalidRecordError(f"{path}, line {number}: {cell!r} is not a number.") from None
