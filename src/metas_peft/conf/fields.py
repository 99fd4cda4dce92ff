"""How a key of a run file is declared: default, meaning, bounds, other names. The types are in `schema.py`."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_RULE = "rule"


@dataclass(frozen=True)
class Rule:
    """What is known about a key besides its type and default.

    Attributes:
        doc: Meaning, with the unit; one sentence or two.
        above: Values must be greater than this.
        at_least: Values must not be less than this.
        at_most: Values must not be greater than this.
        below: Values must be less than this.
        aliases: Other names of the key.
        spellings: Other spellings of its values -> ours.
    """

    doc: str
    above: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    below: float | None = None
    aliases: tuple[str, ...] = ()
    spellings: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def bounds(self) -> str:
        """The bounds in words, e.g. `above 0 and at most 1`; empty if there are none."""
        words = (
            ("above", self.above),
            ("at least", self.at_least),
            ("below", self.below),
            ("at most", self.at_most),
        )
        return " and ".join(f"{word} {limit:g}" for word, limit in words if limit is not None)

    def admits(self, value: float) -> bool:
        """Whether a number is inside the bounds."""
        return (
            (self.above is None or value > self.above)
            and (self.at_least is None or value >= self.at_least)
            and (self.below is None or value < self.below)
            and (self.at_most is None or value <= self.at_most)
        )


def key(default: Any, doc: str, **rule: Any) -> Any:
    """Declare a key. The keyword arguments are those of `Rule`."""
    return field(default=default, metadata={_RULE: Rule(doc, **rule)})


def section(kind: type, doc: str, **rule: Any) -> Any:
    """Declare a section of keys with the defaults of its dataclass."""
    return field(default_factory=kind, metadata={_RULE: Rule(doc, **rule)})


def rule_of(declared: "dataclasses.Field[Any]") -> Rule:
    """The rule that a field was declared with."""
    return declared.metadata[_RULE]
