"""What the demo says, for somebody who never saw the project: short lines, a clock, tables at the end. No decisions."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from bridge.runtime.printing import console, plain_table


class Narrator:
    """Prints the story with the seconds since it began."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._console = console(out)
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the story began."""
        return time.monotonic() - self._began

    def chapter(self, title: str) -> None:
        """Begin a part of the story."""
        self._console.print(f"\n{self.seconds:6.1f} s  {title}", style="bold")

    def say(self, text: str) -> None:
        """Say one thing."""
        for line in text.rstrip().splitlines() or [""]:
            self._print(f"          {line}")

    def typed(self, who: str, command: Sequence[str], answer: str) -> None:
        """Show a command as its person typed it, and what it answered."""
        self._print(f"          {who} $ tocsin {' '.join(command)}")
        for line in answer.rstrip().splitlines():
            self._print(f"            {line}")

    def table(self, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], title: str) -> None:
        """Show `rows`."""
        self._console.print(plain_table(rows, columns, title=title))

    def _print(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)
