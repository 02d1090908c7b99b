"""Pre-flight of channels: what blocks a release, what is only said, and how a named person takes it on."""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from bridge.contracts.errors import BadInput, Refused
from bridge.contracts.events import Channel
from bridge.runtime.settings import Delivery, Smtp
from consumers.adapters.artefact_store import DirectoryArtefactStore
from consumers.adapters.case_store import tables
from consumers.adapters.sheet_page import sheet_page
from consumers.case import steering
from consumers.case.channel_preflight import (
    ChannelReadiness,
    ProviderStanding,
    SecondProvider,
    channel_findings,
    sending_of,
)
from consumers.case.events import CASE_EVENT_KINDS
from consumers.case.preflight import DECIDE, STOPS, Finding
from consumers.case.records import CircuitOrder, WaitingBeside
from consumers.case.sheet import Artefacts, NoticeSamples
from consumers.case.sheet_commands import MailSenders, Providers, SheetPage, sentence_of
from consumers.domain.accounts import EmailAccount, Price, SmsAccount
from consumers.domain.canary import CanaryPolicy
from tests.unit.case.cases import DPO, NOW, Case
from tests.unit.case.test_commands import Desk
from tests.unit.case.test_sheet import Senders, Texts
from tests.unit.shipped_law import shipped_law

HOUR = timedelta(hours=1)
SES = EmailAccount(NOW, 14, 50_000, 0, True, True, "HEALTHY", configuration_set="tocsin")
SNS = SmsAccount(NOW, in_sandbox=False, spend_limit=100, spent=20, status_logged=True)
SECOND = {Channel.EMAIL: SecondProvider("smtp", Price(0.001, 100))}


def seen(standing: ProviderStanding | None = None, **other: Any) -> ChannelReadiness:
    emails = other.pop("emails", 1000)
    fields: dict[str, Any] = (
        {
            "standing": standing or ProviderStanding(SES, SNS), "now": NOW, "first": {Channel.EMAIL: emails},
            "at_most": {Channel.EMAIL: emails, Channel.SMS: 100}, "due": [(NOW + 72 * HOUR, emails)],
            "per_second": {Channel.EMAIL: 100, Channel.SMS: 10}, "lacking": {}, "suppressed": {}, "sms_homes": {},
            "sms_parts": 0, "part_price": 0.1, "currency": "USD",
        }
        | other
    )  # fmt: skip
    return ChannelReadiness(**fields)


def by_code(readiness: ChannelReadiness) -> Mapping[str, Finding]:
    return {each.code: each for each in channel_findings(readiness)}


def test_a_well_account_and_enough_time_are_no_finding() -> None:
    assert by_code(seen()) == {}
    assert sending_of(seen()).takes == timedelta(seconds=1000 / 14)


def test_letters_that_are_written_after_a_deadline_are_said() -> None:
    many = seen(
        first={Channel.EMAIL: 1000, Channel.LETTER: 200_000}, at_most={Channel.EMAIL: 1000, Channel.LETTER: 200_000},
        letters_due=[(NOW + 72 * HOUR, 200_000)], letters_per_second=200 / 300,
    )  # fmt: skip
    found = by_code(many)["letters-too-late"]
    assert (found.level, found.blocks) == (DECIDE, False)
    assert found.says.startswith("at 2,400 letters an hour the last one is written after a deadline")
    assert "letters-too-late" not in by_code(replace(many, letters_per_second=2.0))
    assert "letters-too-late" not in by_code(replace(many, letters_due=[(None, 200_000)]))


def test_letters_that_others_hold_up_past_a_deadline_are_said() -> None:
    few = seen(
        first={Channel.LETTER: 100}, at_most={Channel.LETTER: 100}, due=(), letters_due=[(NOW + 72 * HOUR, 100)],
        letters_per_second=200 / 300,
    )  # fmt: skip
    assert "letters-too-late" not in by_code(few)
    behind = replace(few, beside={Channel.LETTER: [WaitingBeside(NOW + HOUR, 200_000), WaitingBeside(None, 7)]})
    found = by_code(behind)["letters-too-late"]
    assert found.live.endswith("behind 200,000 letters of other releases")
    later = replace(few, beside={Channel.LETTER: [WaitingBeside(NOW + 99 * HOUR, 200_000)]})
    assert "letters-too-late" not in by_code(later)


