"""Hydra overrides, checked against the schema before Hydra sees them.

Hydra would answer `training.epoch=3` with a message about structs and a plus sign. Here every key is looked up
in the schema, aliases become our names, and values are checked where they stand. What is left is rewritten with
`++`, so that a key of a free mapping needs no other spelling than one of the schema.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metas_peft.conf import groups, values
from metas_peft.conf.keys import locate
from metas_peft.core.errors import RunFileError, UsageError


@dataclass(frozen=True)
class Override:
    """One override in the schema's names.

    Attributes:
        text: What Hydra is given.
        sample: The same with one value, where `text` sweeps over several; else equal to `text`.
        path: Dotted path it sets; None for Hydra's own settings and deletions.
        written: What the user wrote.
    """

    text: str
    sample: str
    path: str | None
    written: str

    @property
    def sweeps(self) -> bool:
        """Whether it stands for several values."""
        return self.text != self.sample

    @property
    def key(self) -> str:
        """What Hydra is told to set: a dotted path, or the name of a group."""
        return self.text.lstrip("+").partition("=")[0]

    @property
    def depth(self) -> int:
        """Of a choice for a section, how many sections are around it; 0 for any other override."""
        is_choice = self.path is not None and self.text.startswith("+") and not self.text.startswith("++")
        return self.path.count(".") if self.path is not None and is_choice else 0


def translate(overrides: Sequence[str]) -> list[Override]:
    """Overrides in the schema's names, with checked values.

    Raises:
        UsageError: Hydra's grammar cannot read one.
        UnknownKeyError: A key that the schema does not have.
        RunFileError: A value that does not fit its key.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parser = OverridesParser.create()
    translated = [result for written in overrides for result in _translate(written, parser)]
    # Hydra takes choices as they come; one for a part of a section is to replace one for the whole, however written.
    return sorted(translated, key=lambda override: override.depth)


def _translate(written: str, parser: Any) -> Iterator[Override]:
    from hydra.errors import HydraException

    where = f"override {written!r}"
    try:
        parsed = parser.parse_override(written)
    except HydraException as error:
        if written.startswith("-"):
            raise UsageError(f"No such option: {written}. `metas run --help` lists them.") from error
        raise UsageError(
            f"{where}: cannot be read ({str(error).splitlines()[0]}). Write key=value; put a value with commas, "
            "brackets, braces, quotes or equal signs in quotes, such as 'key=\"a, b\"'."
        ) from error
    if parsed.is_hydra_override():
        yield Override(written, written, None, written)
        return
    name = parsed.key_or_group
    if name.replace("/", ".") in groups.choices():
        name = name.replace("/", ".")  # Hydra's own spelling of a group
    if parsed.package is not None or "/" in name:
        raise UsageError(
            f"{where}: groups are the sections {', '.join(sorted(groups.choices()))}; write key=value, such as "
            "model.name=minilm, or section=NAME, such as model=minilm."
        )
    key = locate(name.split("."), where)
    if parsed.is_delete():
        yield Override(f"~{key.path}", f"~{key.path}", None, written)
        return
    if key.is_section:
        names = _names(parsed, parser, where) if key.path in groups.choices() else []
        if names:
            chosen = [groups.resolve(key.path, name, where) for name in names]
            group = groups.hydra_name(key.path)
            yield Override(f"+{group}={','.join(chosen)}", f"+{group}={chosen[0]}", key.path, written)
        else:
            yield from _section(key.path, parsed.value(), written)
        return
    if parsed.is_sweep_override():
        options = _options(parsed, where)
        for option in options:
            values.check(key, parser.parse_override(f"x={option}").value(), where)
        yield Override(f"++{key.path}={parsed.get_value_string()}", f"++{key.path}={options[0]}", key.path, written)
        return
    values.check(key, parsed.value(), where)
    text = f"++{key.path}={parsed.get_value_string()}"
    yield Override(text, text, key.path, written)


def _names(parsed: Any, parser: Any, where: str) -> list[str]:
    """Names that a choice for a whole section consists of; empty where it is none."""
    if parsed.is_sweep_override():
        given = [parser.parse_override(f"x={option}").value() for option in _options(parsed, where)]
    else:
        given = [parsed.value()]
    return given if all(isinstance(name, str) for name in given) else []


def _options(parsed: Any, where: str) -> list[str]:
    from hydra.errors import HydraException

    try:
        return list(parsed.sweep_string_iterator())
    except HydraException as error:
        raise UsageError(f"{where}: write the values out, as in key=1,2,3 or key=range(1,4).") from error


def _section(path: str, value: Any, written: str) -> Iterator[Override]:
    """An override of a whole section, one by one for each of its keys."""
    where = f"override {written!r}"
    if not isinstance(value, Mapping) or not value:
        raise RunFileError(
            f"{where}: {path} is a section and expects keys, as in {path}.KEY=VALUE, not {values.seen(value)}."
        )
    for name, inner in value.items():
        key = locate([*path.split("."), str(name)], where)
        if key.is_section:
            yield from _section(key.path, inner, written)
            continue
        values.check(key, inner, where)
        text = f"++{key.path}={as_text(inner)}"
        yield Override(text, text, key.path, written)


def as_text(value: Any) -> str:
    """A plain value in the grammar of overrides."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        from hydra.core.override_parser.types import Quote, QuotedString

        return QuotedString(value, Quote.double).with_quotes()
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{n}:{as_text(v)}" for n, v in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ",".join(as_text(v) for v in value) + "]"
    return repr(value)


def paths_of(texts: Sequence[str]) -> dict[str, str]:
    """Dotted paths that translated overrides set -> the override, for messages and for `RunConfig.given`."""
    chosen = {path: text for text in texts for path in groups.paths(text)}
    single = {text.partition("=")[0].lstrip("+"): text for text in texts if text.startswith("++")}
    return {path: f"override {text.lstrip('+')!r}" for path, text in (chosen | single).items()}
