"""Whether the shop's database was put back in time: the number of its newest heartbeat's change is kept on Tocsin's side, and
never falls unless that table was restored, or made anew.

What the shop wrote after the backup is in the index and not in the shop, and what was written anew since may never have been
published. Not for what differs: `relay verify` finds that, and mends it.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog

from bridge.relay_status import Verified, last_verified
from bridge.runtime.run_files import write_run_file
from bridge.runtime.telemetry import gauge
from bridge.verification import ENTITIES

log = structlog.get_logger()

PUT_BACK = gauge(
    "tocsin_relay_store_put_back_active",
    "1 since the shop's database was put back in time, until `tocsin relay verify` has found that store and index agree",
    question="was the shop restored from a backup, and does the index know what is not true any more?",
)


class StoreMark:
    """Keeps the highest number seen in `file`; `verified` is where the last verification is kept."""

    def __init__(self, file: Path, verified: Path) -> None:
        self._file = file
        self._verified = verified

    def saw(self, number: int, at: datetime) -> None:
        """Note the number of a heartbeat's change. A crash before it is written compares the next one with the same."""
        kept = _read(self._file)
        put_back_at = kept.get("put_back_at")
        if number < kept.get("number", 0):
            put_back_at = at.isoformat()
            log.error(
                "the shop's database was put back in time, or its changelogs were made anew; run tocsin relay verify --repair",
                newest=number, before=kept["number"],
            )  # fmt: skip
        if (number, put_back_at) != (kept.get("number"), kept.get("put_back_at")):
            try:
                write_run_file(self._file, {"number": number, "put_back_at": put_back_at})
            except OSError as error:
                # no change waits for it: without the file a restore is seen by no later process
                log.warning(
                    "how far the shop's database is cannot be kept", file=str(self._file), reason=error.strerror
                )
        PUT_BACK.set(_unless_verified(put_back_at, last_verified(self._verified)) is not None)


def put_back_since(file: Path, verified: Verified | None) -> datetime | None:
    """Return when the shop's database was seen to be behind what it had been; None if never, or if all was verified since."""
    return _unless_verified(_read(file).get("put_back_at"), verified)


def _unless_verified(put_back_at: object, verified: Verified | None) -> datetime | None:
    with suppress(ValueError, TypeError):
        at = datetime.fromisoformat(put_back_at)  # type: ignore[arg-type]  # a file may hold anything
        over = verified is not None and verified.agree and verified.at > at and set(verified.entities) == set(ENTITIES)
        return None if over else at
    return None


def _read(file: Path) -> Mapping[str, Any]:
    with suppress(OSError, ValueError):
        kept = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(kept, dict) and isinstance(kept.get("number"), int):
            return kept
    return {}
