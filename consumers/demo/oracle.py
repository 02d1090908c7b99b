"""What must come out, computed from the shop's memory by code that shares nothing with the code under test.

Reads the definition, not the implementation: no import from `consumers.domain`, no SQL of ours beyond plain reads. It
compares three witnesses with the expectation and with each other: the ledger, the mailbox, and the evidence log.
"""

import html
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from consumers.demo.shop import LEAKED_MODEL, LEAKED_VERSION, Person, Shop, exposure_window

Step = tuple[str, str]
"""(channel, state) of one attempt."""


@dataclass(frozen=True, slots=True)
class Expected:
    """How one person must end. `people` are all humans behind one recipient: the same account or the same address."""

    roots: frozenset[str]
    end: str
    steps: tuple[Step, ...]
    told: frozenset[tuple[str, str]]
    """(kind, category) of everything that a machine made about them and that leaked."""
    locale: str
    email: str = field(repr=False)
    phone: str | None = field(repr=False)
    first_name: str = field(repr=False)


def affected_roots(shop: Shop, start: datetime, end: datetime) -> dict[str, set[tuple[str, str]]]:
    """Return the roots whose records of the leaked version existed at some moment of the window, with (kind, category)."""
    roots: dict[str, set[tuple[str, str]]] = {}
    for record in shop.records:
        if (record.model_id, record.version) != (LEAKED_MODEL, LEAKED_VERSION):
            continue
        if record.generated_at > end or (record.deleted_at is not None and record.deleted_at <= start):
            continue
        roots.setdefault(record.root, set()).add((record.kind, record.category))
    return roots


def expectations(shop: Shop, *, letters: bool = True) -> list[Expected]:
    """Return one expectation for each person who must be told; `letters`: the policy ends with a letter."""
    roots = affected_roots(shop, *exposure_window(shop.now))
    found: list[Expected] = []
    for person in shop.people:
        mine = {root for root in _roots_of(person) if root in roots}
        if not mine:
            continue
        told = {pair for root in mine for pair in roots[root]}
        steps, end = _course(person, letters=letters)
        found.append(
            Expected(
                roots=frozenset(mine),
                end=end,
                steps=steps,
                told=frozenset(told),
                locale=person.place.locale,
                email=person.email,
                phone=person.phone,
                first_name=person.first_name,
            )
        )
    return found


def _roots_of(person: Person) -> Iterable[str]:
    if person.customer_id is not None:
        yield f"customer/{person.customer_id}"
    for order_id in person.order_ids:
        yield f"order/{order_id}"


