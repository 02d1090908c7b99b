"""What each stage works with, asked whenever somebody wants to know whether it is ready: an idle stage would not notice that its
case store or Kafka is gone. What a stage asks by itself all the time (the store, SQS) it reports itself.
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence

from bridge.contracts.errors import Refused
from bridge.runtime.parts import Parts
from bridge.runtime.settings import Settings
from bridge.runtime.telemetry import Health
from consumers.needs import NEEDS

Surrounding = tuple[str, Callable[[Parts], Callable[[], object]]]
"""A name, and what makes the question, which raises while it is not in order."""

_LEAST_FREE_MB = 100


def watch_surroundings(parts: Parts, stage: str, health: Health) -> None:
    """Let `health` ask for what `stage` works with."""
    for name, question in SURROUNDINGS[stage]:
        health.watch(name, question(parts))


def _case_store(parts: Parts) -> Callable[[], object]:
    from consumers.adapters.case_store.engine import CaseDatabase

    def ask() -> None:
        with parts.get(CaseDatabase).read() as connection:
            connection.exec_driver_sql("SELECT 1")

    return ask


def _kafka(parts: Parts) -> Callable[[], object]:
    from bridge.runtime.kafka import Broker

    return Broker(parts.get(Settings).kafka).ask


def _evidence_folder(parts: Parts) -> Callable[[], object]:
    folder = parts.get(Settings).paths.evidence

    def ask() -> None:
        # made by the stage as it starts
        if not folder.is_dir():
            raise Refused(f"there is no folder {folder}")
        if not os.access(folder, os.W_OK):
            raise Refused(f"{folder} cannot be written to")
        free = shutil.disk_usage(folder).free // 2**20
        if free < _LEAST_FREE_MB:
            raise Refused(f"{free} MB are left where {folder} lies; every message waits for its leaf")

    return ask


_ASKED: Mapping[str, Surrounding] = {"kafka": ("kafka", _kafka), "case_store.url": ("case store", _case_store)}
"""By the key of the settings that a stage needs for it."""
_OWN: Mapping[str, Sequence[Surrounding]] = {"evidence": (("evidence folder", _evidence_folder),)}

SURROUNDINGS: Mapping[str, Sequence[Surrounding]] = {
    stage: (*(_ASKED[key] for key, _ in needs if key in _ASKED), *_OWN.get(stage, ())) for stage, needs in NEEDS.items()
}
