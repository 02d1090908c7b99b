"""What partners and processors are told: whom an incident concerns, once for each release, whatever the topic answers."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from consumers.adapters.case_store import tables
from consumers.adapters.case_store.third_parties import ThirdPartyTables
from consumers.domain.sending import SendResult, SendState
from consumers.domain.third_parties import SCHEMA, ThirdParty
from consumers.stages.third_parties import ThirdPartyNotices
from tests.unit.adapters.ledger_case import INCIDENT, NOW, Case, sqlite_case

ARN = "arn:aws:sns:eu-central-1:123456789012:"
SCORES = ThirdParty("score-vendor", f"{ARN}scores", "processor", frozenset({"fraud-scorer", "other"}))
BANK = ThirdParty("bank", f"{ARN}bank", "partner", frozenset())
STRANGER = ThirdParty("stranger", f"{ARN}stranger", "processor", frozenset({"income-band"}))
SCOPE = {"any_of": [{"model_ids": ["fraud-scorer"], "model_versions": ["7"]}], "exposed_from": "2026-02-01T00:00:00Z"}


class Topics:
    """Answers as it is told to."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, str, str]] = []
        self.state = SendState.ACCEPTED

    def publish(self, notice_id: str, topic_arn: str, document: str, *, exercise: bool) -> SendResult:
        self.taken.append((notice_id, topic_arn, document))
        return SendResult(notice_id, self.state, "m-1" if self.state is SendState.ACCEPTED else None, self.state.value)


class Held:
    """A lease."""

    def take(self) -> bool:
        return True

    def release(self) -> None:
        """Nothing is held."""


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    made = sqlite_case(tmp_path)
    with made.database.write() as connection:
        connection.execute(sa.update(tables.incident).values(scope=SCOPE))
        connection.execute(sa.update(tables.release).values(policy={"segments": {}, "recipient_count": 22}))
    yield made
    made.database.close()


def notices(case: Case, topics: Topics, *, exercises: bool = False) -> ThirdPartyNotices:
    rows = ThirdPartyTables(case.database, case.clock, [BANK, SCORES, STRANGER], tells_of_exercises=exercises)
    return ThirdPartyNotices(rows, topics, Held())


def told(case: Case) -> list[str]:
    return sorted(event["body"]["party"] for event in case.case_events() if event["kind"] == "party.notified")


def test_whom_it_concerns_is_told_once_for_each_release_by_ids_and_a_count(case: Case) -> None:
    topics = Topics()
    assert [notices(case, topics).tick() for _ in range(2)] == [2, 0]
    documents = {json.loads(text)["party"]: json.loads(text) for _, _, text in topics.taken}
    assert documents.keys() == {"bank", "score-vendor"}
    for document in documents.values():
        Draft202012Validator(SCHEMA).validate(document)
        assert (document["people_count"], document["incident_id"]) == (22, INCIDENT)
    assert documents["score-vendor"]["models"] == ["fraud-scorer"]
    assert told(case) == ["bank", "score-vendor"]
    with case.database.write() as connection:
        first = connection.execute(sa.select(tables.release)).mappings().one()
        connection.execute(sa.insert(tables.release).values(**{**first, "release_id": "r2"}))
    assert notices(case, topics).tick() == 2
    assert len({notice_id for notice_id, _, _ in topics.taken}) == 4


@pytest.mark.parametrize(
    ("answer", "again_after"),
    [
        (SendState.UNAVAILABLE, timedelta(seconds=2)),
        (SendState.THROTTLED, timedelta(seconds=2)),
        (SendState.REJECTED, timedelta(seconds=2)),
        (SendState.UNKNOWN, timedelta(minutes=1)),
    ],
)
def test_what_a_topic_did_not_take_is_published_again_under_the_same_id(
    case: Case, answer: SendState, again_after: timedelta
) -> None:
    topics = Topics()
    topics.state = answer
    stage = notices(case, topics)
    assert stage.tick() == 0
    case.clock.at += again_after - timedelta(milliseconds=1)
    stage.tick()
    assert len(topics.taken) == 2
    topics.state = SendState.ACCEPTED
    case.clock.at += timedelta(milliseconds=1)
    assert stage.tick() == 2
    assert len({notice_id for notice_id, _, _ in topics.taken}) == 2
    assert told(case) == ["bank", "score-vendor"]
    assert ("third_party.refused" in case.pages()) == (answer is SendState.REJECTED)


@pytest.mark.parametrize("answer", [SendState.UNAVAILABLE, SendState.THROTTLED, SendState.UNKNOWN])
def test_a_topic_that_goes_on_taking_nothing_rings_once_and_ends_its_page_when_it_does(
    case: Case, answer: SendState
) -> None:
    topics = Topics()
    topics.state = answer
    stage = notices(case, topics)
    for _ in range(5):
        stage.tick()
        case.clock.at += timedelta(minutes=5)
    assert "third_party.refused" not in case.pages()
    for _ in range(5):
        stage.tick()
        case.clock.at += timedelta(minutes=5)
    assert case.pages().count("third_party.refused") == 2, "one for each party"
    with case.database.read() as connection:
        assert not connection.execute(sa.select(tables.page.c.acknowledged_at)).scalars().first()
    topics.state = SendState.ACCEPTED
    assert stage.tick() == 2
    with case.database.read() as connection:
        assert None not in connection.execute(sa.select(tables.page.c.acknowledged_at)).scalars().all()


def test_a_crash_between_call_and_note_publishes_again_and_notes_it_once(case: Case) -> None:
    rows = ThirdPartyTables(case.database, case.clock, [BANK])
    rows.plan()
    assert len(rows.take(10)) == 1  # and then the process dies
    topics = Topics()
    assert notices(case, topics).tick() == 1  # the other party's alone
    case.clock.at += timedelta(minutes=1)
    assert notices(case, topics).tick() == 1
    assert told(case) == ["bank", "score-vendor"]


def test_exercises_and_what_is_long_over_are_told_nobody(case: Case) -> None:
    topics = Topics()
    with case.database.write() as connection:
        connection.execute(sa.update(tables.incident).values(exercise=True))
    assert notices(case, topics).tick() == 0
    assert notices(case, topics, exercises=True).tick() == 2
    with case.database.write() as connection:
        connection.execute(sa.update(tables.third_party_notice).values(state="planned", tries=0))
    assert notices(case, topics).tick() == 0, "what the sandbox planned stays at home under live"
    with case.database.write() as connection:
        connection.execute(sa.delete(tables.third_party_notice))
        connection.execute(sa.update(tables.incident).values(exercise=False))
        connection.execute(sa.update(tables.release).values(state="finished", finished_at=NOW - timedelta(days=2)))
    assert notices(case, topics).tick() == 0
