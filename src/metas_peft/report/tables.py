"""The report's tables for the terminal, through rich; the words for origins are the report's own."""

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from metas_peft.report.cells import Cell, Column, Table
from metas_peft.report.collect import Run, Target
from metas_peft.report.comparison import baselines_table, members_table, volumes_table

_TONES = {"strong": "bold", "good": "green", "bad": "yellow", "muted": "dim"}


def front_table(run: Run, target: Target | None = None, *, without: tuple[str, ...] = ()) -> RichTable:
    """Members of the front on the run's target, or on one that it was re-targeted to, without some columns."""
    # Counts of single units are for the page; a terminal is narrow.
    hidden = ("Layers", "Heads", "FFN blocks", "Ranks", "Cut vs. masked")
    return as_rich(members_table(run, target or run.target), hidden=(*hidden, *without))


def baseline_table(run: Run) -> RichTable:
    """Operating points of the rivals."""
    return as_rich(baselines_table(run))


def volume_table(run: Run) -> RichTable:
    """Hyper-volumes of all methods with ratios and intervals."""
    return as_rich(volumes_table(run), hidden=("In words", "Time"))


def as_rich(table: Table, hidden: tuple[str, ...] = ()) -> RichTable:
    """A rich table whose column heads, or cells where they are mixed, carry origins.

    Args:
        table: What to show; every text is printed as it is, without markup.
        hidden: Titles of columns to leave out.
    """
    drawn = RichTable(title=Text(table.title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    shown = [i for i, column in enumerate(table.columns) if column.title not in hidden]
    for i in shown:
        column = table.columns[i]
        side = "right" if column.is_number else "left"
        drawn.add_column(_head(column), justify=side, vertical="bottom", no_wrap=column.is_number, overflow="fold")
    for row in table.rows:
        drawn.add_row(*(_cell(row[i]) for i in shown))
    return drawn


def _head(column: Column) -> Text:
    head = Text(column.title, style="bold")
    for line in (column.unit, column.origin):
        if line:
            head.append(f"\n{line}", style="dim not bold")
    return head


def _cell(cell: Cell) -> Text:
    text = Text(cell.text, style=_TONES.get(cell.tone, ""))
    if cell.origin:
        text.append(f" {cell.origin}" if cell.text else cell.origin, style="dim not bold")
    return text
