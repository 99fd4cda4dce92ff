"""Reads a YAML file key by key, and says in a sentence what is wrong with it.

A figure of a device file is a list `[value, mark]` or `[value, mark, remark]`, such as `[38.7, vendor]`; a plain
number has no mark. Every key must be taken by the reader: one that is left over is an error, not a silence.
"""

import math
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any, cast

import yaml

from metas_peft.core.errors import DeviceFileError, nearest
from metas_peft.devices.entry import Mark


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML in which a key that appears twice is an error: plain YAML would keep the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key.value!r} appears twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        DeviceFileError: The file cannot be read, is not YAML, or holds something other than a mapping.
    """
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)  # noqa: S506 (a safe loader)
    except OSError as error:
        raise DeviceFileError(f"Cannot read the device file {path}: {error.strerror}. Check the path.") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise DeviceFileError(f"{path}{place}: {error.problem}. Mend the YAML there.") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise DeviceFileError(
            f"{path} is no plain text in UTF-8 ({' '.join(str(error).split())}). Save it as such."
        ) from error
    if not isinstance(data, dict):
        raise DeviceFileError(f"{path} holds {type(data).__name__}, a mapping of keys was expected.")
    return cast("dict[str, Any]", data)


class Section:
    """One mapping of a device file, from which keys are taken.

    Args:
        data: The mapping.
        path: Dotted place of the mapping in the file, empty at the top.
        file: Name of the file, for messages.
        marks: Collects the mark of each figure by its dotted path.
        remarks: Collects the remark of each figure by its dotted path.
    """

    def __init__(
        self,
        data: Any,
        path: str,
        file: str,
        marks: dict[str, Mark] | None = None,
        remarks: dict[str, str] | None = None,
    ) -> None:
        self._path = path
        self._file = file
        self._asked: set[str] = set()
        self.marks = marks if marks is not None else {}
        self.remarks = remarks if remarks is not None else {}
        if not isinstance(data, dict):
            raise DeviceFileError(f"{file}: {path} is {data!r}, a mapping of keys was expected.")
        self._data = {str(key): value for key, value in cast("dict[Any, Any]", data).items()}

    def wrong(self, key: str, expected: str) -> DeviceFileError:
        """The error for a value that is not what it should be."""
        found = self._data.get(key)
        return DeviceFileError(f"{self._file}: {self._dotted(key)} is {found!r}; expected {expected.rstrip('.')}.")

    def text(self, key: str, default: str | None = None) -> str:
        """A non-empty string."""
        value = self._take(key, default)
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(key, "a text")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings, empty if absent."""
        values = self._list(key, self._take(key, []), "a list of texts")
        if not all(isinstance(value, str) for value in values):
            raise self.wrong(key, "a list of texts")
        return tuple(values)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self._take(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def number(self, key: str, default: float | None = None, *, low: float = 0.0, high: float = math.inf) -> float:
        """A number in [low, high] without a mark."""
        return self._ranged(key, self._take(key, default), low, high)

    def integer(self, key: str, default: int | None = None, *, low: int = 0) -> int:
        """A whole number of at least `low`."""
        value = self._take(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise self.wrong(key, f"a whole number of at least {low}")
        return value

    def figure(self, key: str, *, low: float = 0.0, high: float = math.inf) -> float:
        """A number in [low, high] with its mark, noted under its dotted path."""
        expected = f"[value, mark] or [value, mark, remark] with a mark out of {', '.join(Mark)}"
        value = self._list(key, self._take(key, None), expected)
        if not 2 <= len(value) <= 3:
            raise self.wrong(key, expected)
        try:
            mark = Mark(value[1])
        except ValueError:
            raise self.wrong(key, f"a known mark; {nearest(str(value[1]), [m.value for m in Mark])}") from None
        self.marks[self._dotted(key)] = mark
        if len(value) == 3:
            self.remarks[self._dotted(key)] = str(value[2])
        return self._ranged(key, value[0], low, high)

    def section(self, key: str) -> "Section":
        """A mapping below this one."""
        return self._below(key, self._take(key, None))

    def optional(self, key: str) -> "Section | None":
        """A mapping below this one, or None if it is absent."""
        return self.section(key) if key in self._data else None

    def sections(self, key: str, *, required: bool = True) -> Iterator[tuple[str, "Section"]]:
        """Name and mapping of each entry of a mapping of mappings."""
        whole = self._below(key, self._take(key, None if required else {}))
        if required and not whole._data:
            raise self.wrong(key, "at least one entry")
        for name in whole._data:
            yield name, whole.section(name)

    def rows(self, key: str) -> Iterator["Section"]:
        """Each mapping of a list of mappings, none if absent."""
        for index, row in enumerate(self._list(key, self._take(key, []), "a list of mappings")):
            yield Section(row, f"{self._dotted(key)}[{index}]", self._file, self.marks, self.remarks)

    def keys(self) -> tuple[str, ...]:
        """The keys of the mapping."""
        return tuple(self._data)

    def done(self) -> None:
        """Every key has been taken.

        Raises:
            DeviceFileError: A key is left over.
        """
        for key in self._data:
            if key not in self._asked:
                raise DeviceFileError(f"{self._file}: unknown key {self._dotted(key)}; {nearest(key, self._asked)}")

    def _dotted(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key

    def _below(self, key: str, value: Any) -> "Section":
        return Section(value, self._dotted(key), self._file, self.marks, self.remarks)

    def _list(self, key: str, value: Any, expected: str) -> list[Any]:
        if not isinstance(value, list):
            raise self.wrong(key, expected)
        return cast("list[Any]", value)

    def _take(self, key: str, default: Any) -> Any:
        self._asked.add(key)
        if key in self._data:
            return self._data[key]
        if default is None:
            near = nearest(key, self._data) if self._data else "the section is empty."
            raise DeviceFileError(f"{self._file}: {self._dotted(key)} is missing; {near}")
        return default

    def _ranged(self, key: str, value: Any, low: float, high: float) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.wrong(key, "a finite number (large ones as 1.0e+9: YAML takes 1e9 for a text)")
        if not low <= value <= high:
            raise self.wrong(key, f"a number from {low:g} to {high:g}" if high < math.inf else f"at least {low:g}")
        return float(value)
