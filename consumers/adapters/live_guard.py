"""Keeps a copy of the shop, or somebody else's credentials, from writing to real people.

`delivery.mode = "live"` names the AWS account and the store's base URL. Both are compared with AWS STS and the store at the
start, before each release, and every half minute while one runs. A difference stops everything at once and pages; people
wait where they are, and go on by themselves once it is mended. Not for whether anybody may be told.
"""

import hashlib
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol
from urllib.parse import urlsplit

import structlog

from bridge.contracts.errors import Refused, TocsinError
from bridge.runtime.clock import Clock
from bridge.runtime.telemetry import Health, gauge
from consumers.case.records import PageRecord

log = structlog.get_logger()

DIFFERING = gauge(
    "tocsin_live_differing_count",
    "1 while AWS or the store is not what delivery.mode = live names, so that this process sends nothing, else 0",
    question="does a copy of the shop try to write to real people?",
    labels={"part": ["account", "base_url"]},
)

COMPARED_EVERY = timedelta(seconds=30)
"""How long an answer counts while a release runs."""
_FRESH = timedelta(seconds=5)
"""How long it counts for a release that begins: several begin at once."""
SILENT_AT_MOST = timedelta(hours=1)
"""How long a release that has begun goes on while AWS STS or the store does not answer: neither has said anything else, and
deadlines run."""
_REMEMBERED = 1000
"""Releases that are known to have begun. One that is forgotten is compared once more."""


class PageBook(Protocol):
    """Where pages are raised; one of the same id is left as it is. Raises Unreachable."""

    def raise_page(self, record: PageRecord) -> None: ...


@dataclass(frozen=True, slots=True)
class Named:
    """What the settings name."""

    account: str
    base_url: str


class LiveGuard:
    """One process's eye on account and store; several threads may ask."""

    def __init__(
        self,
        named: Named,
        account: Callable[[], str],
        base_url: Callable[[], str],
        book: PageBook | None,
        clock: Clock,
        health: Health,
    ) -> None:
        """`account` and `base_url` ask AWS STS and the store. They raise Unreachable, or Refused for an answer that is
        none. `book` None: nobody is paged.
        """
        self._named = named
        self._account = account
        self._base_url = base_url
        self._book = book
        self._clock = clock
        self._health = health
        self._lock = threading.Lock()
        self._difference: str | None = None
        self._silence: str | None = None
        self._compared_at: datetime | None = None
        self._agreed_at: datetime | None = None
        self._begun: dict[str, None] = {}

    def refuse_difference(self) -> None:
        """Compare now. Raises Refused that says what differs, Unreachable when AWS STS or the store is silent."""
        with self._lock:
            silent = self._compare()
            difference = self._difference
        if difference is not None:
            raise Refused(f"{difference}; nothing is sent")
        if silent is not None:
            raise silent

    def run(self, stop: threading.Event, *, pause_seconds: float = 1.0) -> None:
        """Compare whenever the last answer is too old, until `stop`."""
        while not stop.is_set():
            self.look()
            stop.wait(pause_seconds)

    def look(self) -> None:
        """Compare if the last answer is too old. Never raises for what AWS or the store says."""
        with self._lock:
            if self._older_than(COMPARED_EVERY):
                self._compare()

    def differs(self) -> bool:
        """Return whether the last comparison found a difference; answers at once."""
        return self._difference is not None

    def difference(self) -> str:
        """Return what the last comparison found, in words; empty where nothing differs."""
        return self._difference or ""

    def may_hand_over(self, release_ids: Collection[str]) -> bool:
        """Return whether messages of these releases may be handed over. One that has not begun here is compared first: it
        begins only once AWS STS and the store have both answered.
        """
        with self._lock:
            new = [each for each in release_ids if each not in self._begun]
            if self._older_than(_FRESH if new else COMPARED_EVERY):
                self._compare()
            if self._difference is not None or (new and self._silence is not None):
                return False
            if self._agreed_at is None or self._clock.now() - self._agreed_at > SILENT_AT_MOST:
                return False
            self._begun.update(dict.fromkeys(new))
            while len(self._begun) > _REMEMBERED:
                del self._begun[next(iter(self._begun))]
            return True

    def _older_than(self, age: timedelta) -> bool:
        # also when the clock was set back
        return self._compared_at is None or not timedelta(0) <= self._clock.now() - self._compared_at < age

    def _compare(self) -> TocsinError | None:
        """Ask both; return what kept one of them from answering. What an earlier answer found stands while they are silent."""
        found, silent = self._found()
        # after the answers: one that took long is as old as it is
        self._compared_at = self._clock.now()
        self._silence = None if silent is None else str(silent)
        if silent is None:
            self._note(found)
            if found and self._book is not None:
                self._page(self._book, found)
            if not found:
                self._agreed_at = self._compared_at
        elif self._difference is None:
            log.warning("account and store are not compared", reason=self._silence)
            self._health.missing("live", f"not compared with delivery's settings: {self._silence}")
        return silent

    def _found(self) -> tuple[dict[str, str], TocsinError | None]:
        """Return what differs, in words, by part; with what kept the other part from answering if nothing differs."""
        found: dict[str, str] = {}
        silent: TocsinError | None = None
        for part, compare in (("account", self._other_account), ("base_url", self._other_store)):
            try:
                says = compare()
            except TocsinError as error:
                silent = silent or error
                continue
            if says is not None:
                found[part] = says
        return found, silent if not found else None

    def _other_account(self) -> str | None:
        account = self._account()
        if account == self._named.account:
            return None
        return f"delivery.aws_account is {self._named.account}, but these credentials belong to {account}"

    def _other_store(self) -> str | None:
        base_url = self._base_url()
        if _same(base_url) == _same(self._named.base_url):
            return None
        return f"delivery.base_url is {self._named.base_url}, but the store says {base_url} (a copy of the shop?)"

    def _note(self, found: dict[str, str]) -> None:
        for part in ("account", "base_url"):
            DIFFERING.labels(part).set(part in found)
        before, self._difference = self._difference, "; ".join(found.values()) or None
        if self._difference is None:
            self._health.ready("live")
            if before is not None:
                log.info("account and store are again what the settings name")
            return
        self._health.missing("live", self._difference)
        if self._difference != before:
            log.error("nothing is sent", reason=self._difference)

    def _page(self, book: PageBook, found: dict[str, str]) -> None:
        """Raise the page: one a day for each difference, however often processes begin anew."""
        now = self._clock.now()
        title = "; ".join(found.values())
        mark = f"live/{title}/{now.date().isoformat()}"
        try:
            book.raise_page(
                PageRecord(
                    page_id=hashlib.sha256(mark.encode()).hexdigest(),
                    incident_id=None,
                    kind="delivery.live_refused",
                    severity="critical",
                    roles=["sre", "dpo"],
                    title=f"nothing is sent: {title}"[:300],
                    body={"parts": sorted(found), "next": "tocsin config show"},
                    raised_at=now,
                )
            )
        except TocsinError as error:
            # the metric and the log say it too, and the next comparison raises it again
            log.error("a page could not be raised", reason=str(error))


def _same(url: str) -> str:
    """Return a base URL as it is compared: scheme and host in lower case, without the last slash."""
    parts = urlsplit(url.strip())
    return f"{parts.scheme.lower()}://{parts.netloc.lower()}{parts.path.rstrip('/')}"
