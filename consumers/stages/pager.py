"""Stage pager: takes pages to people, again until somebody acknowledges them, and on to more people after that.

Pages are rows of the case store, written together with what they are about; nothing here can lose one. Each receiver has
a thread of its own: one that is slow, down or answers with errors keeps no other one waiting.
"""

import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

import structlog

from bridge.contracts.errors import TocsinError, Unreachable
from bridge.runtime.clock import Clock
from bridge.runtime.telemetry import Health, counter, gauge
from consumers.domain.paging import (
    UNSENT,
    PagingPolicy,
    ReceiverKind,
    Sent,
    StandingPage,
    is_due,
    is_escalated,
)

log = structlog.get_logger()

SENT = counter(
    "tocsin_pages_sent_total",
    "pages handed to a receiver, repeats included",
    question="do pages leave, and do receivers take them?",
    labels={"receiver": [kind.value for kind in ReceiverKind], "outcome": ["delivered", "failed"]},
)
UNACKNOWLEDGED = gauge(
    "tocsin_pages_unacknowledged_count",
    "pages about incidents, but exercises, that nobody has acknowledged; told by whoever pages, 0 by all others",
    question="does somebody look?",
    labels={"severity": ["critical", "warning"]},
)
UNDELIVERED = gauge(
    "tocsin_pages_undelivered_seconds",
    "age of the oldest page that no receiver has taken; 0 if there is none or no receiver is configured",
    question="does anybody hear us?",
)


class PagingStore(Protocol):
    """Pages, and what receivers know of them."""

    def standing(self) -> Sequence[StandingPage]: ...
    def sent(self, pages: Sequence[StandingPage]) -> Mapping[str, Mapping[str, Sent]]: ...
    def record(self, page_id: str, receiver: str, sent: Sent) -> None: ...


class Receiver(Protocol):
    """Somewhere pages go. `deliver` raises Unreachable (down, slow, an error) or Refused (it will never take this)."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> ReceiverKind: ...
    def deliver(self, page: StandingPage, *, escalated: bool, now: datetime) -> None: ...


class Lease(Protocol):
    """Who pages."""

    def take(self) -> bool: ...
    def release(self) -> None: ...


class PagerStage:
    """One active pager; a second one waits for its lease."""

    def __init__(
        self,
        store: PagingStore,
        receivers: Sequence[Receiver],
        policy: PagingPolicy,
        lease: Lease,
        clock: Clock,
        health: Health,
        *,
        look_seconds: float = 1.0,
    ) -> None:
        self._store = store
        self._receivers = receivers
        self._policy = policy
        self._lease = lease
        self._clock = clock
        self._health = health
        self._look_seconds = look_seconds
        self._active = threading.Event()

    def run(self, stop: threading.Event) -> None:
        """Page until `stop`; what is being delivered is finished first."""
        if not self._receivers:
            log.warning("no receiver of pages is configured: `tocsin incident show` alone tells of them")
        threads = [
            threading.Thread(target=self._serve, args=(receiver, stop), name=f"pager-{receiver.name}")
            for receiver in self._receivers
        ]
        for thread in threads:
            thread.start()
        self._health.ready()
        try:
            while not stop.is_set():
                try:
                    if self._lease.take():
                        self._active.set()
                        self._measure()
                    else:
                        self._active.clear()
                        self._show([], 0)
                    self._health.ready("case store")
                except Unreachable as error:
                    self._active.clear()
                    log.warning("the pager waits", reason=str(error))
                    self._health.missing("case store", str(error))
                stop.wait(self._look_seconds)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
            self._lease.release()

    def _serve(self, receiver: Receiver, stop: threading.Event) -> None:
        while not stop.is_set():
            if self._active.is_set():
                try:
                    self.tell(receiver, stop)
                except Unreachable as error:
                    log.warning("a receiver waits for the case store", receiver=receiver.name, reason=str(error))
            stop.wait(self._look_seconds)

    def tell(self, receiver: Receiver, stop: threading.Event) -> int:
        """Deliver to `receiver` what it must hear now; return how many pages it took.

        A crash between delivery and its record delivers once more: receivers know a page by its key.
        """
        pages = self._store.standing()
        known = self._store.sent(pages)
        taken = 0
        for page in pages:
            if stop.is_set():
                break
            now = self._clock.now()
            sent = known.get(page.page_id, {})
            before = sent.get(receiver.name, UNSENT)
            others = any(each.delivered_at is not None for name, each in sent.items() if name != receiver.name)
            if not is_due(page, receiver.kind, before, reached_other=others, now=now, policy=self._policy):
                continue
            try:
                receiver.deliver(page, escalated=is_escalated(page, now, self._policy), now=now)
            except TocsinError as error:
                SENT.labels(receiver.kind.value, "failed").inc()
                log.error(
                    "a page was not delivered", receiver=receiver.name, page=page.page_id, incident=page.incident_id,
                    reason=str(error),
                )  # fmt: skip
                after = Sent(before.delivered_at, before.failures + 1, now, settled=False)
            else:
                SENT.labels(receiver.kind.value, "delivered").inc()
                taken += 1
                after = Sent(now, 0, now, settled=page.settled)
            self._store.record(page.page_id, receiver.name, after)
        return taken

    def _measure(self) -> None:
        pages = [page for page in self._store.standing() if not page.settled]
        known = self._store.sent(pages)
        now = self._clock.now()
        untold = [
            (now - page.raised_at).total_seconds()
            for page in pages
            if self._receivers and not any(each.delivered_at for each in known.get(page.page_id, {}).values())
        ]
        self._show(
            [page for page in pages if page.incident_id is not None and not page.exercise], max(untold, default=0)
        )

    @staticmethod
    def _show(pages: Sequence[StandingPage], undelivered_seconds: float) -> None:
        for severity in ("critical", "warning"):
            UNACKNOWLEDGED.labels(severity).set(sum(page.severity == severity for page in pages))
        UNDELIVERED.set(undelivered_seconds)