def test_a_second_provider_where_no_notice_may_pass_takes_over_nobody() -> None:
    down, why = replace(SES, enforcement="SHUTDOWN"), "regions.yaml does not let ... pass through us-east-1 (smtp)"
    standing = ProviderStanding(down, second=SECOND)
    some = by_code(seen(standing, refused_by_second={Channel.EMAIL: {why: 400}}))
    assert not some["account-suspended"].blocks
    assert some["account-suspended"].says.endswith("smtp takes over, of all but 400 people, who wait: regions.yaml")
    assert some["second-region-smtp"].says == f"400 people wait while only smtp takes messages: {why}"
    everybody = by_code(seen(standing, refused_by_second={Channel.EMAIL: {why: 1000}}))
    assert everybody["account-suspended"].blocks


def test_a_second_provider_of_which_nobody_has_said_where_it_is_is_named() -> None:
    unsaid = {Channel.EMAIL: replace(SECOND[Channel.EMAIL], region="eu-central-1", region_said=False)}
    some = by_code(seen(ProviderStanding(SES, second=unsaid)))
    assert some["region-unsaid-smtp"].says == (
        "nobody has said where smtp is (delivery.smtp.region): it is taken to be in eu-central-1, where AWS is"
    )
    assert not some["region-unsaid-smtp"].blocks


def test_what_the_quota_leaves_is_not_made_up_for_by_a_provider_that_may_not_take_it() -> None:
    account = replace(SES, quota=2000, sent=1500)
    assert "quota-too-late" not in by_code(seen(ProviderStanding(account, second=SECOND), due=[(NOW + HOUR, 1000)]))
    why = {Channel.EMAIL: {"x": 1000}}
    late = by_code(
        seen(
            ProviderStanding(account, second=SECOND), due=[(NOW + HOUR, 1000)], refused_by_second=why,
            first_refused={Channel.EMAIL: 1000},
        )
    )  # fmt: skip
    assert late["quota-too-late"].blocks


def test_what_other_releases_still_have_to_send_goes_before_ours() -> None:
    alone = seen(emails=50_400, due=[(NOW + 2 * HOUR, 50_400)], standing=ProviderStanding(replace(SES, quota=None)))
    assert sending_of(alone).takes == HOUR
    assert by_code(alone) == {}
    beside = replace(
        alone,
        beside={
            Channel.EMAIL: [
                WaitingBeside(NOW + HOUR, 100_800),
                WaitingBeside(NOW + 9 * HOUR, 5),
                WaitingBeside(None, 7),
            ]
        },
    )
    assert (sending_of(beside).takes, sending_of(beside).late) == (3 * HOUR, HOUR)
    said = by_code(beside)["quota-too-late"]
    assert said.live == "begun now it ends 60 min after the deadline, behind 100,800 e-mails of other releases"
    # they have no worse time for us: theirs is sooner, and was missed before
    assert "others-too-late-email" not in by_code(beside)
    later = replace(alone, beside={Channel.EMAIL: [WaitingBeside(NOW + 2.5 * HOUR, 100_800)]})
    assert by_code(later)["others-too-late-email"].live == "30 min after it"
    missed_anyhow = replace(
        alone, beside={Channel.EMAIL: [WaitingBeside(NOW + HOUR, 100_800), WaitingBeside(NOW + 2.5 * HOUR, 5)]}
    )
    assert by_code(missed_anyhow)["others-too-late-email"].live == "30 min after it", "the other one is late for us"
    same = replace(alone, beside={Channel.EMAIL: [WaitingBeside(NOW + 2 * HOUR, 100_800)]})
    assert "others-too-late-email" not in by_code(same), "of the same deadline they were there before"
    texts = seen(
        first={Channel.SMS: 36_000}, due=[], texts_due=[(NOW + 1.5 * HOUR, 36_000)],
        beside={Channel.SMS: [WaitingBeside(NOW + HOUR, 36_000)]},
    )  # fmt: skip
    assert by_code(texts)["sms-too-late"].live.endswith("behind 36,000 SMS of other releases")


