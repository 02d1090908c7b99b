"""The sheet: what approvers see has one hash, and an approval of it is refused when anything on it has changed."""

import json
import re
from collections.abc import Mapping
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from bridge.contracts.errors import BadInput, Refused, TocsinError, Unreachable
from consumers.adapters.artefact_store import DirectoryArtefactStore
from consumers.adapters.case_store import tables
from consumers.adapters.segment_commands import segments
from consumers.adapters.sheet_page import sheet_page
from consumers.case.sheet import Artefacts, NoticeSamples, Rendered, Sample, TextApproval, differences
from consumers.case.sheet_commands import MailSenders, SheetPage
from tests.unit.case.cases import NOW, Case
from tests.unit.case.test_commands import Desk

EVIL = '<script>alert(1)</script><style>body{display:none}</style></iframe>"'
HOME = [{"code": "DE", "source": "default_billing"}]


class Texts:
    """Stands for the approved texts: one sample, an approval that can end."""

    def __init__(self) -> None:
        self.text = "Data about you has leaked."
        self.until: Any = NOW + timedelta(days=300)

    def sample(self, key: Mapping[str, Any], *, exercise: bool = False) -> Sample:
        if key.get("broken"):
            raise Refused("no sentence for derived|x|y")
        html = f"<!doctype html><p>{self.text}</p>{EVIL}"
        return Sample(
            (
                Rendered("email", "A notice", self.text, html),
                Rendered("sms", "", f"{EVIL} {self.text}", None, "1 part"),
            ),
            2,
        )

    def approval(self, bundle_sha256: str, at: Any) -> TextApproval | None:
        return TextApproval(self.until, ("DE",)) if self.until > at else None


class Senders:
    """Stands for the provider's word on our addresses."""

    answer: Mapping[str, str] | TocsinError

    def __init__(self) -> None:
        self.answer = {}

    def objections(self) -> Mapping[str, str]:
        if isinstance(self.answer, TocsinError):
            raise self.answer
        return self.answer


@pytest.fixture
def texts() -> Texts:
    return Texts()


@pytest.fixture
def desk(case: Case, tmp_path: Path, texts: Texts) -> Desk:
    desk = Desk(case, tmp_path)
    artefacts = DirectoryArtefactStore(desk.settings.paths.artefacts)
    desk.parts.provide(Artefacts, lambda: artefacts)
    desk.parts.provide(NoticeSamples, lambda: texts)
    desk.parts.provide(SheetPage, lambda: sheet_page)
    desk.parts.provide(MailSenders, Senders)
    return desk


def prepared(case: Case, desk: Desk, **plan: Any) -> str:
    name = case.receive(title=f"Log of {EVIL}").incident_id
    case.plan(name, deadline=NOW + timedelta(hours=72), **plan)
    case.execute(sa.update(tables.recipient).values(residence=HOME, jurisdictions=["eu-gdpr-34"]))
    desk.ok("incident", "prepare", name, who="rae")
    return name


def sheet(desk: Desk, name: str, *more: str, who: str = "dan") -> dict[str, Any]:
    made: dict[str, Any] = json.loads(desk.ok("incident", "sheet", name, "--json", *more, who=who))
    return made


def test_two_people_approve_one_sheet(case: Case, desk: Desk, tmp_path: Path) -> None:
    name = prepared(case, desk)
    made = sheet(desk, name)
    assert sheet(desk, name, who="col")["sheet_sha256"] == made["sheet_sha256"], "the same facts make the same sheet"
    case.clock.at = NOW + timedelta(hours=2)
    assert sheet(desk, name)["sheet_sha256"] == made["sheet_sha256"], "what passes by itself is not bound"
    assert "still missing" in desk.ok("incident", "approve", name, "--sheet", made["sheet_sha256"], who="dan")
    shown = desk.ok("incident", "sheet", name, "-o", str(tmp_path / "sheet.html"), who="col")
    assert (
        shown.splitlines()[-1] == f"next: tocsin incident approve {name} --sheet {made['sheet_sha256']} --reason TEXT"
    )
    assert "begun now it ends 3 d before the earliest deadline" in shown
    assert "releasing now" in desk.ok("incident", "approve", name, "--sheet", made["sheet_sha256"], who="col")
    assert {row["sheet_sha256"] for row in case.rows(tables.approval)} == {made["sheet_sha256"]}
    told = [e["body"]["sheet_sha256"] for e in case.published("tocsin.case-events") if e["kind"] == "release.approved"]
    assert told == [made["sheet_sha256"]] * 2


