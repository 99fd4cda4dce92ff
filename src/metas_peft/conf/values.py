"""Checks values against the schema and builds the frozen configuration from them."""

import dataclasses
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from metas_peft.conf import yaml12
from metas_peft.conf.fields import Rule
from metas_peft.conf.keys import Key, alternatives, child, element_of, keys_of, literals_of, locate, searched, unknown
from metas_peft.conf.schema import RunConfig, SearchRange
from metas_peft.core.errors import RunFileError
from metas_peft.core.registry import canonical

Path = tuple[str, ...]
# Where a value was written, for messages: e.g. `run.yaml, line 3`; empty if nobody knows.
Where = Callable[[Path], str]


def nowhere(path: Path) -> str:
    """The place of a value that came from no file."""
    return ""


def is_interpolation(value: Any) -> bool:
    """Whether a value refers to another key and can only be checked when all are together."""
    return isinstance(value, str) and "${" in value


def normalise(data: Mapping[str, Any], where: Where = nowhere) -> dict[str, Any]:
    """The same mapping with our key names and checked values.

    Args:
        data: Nested mapping as read from a file or composed from overrides.
        where: Place of each value.

    Raises:
        UnknownKeyError: A key that the schema does not have.
        RunFileError: A value of the wrong type or outside its bounds, or a key given twice by two names.
    """
    return _section(data, RunConfig, (), (), where)


def _section(data: Any, kind: Any, raw: Path, ours: Path, where: Where) -> dict[str, Any]:
    if data is None:
        return {}
    if not isinstance(data, Mapping):
        raise RunFileError(f"{_at(where, raw)}{'.'.join(ours)} expects keys under it, not {seen(data)}.")
    result: dict[str, Any] = {}
    prefix = "".join(f"{p}." for p in ours)
    for name, value in data.items():
        path = (*raw, str(name))
        key = child(kind, str(name), prefix)
        if key is None:
            raise unknown((*ours, str(name)), kind, prefix, where(path))
        if key.leaf in result:
            raise RunFileError(f"{_at(where, path)}{key.path} is given twice, by two of its names.")
        inner = (*ours, key.leaf)
        element = element_of(key.kind)
        if dataclasses.is_dataclass(key.kind):
            result[key.leaf] = _section(value, key.kind, path, inner, where)
        elif element is not None:
            if not isinstance(value, Mapping | None):
                raise RunFileError(f"{_at(where, path)}{key.path} expects keys under it, not {seen(value)}.")
            result[key.leaf] = {
                str(n): _section(v, element, (*path, str(n)), (*inner, str(n)), where) for n, v in (value or {}).items()
            }
        else:
            result[key.leaf] = check(key, value, where(path))
    return result


def check(key: Key, value: Any, where: str = "") -> Any:
    """The value in the type and spelling of the schema; lists stay lists.

    Raises:
        RunFileError: The value has the wrong type or is outside its bounds.
    """
    if is_interpolation(value):
        return value
    for kind in _closest_first(alternatives(key.kind), value):
        accepted, converted = _convert(kind, key.rule, value)
        if accepted:
            return converted
    bounds = key.rule.bounds()
    hint = ""
    if isinstance(value, str) and _convert_any(key, _number(value)):
        hint = " Leave out the quotes."
    elif isinstance(value, int | float) and not isinstance(value, bool) and str in alternatives(key.kind):
        hint = " Put it in quotes."
    raise RunFileError(
        f"{where + ': ' if where else ''}{key.path} expects {expected(key.kind)}"
        + (f" ({bounds})" if bounds else "")
        + f", not {seen(value)}.{hint}"
    )


def _closest_first(kinds: tuple[Any, ...], value: Any) -> list[Any]:
    """The value's own type before those it can be turned into, and a named value before a list of one name."""
    return sorted(kinds, key=lambda kind: 0 if type(value) is kind else 1 if literals_of(kind) else 2)


