"""The schema as a tree of keys: which exist, what they are called, which one a typo meant."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from metas_peft.conf.fields import Rule, rule_of
from metas_peft.conf.schema import RunConfig
from metas_peft.core.errors import UnknownKeyError

# Sections that say how a result is judged or searched for; a search may not change them.
_NOT_SEARCHED = (
    "evaluation", "optuna", "hardware_profiling", "controller", "output_dir", "run_id", "retarget", "report_to",
    "method", "device", "threads",
)  # fmt: skip


@dataclass(frozen=True)
class Key:
    """One key or section of the schema.

    Attributes:
        path: Dotted path with our names.
        kind: Annotated type; a dataclass for a section.
        default: Value when nobody sets it; None for a section.
        rule: Meaning, bounds, other names.
    """

    path: str
    kind: Any
    default: Any
    rule: Rule

    @property
    def leaf(self) -> str:
        """Last part of the path."""
        return self.path.rpartition(".")[2]

    @property
    def is_section(self) -> bool:
        """Whether it holds keys instead of a value."""
        return dataclasses.is_dataclass(self.kind) or element_of(self.kind) is not None


def element_of(kind: Any) -> Any:
    """Type of the values of a mapping with free names, or None if `kind` is no such mapping."""
    return typing.get_args(kind)[1] if typing.get_origin(kind) is Mapping else None


def literals_of(kind: Any) -> tuple[str, ...]:
    """Values that a `Literal` admits; empty for other types."""
    return typing.get_args(kind) if typing.get_origin(kind) is Literal else ()


def alternatives(kind: Any) -> tuple[Any, ...]:
    """Members of a union, or the type itself."""
    return typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)


@cache
def keys_of(kind: type, prefix: str = "") -> dict[str, Key]:
    """The keys of one section by name, in the order of the schema."""
    hints = typing.get_type_hints(kind)
    return {
        f.name: Key(
            f"{prefix}{f.name}",
            hints[f.name],
            None if f.default is dataclasses.MISSING else f.default,
            rule_of(f),
        )
        for f in dataclasses.fields(kind)
        if f.metadata
    }


def walk(kind: type = RunConfig, prefix: str = "") -> Iterator[Key]:
    """Every section and key under a section, parents first."""
    for key in keys_of(kind, prefix).values():
        yield key
        if dataclasses.is_dataclass(key.kind):
            yield from walk(typing.cast(type, key.kind), f"{key.path}.")


def child(kind: type, name: str, prefix: str = "") -> Key | None:
    """The key of a section that carries a name or an alias."""
    known = keys_of(kind, prefix)
    if name in known:
        return known[name]
    return next((k for k in known.values() if name in k.rule.aliases), None)


def locate(path: Sequence[str], where: str = "") -> Key:
    """The key that a dotted path means, with our names in place of aliases.

    Args:
        path: Parts of the path as the user wrote them.
        where: Place for the message, e.g. `run.yaml, line 3`.

    Raises:
        UnknownKeyError: There is no such key; the message names the nearest one.
    """
    kind: Any = RunConfig
    key: Key | None = None
    prefix = ""
    for depth, name in enumerate(path):
        if dataclasses.is_dataclass(kind):
            key = child(typing.cast(type, kind), name, prefix)
        elif (element := element_of(kind)) is not None:
            key = Key(f"{prefix}{name}", element, None, Rule(f"Entry `{name}`."))
        else:
            assert key is not None
            raise UnknownKeyError(
                f"{_place(where)}{'.'.join(path)!r} does not exist: {key.path} is a value and holds no keys."
            )
        if key is None:
            raise unknown(path[: depth + 1], kind, prefix, where)
        kind, prefix = key.kind, f"{key.path}."
    if key is None:
        raise UnknownKeyError(f"{_place(where)}an empty key is no key.")
    return key


def unknown(path: Sequence[str], kind: Any, prefix: str, where: str) -> UnknownKeyError:
    """The error for a name that a section does not have.

    Args:
        path: The path as written, up to and including the unknown name.
        kind: The section that was searched.
        prefix: Its path with a final dot, or nothing at the top.
        where: Place for the message.
    """
    siblings = keys_of(kind, prefix)
    names = {name: k.path for k in siblings.values() for name in (k.leaf, *k.rule.aliases)}
    # An entry of a mapping has keys of its own, most of them short; none of another section is meant there.
    is_entry = any(element_of(key.kind) is kind for key in walk())
    close = difflib.get_close_matches(path[-1].lower(), names, n=1, cutoff=0.6 if is_entry else 0.7)
    hint = names[close[0]] if close else None if is_entry else _elsewhere(path)
    listing = ", ".join(siblings)
    place = f"in {prefix.rstrip('.')}" if prefix else "at the top"
    return UnknownKeyError(
        f"{_place(where)}unknown key {'.'.join(path)!r}"
        + (f"; did you mean {hint!r}?" if hint else ".")
        + f" Known {place}: {listing}."
    )


def _elsewhere(path: Sequence[str]) -> str | None:
    """A key of the same name in another section, or else the most similar dotted path."""
    everything = [k for k in walk() if not k.is_section]
    same = [k.path for k in everything if path[-1] in (k.leaf, *k.rule.aliases)]
    if same:
        return min(same, key=lambda p: (p.count("."), p.startswith("evaluation"), len(p)))
    spelled = {".".join([*k.path.split(".")[:-1], n]): k.path for k in everything for n in (k.leaf, *k.rule.aliases)}
    close = difflib.get_close_matches(".".join(path).lower(), spelled, n=1, cutoff=0.6)
    if close:
        return spelled[close[0]]
    leaves = {k.leaf: k.path for k in everything}
    close = difflib.get_close_matches(path[-1].lower(), leaves, n=1, cutoff=0.75)
    return leaves[close[0]] if close else None


def _place(where: str) -> str:
    return f"{where}: " if where else ""


def searched(name: str, where: str = "") -> Key:
    """The key that a name in a search space means: a dotted path, or a last part that only one key has.

    Raises:
        UnknownKeyError: No key that a search may change has this name, or several have it.
    """
    if "." in name or name in _NOT_SEARCHED:
        key = locate(name.split("."), where)
        if key.is_section or key.path.split(".")[0] in _NOT_SEARCHED:
            raise UnknownKeyError(f"{_place(where)}{key.path} is not for a search to change; name a key of the run.")
        return key
    candidates = [k for k in walk() if not k.is_section and k.path.split(".")[0] not in _NOT_SEARCHED]
    found = [k for k in candidates if name in (k.leaf, *k.rule.aliases)]
    if any(k.path == name for k in found):
        found = [k for k in found if k.path == name]
    if len(found) == 1:
        return found[0]
    if found:
        options = ", ".join(k.path for k in found)
        raise UnknownKeyError(f"{_place(where)}{name!r} is ambiguous; write one of {options}.")
    close = difflib.get_close_matches(name.lower(), {k.leaf for k in candidates}, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    raise UnknownKeyError(f"{_place(where)}unknown key {name!r} in optuna.search_space{hint}")
