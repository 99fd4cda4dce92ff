"""Columns of profile records on disk: their types, which are needed, and what makes a row wrong.

A wrong row is found by vectorised checks over whole columns and named by its number and column, because somebody has
to go and mend it in a file of thousands.
"""

# pyright: basic
# (pyarrow comes without types.)

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from metas_peft.core.errors import InvalidRecordError, nearest

if TYPE_CHECKING:
    import pyarrow as pa

Array = np.ndarray


class Kind(StrEnum):
    """What a column holds."""

    TEXT = "text"
    WHOLE = "whole number"  # kept as a fraction where a source gives a mean, such as a mean batch size
    NUMBER = "number"
    FLAG = "true or false"


NEEDED = ("device", "batch_size", "latency_ms", "flops", "weight_bytes")

_TEXTS = (
    "device", "model_id", "subnet_key", "phase", "adapter", "origin", "origin_energy", "origin_latency",
    "origin_power", "device_class", "runtime", "meter", "source", "why_invalid", "power_mode", "anchor_key",
    "measured_at", "machine", "software", "label",
)  # fmt: skip
_WHOLES = (
    "batch_size", "seq_len", "context_len", "param_bits", "n_layers", "n_repeats", "n_invalid", "n_windows",
    "threads",
)  # fmt: skip
_NUMBERS = (
    "latency_ms", "energy_j", "energy_above_idle_j", "peak_power_w", "mean_power_w", "idle_power_w",
    "idle_power_after_w", "latency_std_ms", "cpu_time_ms", "sampling_period_ms", "known_to_pct", "energy_std_j",
    "energy_known_to_pct", "scale_known_to_pct", "anchor_energy_j", "scale_energy_j", "flops",
    "weight_bytes", "act_bytes", "kv_bytes", "n_ops", "kept_layers", "kept_heads", "kept_ranks", "kept_ffn",
    "temperature_before_c", "temperature_after_c", "clock_mhz", "load_average", "anchor_ms", "scale_ms",
    "meter_gap_pct",
)  # fmt: skip
_FLAGS = ("is_valid", "is_throttled")
_BY_KIND = ((_TEXTS, Kind.TEXT), (_WHOLES, Kind.WHOLE), (_NUMBERS, Kind.NUMBER), (_FLAGS, Kind.FLAG))
COLUMNS: dict[str, Kind] = {name: kind for names, kind in _BY_KIND for name in names}
# Differences and temperatures; everything else that is negative is wrong.
MAY_BE_NEGATIVE = frozenset({"energy_above_idle_j", "meter_gap_pct", "temperature_before_c", "temperature_after_c"})
# "Not measured" is null; no pass takes no time or no energy.
MUST_BE_POSITIVE = frozenset({"batch_size", "latency_ms", "energy_j", "peak_power_w", "mean_power_w"})
CHOICES = {
    "phase": ("prefill", "decode"),
    "adapter": ("merged", "separate"),
    "origin": ("measured", "imported", "modelled", "simulated"),
}
CHOICES |= {f"origin_{metric}": CHOICES["origin"] for metric in ("energy", "latency", "power")}


@dataclass(frozen=True, order=True)
class Problem:
    """What is wrong with one cell, or with a whole row where `column` is empty. Rows count from 0 here."""

    row: int
    column: str
    what: str


def check_needed(names: Sequence[str], where: str) -> None:
    """All needed columns are there.

    Raises:
        InvalidRecordError: One is missing.
    """
    for column in NEEDED:
        if column not in names:
            raise InvalidRecordError(
                f"{where}: the needed column {column} is missing; {nearest(column, names)} Rename it, or import the "
                f"file with --map THEIRS={column}."
            )


def normalise(table: "pa.Table") -> tuple["pa.Table", list[Problem]]:
    """Bring known columns to their types; unknown ones stay as they are.

    Args:
        table: Columns of any type, N rows.

    Returns:
        The table, and cells that cannot be read as what their column holds; they are null in the table.
    """
    import pyarrow as pa

    problems: list[Problem] = []
    for index, name in enumerate(table.column_names):
        kind = COLUMNS.get(name)
        if kind is None:
            continue
        column = table.column(index)
        if kind is Kind.TEXT:
            fixed = _as_text(column)
        elif pa.types.is_null(column.type) or not _fits(column.type, kind):
            fixed, found = _parse(column, name, kind)
            problems += found
        else:
            fixed = column
        if kind is Kind.WHOLE:
            fixed = _as_whole(fixed)
        elif kind is Kind.NUMBER:
            fixed = fixed.cast(pa.float64())
        table = table.set_column(index, name, fixed)
    return table, problems


