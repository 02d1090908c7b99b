"""What must come of a delivery, computed from what was scripted and from the channel policy alone.

Imports nothing of the product: the fates are the sandbox's words, the policy is a list of channels. It judges three
witnesses: the ledger's rows, the evidence log's leaves, and what the providers themselves count.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

ARRIVES = frozenset({"delivered", "complaint", "delay", "spam", "throttle", "timeout", "lost", "read", "posted"})
"""Fates after which the message is with its reader and the provider, the reader or who posted it says so."""
BY_PEOPLE = frozenset({"read", "posted", "returned"})
"""What no provider does to an account notice or a letter: its reader, who posts it, and the post."""
NEVER_TAKEN = frozenset({"refuse", "transient"})
STATE_OF = {
    "complaint": "complained", "read": "read", "bounce": "bounced", "latebounce": "bounced", "returned": "bounced",
    "softbounce": "bounced", "refuse": "rejected", "reject": "rejected",
    # put off for as long as the channel may take, and refused then
    "transient": "rejected",
    "silent": "expired", "suppressed": "bounced",
    # SES reports an automatic response as a soft bounce, and nothing tells it from one: the next channel is tried, too
    "ooto": "bounced",
}  # fmt: skip
"""Where an attempt ends, if not as `delivered`."""


@dataclass(frozen=True)
class Scripted:
    """One person: what becomes of each channel that exists for them, and what was done to their incident meanwhile."""

    root: str
    incident_id: str
    policy: Sequence[str]
    fates: Mapping[str, str]
    """Channel -> fate, of the channels that this person has; a number behind it counts tries."""
    addresses: Mapping[str, str] = field(repr=False)
    disturbed: frozenset[str] = frozenset()
    """Channels where calls may have ended without an answer (a kill, a reset, a time-out): one repeat is allowed there."""


@dataclass(frozen=True)
class Expected:
    """How a person must end, the attempts that lead there, and how often a provider may have got their message."""

    end: str
    steps: tuple[tuple[str, str], ...]
    taken: Mapping[str, tuple[int, int]]
    """Channel -> fewest and most messages that its provider may have accepted."""


@dataclass(frozen=True)
class Attempt:
    """One attempt as the ledger has it."""

    attempt_id: str
    channel: str
    state: str
    call_count: int


_MOST_LOST_TWICE = 2
"""So many people's call and repeat may both meet what was done to their channel by chance, and not be taken either time."""


def expected(person: Scripted, lost_twice: frozenset[str] = frozenset()) -> Expected:
    """Return what must come of `person`: each channel in turn until one arrives. Of a channel in `lost_twice` nobody took
    either call: no receipt tells, and the next channel is begun all the same.
    """
    steps: list[tuple[str, str]] = []
    taken: dict[str, tuple[int, int]] = {}
    for channel in person.policy:
        fate = person.fates.get(channel, "").rstrip("0123456789")
        if not fate:
            continue
        if channel in lost_twice:
            steps.append((channel, "expired"))
            continue
        steps.append((channel, "delivered" if fate in ARRIVES - STATE_OF.keys() else STATE_OF[fate]))
        once_more = channel in person.disturbed or fate == "timeout"
        taken[channel] = (0, 0) if fate in NEVER_TAKEN else (1, 2 if once_more else 1)
        if fate in ARRIVES:
            return Expected("reached", tuple(steps), taken)
    return Expected("unreachable_reported", tuple(steps), taken)


def _lost_twice(person: Scripted, tried: Sequence[Attempt], taken_by_address: Counter[str]) -> frozenset[str]:
    """Return the channels where neither the call nor its repeat was taken by anybody, as can be where both were disturbed."""
    return frozenset(
        each.channel
        for each in tried
        if each.channel in person.disturbed
        and (each.call_count, each.state) == (2, "expired")
        and not taken_by_address[person.addresses[each.channel]]
    )


def judge(
    people: Sequence[Scripted],
    ends: Mapping[tuple[str, str], str | None],
    attempts: Mapping[tuple[str, str], Sequence[Attempt]],
    logged_steps: Mapping[tuple[str, str], Sequence[tuple[str, str]]],
    logged_ends: Mapping[tuple[str, str], str],
    taken_by_address: Counter[str],
    taken_by_attempt: Counter[str],
) -> list[str]:
    """Return every difference as a sentence without personal values. People are named by (incident, root).

    `taken_by_*` is what the providers accepted; those that carry our reference are counted by attempt, too.
    """
    faults: list[str] = []
    known_addresses = {address for person in people for address in person.addresses.values()}
    if strangers := sum(count for address, count in taken_by_address.items() if address not in known_addresses):
        faults.append(f"{strangers} messages went to nobody who was to be told")
    unlucky = 0
    for person in people:
        who = (person.incident_id, person.root)
        tried = attempts.get(who, ())
        lost = _lost_twice(person, tried, taken_by_address)
        unlucky += bool({channel for channel in lost if person.fates[channel] not in NEVER_TAKEN})
        want = expected(person, lost)
        steps = tuple((attempt.channel, attempt.state) for attempt in tried)
        if (ends.get(who), steps) != (want.end, want.steps):
            faults.append(f"{who}: expected {want.end} by {want.steps}, the ledger has {ends.get(who)} by {steps}")
        if (logged_ends.get(who), tuple(logged_steps.get(who, ()))) != (ends.get(who), steps):
            faults.append(f"{who}: ledger {ends.get(who)} {steps}, log {logged_ends.get(who)} {logged_steps.get(who)}")
        for channel, address in person.addresses.items():
            fewest, most = want.taken.get(channel, (0, 0))
            if not fewest <= taken_by_address[address] <= most:
                faults.append(f"{who}: {taken_by_address[address]} by {channel}, allowed are {fewest} to {most}")
        for attempt in tried:
            # the ledger counts each call that may have left the house, so a provider never has more than it says
            if taken_by_attempt[attempt.attempt_id] > attempt.call_count or attempt.call_count > 2:
                faults.append(
                    f"{who}: {taken_by_attempt[attempt.attempt_id]} taken, the ledger knows of {attempt.call_count} calls"
                )
    if unlucky > _MOST_LOST_TWICE:
        faults.append(f"{unlucky} people's message was taken by nobody, twice")
    ours = {attempt.attempt_id for tried in attempts.values() for attempt in tried}
    if unknown := sum(count for attempt_id, count in taken_by_attempt.items() if attempt_id not in ours):
        faults.append(f"{unknown} messages name an attempt that the ledger does not know")
    return faults
