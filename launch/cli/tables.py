"""Tables of runs that are complete on every terminal: a row too long for one line takes several."""

import os
import textwrap
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

_NAME, _STATE = 40, 28
"""Maximum width of a run's name and of its state before they are folded."""

_GAP = 2
"""Characters between two columns."""


class TableRow(NamedTuple):
    name: str
    state: str
    values: list[str]


def wide_console() -> Console:
    """A console that never wraps lines when its output goes to a file."""
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 1_000_000
    return console


def show(columns: list[str], rows: list[TableRow]) -> None:
    """Prints rows with the columns `run`, `state` and these, or each row as a paragraph if that does not fit.

    Columns after the first are omitted if no row has a value.
    """
    kept = [at for at in range(len(columns)) if not at or any(row.values[at] for row in rows)]
    columns = [columns[at] for at in kept]
    rows = [row._replace(values=[row.values[at] for at in kept]) for row in rows]
    console = wide_console()
    widths = [max(len(text) for text in texts) for texts in zip(columns, *(row.values for row in rows), strict=True)]
    name = min(_NAME, max(len(row.name) for row in rows))
    state = min(_STATE, max(len(row.state) for row in rows))
    if name + state + sum(widths) + _GAP * (len(widths) + 1) <= console.width:
        console.print(_table(columns, rows, name, state), highlight=False)
        return
    for row in rows:
        for line in _paragraph(columns, row, console.width):
            console.print(Text(line), no_wrap=True, crop=False, highlight=False)


def _table(columns: list[str], rows: list[TableRow], name: int, state: int) -> Table:
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False)
    table.add_column("run", overflow="fold", min_width=name)
    table.add_column("state", overflow="fold", min_width=state)
    for column in columns:
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, (row.name, row.state, *row.values)))
    return table


def _paragraph(columns: list[str], row: TableRow, width: int) -> list[str]:
    """Name and state, followed by every value with its column's name."""
    head = f"{row.name}  {row.state}"
    heads = [head] if len(head) <= width else [*_wrapped(row.name, width, ""), *_wrapped(row.state, width, "  ")]
    lines, line = [], ""
    for column, value in zip(columns, row.values, strict=True):
        if not value:
            continue
        pair = f"{column} {value}"
        if line and 2 + len(line) + 2 + len(pair) > width:
            lines.append(f"  {line}")
            line = ""
        line = f"{line}  {pair}" if line else pair
    return [*heads, *(part for line in [*lines, f"  {line}"] if line.strip() for part in _wrapped(line, width, "  "))]


def _wrapped(text: str, width: int, indent: str) -> list[str]:
    if len(text) <= width:
        return [text if text.startswith(indent) else indent + text]
    return textwrap.wrap(
        text.strip(), width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    ) or [""]
