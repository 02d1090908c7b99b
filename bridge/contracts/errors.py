"""What may go wrong, by what a caller does about it. Every message names what failed, where, the value (never a
personal one) and what to do next. The exit code is the command line's: 1 "no", 2 wrong use or settings, 3 not reachable.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class TocsinError(Exception):
    """Base of all errors that Tocsin raises on purpose."""

    exit_code = 1


class Refused(TocsinError):
    """The request is well-formed and the answer is no: a check that fails, a permission that is missing."""


class MustStop(Refused):
    """What this process works with is not what it was started with: it must not go on, and a new start looks again."""


class BadInput(TocsinError):
    """Something written by a person or another system cannot be accepted as it is."""

    exit_code = 2


class Unreachable(TocsinError):
    """A part that is needed (broker, database, provider) does not answer."""

    exit_code = 3


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `"; did you mean 'x'?"` for the known name closest to `name`, or an empty string."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {str(close[0])!r}?" if close else ""