def test_two_channels_that_a_law_wants_at_once_are_both_counted_as_first_and_paid_for(case: Case, desk: Desk) -> None:
    name = prepared(case, desk, people=4)
    case.execute(sa.update(tables.recipient).values(channels=["email", "sms"]))
    alone = sheet(desk, name)["content"]
    assert (alone["channels"]["first"]["sms"], alone["channels"]["later_at_most"]["sms"]) == (0, 4)
    assert alone["cost"]["sms_parts"] == 0
    [segment] = case.rows(tables.segment)
    case.execute(sa.update(tables.segment).values(key={**segment["key"], "together": [["email", "sms"]]}))
    both = sheet(desk, name)["content"]
    assert both["channels"]["first"] == {"email": 4, "sms": 4, "account_notice": 0, "letter": 0}
    assert both["channels"]["later_at_most"]["sms"] == 0
    assert both["cost"]["sms_parts"] == both["cost"]["sms_parts_at_most"] == 8
    assert both["people"]["people"] == 4


def test_what_stands_on_it(case: Case, desk: Desk) -> None:
    name = prepared(case, desk, people=4)
    rows = tables.recipient
    of = [f"{name}:customer/{n}" for n in range(4)]
    case.execute(sa.update(rows).where(rows.c.recipient_id == of[0]).values(standing="possible", residence=[]))
    case.execute(
        sa.update(rows).where(rows.c.recipient_id == of[1]).values(held_reason="no approved notice covers US-MA")
    )
    case.execute(sa.update(rows).where(rows.c.recipient_id == of[2]).values(channels=["sms"]))
    case.add_person(name, "customer/late", late=True)
    content = sheet(desk, name)["content"]
    assert {key: content["people"][key] for key in ("people", "recorded", "possible", "held")} == {
        "people": 4, "recorded": 3, "possible": 1, "held": 1,
    }  # fmt: skip
    assert [(each["code"], each["people"]) for each in content["jurisdictions"]] == [("DE", 3), ("unknown", 1)]
    assert content["held"][0] | {"earliest_deadline_at": None} == {
        "reason": "no approved notice covers US-MA", "people": 1, "jurisdictions": ["DE"], "earliest_deadline_at": None,
    }  # fmt: skip
    assert content["channels"]["first"] | {"letter": 0} == {"email": 2, "sms": 1, "account_notice": 0, "letter": 0}
    assert content["cost"]["sms_parts"] == 2
    assert content["cost"]["sms"] is None, "a price that nobody has said is not invented"
    [segment] = content["segments"]
    assert segment["first_channel"] == {"email": 2, "sms": 1}
    about = {each["about"] for each in content["preflight"]}
    assert about >= {"held", "awareness", "delivery mode", "approved texts"}
    assert "INC" not in json.dumps(content["segments"]), "no recipient"
    assert "customer/" not in json.dumps(content)


