"""What the demo says, for somebody who never saw the project: short lines, a clock, tables at the end. No decisions."""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table


class Narrator:
    """Prints the story with the seconds since it began."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._console = Console(file=out or sys.stdout, highlight=False, soft_wrap=True)
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the story began."""
        return time.monotonic() - self._began

    def chapter(self, title: str) -> None:
        """Begin a part of the story."""
        self._console.print(f"\n[bold]{self.seconds:6.1f} s  {title}[/bold]")

    def say(self, text: str) -> None:
        """Say one thing."""
        for line in text.rstrip().splitlines() or [""]:
            self._console.print(f"          {line}", markup=False)

    def typed(self, who: str, command: Sequence[str], answer: str) -> None:
        """Show a command as its person typed it, and what it answered."""
        self._console.print(f"          [dim]{who} $[/dim] tocsin {' '.join(command)}")
        for line in answer.rstrip().splitlines():
            self._console.print(f"            {line}", markup=False)

    def table(self, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], title: str) -> None:
        """Show `rows`."""
        table = Table(*columns, title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
        for row in rows:
            table.add_row(*(str(row[column]) for column in columns))
        self._console.print(table)
