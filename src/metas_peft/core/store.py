"""Profile records on disk: a folder of Parquet part files, or one such file.

    records/
      part-20261122T130507123456Z-4711-9f3c01aa.parquet     whole, never changed again
      part-20261122T130511004211Z-4712-51be77d0.parquet     of another process, at the same time
      .part-...                                             half written; no reader looks at it

A part is written under a hidden name and renamed into place under a name that no other writer uses. So a reader sees
whole parts only, any number of processes may append at once, and one that is killed loses at most the part it was
writing. Each part carries the version of the columns. A single file is a store that can only be read.

Reading checks every row: a file with a wrong one is refused with row and column named, unless the caller skips them
and is told how many. Null means not measured. Columns that this version does not know are kept.
"""

# pyright: basic
# (pyarrow comes without types.)

import datetime
import hashlib
import logging
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metas_peft.core.columns import COLUMNS, Kind, Problem, check_needed, duplicates, find_problems, normalise
from metas_peft.core.cost import PAPER_COSTS
from metas_peft.core.errors import InvalidRecordError, OutputError
from metas_peft.core.files import replacing
from metas_peft.core.records import ProfileRecord

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
VERSION_KEY = b"metas_peft.schema_version"
SUFFIX = ".parquet"
MOST_NAMED = 3  # problems that a message names; a file with the wrong unit has one in every row


@dataclass(frozen=True)
class Records:
    """Rows of a store that passed the checks.

    Attributes:
        table: Known columns in their types, then the unknown ones.
        left_out: What was wrong with each row that was skipped.
    """

    table: "pa.Table"
    left_out: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.table)

    def rows(self) -> list[dict[str, Any]]:
        """One dict per row; null is None."""
        return self.table.to_pylist()

    def profile_records(self, *, valid_only: bool = True) -> list[ProfileRecord]:
        """The rows as records.

        Args:
            valid_only: Leave out those marked as invalid.

        Raises:
            InvalidRecordError: The rows carry less than a record of this project; use `rows`.
        """
        missing = sorted({"phase", "seq_len", "param_bits", "model_id", *PAPER_COSTS} - set(self.table.column_names))
        if missing:
            raise InvalidRecordError(
                f"These rows have no column {missing[0]}, so they are not whole records of a pass. Read them as rows, "
                "or import the file with this column."
            )
        rows = (row for row in self.rows() if not (valid_only and row.get("is_valid") is False))
        return [ProfileRecord.from_row(_completed(row)) for row in rows]


