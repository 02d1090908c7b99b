"""Reading members of providers' reports: what does not fit is refused by name, never with its value.

A report may hold somebody's address; no message that comes from here does.
"""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from bridge.contracts.errors import BadInput


def json_object(words: str, what: str) -> dict[str, Any]:
    """Return the JSON object in `words`. Raises BadInput that names `what`."""
    try:
        value = json.loads(words)
    except (ValueError, RecursionError):
        raise BadInput(f"{what} is no JSON") from None
    if not isinstance(value, dict):
        raise BadInput(f"{what} is no JSON object")
    return value


def readable(what: str, read: Callable[[], Any]) -> Any:
    """Return what `read` makes of a report. Raises BadInput that names the member which it stumbled over."""
    try:
        return read()
    except KeyError as error:
        raise BadInput(f"{what}: unknown or missing {error.args[0]!r}") from None
    except (TypeError, ValueError, AttributeError, IndexError, OverflowError):
        raise BadInput(f"{what}: a member has the wrong type or form") from None


LONGEST = 90
"""Characters of a name in a report: of two, with an event's type between them, the ledger makes an id of at most 200."""


def text(value: object) -> str:
    """Return `value`, which must be printable text of at most LONGEST characters. Raises TypeError or ValueError."""
    if not isinstance(value, str):
        raise TypeError("expected text")
    if len(value) > LONGEST or not value.isprintable():
        raise ValueError("expected a word")
    return value


def word(value: object) -> str:
    """Return `value`, which says more about an event, as ledger and evidence log take it: `not-spam` is `not_spam`. Some come
    from whoever keeps the mailbox; what is no word is `unlisted`.
    """
    found = re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,39}", text(value).replace("-", "_"))
    return found[0] if found else "unlisted"


def instant(words: str) -> datetime:
    """Read AWS's times: ISO 8601 with Z (SES), or without a zone and meaning UTC (SMS)."""
    at = datetime.fromisoformat(words)
    return at.astimezone(UTC) if at.tzinfo is not None else at.replace(tzinfo=UTC)
