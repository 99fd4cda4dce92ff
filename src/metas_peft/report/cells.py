"""Tables as data, drawn alike by the page and by the terminal.

A column whose numbers all have one origin carries it in its head; otherwise each cell carries its own.
"""

from dataclasses import dataclass

from metas_peft.report.words import NOTHING


@dataclass(frozen=True)
class Column:
    """Head of a column: title, unit, and the origin that all its numbers share (or nothing)."""

    title: str
    unit: str = ""
    origin: str = ""
    is_number: bool = True


@dataclass(frozen=True)
class Cell:
    """Text with its own origin where the column's is mixed; `tone` is "", "strong", "good", "bad" or "muted".

    `interval` places a low, a middle and a high value on an axis from 0 to 1, with a mark (0 for none) at its end.
    """

    text: str
    origin: str = ""
    tone: str = ""
    interval: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Table:
    """A titled table; every row has a cell per column."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) for row in self.rows), self.title


Pairs = list[tuple[Column, list[Cell]]]


def table(title: str, columns: Pairs) -> Table:
    """From columns with their cells; columns without any entry are left out."""
    kept = [
        (head, cells) for head, cells in columns if any(cell.origin or cell.text not in (NOTHING, "") for cell in cells)
    ]
    rows = zip(*(cells for _, cells in kept), strict=True)
    return Table(title, tuple(head for head, _ in kept), tuple(tuple(row) for row in rows))
