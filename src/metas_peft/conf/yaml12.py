"""YAML with the scalars of version 1.2, the place of every key, and no key twice.

PyYAML follows version 1.1, where `2e-5` is text, `on` is true and `010` is eight. Run files mean none of these.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from metas_peft.core.errors import RunFileError

Place = tuple[str, ...]


class _Loader(yaml.SafeLoader):
    """Scalars by the core schema of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}


_INT = re.compile(r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$")
_FLOAT = re.compile(
    r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
# In this order: a whole number also matches the pattern of a float.
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"^(?:<<)$"), ["<"])


def _int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text, 10)


def _float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    # Python spells .inf and .nan without the dot.
    return float(re.sub(r"\.(?=[iInN])", "", str(loader.construct_scalar(node))))


_Loader.add_constructor("tag:yaml.org,2002:int", _int)
_Loader.add_constructor("tag:yaml.org,2002:float", _float)


class _Dumper(yaml.SafeDumper):
    """Quotes text that version 1.1 or 1.2 would read as something else."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def write(data: dict[str, Any]) -> str:
    """Plain values as YAML that `parse` reads back as they were."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


@dataclass(frozen=True)
class Document:
    """A YAML mapping and where its keys stand.

    Attributes:
        data: Nested plain values.
        lines: Path of each key -> its line, counted from 1.
        name: File name for messages.
    """

    data: dict[str, Any]
    lines: dict[Place, int]
    name: str

    def where(self, path: Place) -> str:
        """`FILE, line N` of a key, or of the nearest one above it."""
        for depth in range(len(path), 0, -1):
            if path[:depth] in self.lines:
                return f"{self.name}, line {self.lines[path[:depth]]}"
        return self.name


def read(path: Path, name: str | None = None) -> Document:
    """Read one YAML mapping.

    Raises:
        RunFileError: Not UTF-8, not YAML, not a mapping, or a key given twice; with line and column.
    """
    name = name or str(path)
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise RunFileError(f"{name}, line {line}: the file is not UTF-8 text. Save it as UTF-8.") from error
    return parse(text, name)


def parse(text: str, name: str) -> Document:
    """As `read`, from text."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            raise RunFileError(f"{name} is empty; a run file needs at least one key, such as `run_id: mine`.")
        if not isinstance(node, yaml.MappingNode):
            raise RunFileError(f"{name}, {_spot(node.start_mark)}: expected `key: value` lines, not {_kind(node)}.")
        reader = _Reader(loader, name)
        data = reader.value(node, ())
        return Document(data, reader.lines, name)
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        column = len(before) - (before.rfind("\n") + 1) + 1
        raise RunFileError(
            f"{name}, line {before.count(chr(10)) + 1}, column {column}: a character that YAML does not allow "
            f"(#x{ord(text[error.position]):x}). Remove it."
        ) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        context = f" {error.context}" if error.context else ""
        raise RunFileError(
            f"{name}, {_spot(mark) if mark else 'somewhere'}: not valid YAML:{context} {error.problem}. "
            "Check the indentation, the colons and the quotes there."
        ) from error


def _spot(mark: Any) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}"


def _kind(node: yaml.Node) -> str:
    return {yaml.SequenceNode: "a list", yaml.ScalarNode: "a single value"}.get(type(node), "this")


class _Reader:
    """Turns nodes into plain values and notes the line of each key."""

    def __init__(self, loader: _Loader, name: str) -> None:
        self._loader = loader
        self._name = name
        self._open: list[yaml.Node] = []
        self.lines: dict[Place, int] = {}

    def value(self, node: yaml.Node, path: Place) -> Any:
        if any(node is outer for outer in self._open):
            raise RunFileError(f"{self._name}, {_spot(node.start_mark)}: a value that contains itself.")
        self._open.append(node)
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                return [self.value(item, (*path, str(i))) for i, item in enumerate(node.value)]
            return self._loader.construct_object(node)
        finally:
            self._open.pop()

    def _mapping(self, node: yaml.MappingNode, path: Place) -> dict[str, Any]:
        result: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                sources = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                for source in reversed(sources):
                    merged |= self.value(source, path)
                continue
            name = self._loader.construct_object(key_node) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(name, str):
                raise RunFileError(f"{self._name}, {_spot(key_node.start_mark)}: a key must be text.")
            if name in result:
                first = self.lines[(*path, name)]
                raise RunFileError(
                    f"{self._name}, {_spot(key_node.start_mark)}: the key {'.'.join((*path, name))!r} "
                    f"is there already, on line {first}. Keep one of the two."
                )
            self.lines[(*path, name)] = key_node.start_mark.line + 1
            result[name] = self.value(value_node, (*path, name))
        return merged | result