def test_a_sheet_that_has_changed_approves_nothing_and_says_what(case: Case, desk: Desk) -> None:
    name = prepared(case, desk)
    first = sa.update(tables.recipient).where(tables.recipient.c.root == "customer/0")
    gate = {"gate_id": "g" * 32, "incident_id": name, "kind": "authority_first", "covers": ["DE"]}
    changes: list[tuple[Any, str]] = [
        (first.values(standing="possible"), "people.possible: 0 -> 1"),
        (first.values(held_reason="why"), "held why is new"),
        (first.values(held_reason=None, channels=[]), "channels.without: 0 -> 1"),
        (sa.update(tables.recipient).values(residence=[]), "jurisdictions DE is gone"),
        (sa.update(tables.segment).values(priority=9), "segments s1.priority: 1 -> 9"),
        (sa.insert(tables.gate).values(**gate, set_at=NOW, set_by="dan"), f"gates {'g' * 32} is new"),
    ]
    for change, named in changes:
        made = sheet(desk, name)["sheet_sha256"]
        case.execute(change)
        refused = desk.error("incident", "approve", name, "--sheet", made, who="dan")
        assert type(refused) is Refused
        assert named in str(refused)
        assert case.rows(tables.approval) == []
    desk.ok("incident", "approve", name, "--sheet", sheet(desk, name)["sheet_sha256"], who="dan")


def test_a_hold_of_a_segment_or_of_single_people_says_whom_it_keeps_back(case: Case, desk: Desk) -> None:
    name = prepared(case, desk, people=4)
    for gate_id, whom in (("g", {"segments": ["s1"]}), ("h", {"people": ["customer/1"]})):
        gate = {"gate_id": gate_id * 32, "incident_id": name, "kind": "law_enforcement_hold", "covers": [], **whom}
        case.execute(sa.insert(tables.gate).values(**gate, set_at=NOW, set_by="dan"))
    said = {each["says"] for each in sheet(desk, name)["content"]["preflight"] if each["about"] == "holds"}
    assert said == {
        "4 people wait: law enforcement hold for segment s1",
        "whoever it names waits: law enforcement hold for people named one by one",
    }
    shown = desk.ok("incident", "show", name, who="dan")
    assert "law_enforcement_hold for segment s1" in shown
    assert "law_enforcement_hold for people named one by one" in shown
    assert "customer/1" not in shown


def test_a_changed_text_or_an_ended_approval_is_named(case: Case, desk: Desk, texts: Texts) -> None:
    name = prepared(case, desk)
    made = sheet(desk, name)["sheet_sha256"]
    texts.text = "Nothing has leaked."
    assert "segments s1.sample.email" in str(desk.error("incident", "approve", name, "--sheet", made, who="dan"))
    again = sheet(desk, name)["sheet_sha256"]
    desk.ok("incident", "approve", name, "--sheet", again, who="dan")
    texts.until = NOW
    assert "approved_until" in str(desk.error("incident", "approve", name, "--sheet", again, who="col"))
    shown = desk.ok("incident", "sheet", name, who="col")
    assert f"stops: approved texts: the approval of text {'b' * 12} is not in force any more" in shown
    assert "dan approved as dpo on another sheet; since then" in shown


def test_only_a_sheet_that_was_made_can_be_named(case: Case, desk: Desk) -> None:
    name = prepared(case, desk)
    policy = case.rows(tables.release)[0]["policy_sha256"]
    for words in (("--sheet", "0" * 64), ("--sheet", "../../x"), ("--sheet", "0" * 64, "--policy", policy), ()):
        assert type(desk.error("incident", "approve", name, *words, who="dan")) is BadInput
    other = DirectoryArtefactStore(desk.settings.paths.artefacts).put(b'{"format": "else"}')
    assert "no sheet has this hash" in str(desk.error("incident", "approve", name, "--sheet", other, who="dan"))
    assert isinstance(desk.error("incident", "sheet", "INC-2026-0099", who="dan"), TocsinError)


def test_a_late_addition_changes_no_sheet(case: Case, desk: Desk) -> None:
    name = prepared(case, desk)
    made = sheet(desk, name)["sheet_sha256"]
    case.add_person(name, "customer/late", late=True)
    desk.ok("incident", "approve", name, "--sheet", made, who="dan")