def test_another_release_takes_no_more_of_the_lane_than_its_own_rate() -> None:
    alone = seen(emails=50_400, due=[(NOW + 2 * HOUR, 50_400)], standing=ProviderStanding(replace(SES, quota=None)))
    assert sending_of(alone).takes == HOUR
    quarter = sending_of(alone).per_second / 4
    theirs = WaitingBeside(NOW + HOUR, 100_800, "INC-2026-0002", quarter)
    beside = replace(alone, beside={Channel.EMAIL: [theirs]})
    # three quarters of the lane are ours, until we are done
    assert round(sending_of(beside).takes / HOUR, 2) == 1.33
    assert "quota-too-late" not in by_code(beside)
    assert "others-too-late-email" not in by_code(beside), "its own rate makes it late, not we"
    few = replace(alone, beside={Channel.EMAIL: [theirs._replace(messages=10)]})
    assert sending_of(few).takes - HOUR < 0.01 * HOUR
    slower = replace(alone, due=[(NOW + HOUR, 50_400)], beside={Channel.EMAIL: [theirs]})
    assert by_code(slower)["quota-too-late"].blocks, "what it takes, we have not"
    for_us = WaitingBeside(NOW + 2.5 * HOUR, 100_800, "INC-2026-0002", 4 * quarter)
    assert "others-too-late-email" in by_code(replace(alone, beside={Channel.EMAIL: [for_us]}))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"enforcement": "SHUTDOWN"}, "account-suspended"),
        ({"sending_enabled": False}, "account-paused"),
        ({"set_exists": False}, "set-missing"),
        ({"set_sending_enabled": False}, "set-paused"),
    ],
)
def test_what_keeps_all_mail_back_blocks_unless_a_second_provider_takes_over(
    change: Mapping[str, Any], code: str
) -> None:
    account = replace(SES, **change)
    assert by_code(seen(ProviderStanding(account)))[code].blocks
    second = by_code(seen(ProviderStanding(account, second=SECOND)))[code]
    assert (second.blocks, second.level) == (False, DECIDE)
    assert "smtp takes over" in second.says
    assert code not in by_code(seen(ProviderStanding(account), at_most={Channel.SMS: 5})), "nobody gets mail"


@pytest.mark.parametrize(
    ("change", "code"),
    [({"events_missing": ("BOUNCE", "DELIVERY")}, "events-missing"), ({"production_access": False}, "email-sandbox")],
)
def test_where_the_first_provider_takes_mail_all_the_same_no_second_one_takes_over(
    change: Mapping[str, Any], code: str
) -> None:
    standing = ProviderStanding(replace(SES, **change), second=SECOND, live=True)
    finding = by_code(seen(standing))[code]
    assert (finding.blocks, finding.level) == (True, STOPS)
    assert "takes over" not in finding.says


def test_what_is_said_of_a_second_provider_for_sms_is_true_of_it_only_past_the_spend_limit() -> None:
    texts = replace(SNS, in_sandbox=True, status_logged=False, spent=100)
    gateway = {Channel.SMS: SecondProvider("sms_gateway", Price(0.05, None))}
    found = by_code(seen(ProviderStanding(SES, texts, second=gateway, live=True)))
    assert {code for code, each in found.items() if "sms_gateway takes over" in each.says} == {"sms-limit"}


def test_probation_tracking_and_sms_accounts_are_said_and_block_nothing() -> None:
    account = replace(SES, enforcement="PROBATION", tracking=True, production_access=False)
    texts = replace(SNS, in_sandbox=True, status_logged=False, spent=100)
    found = by_code(seen(ProviderStanding(account, texts)))
    assert set(found) == {"account-probation", "tracking", "sms-limit", "sms-status"}
    assert not any(each.blocks for each in found.values())
    live = by_code(seen(ProviderStanding(account, texts, live=True)))
    assert live["email-sandbox"].blocks
    assert live["sms-sandbox"].level == DECIDE


def test_quota_against_deadline_in_one_sentence() -> None:
    late = seen(emails=14 * 3600 * 78)
    finding = by_code(late)["quota-too-late"]
    # 78 h at 14 a second are more than three and a half days of quota: 50,000 a day are what counts
    assert finding.level == STOPS
    assert finding.blocks
    assert finding.says.startswith("at 14 e-mails a second and 50,000 in 24 hours this ends after a deadline; raise")
    assert finding.says.endswith("or add the second provider")
    unlimited = replace(SES, quota=None)
    finding = by_code(seen(ProviderStanding(unlimited), emails=14 * 3600 * 78))["quota-too-late"]
    assert finding.live == "begun now it ends 6 h after the deadline"
    assert by_code(seen(ProviderStanding(replace(SES, per_second=1), second=SECOND), emails=60_000)).keys() == {
        "second-cost-smtp"
    }