def _convert_any(key: Key, value: Any) -> bool:
    return value is not None and any(_convert(kind, key.rule, value)[0] for kind in alternatives(key.kind))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _convert(kind: Any, rule: Rule, value: Any) -> tuple[bool, Any]:
    """Whether a value fits one type, and its converted form."""
    if kind is type(None):
        return value is None, None
    if isinstance(value, bool):
        return kind is bool, value
    if kind is int and isinstance(value, int | float):
        # 1e3 is a whole number that YAML happens to read as a float.
        return math.isfinite(value) and value == int(value) and rule.admits(value), (
            int(value) if math.isfinite(value) else value
        )
    if kind is float and isinstance(value, int | float):
        return math.isfinite(value) and rule.admits(value), float(value)
    if kind is str:
        # An override `run_id=7` arrives as a number.
        return isinstance(value, str) or isinstance(value, int), str(value)
    if literals_of(kind):
        return _literal(literals_of(kind), rule, value)
    if typing.get_origin(kind) is tuple:
        return _list(typing.get_args(kind)[0], rule, value)
    return False, value


def _literal(choices: tuple[str, ...], rule: Rule, value: Any) -> tuple[bool, Any]:
    if not isinstance(value, str):
        return False, value
    known = {canonical(c): c for c in choices}
    known |= {canonical(other): ours for other, ours in rule.spellings.items()}
    return canonical(value) in known, known.get(canonical(value), value)


def _list(element: Any, rule: Rule, value: Any) -> tuple[bool, Any]:
    if isinstance(value, str) and (element is str or literals_of(element)):
        value = [value]  # one name is a list of one
    if not isinstance(value, Sequence) or isinstance(value, str):
        return False, value
    result: list[Any] = []
    for item in value:
        if is_interpolation(item):
            result.append(item)
            continue
        for kind in _closest_first(alternatives(element), item):
            accepted, converted = _convert(kind, rule, item)
            if accepted:
                result.append(converted)
                break
        else:
            return False, value
    return True, result


def expected(kind: Any) -> str:
    """A type in words."""
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}
    parts: list[str] = []
    for option in _broad(alternatives(kind)):
        if literals_of(option):
            names = literals_of(option)
            parts.append(("one of " if len(names) > 1 else "") + ", ".join(repr(n) for n in names))
        elif typing.get_origin(option) is tuple:
            inner = _broad(alternatives(typing.get_args(option)[0]))
            plural = {bool: "booleans", int: "whole numbers", float: "numbers", str: "texts"}
            named = [", ".join(repr(n) for n in literals_of(i)) if literals_of(i) else plural[i] for i in inner]
            parts.append("a list of " + " or ".join(named))
        else:
            parts.append(words[option])
    return " or ".join(parts)


def _broad(kinds: tuple[Any, ...]) -> list[Any]:
    """Without whole numbers where any number will do."""
    return [kind for kind in kinds if kind is not int or float not in kinds]