def _course(person: Person, *, letters: bool) -> tuple[tuple[Step, ...], str]:
    if person.email_works:
        # a complaint is about a mail that arrived
        return (("email", "complained" if person.email_fate == "complaint" else "delivered"),), "reached"
    steps: list[Step] = [("email", "expired" if person.email_fate == "silent" else "bounced")]
    if person.phone is not None:
        if person.sms_works:
            return (*steps, ("sms", "delivered")), "reached"
        steps.append(("sms", "bounced"))
    if person.customer_id is not None and not person.leaves:
        if person.reads_account_notice:
            return (*steps, ("account_notice", "read")), "reached"
        steps.append(("account_notice", "expired"))
    if not letters:
        return tuple(steps), "unreachable_reported"
    if person.letter_comes_back:
        return (*steps, ("letter", "bounced")), "unreachable_reported"
    return (*steps, ("letter", "delivered")), "reached"


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One recipient as the case store tells it."""

    roots: frozenset[str]
    end: str | None
    steps: tuple[Step, ...]
    commitment: str


def compare_ledger(expected: Sequence[Expected], rows: Sequence[LedgerRow]) -> list[str]:
    """Return what differs between expectation and ledger, at most twenty sentences, without personal values."""
    faults: list[str] = []
    wanted = {item.roots: item for item in expected}
    got = {row.roots: row for row in rows}
    if len(got) != len(rows):
        faults.append("the ledger holds one person twice")
    for lost in sorted(map(sorted, wanted.keys() - got.keys())):
        faults.append(f"missing: {', '.join(lost)} should have been told")
    for wrong in sorted(map(sorted, got.keys() - wanted.keys())):
        faults.append(f"wrong: {', '.join(wrong)} should not have been told")
    for roots in wanted.keys() & got.keys():
        want, have = wanted[roots], got[roots]
        if (want.end, want.steps) != (have.end, have.steps):
            faults.append(
                f"{', '.join(sorted(roots))}: expected {want.end} by {want.steps}, ledger has {have.end} by {have.steps}"
            )
    return _bounded(faults)


def compare_mailbox(
    expected: Sequence[Expected],
    messages: Sequence[Mapping[str, Any]],
    sentences: Mapping[str, Mapping[tuple[str, str], str]],
) -> list[str]:
    """Return what differs between expectation and mailbox.

    Every person told by e-mail got exactly one, under their own name, with exactly the disclosure sentences of their
    own records; `sentences` is locale -> (kind, category) -> a sentence that stands in the approved text.
    """
    faults: list[str] = []
    mails = Counter(message["to"] for message in messages if message["channel"] == "email")
    texts = Counter(message["to"] for message in messages if message["channel"] == "sms")
    wanted_mails = Counter(item.email for item in expected)
    wanted_texts = Counter(
        item.phone for item in expected if item.phone and any(channel == "sms" for channel, _ in item.steps)
    )
    if mails != wanted_mails:
        faults.append(f"mailbox: {_difference(wanted_mails, mails)} e-mails differ in recipient or number")
    if texts != wanted_texts:
        faults.append(f"mailbox: {_difference(wanted_texts, texts)} SMS differ in recipient or number")
    by_address = {item.email: item for item in expected}
    for message in messages:
        item = by_address.get(message["to"])
        if message["channel"] == "email" and item is not None:
            faults.extend(_faults_of_mail(item, message, sentences))
    return _bounded(faults)


def _faults_of_mail(
    item: Expected, message: Mapping[str, Any], sentences: Mapping[str, Mapping[tuple[str, str], str]]
) -> Iterable[str]:
    who = ", ".join(sorted(item.roots))
    body = " ".join((message["text"] or "").split())
    page = " ".join(html.unescape(message["html"] or "").split())
    if item.first_name not in body or item.first_name not in page:
        yield f"{who}: the mail does not address its reader by name"
    if "{{" in body or "{{" in page:
        yield f"{who}: the mail shows an unfilled slot"
    language = item.locale.partition("_")[0]
    for (kind, category), sentence in sentences[language].items():
        told = sentence in body
        if told != ((kind, category) in item.told):
            yield f"{who}: the mail {'tells' if told else 'does not tell'} of {kind} {category} data"


@dataclass(frozen=True, slots=True)
class LogTally:
    """What the evidence log says: attempts by (commitment, number, channel, last state), ends by commitment."""

    attempts: Mapping[tuple[str, int], Step]
    ends: Mapping[str, str]


def compare_log(rows: Sequence[LedgerRow], tally: LogTally) -> list[str]:
    """Return what differs between ledger and evidence log: every attempt's last state and every person's end."""
    faults: list[str] = []
    for row in rows:
        logged = tuple(tally.attempts.get((row.commitment, number)) for number in range(1, len(row.steps) + 1))
        if logged != row.steps:
            faults.append(f"{', '.join(sorted(row.roots))}: the ledger has {row.steps}, the evidence log {logged}")
        if tally.ends.get(row.commitment) != row.end:
            faults.append(
                f"{', '.join(sorted(row.roots))}: end {row.end}, in the evidence log {tally.ends.get(row.commitment)}"
            )
    strangers = set(tally.ends) - {row.commitment for row in rows}
    if strangers:
        faults.append(f"the evidence log tells of {len(strangers)} people whom the ledger does not know")
    return _bounded(faults)


def _difference(wanted: Counter[Any], got: Counter[Any]) -> int:
    return sum((wanted - got).values()) + sum((got - wanted).values())


def _bounded(faults: list[str]) -> list[str]:
    return faults if len(faults) <= 20 else [*faults[:20], f"... and {len(faults) - 20} more"]
