"""What is remembered of the model registry, in the case store. What a look changes is decided in the domain."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import sqlalchemy as sa

from consumers.adapters.case_store.engine import CaseDatabase, upsert
from consumers.adapters.case_store.tables import registry_alias, registry_state, registry_version, registry_watch
from consumers.domain.registry import AliasSpan, RegisteredVersion, RegistryMemory, Watch

_STATE = ("revision", "changed_at", "looked_at", "fault")


class RegistryTables:
    """Implements `consumers.case.registry.RegistryRecords`."""

    def __init__(self, database: CaseDatabase) -> None:
        self._database = database

    def memory(self, registry: str) -> RegistryMemory:
        """Return all that is remembered of `registry`. Raises Unreachable."""
        with self._database.read() as connection:
            return _memory(connection, registry)

    def remember(self, registry: str, work: Callable[[RegistryMemory], RegistryMemory]) -> RegistryMemory:
        """Replace what is remembered by what `work` makes of it, in one transaction: a crash leaves the one or the other.

        Who looks at the same time waits. Raises Unreachable.
        """

        def change(connection: sa.Connection) -> RegistryMemory:
            upsert(connection, registry_state, [{"registry": registry, "revision": 0}])
            connection.execute(
                sa.select(registry_state.c.revision).where(registry_state.c.registry == registry).with_for_update()
            )
            before = _memory(connection, registry)
            after = work(before)
            _write(connection, before, after)
            return after

        return self._database.writing(change)


def _memory(connection: sa.Connection, registry: str) -> RegistryMemory:
    def rows(table: sa.Table, *order: sa.Column[Any]) -> list[Any]:
        query = sa.select(table).where(table.c.registry == registry).order_by(*order)
        return list(connection.execute(query).mappings())

    state = next(iter(rows(registry_state)), None)
    versions = [
        RegisteredVersion(
            row["model_id"], row["version"], tuple((model, version) for model, version in row["parents"]),
            row["created_at"], row["fault"], row["gone"],
        )
        for row in rows(registry_version)
    ]  # fmt: skip
    spans = [
        AliasSpan(**{each.name: row[each.name] for each in fields(AliasSpan)})
        for row in rows(registry_alias, registry_alias.c.registry_alias_id)
    ]
    return RegistryMemory(
        registry,
        **({name: state[name] for name in _STATE} if state is not None else {}),
        versions={each.node: each for each in versions},
        spans=tuple(sorted(spans, key=lambda each: (each.model_id, each.alias, each.seen_from))),
        watches=tuple(
            Watch(row["watched_from"], row["watched_until"])
            for row in rows(registry_watch, registry_watch.c.watched_from)
        ),
    )


def _write(connection: sa.Connection, before: RegistryMemory, after: RegistryMemory) -> None:
    own = {"registry": after.registry}
    state = {name: getattr(after, name) for name in _STATE}
    connection.execute(sa.update(registry_state).where(registry_state.c.registry == after.registry).values(**state))
    changed = [each for node, each in after.versions.items() if before.versions.get(node) != each]
    upsert(
        connection,
        registry_version,
        [
            {
                **own, "name_sha256": _sha256([each.model_id, each.version]), "model_id": each.model_id,
                "version": each.version, "parents": [list(parent) for parent in each.parents],
                "created_at": each.created_at, "fault": each.fault, "gone": each.gone,
            }
            for each in changed
        ],
        update=("parents", "created_at", "fault", "gone"),
    )  # fmt: skip
    watches = [each for each in after.watches if each not in before.watches]
    upsert(
        connection,
        registry_watch,
        [{**own, "watched_from": each.watched_from, "watched_until": each.watched_until} for each in watches],
        update=("watched_until",),
    )
    if after.spans == before.spans:
        return
    # Aliases are few and change seldom: what an alias named is written anew, all in this transaction.
    moved = {(each.model_id, each.alias) for each in set(after.spans) ^ set(before.spans)}
    ids = [
        row.registry_alias_id
        for row in connection.execute(
            sa.select(registry_alias.c.registry_alias_id, registry_alias.c.model_id, registry_alias.c.alias).where(
                registry_alias.c.registry == after.registry
            )
        )
        if (row.model_id, row.alias) in moved
    ]
    if ids:
        connection.execute(sa.delete(registry_alias).where(registry_alias.c.registry_alias_id.in_(ids)))
    connection.execute(
        sa.insert(registry_alias),
        [
            own | {field.name: getattr(each, field.name) for field in fields(AliasSpan)}
            for each in after.spans
            if (each.model_id, each.alias) in moved
        ],
    )


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()
