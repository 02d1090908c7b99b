"""How far the flow is, read from the case store and the store's changelogs by plain queries. Reads only; judges nothing."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa


def _table(name: str, *columns: str) -> sa.TableClause:
    return sa.table(name, *(sa.column(column) for column in columns))


_INCIDENT = _table("incident", "incident_id")
_PLAN = _table("plan", "incident_id", "revision", "state")
_RESOLUTION = _table("resolution", "incident_id")
_ATTEMPT = _table("attempt", "incident_id", "channel", "provider", "state")
_RECEIPT = _table("receipt", "kind", "attempt_id")
_CIRCUIT = _table("provider_circuit", "provider", "state")
_RELEASE = _table("release", "incident_id", "state")
_OUTBOX = _table("outbox", "topic")
_OBLIGATION = _table("obligation", "incident_id", "regime_id", "recipient", "status", "deadline_at", "detail")
_AFFECTED = _table("affected", "incident_id", "root", "event")


class Progress:
    """Asks the case store. The stages create its tables when they start; ask `is_there` before that is certain."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def is_there(self) -> bool:
        """Return whether the case store has its tables."""
        return bool(sa.inspect(self._engine).has_table("attempt"))

    def first_incident(self) -> str | None:
        """Return the id of the first incident."""
        found = self._scalar(sa.select(_INCIDENT.c.incident_id).order_by(_INCIDENT.c.incident_id).limit(1))
        return None if found is None else str(found)

    def resolved_partition_count(self) -> int:
        """Return how many partitions' resolutions planning has taken."""
        return int(self._scalar(sa.select(sa.func.count()).select_from(_RESOLUTION)))

    def plan_state(self, incident_id: str) -> str | None:
        """Return the state of the incident's newest plan."""
        query = sa.select(_PLAN.c.state).where(_PLAN.c.incident_id == incident_id).order_by(_PLAN.c.revision.desc())
        found = self._scalar(query.limit(1))
        return None if found is None else str(found)

    def attempts(self) -> dict[tuple[str, str], int]:
        """Return how many attempts there are by channel and state."""
        query = sa.select(_ATTEMPT.c.channel, _ATTEMPT.c.state, sa.func.count()).group_by(
            _ATTEMPT.c.channel, _ATTEMPT.c.state
        )
        with self._engine.connect() as connection:
            return {(channel, state): count for channel, state, count in connection.execute(query)}

    def sent_by(self, channel: str) -> dict[str, int]:
        """Return how many attempts of a channel that left the house each provider has."""
        query = (
            sa.select(_ATTEMPT.c.provider, sa.func.count())
            .where(_ATTEMPT.c.channel == channel, _ATTEMPT.c.state.not_in(("planned", "commanded", "intended")))
            .group_by(_ATTEMPT.c.provider)
        )
        with self._engine.connect() as connection:
            return {row.provider: int(row[1]) for row in connection.execute(query)}

    def receipt_count(self, kind: str) -> int:
        """Return of how many attempts a provider has reported `kind`."""
        query = sa.select(sa.func.count(sa.distinct(_RECEIPT.c.attempt_id))).where(_RECEIPT.c.kind == kind)
        return int(self._scalar(query))

    def circuit(self, provider: str) -> str:
        """Return how a provider's circuit stands: closed, open or half_open."""
        return str(self._scalar(sa.select(_CIRCUIT.c.state).where(_CIRCUIT.c.provider == provider)) or "closed")

    def is_finished(self, incident_id: str) -> bool:
        """Return whether everybody of the incident's release has an end."""
        query = sa.select(sa.func.count()).select_from(_RELEASE)
        return bool(self._scalar(query.where(_RELEASE.c.incident_id == incident_id, _RELEASE.c.state == "finished")))

    def outbox_count(self) -> int:
        """Return how many events wait to be published."""
        return int(self._scalar(sa.select(sa.func.count()).select_from(_OUTBOX)))

    def some_affected(self, incident_id: str, limit: int) -> Sequence[str]:
        """Return the events (JSON text) of the first affected by root."""
        query = sa.select(_AFFECTED.c.event).where(_AFFECTED.c.incident_id == incident_id).order_by(_AFFECTED.c.root)
        with self._engine.connect() as connection:
            return list(connection.execute(query.limit(limit)).scalars())

    def duties_due(self, incident_id: str) -> Sequence[Mapping[Any, Any]]:
        """Return the duties that are due, most urgent first: regime_id, recipient, status, deadline_at, detail (JSON text)."""
        columns = _OBLIGATION.c
        query = (
            sa.select(columns.regime_id, columns.recipient, columns.status, columns.deadline_at, columns.detail)
            .where(columns.incident_id == incident_id, columns.status.startswith("due", autoescape=True))
            .order_by(columns.deadline_at.is_(None), columns.deadline_at, columns.regime_id)
        )
        with self._engine.connect() as connection:
            return list(connection.execute(query).mappings())

    def duty_count(self, incident_id: str, status: str) -> int:
        """Return how many duties have `status`."""
        query = sa.select(sa.func.count()).select_from(_OBLIGATION)
        return int(self._scalar(query.where(_OBLIGATION.c.incident_id == incident_id, _OBLIGATION.c.status == status)))

    def _scalar(self, query: "sa.Select[Any]") -> Any:
        with self._engine.connect() as connection:
            return connection.execute(query).scalar()


def open_changes(store: sa.Engine) -> int:
    """Return how many changes of the store wait for the relay."""
    names = [
        name for name in sa.inspect(store).get_table_names() if name.startswith("tocsin_") and name.endswith("_cl")
    ]
    with store.connect() as connection:
        return sum(
            int(connection.execute(sa.select(sa.func.count()).select_from(sa.table(name))).scalar_one())
            for name in names
        )
