"""Where a report goes on a terminal: tables and lines that fit in 80 columns.

Not at a terminal it is the same text without colours, 80 columns wide.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import IO

from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH, WIDEST = 80, 100
BAR = 16  # characters


class Terminal:
    """Prints headings, lines and tables.

    Args:
        file: Where to; standard output if not given.
    """

    def __init__(self, file: IO[str] | None = None) -> None:
        self._file = file or sys.stdout
        self._console = Console(file=self._file, highlight=False, markup=False, emoji=False)
        wide = self._console.width if self._console.is_terminal else WIDTH
        self._console.width = min(wide, WIDEST)
        self._block = "#" if self._console.options.ascii_only else "\u2588"

    def heading(self, text: str, beside: str = "") -> None:
        """A blank line and a title, with more about it on the next line."""
        self._print(Text(f"\n{text}", style="bold"))
        if beside:
            self._print(Text(beside, style="bright_black"))

    def line(self, text: str, style: str = "") -> None:
        """A line, broken between words where it is too long."""
        self._print(Text(text, style=style))

    def facts(self, facts: Iterable[tuple[str, str]]) -> None:
        """Names and values in two columns; what has no value is left out."""
        rows = [(name, value) for name, value in facts if value]
        if rows:
            self.table((), rows, left=2)

    def table(self, head: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> None:
        """A table of which the first `left` columns are words, the others figures."""
        rows = list(rows)
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=bool(head))
        for number in range(max(len(row) for row in (head, *rows))):
            title = Text(head[number], style="bright_black") if number < len(head) else ""
            words = number < left
            table.add_column(title, justify="left" if words else "right", overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        self._print(table)

    def bar(self, share: float) -> str:
        """A bar for a share of one; at least a block for what is not nothing."""
        filled = min(BAR, max(round(BAR * share), 1 if share > 0 else 0))
        return (self._block * filled).ljust(BAR)

    def _print(self, what: Text | Table) -> None:
        if self._console.is_terminal:
            self._console.print(what)
            return
        with self._console.capture() as captured:
            self._console.print(what)
        for line in captured.get().splitlines():  # tables are filled up with spaces
            self._file.write(f"{line.rstrip()}\n")