def test_texts_that_would_come_too_late_block_a_release_as_mails_do_and_the_sentence_says_so() -> None:
    texts = {Channel.SMS: 10 * 3600 * 78}
    late = seen(emails=10, first=texts, texts_due=[(NOW + 72 * HOUR, texts[Channel.SMS])])
    finding = by_code(late)["sms-too-late"]
    assert (finding.blocks, finding.level, finding.live) == (True, STOPS, "begun now it ends 6 h after the deadline")
    sentence = sentence_of(sending_of(late), NOW + 72 * HOUR, NOW)
    assert sentence.startswith("at 10 a second sending takes about 3")
    assert sentence.endswith("begun now it ends 6 h after the deadline; have the rate of SMS raised")
    both = seen(emails=14 * 3600 * 78, texts_due=late.texts_due)
    assert {"sms-too-late", "quota-too-late"} <= by_code(both).keys()
    assert "sms-too-late" not in by_code(seen(texts_due=[(NOW + 72 * HOUR, 100), (NOW - HOUR, 100)]))


def test_those_whose_deadline_is_near_are_told_first_and_one_that_has_passed_blocks_nothing() -> None:
    many = 14 * 3600 * 2
    in_time = seen(
        ProviderStanding(replace(SES, quota=None)), emails=many + 100, due=[(NOW + HOUR, 100), (NOW + 9 * HOUR, many)]
    )
    assert sending_of(in_time).late < timedelta(0)
    passed = seen(ProviderStanding(replace(SES, quota=None)), emails=many, due=[(NOW - HOUR, many)])
    assert set(by_code(passed)) == {"deadline-passed"}
    assert not by_code(passed)["deadline-passed"].blocks
    late = seen(
        ProviderStanding(replace(SES, quota=None)), emails=many, due=[(NOW - HOUR, many // 2), (NOW + HOUR, many // 2)]
    )
    assert sending_of(late).late == HOUR, "who is late already goes first and takes its time"


def test_lists_contacts_numbers_and_costs_are_counted() -> None:
    standing = ProviderStanding(
        SES, replace(SNS, numbers=("CA",), opted_out=3),
        second={
            Channel.EMAIL: SecondProvider("smtp", Price(0.2, 150), sent=10),
            Channel.SMS: SecondProvider("sms_gateway", Price(None, 5)),
        },
        numbers_needed=("US", "CA"),
        live=True,
    )  # fmt: skip
    found = by_code(
        seen(
            standing, suppressed={"BOUNCE": 9, "COMPLAINT": 3}, lacking={Channel.SMS: 40, Channel.EMAIL: 1},
            sms_homes={"US": 12, "CA": 2, "DE": 5}, sms_parts=900, bounced={"email": 7},
            incident_id="INC-2026-0001",
            first={Channel.EMAIL: 1000, Channel.LETTER: 4}, at_most={Channel.EMAIL: 1000, Channel.SMS: 50, Channel.LETTER: 60},
        )
    )  # fmt: skip
    assert "of 12 people (9 after a hard bounce, 3 after a complaint)" in found["addresses-suppressed"].says
    assert found["no-valid-sms"].says.startswith("no telephone number, or none that is one: 40 people, ")
    assert "no e-mail address, or none that is one: 1 person, " in found["no-valid-email"].says
    assert found["bounced-email"].says.startswith("email bounced for good before: 7 people, to whom none is sent")
    assert found["letters"].says.startswith(
        "4 letters are to be printed and posted at once, at most 60 if all else fails"
    )
    assert found["letters"].level == DECIDE
    assert found["letters"].next == "tocsin delivery letters list INC-2026-0001"
    assert "those of 12 people" in found["sms-number-us"].says
    assert "sms-number-ca" not in found
    assert found["sms-opted-out"].live == "3 in this account"
    assert found["sms-limit-short"].live == "80.00 USD are left"
    assert found["budget-short-smtp"].live == "2.00 of 150.00 USD of this month's budget are spent"
    assert "price-unknown-sms-gateway" in found
    assert "price-unknown-sms" in by_code(seen(sms_parts=3, part_price=None))
    assert not any(each.blocks for each in found.values())


def test_a_rate_of_its_own_is_what_the_release_is_held_to() -> None:
    slow = seen(emails=1000, own_rates={Channel.EMAIL: 0.001})
    found = by_code(slow)
    assert "raise this incident's own rate" in found["quota-too-late"].says
    assert "at 0.001 a second at most" in found["own-rate-email"].says
    assert sending_of(slow).takes == timedelta(seconds=1_000_000)
    assert "raise this incident's own rate" in sentence_of(sending_of(slow), NOW + 72 * HOUR, NOW)


def test_preflight_and_sheet_go_by_the_rate_of_the_incident(case: Case, desk: Desk) -> None:
    name = case.receive().incident_id
    case.plan(name, deadline=NOW + HOUR / 5)
    assert "sending takes about 0 min" in desk.ok("incident", "preflight", name, who="rae")
    steering.set_rate(case.store, name, "email", 0.001, DPO, NOW, lane_most=14, reason="bounces")
    said = desk.type("incident", "preflight", name, who="rae").output
    assert "raise this incident's own rate" in said
    assert "stops: quota: at 0.001 e-mails a second" in said


def test_it_is_said_whether_somebody_is_tried_first() -> None:
    canary = CanaryPolicy(per_segment=50, wait_seconds=600, bound_percent=5)
    said = by_code(seen(canary=canary, prepared=True))["canary"].says
    assert "the first 50 of each segment go first" in said
    assert "more than 5 % of them do not arrive within 10 min" in said
    assert set(by_code(seen(prepared=True))) == {"no-canary"}


@pytest.fixture
def desk(case: Case, tmp_path: Path) -> Desk:
    desk = Desk(case, tmp_path)
    artefacts = DirectoryArtefactStore(desk.settings.paths.artefacts)
    desk.parts.provide(Artefacts, lambda: artefacts)
    desk.parts.provide(SheetPage, lambda: sheet_page)
    desk.parts.provide(MailSenders, Senders)
    desk.parts.provide(NoticeSamples, Texts)
    return desk


def recorded(case: Case) -> list[dict[str, Any]]:
    return [each for each in case.published("tocsin.case-events") if each["kind"] == "preflight.recorded"]


def test_a_blocked_release_is_refused_until_a_named_person_takes_it_on(case: Case, desk: Desk, tmp_path: Path) -> None:
    name = case.receive().incident_id
    case.plan(name, deadline=NOW + 72 * HOUR)
    desk.parts.get(Providers).says = ProviderStanding(replace(SES, events_missing=("BOUNCE",)))  # type: ignore[attr-defined]
    desk.ok("incident", "prepare", name, who="rae")
    policy = case.rows(tables.release)[0]["policy_sha256"]
    [event] = recorded(case)
    assert event["actor"] is None
    rules = event["body"].pop("rules_sha256")
    assert event["body"] == {
        "release_id": case.rows(tables.release)[0]["release_id"], "policy_sha256": policy, "mode": "two_approvers",
        "moment": "prepared", "blocking": ["events-missing"], "overridden": [], "blocked": True,
        "stops": ["events-missing"], "to_decide": ["awareness"],
        "noted": ["approved-texts", "delivery-mode", "no-canary", "no-valid-sms"],
        "finding_count": 6, "people_count": 3, "held_count": 0, "without_channel_count": 0,
    }  # fmt: skip

    blocked = desk.type("incident", "preflight", name, who="rae")
    assert isinstance(blocked.exception, Refused)
    assert "3 people, 0 held; first 3 by email; 0 without any channel" in blocked.output
    assert "[events-missing: blocks the release]" in blocked.output
    facts = json.loads(desk.type("incident", "preflight", name, "--json", who="rae").output.rpartition("}")[0] + "}")
    assert (facts["blocked_by"], facts["people"]["people"], facts["cost"]["emails"]) == (["events-missing"], 3, 3)
    for words in (
        ["--policy", policy],
        ["--sheet", json.loads(desk.ok("incident", "sheet", name, "--json", who="dan"))["sheet_sha256"]],
    ):
        refused = desk.error("incident", "approve", name, *words, who="dan")
        assert "--override events-missing" in str(refused)
    assert case.rows(tables.approval) == []

    assert "needs a reason" in str(desk.error("incident", "preflight", name, "--override", "events-missing", who="dan"))
    why = ("--reason", "receipts are read by hand tonight")
    assert isinstance(
        desk.error("incident", "preflight", name, "--override", "events-missing", *why, who="rae"), Refused
    )
    wrong = desk.error("incident", "preflight", name, "--override", "event-missing", *why, who="dan")
    assert isinstance(wrong, BadInput)
    assert "events-missing" in str(wrong)
    shown = desk.ok("incident", "preflight", name, "--override", "events-missing", *why, who="dan")
    assert "[events-missing: taken on by dan as dpo]" in shown
    [event] = [each for each in case.published("tocsin.case-events") if each["kind"] == "preflight.overridden"]
    assert event["body"]["finding"] == "events-missing"
    assert "by hand" not in json.dumps(event)

    made = json.loads(desk.ok("incident", "sheet", name, "--json", "-o", str(tmp_path / "sheet.html"), who="col"))
    assert made["content"]["overrides"] == [{"code": "events-missing", "overridden_by": "dan", "role": "dpo"}]
    assert "Blocks the release; dan as dpo took that on." in (tmp_path / "sheet.html").read_text()
    desk.ok("incident", "approve", name, "--sheet", made["sheet_sha256"], who="dan")
    assert len(recorded(case)) == 1  # one approval of two begins nothing
    assert "releasing now" in desk.ok("incident", "approve", name, "--sheet", made["sheet_sha256"], who="col")
    begun = recorded(case)[1]["body"]
    assert (begun["moment"], begun["blocking"], begun["overridden"]) == (
        "released",
        ["events-missing"],
        ["events-missing"],
    )
    assert (begun["blocked"], begun["rules_sha256"], begun["policy_sha256"]) == (False, rules, policy)


def test_suppressed_addresses_are_counted_and_the_hours_left_are_not_bound(case: Case, desk: Desk) -> None:
    name = case.receive().incident_id
    case.plan(name, deadline=NOW + 72 * HOUR)
    case.execute(
        sa.update(tables.affected)
        .where(tables.affected.c.root == "customer/1")
        .values(event=json.dumps({"email_hmac": "a" * 64}))
    )
    asked = desk.parts.get(Providers)
    asked.says = ProviderStanding(SES, suppressed={"a" * 64: "COMPLAINT"})  # type: ignore[attr-defined]
    desk.ok("incident", "prepare", name, who="rae")
    made = json.loads(desk.ok("incident", "sheet", name, "--json", who="dan"))
    assert any("1 person (1 after a complaint)" in each["says"] for each in made["content"]["preflight"])
    asked.says = ProviderStanding(replace(SES, sent=40_000), suppressed={"a" * 64: "COMPLAINT"})  # type: ignore[attr-defined]
    case.clock.at = NOW + HOUR
    assert json.loads(desk.ok("incident", "sheet", name, "--json", who="dan"))["sheet_sha256"] == made["sheet_sha256"]


def test_who_bounced_before_who_else_is_told_and_what_stands_in_public(case: Case, desk: Desk) -> None:
    name = case.receive().incident_id
    case.plan(name, deadline=NOW + 72 * HOUR)
    desk.settings = desk.settings.model_copy(
        update={
            "delivery": Delivery.model_validate(
                {
                    "third_parties": {
                        "acme": {"topic_arn": "arn:aws:sns:eu-central-1:000000000000:acme", "role": "processor"},
                        "other": {
                            "topic_arn": "arn:aws:sns:eu-central-1:000000000000:other",
                            "models": ["no-such-model"],
                        },
                    }
                }
            )
        }
    )
    roots = [row["root"] for row in case.rows(tables.recipient)]
    case.execute(
        sa.insert(tables.hard_bounce).values(
            root=roots[0], channel="email", contact_digest="", bounced_at=NOW, attempt_id="a1"
        )
    )
    case.execute(
        sa.insert(tables.hard_bounce).values(
            root="customer/999999", channel="email", contact_digest="", bounced_at=NOW, attempt_id="a2"
        )
    )
    said = {
        each["code"]: each
        for each in json.loads(desk.ok("incident", "preflight", name, "--json", who="rae"))["findings"]
    }
    assert said["bounced-email"]["says"].startswith("email bounced for good before: 1 person,")
    assert said["third-parties"]["says"] == "when the release begins acme (processor) are told of it, by ids and counts"
    assert "other" not in said["third-parties"]["says"], "its models are not concerned"
    assert "publications" not in said

    for publication_id, withdrawn_at in (("p1", None), ("p2", NOW)):
        case.execute(
            sa.insert(tables.publication).values(
                publication_id=publication_id, incident_id=name, controller="c", medium="website_posting", covers=["*"],
                needs={}, url="https://shop.example/notice", file_sha256="f" * 64, text_sha256="e" * 64, as_written=True,
                bundle_sha256="b" * 64, locale="en", starts_at=NOW, ends_at=NOW + HOUR, recorded_by="dan",
                recorded_role="dpo", recorded_at=NOW, withdrawn_at=withdrawn_at,
            )
        )  # fmt: skip
    shown = desk.ok("incident", "preflight", name, who="rae")
    assert "public communications on record: 1 by website posting; tocsin delivery publication list" in shown


def test_providers_are_shown_with_cost_and_taken_out_of_service_by_name(case: Case, desk: Desk) -> None:
    from consumers.case.circuit_commands import _remarks, circuits, known_providers
    from consumers.case.circuits import look
    from tests.unit.case.test_commands import GROUPS

    GROUPS.setdefault("circuits", circuits)
    smtp = Smtp(host="127.0.0.1", price_per_thousand=2, budget_per_month=1)
    desk.settings = desk.settings.model_copy(update={"delivery": Delivery(smtp=smtp)})
    assert "no dispatcher says anything" in desk.ok("circuits", who="rae")
    rows = json.loads(desk.ok("circuits", "--json", who="rae"))
    assert [(row["provider"], row["state"], row["budget"]) for row in rows] == [
        ("ses", "unknown", None), ("smtp", "unknown", 1), ("sns", "unknown", None),
    ]  # fmt: skip
    assert [(row["region"], row["closed_to"]) for row in rows][:2] == [
        ("eu-central-1", []),
        ("eu-central-1", []),
    ]
    assert (
        "nobody has said where smtp is (delivery.smtp.region): it is taken to be in eu-central-1, where AWS is"
    ) in desk.ok("circuits", who="rae")
    abroad = Delivery(smtp=smtp.model_copy(update={"region": "us-east-1"}))
    elsewhere = known_providers(desk.settings.model_copy(update={"delivery": abroad}))
    said = _remarks(look(case.store, elsewhere, shipped_law().regions, NOW), NOW)
    assert (
        "smtp is in us-east-1: regions.yaml lets no notice to people in CH, EEA, GB pass there; they wait while ses takes nothing"
    ) in said
    assert not any("nobody has said" in each for each in said)
    assert "no provider smpt; did you mean 'smtp'" in str(
        desk.error("circuits", "open", "smpt", "--reason", "x", who="dan")
    )
    assert isinstance(desk.error("circuits", "open", "ses", "--reason", "x", who="rae"), Refused)
    assert "back with: tocsin delivery circuits close ses" in desk.ok(
        "circuits", "open", "ses", "--reason", "ill", who="dan"
    )
    assert "ses was taken out of service by dan" in desk.ok("circuits", who="rae")
    assert case.store.look(lambda work: work.circuit_orders()) == {"ses": CircuitOrder("ses", "open", NOW, "dan")}
    assert "gets messages again" in desk.ok("circuits", "close", "ses", "--reason", "well", who="dan")
    bodies = [
        each["body"] for each in case.published("tocsin.case-events") if each["kind"] == "provider.circuit_ordered"
    ]
    assert [(body["provider"], body["wanted"]) for body in bodies] == [("ses", "open"), ("ses", "closed")]


def test_no_finding_s_name_can_be_one_that_the_log_refuses() -> None:
    named = [
        Finding(STOPS, about, "", code=code).name
        for about, code in (("approved texts", ""), ("x", "sms_2nd-At"), ("9", ""), ("", ""))
    ]
    assert named == ["approved-texts", "sms-2nd-at", "finding", "finding"]
    assert CASE_EVENT_KINDS["preflight.recorded"]["noted"].allows([*named, Finding(STOPS, "a " * 99, "").name])
