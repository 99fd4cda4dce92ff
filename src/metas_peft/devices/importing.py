"""Other people's measurements: CSV, Parquet or JSON lines, their names and units, into a record store.

    --map their_name=latency_ms      a column under our name (or the bare quantity: latency)
    --unit latency=s                 what the numbers of a column are in; ours need none
    --set device=pixel-8             a column that the file lacks, the same in every row

What somebody else's meter read is `imported`, whatever the file calls it; what a model computed or a simulator made
stays that. Only a part file of this project keeps `measured`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metas_peft.core.columns import COLUMNS, Kind
from metas_peft.core.cost import METRIC_NAMES, Origin
from metas_peft.core.errors import InvalidRecordError, UsageError, nearest
from metas_peft.core.store import Records, RecordStore, check_table, digest_of, repeated, schema_version

if TYPE_CHECKING:
    import pyarrow as pa

# pyright: basic
# (pyarrow comes without types.)

# Unit -> dimension, and factor to the unit that our columns of this dimension are in.
UNITS: dict[str, tuple[str, float]] = {
    "ns": ("time", 1e-6), "us": ("time", 1e-3), "ms": ("time", 1.0), "s": ("time", 1e3), "min": ("time", 6e4),
    "uJ": ("energy", 1e-6), "mJ": ("energy", 1e-3), "J": ("energy", 1.0), "kJ": ("energy", 1e3),
    "uWh": ("energy", 3.6e-3), "mWh": ("energy", 3.6), "Wh": ("energy", 3.6e3), "kWh": ("energy", 3.6e6),
    "uW": ("power", 1e-6), "mW": ("power", 1e-3), "W": ("power", 1.0), "kW": ("power", 1e3),
    "B": ("bytes", 1.0), "kB": ("bytes", 1e3), "MB": ("bytes", 1e6), "GB": ("bytes", 1e9),
    "KiB": ("bytes", 2.0**10), "MiB": ("bytes", 2.0**20), "GiB": ("bytes", 2.0**30),
    "FLOP": ("flops", 1.0), "MFLOP": ("flops", 1e6), "GFLOP": ("flops", 1e9), "TFLOP": ("flops", 1e12),
    "MAC": ("flops", 2.0), "MMAC": ("flops", 2e6), "GMAC": ("flops", 2e9),
}  # fmt: skip
_SUFFIXES = {"_ms": "time", "_j": "energy", "_w": "power", "_bytes": "bytes"}
_BARE = {"power": "peak_power_w", "power_w": "peak_power_w", "batch": "batch_size", "weights": "weight_bytes"}


def _bare_names() -> dict[str, str]:
    """Bare quantity -> our column: `latency` -> `latency_ms`."""
    found = dict(_BARE)
    for column in COLUMNS:
        for suffix in _SUFFIXES:
            if column.endswith(suffix):
                found.setdefault(column.removesuffix(suffix), column)
    return found


BARE_NAMES = _bare_names()


@dataclass(frozen=True)
class ImportRules:
    """How a file's columns become ours.

    Attributes:
        names: Their name -> ours.
        units: Our column, bare quantity or their name -> unit of its numbers.
        constants: Our column -> value for every row.
    """

    names: Mapping[str, str] = field(default_factory=dict[str, str])
    units: Mapping[str, str] = field(default_factory=dict[str, str])
    constants: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Found:
    """What one file holds, checked.

    Attributes:
        path: The file.
        records: Rows to add, and what was wrong with those that were left out.
        waiting: Rows (from 1) that have no latency yet.
    """

    path: Path
    records: Records
    waiting: tuple[int, ...]


def import_files(
    paths: Sequence[Path], store: RecordStore, rules: ImportRules, *, skip_invalid: bool = False
) -> list[Found]:
    """Read files and add their rows to a store, one part each: all of them, or none if one is refused.

    Args:
        paths: `.csv`, `.tsv`, `.parquet`, `.jsonl` or `.json` files.
        store: Where the rows go.
        rules: Names, units, constants.
        skip_invalid: Leave wrong rows out instead of refusing the file.

    Returns:
        What was added, per file.

    Raises:
        InvalidRecordError: A file cannot be read, or a row is wrong or in the store already.
        UsageError: A rule names a column or a unit that does not exist.
    """
    found: list[Found] = []
    for path in paths:
        found.append(_check(path, store, [f.records.table for f in found], rules, skip_invalid))
    for one in found:
        if len(one.records):
            # Two processes that import the same rows at once write the same part.
            store.append_table(one.records.table, f"import-{digest_of(one.records.table)}")
    return found


def _check(
    path: Path, store: RecordStore, earlier: Sequence["pa.Table"], rules: ImportRules, skip_invalid: bool
) -> Found:
    table = read_foreign(path, rules)
    if len(table) == 0:
        raise InvalidRecordError(f"{path} holds no rows. Name a file with measurements.")
    waiting: set[int] = set()
    if "latency_ms" in table.column_names:
        filled = _is_filled(table["latency_ms"]).to_pylist()
        waiting = {row for row, is_there in enumerate(filled) if not is_there}
        if len(waiting) == len(table):
            raise InvalidRecordError(f"{path}: no row has a latency. Fill in the column latency_ms first.")
    # Its own numbers of rows are what a user can look up.
    numbers = [row + 1 for row in range(len(table)) if row not in waiting]
    found = check_table(table, path, skip_invalid=skip_invalid, waiting=waiting)
    known = store.already_there(found.table)
    for other in earlier:
        known |= repeated(other, found.table)
    if known and not skip_invalid:
        raise InvalidRecordError(
            f"{path}: row {numbers[min(known)]} and {len(known) - 1} others are in {store.path} already, or in another "
            "file of this command. Import a file once; --skip-invalid takes what is new if it has grown since."
        )
    if known:
        keep = [row for row in range(len(found)) if row not in known]
        left_out = (f"{len(known)} rows are in the store already",)
        found = Records(found.table.take(keep), found.left_out + left_out)
    return Found(path, found, tuple(sorted(row + 1 for row in waiting)))


def read_foreign(path: Path, rules: ImportRules) -> "pa.Table":
    """A file's rows under our names and in our units, not yet checked."""
    table = _renamed(_read(path), rules, path)
    table = _in_our_units(table, rules, path)
    for column, value in rules.constants.items():
        table = _with_constant(table, _ours(column), value, path)
    return _with_origin(table, path, is_untouched=rules == ImportRules())


