"""Backfill: every row once more through the same changelogs that live changes take, so that there is only one path.

Walks primary keys in chunks and notes each finished chunk in a file: what is stopped goes on where it was.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from bridge.contracts.errors import BadInput, Refused, Unreachable, nearest
from bridge.magento import statements
from bridge.magento.changelogs import View
from bridge.magento.servers import prepare_session
from bridge.magento.session import store_engine, translated
from bridge.magento.statements import checked_prefix
from bridge.runtime.locks import lock_file
from bridge.runtime.settings import Store


@dataclass(frozen=True, slots=True)
class _Entity:
    view: View
    table: str
    key: str
    additional: str = ""
    where: str = "1 = 1"


ENTITIES: Mapping[str, _Entity] = {
    "customers": _Entity(View.CUSTOMER, "customer_entity", "entity_id"),
    "provenance": _Entity(View.PROVENANCE, "tocsin_provenance", "id", ", record_id, root"),
    # An order is published only once it holds provenance; these are they.
    "orders": _Entity(View.ORDER, "tocsin_provenance", "order_id"),
    # A record may name its order in the root only; publishing the record publishes the order.
    "orders-by-root": _Entity(
        View.PROVENANCE, "tocsin_provenance", "id", ", record_id, root", "order_id IS NULL AND root LIKE 'order/%'"
    ),
    "account-notices": _Entity(View.ACCOUNT_NOTICE, "tocsin_account_notice", "id"),
}

_CHUNK = (
    "SELECT DISTINCT {key} AS number{additional} FROM {p}{table} WHERE {key} > :after AND {where}"
    " ORDER BY {key} LIMIT {limit}"
)
# Not INSERT ... SELECT: its count is not known before, so it would hold the changelog's counter against the shop's triggers.
_ENQUEUE = "INSERT INTO {p}{changelog} (entity_id{additional}) VALUES (:number{values})"
_COUNT = "SELECT COUNT(DISTINCT {key}) FROM {p}{table} WHERE {key} > :after AND {where}"


class Backfill:
    """Enqueues all of the store. `progress` is the file that remembers how far it came."""

    def __init__(self, settings: Store, progress: Path) -> None:
        self._settings = settings
        self._prefix = checked_prefix(settings.table_prefix)
        self._engine = store_engine(settings)
        self._progress = progress
        self._lock: int | None = None

    def left(self, name: str, *, from_start: bool = False) -> int:
        """Return how many of entity `name` are still to be enqueued, or how many there are."""
        after = 0 if from_start else self.reached(name)
        with self._connected() as connection:
            return int(connection.execute(self._text(_COUNT, entity(name)), {"after": after}).scalar_one())

    def run(self, name: str, chunk: int) -> Iterator[int]:
        """Enqueue the rest of entity `name`; yield the size of each chunk once it is durable. Raises Unreachable, and Refused
        while another backfill notes its progress in the same file.

        A crash after a chunk and before it is noted enqueues it again, which only publishes the same state again.
        """
        kind = entity(name)
        self._keep_others_out()
        while True:
            after = self.reached(name)
            with self._connected() as connection:
                rows = connection.execute(self._text(_CHUNK, kind, chunk), {"after": after}).mappings().all()
                if not rows:
                    break
                connection.execute(self._text(_ENQUEUE, kind), [dict(row) for row in rows])
            self._note(name, int(rows[-1]["number"]))
            yield len(rows)
        self._note(name, None)

    def restart(self, name: str) -> None:
        """Forget how far entity `name` came. Raises Refused as `run` does."""
        self._keep_others_out()
        self._note(name, None)

    def reached(self, name: str) -> int:
        """Return the key behind which entity `name` goes on; 0 at its beginning."""
        return self._notes().get(name, 0)

    def close(self) -> None:
        self._engine.dispose()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _keep_others_out(self) -> None:
        """Two at once would each write the notes that it read before, and one that is done would seem to have stopped."""
        if self._lock is not None:
            return
        self._progress.parent.mkdir(parents=True, exist_ok=True)
        self._lock = lock_file(self._progress.with_suffix(".lock"))
        if self._lock is None:
            raise Refused(
                f"another backfill is at work and notes its progress in {self._progress}: run this again when it has ended"
            )

    @contextmanager
    def _connected(self) -> Iterator[sa.Connection]:
        with translated(self._settings, Unreachable), self._engine.connect() as connection:
            if connection.dialect.name != "sqlite":
                prepare_session(connection)
            yield connection

    def _text(self, template: str, kind: _Entity, limit: int = 0) -> sa.TextClause:
        text = (
            template.replace("{table}", kind.table)
            .replace("{key}", kind.key)
            .replace("{additional}", kind.additional)
            .replace("{values}", kind.additional.replace(", ", ", :"))
            .replace("{where}", kind.where)
        )
        return sa.text(statements.filled(text.replace("{changelog}", kind.view.changelog), self._prefix, limit=limit))

    def _notes(self) -> dict[str, int]:
        try:
            notes = json.loads(self._progress.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError:
            notes = None
        if not isinstance(notes, dict) or not all(isinstance(reached, int) for reached in notes.values()):
            raise BadInput(f"{self._progress} does not hold a backfill's progress; remove it to start over")
        return notes

    def _note(self, name: str, reached: int | None) -> None:
        notes = {key: value for key, value in self._notes().items() if key != name}
        if reached is not None:
            notes[name] = reached
        self._progress.parent.mkdir(parents=True, exist_ok=True)
        partial = self._progress.with_suffix(".partial")
        partial.write_text(json.dumps(notes), encoding="utf-8")
        partial.replace(self._progress)


def entity(name: str) -> _Entity:
    """Return what is walked for `name`. Raises BadInput for an unknown one."""
    if name not in ENTITIES:
        raise BadInput(f"no entity {name!r}{nearest(name, ENTITIES)} (known: {', '.join(ENTITIES)})")
    return ENTITIES[name]
