"""Intake from the topic: signed, trusted by its ACL, unsigned, unreadable, replayed; the position moves with the result."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from bridge.contracts.envelope import Message
from bridge.contracts.errors import Unreachable
from bridge.contracts.events import DeadLettered
from bridge.contracts.topics import Topic
from bridge.runtime.dead_letters import DeadLetters
from bridge.runtime.redrive import SENT_HEADER, redriven
from bridge.runtime.settings import Intake
from bridge.runtime.telemetry import Health
from consumers.adapters.alert_mappings import AlertMappings
from consumers.adapters.case_store import tables
from consumers.case.alerts import Known
from consumers.case.webhooks import Secrets
from consumers.stages.intake import Reception, TopicIntake
from tests.unit.case.cases import GIVEN, KNOWN, NOW, Case

SECRETS = Secrets((b"s" * 32,))
BODY = json.dumps({"fingerprint": "leak-1", "title": "Log exposed", "scope": GIVEN}).encode()
TEMPLATES = Path(__file__).parents[3] / "templates" / "alert-mappings"
AT_MS = int(NOW.timestamp() * 1000)


class Names:
    def __init__(self, take: Callable[[], None] = lambda: None) -> None:
        self.known: Known | None = KNOWN
        self.take = take

    def known_names(self) -> Known:
        self.take()
        if self.known is None:
            raise Unreachable("no partition answers")
        return self.known


class Letters:
    """Keeps dead letters as a publisher would send them."""

    def __init__(self) -> None:
        self.sent: list[Mapping[str, Any]] = []

    def send(self, topic: Topic, message: Message) -> None:
        assert message.value is not None
        self.sent.append(json.loads(message.value))

    def flush(self) -> None: ...


class World:
    """Topic intake over a case store on SQLite."""

    def __init__(self, case: Case, *, limit: int = 100, **settings: Any) -> None:
        self.case = case
        self.seconds = 0.0
        self.asked_seconds = 0.0
        self.names = Names(self._ask)
        self.letters = Letters()
        self.reception = Reception(case.store, AlertMappings(TEMPLATES, {}), self.names, monotonic=lambda: self.seconds)
        dead_letters = DeadLetters(
            lambda: self.letters, "intake", case.clock, limit_per_minute=limit, monotonic=lambda: self.seconds  # type: ignore[arg-type,return-value]
        )  # fmt: skip
        self.topic = TopicIntake(
            self.reception, {"monitor": SECRETS}, Intake(**settings), case.clock, dead_letters
        )  # fmt: skip
        self.offset = 0

    def _ask(self) -> None:
        self.seconds += self.asked_seconds

    def send(
        self, body: bytes = BODY, *, key: bytes = b"monitor", headers: Mapping[str, str] | None = None
    ) -> Sequence[str]:
        pairs = [(name, value.encode()) for name, value in (headers or {}).items()]
        taken = self.topic.handle(0, self.offset, key, body, pairs, AT_MS)
        self.offset += 1
        assert self.case.rows(tables.kafka_position)[0]["next_offset"] == self.offset
        return [each.incident_id for each in taken]


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    made = Case(tmp_path)
    yield made
    made.database.close()


def test_a_signed_alert_is_taken_once_even_if_it_is_sent_again(case: Case) -> None:
    world = World(case)
    headers = SECRETS.sign("msg_1", NOW, BODY)
    assert world.send(headers=headers) == ["INC-2026-0001"]
    assert world.send(headers=headers) == []
    [row] = case.rows(tables.incident)
    assert (row["unsigned_source"], row["repeat_count"]) == (False, 0)


def test_without_a_signature_the_incident_says_so_and_with_a_trusted_acl_it_does_not(case: Case) -> None:
    World(case).send()
    assert case.rows(tables.incident)[0]["unsigned_source"] is True


def test_the_acl_is_trusted_when_settings_name_it(case: Case) -> None:
    World(case, trusted_topic_acl="User:monitors").send()
    assert case.rows(tables.incident)[0]["unsigned_source"] is False


def test_a_wrong_signature_is_no_signature_and_burns_no_id(case: Case) -> None:
    world = World(case)
    forged = Secrets((b"x" * 32,)).sign("msg_1", NOW, BODY)
    world.send(headers=forged)
    late = SECRETS.sign("msg_2", NOW - timedelta(hours=1), BODY)
    world.send(headers=late)
    assert case.rows(tables.webhook_seen) == []
    assert case.rows(tables.incident)[0]["unsigned_source"] is True
    assert case.rows(tables.incident)[0]["repeat_count"] == 1


def test_an_unsigned_alert_that_is_read_twice_counts_once_and_another_at_its_place_counts(case: Case) -> None:
    """Another lies there once the topic was deleted and made anew."""
    world = World(case)
    for at_ms in (AT_MS, AT_MS, AT_MS + 1, AT_MS + 1):
        world.topic.handle(0, 3, b"monitor", BODY, [], at_ms)
    assert [row["repeat_count"] for row in case.rows(tables.incident)] == [1]
    assert len(case.rows(tables.alert)) == 2


def test_unreadable_signed_opens_an_incident_unsigned_becomes_a_dead_letter(case: Case) -> None:
    world = World(case)
    junk = b"\xff\x00junk"
    assert world.send(junk) == []
    [letter] = world.letters.sent
    assert letter["topic"] == "tocsin.leak-alerts"
    assert case.rows(tables.incident) == []
    assert world.send(junk, headers=SECRETS.sign("msg_1", NOW, junk)) == ["INC-2026-0001"]
    assert case.rows(tables.alert)[0]["body"] == junk
    assert len(world.letters.sent) == 1


def test_a_key_that_is_no_source_still_opens_an_incident(case: Case) -> None:
    assert World(case).send(key=b"\xffSomething Odd") == ["INC-2026-0001"]
    assert case.rows(tables.incident)[0]["source"].startswith("unknown-")


def test_while_the_index_is_away_the_alert_is_taken_as_given(case: Case) -> None:
    world = World(case)
    world.names.known = None
    world.send()
    [row] = case.rows(tables.incident)
    assert (row["scope"]["model_versions"], row["scope_unresolved"]) == (["7"], {"unchecked": True})


@pytest.mark.parametrize("known", [KNOWN, None])
def test_an_index_that_hangs_keeps_no_alerts_waiting_behind_each_other(case: Case, known: Known | None) -> None:
    world = World(case)
    world.names.known, world.asked_seconds = known, 5.0
    for _ in range(100):
        world.send()
        world.seconds += 0.1
    assert world.seconds <= 15.0 + 0.1, "a question of 5 s, then 45 s without one"
    world.seconds += 45.0
    world.names.known = None
    world.send(json.dumps({"fingerprint": "leak-2", "scope": GIVEN}).encode())
    assert case.rows(tables.incident)[1]["scope_unresolved"] == {"unchecked": True}


def test_names_are_compared_when_the_index_has_read_on_and_again_after_a_restart(case: Case) -> None:
    first = World(case)
    first.names.known = replace(KNOWN, read_to_end_at=NOW - timedelta(seconds=1))
    first.send(json.dumps({"fingerprint": "leak-1", "scope": {**GIVEN, "model_versions": ["8"]}}).encode())
    first.reception.check_scopes(NOW)
    assert case.rows(tables.incident)[0]["scope_unresolved"] == {"unchecked": True}
    again = World(case)
    again.names.known = KNOWN
    again.reception.check_scopes(NOW)
    assert case.rows(tables.incident)[0]["scope_unresolved"]["nearest"] == {"8": ["6", "7"]}
    assert [row["kind"] for row in case.rows(tables.page)] == ["incident_opened", "scope_unresolved"]
    again.names.known = Known({"fraud-scorer": frozenset({"8"})}, frozenset())
    again.reception.check_scopes(NOW)
    assert case.rows(tables.incident)[0]["scope_unresolved"] is not None, "whoever was asked is asked after more rarely"
    again.reception.check_scopes(NOW, at_once=True)
    assert case.rows(tables.incident)[0]["scope_unresolved"] is None


def test_a_message_that_was_read_before_a_crash_is_taken_once(case: Case) -> None:
    world = World(case)
    world.send()
    world.offset = 0
    world.send()
    assert case.rows(tables.incident)[0]["repeat_count"] == 0


class Junk:
    """A message that nobody signed and nobody can read."""

    partition = staticmethod(lambda: 0)
    key = staticmethod(lambda: b"monitor")
    value = staticmethod(lambda: b"junk")
    headers = staticmethod(lambda: None)
    timestamp = staticmethod(lambda: (1, AT_MS))

    def __init__(self, offset: int) -> None:
        self.offset = lambda: offset


def test_past_the_bound_of_dead_letters_the_topic_waits_in_place_and_says_so(case: Case) -> None:
    """Were it raised, the process would end, and alerts over HTTP with it; begun anew it would count anew."""
    world, health, said = World(case, limit=2), Health(), []

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            said.append((timeout, health.reasons()["dead letters"]))
            world.seconds += (timeout or 0) + 0.1
            return False

    for offset in range(5):
        world.topic._until_stored(Junk(offset), Stop(), health)  # type: ignore[arg-type]  # as confluent-kafka's
    assert [letter["offset"] for letter in world.letters.sent] == [0, 1, 2, 3, 4]
    assert case.rows(tables.kafka_position)[0]["next_offset"] == 5
    assert [timeout for timeout, _ in said] == [60, 60]
    assert all("nothing skipped" in reason for _, reason in said)
    assert "dead letters" not in health.reasons()


def test_what_is_put_back_is_held_to_the_time_when_it_was_signed(case: Case) -> None:
    """A source whose secret was not set yet: once it is, its alert counts as signed, however long that took."""
    world, unknown = World(case), World(case)
    body = b"nothing that is an alert"
    headers = [(name, value.encode()) for name, value in SECRETS.sign("msg_1", NOW, body).items()]
    unknown.topic._secrets.clear()
    assert unknown.topic.handle(0, 0, b"monitor", body, headers, AT_MS) == ()
    [letter] = unknown.letters.sent
    back = redriven(DeadLettered.model_validate(letter))
    days_later_ms = AT_MS + 5 * 86_400_000
    assert len(world.topic.handle(0, 1, b"monitor", body, back, days_later_ms)) == 1
    assert world.letters.sent == []
    assert case.rows(tables.incident)[0]["unsigned_source"] is False
    # and is a repeat if it comes again
    assert world.topic.handle(0, 2, b"monitor", body, back, days_later_ms) == ()


@pytest.mark.parametrize("said", [b"", b"x", b"-5", b"9" * 40, "\u0661".encode()])
def test_a_time_that_is_none_is_passed_over(case: Case, said: bytes) -> None:
    world = World(case)
    headers = [(name, value.encode()) for name, value in SECRETS.sign("msg_1", NOW, BODY).items()]
    world.topic.handle(0, 0, b"monitor", BODY, [*headers, (SENT_HEADER, said)], AT_MS)
    assert case.rows(tables.incident)[0]["unsigned_source"] is False