def _read(path: Path) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.json
    import pyarrow.parquet

    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            return pyarrow.parquet.ParquetFile(path).read()
        if suffix in (".csv", ".tsv"):
            options = pyarrow.csv.ParseOptions(delimiter="," if suffix == ".csv" else "\t")
            # An empty cell is not measured; a NaN is a wrong number, and must reach the checks as one.
            strings = pyarrow.csv.ConvertOptions(
                strings_can_be_null=True, null_values=["", "NA", "N/A", "null", "None"]
            )
            table = pyarrow.csv.read_csv(path, parse_options=options, convert_options=strings)
            odd = [field.name for field in table.schema if pa.types.is_binary(field.type)]
            if odd:
                raise ValueError(f"the column {odd[0]} is no text in UTF-8")
            return table
        if suffix in (".jsonl", ".ndjson", ".json"):
            if path.read_text(encoding="utf-8").lstrip().startswith("["):
                rows = json.loads(path.read_text(encoding="utf-8"))
                if not all(isinstance(row, dict) for row in rows):
                    raise ValueError("a list of objects was expected, one per measurement")
                return pa.Table.from_pylist(rows)
            return pyarrow.json.read_json(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InvalidRecordError(f"Cannot read {path}: {error}. Check the file.") from error
    raise InvalidRecordError(f"{path}: .csv, .tsv, .parquet, .jsonl or .json was expected, by the end of its name.")


def _renamed(table: "pa.Table", rules: ImportRules, path: Path) -> "pa.Table":
    names = {theirs: _ours(ours) for theirs, ours in rules.names.items()}
    for theirs in names:
        if theirs not in table.column_names:
            raise UsageError(f"--map: {path} has no column {theirs!r}; {nearest(theirs, table.column_names)}")
    for unit_of in rules.units:
        # A column under its bare name, with its unit said, needs no mapping.
        ours = BARE_NAMES.get(unit_of)
        if ours is not None and unit_of in table.column_names and unit_of not in names:
            names[unit_of] = ours
    renamed = [names.get(name, name) for name in table.column_names]
    twice = [name for name in renamed if renamed.count(name) > 1]
    if twice:
        raise UsageError(f"{path}: two columns would be called {twice[0]}. Leave out one of the mappings.")
    without_unit = [n for n in renamed if n in BARE_NAMES and BARE_NAMES[n] not in renamed]
    if without_unit and BARE_NAMES[without_unit[0]] not in rules.constants:
        bare = without_unit[0]
        raise InvalidRecordError(
            f"{path}: the column {bare} does not say its unit. Say it, as --unit {bare}={_unit_of(BARE_NAMES[bare])}, "
            f"or map it: --map {bare}={BARE_NAMES[bare]}."
        )
    return table.rename_columns(renamed)


def _in_our_units(table: "pa.Table", rules: ImportRules, path: Path) -> "pa.Table":
    import pyarrow as pa

    scaled_by: dict[str, str] = {}
    for name, unit in rules.units.items():
        column = _ours(rules.names.get(name, name))
        if column in scaled_by:
            raise UsageError(f"--unit {scaled_by[column]} and --unit {name} both give {column} a unit. Give it one.")
        scaled_by[column] = name
        if unit not in UNITS:
            raise UsageError(f"--unit {name}={unit}: unknown unit; {nearest(unit, UNITS)}")
        wanted = _dimension(column)
        dimension, factor = UNITS[unit]
        if dimension != wanted:
            raise UsageError(f"--unit {name}={unit}: {column} is a {wanted or 'plain number'}, not a {dimension}.")
        if column not in table.column_names:
            raise UsageError(
                f"--unit {name}={unit}: {path} has no column {name!r}; {nearest(name, table.column_names)}"
            )
        index = table.column_names.index(column)
        try:
            given = table.column(index).cast(pa.float64()).to_pylist()
        except ValueError as error:
            raise InvalidRecordError(f"{path}, column {name}: {error}. Numbers were expected.") from error
        scaled = pa.array([None if value is None else value * factor for value in given], pa.float64())
        table = table.set_column(index, column, scaled)
    return table


def _with_constant(table: "pa.Table", column: str, value: str, path: Path) -> "pa.Table":
    import pyarrow as pa

    kind = COLUMNS[column]
    try:
        parsed: Any = value if kind in (Kind.TEXT, Kind.FLAG) else float(value)
    except ValueError:
        raise UsageError(f"--set {column}={value}: a {kind} was expected.") from None
    if column in table.column_names:
        raise UsageError(f"--set {column}={value}: {path} has this column. Map it to another name first, or leave it.")
    return table.append_column(column, pa.array([parsed] * len(table)))


def _with_origin(table: "pa.Table", path: Path, is_untouched: bool) -> "pa.Table":
    """The table with `origin`, and without what only this project's own meters may claim.

    A part of a store keeps its origins, unless the import's rules changed anything in it.
    """
    import pyarrow as pa

    if is_untouched and path.suffix == ".parquet" and schema_version(path) is not None:
        return table
    weaker = {str(Origin.MODELLED), str(Origin.SIMULATED)}
    names = ["origin", *(f"origin_{metric}" for metric in METRIC_NAMES.values())]
    for name in names:
        if name not in table.column_names:
            continue
        index = table.column_names.index(name)
        given = [None if value is None else str(value) for value in table[name].to_pylist()]
        own = [v if v is None or v in weaker or v not in set(Origin) else str(Origin.IMPORTED) for v in given]
        table = table.set_column(index, name, pa.array(own, pa.string()))
    if "origin" in table.column_names:
        filled = [value or str(Origin.IMPORTED) for value in table["origin"].to_pylist()]
        return table.set_column(table.column_names.index("origin"), "origin", pa.array(filled, pa.string()))
    return table.append_column("origin", pa.array([str(Origin.IMPORTED)] * len(table), pa.string()))


def _is_filled(column: "pa.ChunkedArray") -> "pa.Array":
    import pyarrow as pa

    return pa.array([value is not None and str(value).strip() != "" for value in column.to_pylist()])


def _ours(name: str) -> str:
    """Our column of a name that a user wrote."""
    if name in COLUMNS:
        return name
    if name in BARE_NAMES:
        return BARE_NAMES[name]
    raise UsageError(f"{name!r} is no column of a record; {nearest(name, [*COLUMNS, *BARE_NAMES])}")


def _dimension(column: str) -> str:
    if column == "flops":
        return "flops"
    return next((dimension for suffix, dimension in _SUFFIXES.items() if column.endswith(suffix)), "")


def _unit_of(column: str) -> str:
    dimension = _dimension(column)
    return next((unit for unit, (own, factor) in UNITS.items() if own == dimension and factor == 1.0), "")
