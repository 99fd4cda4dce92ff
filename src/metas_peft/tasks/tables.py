"""Tables of texts and labels on disk: Parquet, CSV, TSV and JSON lines, alone or as the splits of a folder."""

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metas_peft.core.errors import DatasetError

# Of names such as `train-00000-of-00002`.
_SHARD = re.compile(r"-\d+-of-(\d+)$")
# A document in a cell may be longer than what the csv module takes for an unclosed quotation.
_LONGEST_CELL = 2**31 - 1


class MissingShardsError(DatasetError):
    """Some files of a split are not there."""


Columns = dict[str, list[Any]]

TRAIN_STEMS = ("train",)


@dataclass(frozen=True)
class SplitFiles:
    """Files of a training and an evaluation split.

    Attributes:
        train: Shards of the training split, in order.
        evaluation: Shards of the evaluation split, in order.
    """

    train: tuple[Path, ...]
    evaluation: tuple[Path, ...]


def read_table(path: Path) -> Columns:
    """Columns of a file, by name.

    Raises:
        DatasetError: The format is not known or the content does not follow it.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DatasetError(f"{path} is none of the formats that can be read: {', '.join(sorted(_READERS))}.")
    try:
        return reader(path)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(
            f"{path} cannot be read as {path.suffix[1:]}: {error}. Check or replace the file."
        ) from error


def read_shards(paths: Sequence[Path]) -> Columns:
    """Columns of several files, one after the other; a column that only some of them have is an error."""
    tables = [read_table(path) for path in paths]
    for path, table in zip(paths, tables, strict=True):
        if table.keys() != tables[0].keys():
            raise DatasetError(
                f"{path} has the columns {', '.join(table)}, but {paths[0]} has {', '.join(tables[0])}. "
                "Files of one split must agree."
            )
    return {name: [value for table in tables for value in table[name]] for name in tables[0]}


def find_splits(root: Path, subfolders: Sequence[str], evaluation: Sequence[str]) -> SplitFiles | None:
    """Files of the splits in a folder or in one of its known sub-folders, the first that has both.

    Args:
        root: Folder to look in.
        subfolders: Relative folders to try after the folder itself, such as `sst2`.
        evaluation: Names of the evaluation split, best first, such as `validation` and `dev`.

    Returns:
        The files, or None where no folder has both splits.
    """
    for folder in (root, *(root / sub for sub in subfolders)):
        train = find_split(folder, TRAIN_STEMS)
        held_back = find_split(folder, evaluation)
        if train and held_back:
            return SplitFiles(train, held_back)
    return None


def find_split(folder: Path, stems: Sequence[str]) -> tuple[Path, ...]:
    """Files of one split in a folder, in order; empty where there are none.

    Args:
        folder: Folder to look in.
        stems: Names of the split, best first.

    Raises:
        MissingShardsError: Some of its files are not there.
    """
    if not folder.is_dir():
        return ()
    known = sorted(path for path in folder.iterdir() if path.suffix.lower() in _READERS and path.is_file())
    for stem in stems:
        for suffix in _READERS:
            same = [path for path in known if path.suffix.lower() == suffix]
            # `train.parquet`, or shards as the hub names them: `train-00000-of-00002.parquet`.
            found = [p for p in same if p.stem == stem] or [p for p in same if p.stem.startswith(f"{stem}-0")]
            if found:
                _check_whole(found)
                return tuple(found)
    return ()


def _check_whole(shards: Sequence[Path]) -> None:
    """Refuse a split of which shards are missing, as their names tell: an interrupted copy or download."""
    count = next((int(match[1]) for path in shards if (match := _SHARD.search(path.stem))), len(shards))
    if len(shards) != count:
        raise MissingShardsError(
            f"{shards[0].parent} holds {len(shards)} of the {count} files that {shards[0].name} is one of. Copy or "
            "download the others too."
        )


def only_split(folder: Path, stems: Sequence[str]) -> tuple[Path, ...]:
    """Files of a split of a folder that holds no other tables; empty where it holds others, or no such split."""
    found = find_split(folder, stems)
    others = [path for path in folder.iterdir() if path.suffix.lower() in _READERS] if found else []
    return found if set(others) == set(found) else ()


def _read_parquet(path: Path) -> Columns:
    import pyarrow.parquet  # takes a third of a second, and only files of this kind need it

    return pyarrow.parquet.read_table(path).to_pydict()


def _read_csv(path: Path) -> Columns:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return _by_column(csv.reader(file, strict=True), path)


def _read_tsv(path: Path) -> Columns:
    # GLUE's files are written without quoting: a quotation mark is part of the text.
    with path.open(encoding="utf-8-sig", newline="") as file:
        return _by_column(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE), path)


def _by_column(rows: Any, path: Path) -> Columns:
    limit = csv.field_size_limit(_LONGEST_CELL)  # the whole process's
    try:
        header = next(rows, None)
        if not header:
            raise DatasetError(f"{path} is empty; a first line with column names was expected.")
        columns: Columns = {name: [] for name in header}
        for row in rows:
            if not row:
                continue
            if len(row) != len(header):
                raise DatasetError(
                    f"{path}, line {rows.line_num}: {len(row)} fields, but the first line names {len(header)}."
                )
            for name, value in zip(header, row, strict=True):
                columns[name].append(value)
    except csv.Error as error:
        raise DatasetError(f"{path}, line {rows.line_num}: {error}. Check the quoting.") from error
    finally:
        csv.field_size_limit(limit)
    return columns


def _read_json(path: Path) -> Columns:
    """One list of objects, or one object per line."""
    with path.open(encoding="utf-8-sig") as file:
        start = file.read(1024).lstrip()[:1]
        if start != "[":
            return _read_json_lines(path)
        file.seek(0)
        try:
            rows = json.load(file)
        except json.JSONDecodeError as error:
            raise DatasetError(f"{path}, line {error.lineno}: not JSON ({error.msg}).") from error
    return _from_objects(rows, path)


def _read_json_lines(path: Path) -> Columns:
    rows: list[dict[str, Any]] = []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DatasetError(f"{path}, line {number}: not JSON ({error.msg}). One object per line.") from error
            if not isinstance(row, dict):
                raise DatasetError(f"{path}, line {number}: {type(row).__name__}; an object was expected.")
            rows.append(row)
    return _from_objects(rows, path)


def _from_objects(rows: Sequence[Any], path: Path) -> Columns:
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DatasetError(f"{path}, row {number}: {type(row).__name__}; an object was expected.")
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


_READERS = {
    ".parquet": _read_parquet,
    ".tsv": _read_tsv,
    ".csv": _read_csv,
    ".jsonl": _read_json_lines,
    ".json": _read_json,
}