def seen(value: Any) -> str:
    """A value in words, for the end of a sentence."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"the text {value!r}" if len(value) <= 60 else f"the text {value[:57]!r}..."
    if isinstance(value, int | float):
        return f"the number {value!r}"
    if isinstance(value, Mapping):
        return "a mapping"
    return f"the list {list(value)!r}" if isinstance(value, Sequence) else "several values"


def _at(where: Where, path: Path) -> str:
    return f"{where(path)}: " if where(path) else ""


def build(data: Mapping[str, Any], where: Where = nowhere) -> RunConfig:
    """The frozen configuration from a nested mapping; missing keys take their defaults.

    Raises:
        UnknownKeyError: A key that the schema does not have.
        RunFileError: A value of the wrong type, outside its bounds, or at odds with another one.
    """
    config = _instance(RunConfig, normalise(data, where))
    _check_together(config, where)
    return config


def _instance(kind: Any, data: Mapping[str, Any]) -> Any:
    values: dict[str, Any] = {}
    for name, key in keys_of(kind).items():
        if name not in data:
            continue
        value, element = data[name], element_of(key.kind)
        if dataclasses.is_dataclass(key.kind):
            values[name] = _instance(key.kind, value)
        elif element is not None:
            values[name] = {n: _instance(element, v) for n, v in value.items()}
        else:
            values[name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


def _check_together(config: RunConfig, where: Where) -> None:
    """Rules that concern more than one value."""

    def refuse(path: str, sentence: str) -> RunFileError:
        return RunFileError(f"{_at(where, tuple(path.split('.')))}{path} {sentence}")

    if any(part in config.run_id for part in ("/", "\\", "\0")) or config.run_id in (".", ".."):
        raise refuse("run_id", f"expects the name of a folder, not {config.run_id!r}; the place is output_dir.")
    points = config.evaluation.operating_points
    if not 1 <= len(set(points)) == len(points) <= 20:
        raise refuse("evaluation.operating_points", f"expects one to twenty different fractions, not {list(points)!r}.")
    gating = config.model.gating
    if gating.gate_ramp < gating.gate_warmup:
        raise refuse(
            "model.gating.gate_ramp",
            f"expects at least gate_warmup ({gating.gate_warmup:g}), not {gating.gate_ramp:g}.",
        )
    if config.surrogate.calibration_samples == 1:
        raise refuse("surrogate.calibration_samples", "expects 0 or at least 2: one point fits no scale and shift.")
    if not config.surrogate.meta_training_devices:
        raise refuse("surrogate.meta_training_devices", "is empty; name the devices to learn from, or a pool.")
    for name, span in config.optuna.search_space.items():
        path = f"optuna.search_space.{name}"
        found = searched(name, where(tuple(path.split("."))))
        if sentence := _range_fault(span):
            raise refuse(path, sentence)
        # A trial must not meet a value that its key refuses.
        for value in span.choices if span.type == "categorical" else (span.low, span.high):
            check(found, value, where(tuple(path.split("."))))
        if span.type in ("uniform", "loguniform", "float") and float not in alternatives(found.kind):
            raise refuse(path, f"is {span.type}, but {found.path} expects {expected(found.kind)}; say `type: int`.")


def _range_fault(span: SearchRange) -> str:
    if span.type == "categorical":
        if not span.choices:
            return "is categorical and expects `choices`."
        return "" if span.low is span.high is None else "is categorical and takes `choices` alone, no `low` or `high`."
    if span.choices:
        return f"is {span.type} and takes `low` and `high`, no `choices`; say `type: categorical` to choose among them."
    if span.low is None or span.high is None or span.low >= span.high:
        return f"expects `low` below `high`, not {span.low} and {span.high}."
    if span.type == "uniform" and span.log:
        return "is uniform and `log: true`, which contradict each other; say `type: float` to be even in the logarithm."
    is_log = span.type == "loguniform" or span.log
    if is_log and span.low <= 0:
        return f"is {span.type} in the logarithm and expects `low` above 0, not {span.low}."
    if is_log and span.step is not None:
        return "has a `step` and is even in the logarithm; Optuna knows one or the other."
    if span.type == "int" and not all(float(v).is_integer() for v in (span.low, span.high, span.step or 1)):
        return "is int and expects whole numbers."
    return ""


def dump(config: RunConfig) -> str:
    """The configuration as a run file with every key."""
    return yaml12.write(to_dict(config))


def to_dict(config: RunConfig) -> dict[str, Any]:
    """The configuration as nested plain values, in the order of the schema, ready for YAML or JSON."""
    return _plain(config)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(getattr(value, name)) for name in keys_of(type(value))}
    if isinstance(value, Mapping):
        return {n: _plain(v) for n, v in value.items()}
    return list(value) if isinstance(value, tuple) else value


def leaves(data: Mapping[str, Any]) -> frozenset[str]:
    """Dotted paths of all values of a normalised mapping."""
    found: set[str] = set()

    def collect(node: Mapping[str, Any], prefix: str) -> None:
        for name, value in node.items():
            if isinstance(value, Mapping):
                collect(value, f"{prefix}{name}.")
            else:
                found.add(f"{prefix}{name}")

    collect(data, "")
    return frozenset(found)


def replace(config: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """The configuration with some values changed by dotted path.

    Raises:
        UnknownKeyError: A path that the schema does not have.
        RunFileError: A value that does not fit.
    """
    data = to_dict(config)
    for path, value in changes.items():
        node, parts = data, locate(path.split(".")).path.split(".")
        for part in parts[:-1]:
            node = node.setdefault(part, {})
        node[parts[-1]] = value
    return dataclasses.replace(build(data), given=config.given | frozenset(changes))
