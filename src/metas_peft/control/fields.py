"""Sets of kept indices as bits, per member and place, in the shortest of three ways. Standard library only.

counts   every set is a prefix: how many
levels   members' sets are within one another, whatever the order of units: how many members a unit is missing in,
         and the rank of each member
masks    anything: a bit per unit
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from metas_peft.core.errors import CheckpointError

COUNTS, MASKS, LEVELS = 0, 1, 2

Kept = tuple[int, ...]


class Bits:
    """A queue of bits, least significant first."""

    def __init__(self, data: bytes = b"") -> None:
        self._value = int.from_bytes(data, "little")
        self._capacity = 8 * len(data)
        self._position = 0

    def put(self, value: int, width: int) -> None:
        """Append a number of so many bits."""
        self._value |= value << self._position
        self._position += width

    def take(self, width: int) -> int:
        """The next number of so many bits."""
        value = self._value >> self._position & ((1 << width) - 1)
        self._position += width
        return value

    def to_bytes(self) -> bytes:
        """Everything put so far."""
        return self._value.to_bytes((self._position + 7) // 8, "little")

    def require_end(self) -> None:
        """Refuse bytes that are left over, or missing.

        Raises:
            CheckpointError: There are.
        """
        if (self._position + 7) // 8 * 8 != self._capacity:
            raise CheckpointError("A packed controller's table and header disagree in length; write it again.")


@dataclass(frozen=True)
class Field:
    """Sets of kept indices of all members.

    Attributes:
        kind: `COUNTS`, `MASKS` or `LEVELS`.
        width: Bits of a count, or units (the bits of a mask).
        sets: Kept indices per member and place, ascending, [M][P].
    """

    kind: int
    width: int
    sets: tuple[tuple[Kept, ...], ...]

    @classmethod
    def shortest(cls, sets: Sequence[Sequence[Sequence[int]]], among_members: bool = True) -> "Field":
        """The way that takes the fewest bits.

        Args:
            sets: Kept indices per member and place, [M][P].
            among_members: Whether members may be written relative to one another.
        """
        kept = tuple(tuple(tuple(s) for s in places) for places in sets)
        every = [s for places in kept for s in places]
        units = max((max(s, default=-1) + 1 for s in every), default=0)
        ways = [cls(MASKS, units, kept)]
        if all(s == tuple(range(len(s))) for s in every):
            ways.append(cls(COUNTS, max((len(s).bit_length() for s in every), default=0), kept))
        if among_members and _within_one_another(kept):
            ways.append(cls(LEVELS, units, kept))
        return min(ways, key=lambda field: field.size)

    @property
    def size(self) -> int:
        """Bits that it takes."""
        if self.kind == LEVELS:
            places = len(self.sets[0]) if self.sets else 0
            return self._rank_bits * (places * self.width + len(self.sets))
        return sum(len(places) for places in self.sets) * self.width

    @cached_property
    def _rank_bits(self) -> int:
        """Bits of a number of members."""
        return len(self.sets).bit_length()

    def write(self, bits: Bits) -> None:
        """Append the sets."""
        if self.kind == LEVELS:
            ranks = _ranks(self.sets)
            for rank in ranks:
                bits.put(rank, self._rank_bits)
            for place in range(len(self.sets[0])):
                having = [set(places[place]) for places in self.sets]
                for unit in range(self.width):
                    bits.put(sum(unit not in kept for kept in having), self._rank_bits)
            return
        for places in self.sets:
            for kept in places:
                bits.put(len(kept) if self.kind == COUNTS else sum(1 << unit for unit in kept), self.width)

    @classmethod
    def read(cls, bits: Bits, kind: int, width: int, members: int, places: int) -> "Field":
        """Inverse of `write`.

        Raises:
            ValueError: No such kind.
        """
        if kind == LEVELS:
            rank_bits = members.bit_length()
            ranks = [bits.take(rank_bits) for _ in range(members)]
            levels = [[bits.take(rank_bits) for _ in range(width)] for _ in range(places)]
            sets = (tuple(tuple(u for u, level in enumerate(row) if rank >= level) for row in levels) for rank in ranks)
            return cls(kind, width, tuple(sets))
        if kind not in (COUNTS, MASKS):
            raise ValueError(f"kind {kind} of a field")

        def one(value: int) -> Kept:
            return tuple(range(value)) if kind == COUNTS else tuple(u for u in range(width) if value >> u & 1)

        return cls(kind, width, tuple(tuple(one(bits.take(width)) for _ in range(places)) for _ in range(members)))


def _ranks(sets: Sequence[Sequence[Kept]]) -> list[int]:
    """Place of each member from the smallest to the largest."""
    order = sorted(range(len(sets)), key=lambda m: sum(len(kept) for kept in sets[m]))
    ranks = [0] * len(sets)
    for rank, member in enumerate(order):
        ranks[member] = rank
    return ranks


def _within_one_another(sets: Sequence[Sequence[Kept]]) -> bool:
    """Whether each member's sets are within those of the next larger one, everywhere."""
    ranks = _ranks(sets)
    ordered = [sets[ranks.index(rank)] for rank in range(len(sets))]
    pairs = zip(ordered, ordered[1:], strict=False)
    return all(set(a) <= set(b) for small, large in pairs for a, b in zip(small, large, strict=True))
