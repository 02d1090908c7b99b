"""What commands print: a table for people, JSON for pipes, instants in the reader's zone, in UTC and as "in 31 h"."""

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TextIO

import click
from rich import box
from rich.console import Console
from rich.table import Table


def print_json(value: Any) -> None:
    """Print `value` as indented JSON; instants and enums as strings."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, title: str | None = None) -> None:
    """Print `rows` as a plain table with `columns`, in that order; missing values as "-"."""
    console().print(plain_table(rows, columns, title=title))


def plain_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, title: str | None = None) -> Table:
    """Return `rows` as a table whose cells are folded, never cut: an id that is cut cannot be typed."""
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=number == 0)
    for row in rows:
        table.add_row(*("-" if row.get(column) is None else str(row[column]) for column in columns))
    return table


def console(file: TextIO | None = None) -> Console:
    """Return a console as wide as the reader's terminal, or 150 columns where there is none."""
    out = file or sys.stdout
    return Console(file=out, highlight=False, markup=False, width=None if out.isatty() else 150)


def in_words(at: datetime, now: datetime) -> str:
    """Return how far `at` lies from `now`: "in 31 h", "2 d ago"."""
    seconds = (at - now).total_seconds()
    size = abs(seconds)
    amount = (
        f"{size / 60:.0f} min" if size < 5400 else f"{size / 3600:.0f} h" if size < 172800 else f"{size / 86400:.0f} d"
    )
    return f"in {amount}" if seconds >= 0 else f"{amount} ago"


def instant(at: datetime, now: datetime) -> str:
    """Return `at` in the reader's zone, in UTC, and in words."""
    local = at.astimezone()
    return f"{local:%Y-%m-%d %H:%M %Z} ({at:%Y-%m-%dT%H:%MZ} UTC, {in_words(at, now)})"
