"""Name -> thing, with aliases, and a kind word for typing errors."""

import re
from collections.abc import Iterator
from typing import Generic, TypeVar

from metas_peft.core.errors import UnknownNameError, nearest

T = TypeVar("T")


def canonical(name: str) -> str:
    """Spelling in which names are compared: lower case, runs of other characters as one hyphen."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


class Registry(Generic[T]):
    """A catalogue of named entries of one kind.

    Args:
        kind: What the entries are, for messages: `device`, `task`, `method`.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}
        self._aliases: dict[str, str] = {}

    def add(self, name: str, entry: T, aliases: tuple[str, ...] = ()) -> T:
        """Register an entry; a name or alias that is taken already is a programming error."""
        for spelling in {canonical(name), *map(canonical, aliases)}:
            if spelling in self._aliases:
                raise ValueError(f"{self.kind} name {spelling!r} is registered twice.")
            self._aliases[spelling] = name
        self._entries[name] = entry
        return entry

    def resolve(self, name: str) -> str:
        """Canonical name of an entry.

        Raises:
            UnknownNameError: No entry or alias is spelled so; the message names the nearest.
        """
        try:
            return self._aliases[canonical(name)]
        except KeyError:
            raise UnknownNameError(
                f"Unknown {self.kind} {name!r}: {nearest(canonical(name), self._entries, self._aliases)}"
            ) from None

    def aliases(self, name: str) -> list[str]:
        """Other spellings under which an entry is found, in the form in which names are compared."""
        own = self.resolve(name)
        return sorted(s for s, entry in self._aliases.items() if entry == own and s != canonical(own))

    def __getitem__(self, name: str) -> T:
        return self._entries[self.resolve(name)]

    def __contains__(self, name: str) -> bool:
        return canonical(name) in self._aliases

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