def find_problems(table: "pa.Table") -> list[Problem]:
    """Everything wrong with the cells of a normalised table, in order of rows.

    A row that is marked as invalid may lack its latency: it tells that a measurement failed.
    """
    problems: list[Problem] = []
    names = set(table.column_names)
    failed = np.zeros(len(table), dtype=bool)
    if "is_valid" in names:
        failed = ~table["is_valid"].fill_null(True).to_numpy(zero_copy_only=False)
    for name in NEEDED:
        absent = table[name].is_null().to_numpy(zero_copy_only=False)
        if name == "latency_ms":
            absent = absent & ~failed
        problems += [Problem(int(row), name, "is empty, but needed") for row in np.flatnonzero(absent)]
    for name in names:
        if COLUMNS.get(name) not in (Kind.NUMBER, Kind.WHOLE):
            continue
        column = table[name]
        if column.null_count == len(column):
            continue
        present = ~column.is_null().to_numpy(zero_copy_only=False)
        values = column.cast("float64").fill_null(1.0).to_numpy()
        finite = np.isfinite(values)
        problems += [Problem(int(r), name, f"is {values[r]}, not finite") for r in np.flatnonzero(present & ~finite)]
        if name in MAY_BE_NEGATIVE:
            continue
        low = values <= 0 if name in MUST_BE_POSITIVE else values < 0
        expected = "more than 0" if name in MUST_BE_POSITIVE else "0 or more"
        for row in np.flatnonzero(present & finite & low):
            problems.append(Problem(int(row), name, f"is {values[row]:g}, expected {expected}"))
    for name in names & CHOICES.keys():
        for value in set(table[name].unique().to_pylist()) - {None, *CHOICES[name]}:
            rows = (row for row, own in enumerate(table[name].to_pylist()) if own == value)
            problems += [Problem(row, name, f"is {value!r}; {nearest(value, CHOICES[name])}") for row in rows]
    return sorted(problems)


def duplicates(table: "pa.Table") -> dict[int, int]:
    """Rows that repeat an earlier one in every column -> that earlier row."""
    if len(table) == 0:
        return {}
    codes = np.zeros(len(table), dtype=np.int64)
    for column in table.columns:
        own = _codes(column)
        # Two columns at a time become one code per distinct pair, so that nothing overflows.
        _, codes = np.unique(codes * (int(own.max()) + 1) + own, return_inverse=True)
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    original = first[inverse]
    return {int(row): int(original[row]) for row in np.flatnonzero(original != np.arange(len(table)))}


def _codes(column: "pa.ChunkedArray") -> Array:
    """A whole number per row, the same for equal values; 0 for null."""
    import pyarrow as pa

    if pa.types.is_nested(column.type):
        seen: dict[str, int] = {}
        texts = (repr(value) for value in column.to_pylist())
        return np.fromiter((seen.setdefault(t, len(seen) + 1) for t in texts), dtype=np.int64, count=len(column))
    if pa.types.is_null(column.type):
        return np.zeros(len(column), dtype=np.int64)
    indices = column.combine_chunks().dictionary_encode().indices
    return indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64) + 1


def _fits(kind_of_arrow: "pa.DataType", kind: Kind) -> bool:
    import pyarrow as pa

    if kind is Kind.FLAG:
        return pa.types.is_boolean(kind_of_arrow)
    return pa.types.is_integer(kind_of_arrow) or pa.types.is_floating(kind_of_arrow)


def _as_text(column: "pa.ChunkedArray") -> "pa.ChunkedArray":
    import pyarrow as pa

    if pa.types.is_string(column.type):
        return column
    if pa.types.is_large_string(column.type) or pa.types.is_null(column.type):
        return column.cast(pa.string())
    return pa.chunked_array([pa.array([None if v is None else str(v) for v in column.to_pylist()], pa.string())])


def _as_whole(column: "pa.ChunkedArray") -> "pa.ChunkedArray":
    import pyarrow as pa

    try:
        return column.cast(pa.int64(), safe=True)
    except pa.ArrowInvalid:
        return column.cast(pa.float64())


def _parse(column: "pa.ChunkedArray", name: str, kind: Kind) -> tuple["pa.ChunkedArray", list[Problem]]:
    """Read texts (and anything else) as numbers or flags, cell by cell."""
    import pyarrow as pa

    values: list[Any] = []
    problems: list[Problem] = []
    for row, value in enumerate(column.to_pylist()):
        try:
            values.append(_parsed(value, kind))
        except ValueError:
            values.append(None)
            problems.append(Problem(row, name, f"is {value!r}, expected a {kind}"))
    return pa.chunked_array([pa.array(values, pa.bool_() if kind is Kind.FLAG else pa.float64())]), problems


def _parsed(value: Any, kind: Kind) -> Any:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if kind is Kind.FLAG:
        flags = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}
        if str(value).strip().lower() not in flags:
            raise ValueError(value)
        return flags[str(value).strip().lower()]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(value)
    number = float(value)
    # An empty place that pandas wrote into a text column.
    return None if isinstance(value, str) and math.isnan(number) else number
