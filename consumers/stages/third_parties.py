"""Tells partners and processors, once for each release, over the topic of each. Runs beside dispatch, under a lease.

The notice is a row before anything is published, so that no release is without it and none has two. Publishing is at
least once: a crash between the call and its note publishes again, under the same notice id. Not for people's notices.
"""

import threading
from collections.abc import Sequence
from typing import Protocol

import structlog

from bridge.contracts.errors import Unreachable
from bridge.runtime.telemetry import counter
from consumers.domain.sending import SendResult, SendState

log = structlog.get_logger()

PUBLISHED = counter(
    "tocsin_third_party_notices_total",
    "notices to third parties by what the topic answered, exercises left out",
    question="do partners and processors learn of a release?",
    labels={"state": [state.value for state in SendState]},
)


class Waiting(Protocol):
    """One notice that is to be published."""

    @property
    def notice_id(self) -> str: ...
    @property
    def topic_arn(self) -> str: ...
    @property
    def document(self) -> str: ...
    @property
    def exercise(self) -> bool: ...


class ThirdPartyLedger(Protocol):
    """What is to be told to whom, and what became of it."""

    def plan(self) -> int: ...
    def take(self, limit: int) -> Sequence[Waiting]: ...
    def settle(self, results: Sequence[SendResult]) -> None: ...


class TopicPublisher(Protocol):
    """Publishes a document on a topic."""

    def publish(self, notice_id: str, topic_arn: str, document: str, *, exercise: bool) -> SendResult:
        """Return the provider's answer. Never raises for what a provider says. An exercise stays in the sandbox."""
        ...


class Lease(Protocol):
    """Who publishes."""

    def take(self) -> bool: ...
    def release(self) -> None: ...


class ThirdPartyNotices:
    """One active publisher; another one waits for its lease."""

    def __init__(
        self, ledger: ThirdPartyLedger, topics: TopicPublisher, lease: Lease, *, tick_seconds: float = 1.0
    ) -> None:
        self._ledger = ledger
        self._topics = topics
        self._lease = lease
        self._tick_seconds = tick_seconds

    def run(self, stop: threading.Event) -> None:
        """Plan and publish until `stop`."""
        try:
            while not stop.wait(self._tick_seconds):
                try:
                    if self._lease.take():
                        self.tick()
                except Unreachable as error:
                    log.warning("third parties wait", reason=str(error))
        finally:
            self._lease.release()

    def tick(self) -> int:
        """Write what new releases owe and publish what waits; return how many topics took theirs."""
        self._ledger.plan()
        taken = 0
        for waiting in self._ledger.take(20):
            result = self._topics.publish(
                waiting.notice_id, waiting.topic_arn, waiting.document, exercise=waiting.exercise
            )
            if not waiting.exercise:
                PUBLISHED.labels(result.state.value).inc()
            self._ledger.settle([result])
            taken += result.state is SendState.ACCEPTED
        return taken