class RecordStore:
    """A folder of part files, or one file.

    Args:
        path: The folder, which the first `append` makes, or a Parquet file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def is_file(self) -> bool:
        """Whether the store is one file, which is only read."""
        return self.path.suffix == SUFFIX and not self.path.is_dir()

    def parts(self) -> list[Path]:
        """The whole part files, in order of their names; none if the folder is not there yet."""
        if self.is_file:
            return [self.path]
        return sorted(p for p in self.path.glob(f"*{SUFFIX}") if not p.name.startswith("."))

    def append(self, records: Sequence[ProfileRecord], extra: Mapping[str, Any] | None = None) -> Path | None:
        """Add records as one part file.

        Args:
            records: What to add; nothing is written when there are none.
            extra: Further columns, the same in every row.

        Returns:
            The part file.

        Raises:
            OutputError: The store is a single file, or its folder cannot be written.
            InvalidRecordError: A record would not be readable again.
        """
        return self.append_rows([record.as_row() | dict(extra or {}) for record in records])

    def append_rows(self, rows: Iterable[Mapping[str, Any]]) -> Path | None:
        """Add rows as one part file; see `append`. A row without `measured_at` gets the present time."""
        import pyarrow as pa

        now = datetime.datetime.now(datetime.UTC)
        stamped = [{"measured_at": now.isoformat(timespec="microseconds")} | dict(row) for row in rows]
        if not stamped:
            return None
        names = list(dict.fromkeys(name for row in stamped for name in row))
        table = pa.table({n: _column([row.get(n) for row in stamped], n) for n in names})
        return self.append_table(table)

    def append_table(self, table: "pa.Table", name: str | None = None) -> Path:
        """Add a table as one part file; see `append`.

        Args:
            table: Its rows.
            name: Of the part, where the same rows must not come in twice however many processes add them at once; one
                that no other writer uses if absent.
        """
        import pyarrow.parquet as pq

        if self.is_file or self.path.is_file():
            raise OutputError(f"{self.path} is a single file, which is only read. Name a folder to add records to.")
        checked, problems = normalise(table)
        check_needed(checked.column_names, "New records")
        problems = sorted(problems + find_problems(checked))
        if problems:
            raise InvalidRecordError(_named("New records", problems, [(self.path, 0)]))
        checked = checked.replace_schema_metadata({VERSION_KEY: str(SCHEMA_VERSION).encode()})
        now = datetime.datetime.now(datetime.UTC)
        unique = f"{now:%Y%m%dT%H%M%S%f}Z-{os.getpid()}-{secrets.token_hex(4)}"
        part = self.path / f"part-{name or unique}{SUFFIX}"
        with replacing(part) as temporary:
            pq.write_table(checked, temporary, compression="zstd")
        return part

    def read(self, *, skip_invalid: bool = False) -> Records:
        """All rows of all parts.

        Args:
            skip_invalid: Leave wrong rows out instead of refusing.

        Raises:
            InvalidRecordError: There is no part, one is broken or of a later version, a needed column is missing, or
                a row is wrong.
        """
        parts = self.parts()
        if not parts:
            raise InvalidRecordError(f"{self.path} holds no records. Name a folder of part files, or a Parquet file.")
        tables = [_read_part(part) for part in parts]
        starts = np.cumsum([0, *(len(t) for t in tables)]).tolist()
        offsets = list(zip(parts, starts, strict=False))
        normal: list[pa.Table] = []
        problems: list[Problem] = []
        for part, start, table in zip(parts, starts, tables, strict=False):
            check_needed(table.column_names, str(part))
            fixed, found = normalise(table)
            normal.append(fixed)
            problems += [Problem(start + p.row, p.column, p.what) for p in found + find_problems(fixed)]
        return _checked(_joined(normal, parts), problems, offsets, skip_invalid)

    def already_there(self, table: "pa.Table") -> set[int]:
        """Rows of a normalised table that the store has already, the same in every column of the table."""
        return repeated(self.read(skip_invalid=True).table, table) if self.parts() else set()


def repeated(earlier: "pa.Table", table: "pa.Table") -> set[int]:
    """Rows of a normalised table that an earlier one has, the same in every column of the table."""
    # What the earlier one has no column for is null there: rows that leave it empty are the same.
    shared = [name for name in table.column_names if name in earlier.column_names]
    both = _joined([earlier.select(shared), table], [Path("records"), Path("records")])
    return {row - len(earlier) for row, first in duplicates(both).items() if row >= len(earlier) > first}


def digest_of(table: "pa.Table") -> str:
    """A name for these very rows."""
    return hashlib.sha256(repr(table.to_pylist()).encode()).hexdigest()[:24]


def check_table(
    table: "pa.Table", where: Path, *, skip_invalid: bool = False, waiting: Set[int] = frozenset()
) -> Records:
    """Check a table that was read from somewhere else; see `RecordStore.read`.

    Args:
        table: Its rows.
        where: What it is called in messages.
        skip_invalid: Leave wrong rows out instead of refusing.
        waiting: Rows that are not filled in yet: left out, and not judged.
    """
    check_needed(table.column_names, str(where))
    fixed, problems = normalise(table)
    return _checked(fixed, problems + find_problems(fixed), [(where, 0)], skip_invalid, waiting)


def schema_version(path: Path) -> int | None:
    """Version of the columns in a part file; None for a file of somebody else."""
    import pyarrow.parquet as pq

    return _version(pq.read_schema(path))


def _checked(
    table: "pa.Table",
    problems: list[Problem],
    offsets: list[tuple[Path, int]],
    skip_invalid: bool,
    waiting: Set[int] = frozenset(),
) -> Records:
    for row, first in duplicates(table).items():
        problems.append(Problem(row, "", f"repeats {_place(first, offsets)} in every column"))
    problems = sorted(p for p in problems if p.row not in waiting)
    if not problems and not waiting:
        return Records(table)
    where = str(offsets[0][0] if len(offsets) == 1 else offsets[0][0].parent)
    if problems and not skip_invalid:
        raise InvalidRecordError(_named(where, problems, offsets) + " Mend the file, or skip such rows.")
    bad = {p.row for p in problems}
    if bad:
        listing = _named(where, problems, offsets)
        logger.warning("%s: %d of %d rows are left out. %s", where, len(bad), len(table), listing)
    keep = np.ones(len(table), dtype=bool)
    keep[sorted(bad | waiting)] = False
    return Records(table.filter(keep), tuple(_sentence(p, offsets) for p in problems))


def _read_part(path: Path) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # One file at a time: a folder's name such as `a=b` must not become a column.
        table = pq.ParquetFile(path).read()
    except FileNotFoundError as error:
        raise InvalidRecordError(f"{path} does not exist. Check the path.") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise InvalidRecordError(f"{path} is not a whole Parquet file ({error}). Restore or delete it.") from error
    version = _version(table.schema)
    if version is not None and version > SCHEMA_VERSION:
        raise InvalidRecordError(
            f"{path} has columns of version {version}, this program reads up to {SCHEMA_VERSION}. Update the program."
        )
    return table


def _version(schema: "pa.Schema") -> int | None:
    found = (schema.metadata or {}).get(VERSION_KEY)
    return None if found is None else int(found)


def _joined(tables: list["pa.Table"], parts: list[Path]) -> "pa.Table":
    import pyarrow as pa

    if len(tables) == 1:
        return tables[0]
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InvalidRecordError(
            f"The parts of {parts[0].parent} disagree about the type of a column ({error}). Give it one type in all."
        ) from error


def _column(values: list[Any], name: str) -> "pa.Array":
    import pyarrow as pa

    kind = COLUMNS.get(name)
    if kind is Kind.TEXT:
        return pa.array(values, pa.string())
    if kind is Kind.FLAG:
        return pa.array(values, pa.bool_())
    if kind is Kind.NUMBER:
        return pa.array([None if v is None else float(v) for v in values], pa.float64())
    return pa.array(values)


def _completed(row: dict[str, Any]) -> dict[str, Any]:
    """A row in which what has a default may be null."""
    defaults = {
        "context_len": 0, "adapter": "merged", "device_class": "", "runtime": "", "meter": "", "source": "",
        "n_repeats": 1, "is_valid": True, "why_invalid": "", "subnet_key": "", "power_mode": "", "anchor_key": "",
        "n_layers": 0, **dict.fromkeys(PAPER_COSTS, 0.0),
    }  # fmt: skip
    full = dict(row)
    for name, value in defaults.items():
        if full.get(name) is None:
            full[name] = value
    for name in ("energy_j", "peak_power_w"):
        full.setdefault(name, None)
    for name in ("kept_layers", "kept_heads", "kept_ranks", "kept_ffn"):
        kept = full.get(name)
        full[name] = int(kept) if kept is not None and float(kept).is_integer() else kept
    return full


def _place(row: int, offsets: Sequence[tuple[Path, int]]) -> str:
    path, start = next((p, s) for p, s in reversed(offsets) if s <= row)
    return f"row {row - start + 1} of {path.name}"


def _sentence(problem: Problem, offsets: Sequence[tuple[Path, int]]) -> str:
    column = f", column {problem.column}:" if problem.column else ""
    return f"{_place(problem.row, offsets)}{column} {problem.what}"


def _named(where: str, problems: Sequence[Problem], offsets: Sequence[tuple[Path, int]]) -> str:
    """One sentence with the first few problems; rows count from 1."""
    shown = "; ".join(_sentence(p, offsets) for p in problems[:MOST_NAMED])
    more = len(problems) - MOST_NAMED
    return f"{where}: {shown}" + (f"; and {more} more." if more > 0 else ".")