def test_mail_that_may_not_leave_is_said_and_a_silent_provider_changes_no_sheet(case: Case, desk: Desk) -> None:
    name = prepared(case, desk)
    made = sheet(desk, name)["sheet_sha256"]
    senders = desk.parts.get(MailSenders)
    assert isinstance(senders, Senders)
    senders.answer = Unreachable("SES: no network")
    silent = desk.type("incident", "sheet", name, "--json", who="dan")
    assert silent.stderr.startswith("note: whether mail may come")
    assert json.loads(silent.stdout)["sheet_sha256"] == made
    senders.answer = {desk.settings.delivery.from_address: "not verified"}
    shown = desk.ok("incident", "sheet", name, who="dan")
    assert "stops: sender: e-mails to 3 people wait: not verified" in shown
    assert "preflight e-mails to 3 people wait" in str(
        desk.error("incident", "approve", name, "--sheet", made, who="dan")
    )


def test_segments_are_shown_with_counts_and_a_sample(case: Case, desk: Desk, texts: Texts) -> None:
    name = prepared(case, desk)
    first = sa.update(tables.recipient).where(tables.recipient.c.root == "customer/0")
    case.execute(first.values(held_reason="no region"))
    token = {"TOCSIN_TOKEN": desk.tokens["rae"]}

    def typed(*words: str) -> Any:
        return CliRunner().invoke(segments, list(words), obj=desk.parts, env=token)

    shown = typed(name)
    assert shown.exception is None, shown.exception
    assert "3 people in 1 segments, 1 held" in shown.output
    assert "held: 1 of s1: no region" in shown.output
    assert texts.text in shown.output
    [row] = json.loads(typed(name, "--json", "--medium", "sms").output)
    assert (row["name"], row["people"], list(row["sample"])) == ("s1", 3, ["sms"])
    assert "did you mean 'email'" in str(typed(name, "--medium", "emial").exception)
    assert "has no such segment" in str(typed(name, "--segment", "s2").exception)
    case.execute(sa.update(tables.segment).values(key={"broken": True}))
    assert "no sample: no sentence for derived|x|y" in typed(name).output


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page_runs_and_loads_nothing(case: Case, desk: Desk, tmp_path: Path) -> None:
    name = prepared(case, desk)
    page = tmp_path / "sheet.html"
    made = sheet(desk, name, "-o", str(page))
    text = page.read_text(encoding="utf-8")
    read = _Page()
    read.feed(text)
    tags = {tag for tag, _ in read.tags}
    assert not tags & {"script", "link", "img", "object", "embed", "form", "base", "video", "audio"}
    assert all("src" not in attrs and not any(key.startswith("on") for key in attrs) for _, attrs in read.tags)
    assert all(attrs["href"].startswith("#") for tag, attrs in read.tags if tag == "a" and attrs["href"])
    frames = [attrs for tag, attrs in read.tags if tag == "iframe"]
    assert frames
    assert all(attrs["sandbox"] == "" and EVIL in str(attrs["srcdoc"]) for attrs in frames)
    assert sum(tag == "style" for tag, _ in read.tags) == 1, "no style but the page's own"
    assert made["sheet_sha256"] in text
    assert re.findall(r"<html lang=\"en\">|<title>|<h1>|<main ", text) == [
        '<html lang="en">',
        "<title>",
        "<h1>",
        "<main ",
    ]
    assert [attrs for tag, attrs in read.tags if tag == "th" and "scope" not in attrs] == []


def test_differences_name_members_by_what_they_are_called() -> None:
    before = {"a": [{"code": "DE", "people": 1}, {"code": "FR", "people": 2}], "b": 1, "c": [1, 2]}
    after = {"a": [{"code": "FR", "people": 3}, {"code": "AT", "people": 2}], "b": 1, "c": [2]}
    assert differences(before, after) == ["a AT is new", "a DE is gone", "a FR.people: 2 -> 3", "c: [1, 2] -> [2]"]
    assert differences(before, before) == []
