"""Where the demo stands: a Kafka, the store's database and a database for the case store.

Embedded ones here, so that Python is enough; others may be handed to `run_demo` instead. The story, the stages and the
oracle are the same on all of them.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from bridge.magento.demo_store import create_demo_store, demo_engine

StartPart = Callable[[str, Sequence[str]], Mapping[str, Any]]
"""Starts a part that lives as long as the demo, by name and command; returns the JSON line that it prints when it answers."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The settings that name them. The store has its tables and triggers, and no row; the case store is empty."""

    kafka: Mapping[str, Any]
    store_url: str = field(repr=False)
    case_store_url: str = field(repr=False)


BringUp = Callable[[Path, StartPart], Surroundings]
"""Brings the surroundings up for a demo in a folder; a relative SQLite path counts from there."""


def embedded(folder: Path, start: StartPart) -> Surroundings:
    """Bring up what needs Python alone: librdkafka's mock cluster and SQLite files."""
    servers = start("kafka", [sys.executable, "-m", "bridge.runtime.embedded_kafka"])["bootstrap_servers"]
    create_demo_store(folder / "store.db")
    return Surroundings(
        kafka={"bootstrap_servers": servers, "embedded": True},
        store_url="sqlite:///store.db",
        case_store_url="sqlite:///case.db",
    )


def open_engine(url: str) -> sa.Engine:
    """Return an engine on a database of the demo. On SQLite it waits for other writers and has foreign keys, as the
    shop's own sessions have: an account's orders outlive it, its addresses do not.
    """
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return demo_engine(parsed, autocommit=False)
    return sa.create_engine(url, isolation_level="READ COMMITTED", pool_pre_ping=True)
