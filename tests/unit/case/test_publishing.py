"""A public notice on record: the text that was released, where it stands, who saw it, and under which laws it counts."""

import hashlib
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from bridge.contracts.errors import BadInput, Refused
from consumers.adapters.case_store import tables
from consumers.case import releasing
from consumers.case.publishing import (
    PublicText,
    Seen,
    public_text,
    publications,
    record_publication,
    withdraw_publication,
)
from consumers.domain.approvals import Mode
from consumers.domain.segments import SegmentKey
from tests.unit.case.cases import COUNSEL, DPO, NOW, RESPONDER, Case
from tests.unit.shipped_law import shipped_law

KEY = SegmentKey(
    incident_id="INC-2026-0001", revision=1, controller="shop", locale="de", disclosures=("derived|m|income",),
    policy="rest", group="general", standing="recorded", bundle="ai-data-leak", bundle_sha256="b" * 64,
    channels=("email", "sms"), sms_details=False, scenario="", detected_on="2026-03-01", exposed_from=None,
    exposed_to=None, sender=(("name", "Shop"),),
)  # fmt: skip
SEEN = Seen(
    "website_posting", "https://shop.example/notice", b"<p>page</p>", NOW, NOW + timedelta(days=30), ["EU"], None, None
)


def texts(key: SegmentKey, on: date, /, *, exercise: bool) -> PublicText:
    said = f"{on} {', '.join(key.disclosures)}"
    return PublicText(key.locale, str(key.bundle_sha256), f"<p>{said}</p>", said, f"press {said}")


def planned(case: Case, *, released: bool = True) -> str:
    name = case.receive().incident_id
    case.plan(name)
    case.execute(sa.update(tables.segment).values(key=KEY.as_json()))
    case.add_segment(name, "s2", bundle="b" * 64)
    other = replace(KEY, disclosures=("inferred|m|fraud",), locale="fr").as_json()
    case.execute(sa.update(tables.segment).where(tables.segment.c.segment_id == "s2").values(key=other, count=1))
    policy = releasing.prepare(
        case.store, name, RESPONDER, NOW, mode=Mode.TWO_APPROVERS, late_cap=0
    ).release.policy_sha256
    for actor in (DPO, COUNSEL) if released else ():
        releasing.approve(case.store, name, policy, actor, NOW, mode=Mode.TWO_APPROVERS)
    return name


def record(case: Case, name: str, seen: Seen = SEEN, **other: Any) -> Any:
    actor, reason = other.get("actor", DPO), other.get("reason", "seen in a browser")
    return record_publication(case.store, name, actor, NOW, texts, shipped_law(), seen, reason=reason)


def test_the_text_says_all_that_leaked_in_the_language_of_most_and_only_once_two_people_released_it(case: Case) -> None:
    name = planned(case, released=False)
    with pytest.raises(Refused, match="no release is approved"):
        public_text(case.store, name, texts, NOW.date(), controller=None, locale=None)
    case.execute(sa.update(tables.release).values(state="finished"))
    whose, text = public_text(case.store, name, texts, NOW.date(), controller=None, locale=None)
    assert (whose, text.locale) == ("shop", "de")
    assert "derived|m|income, inferred|m|fraud" in text.press
    assert "EXERCISE" not in text.press
    assert public_text(case.store, name, texts, NOW.date(), controller="shop", locale="fr")[1].locale == "fr"
    for wrong in ({"controller": "shoop", "locale": None}, {"controller": None, "locale": "it"}):
        with pytest.raises(BadInput, match="there are"):
            public_text(case.store, name, texts, NOW.date(), **wrong)


def test_a_record_names_place_time_file_text_and_person(case: Case) -> None:
    name = planned(case)
    made = record(case, name)
    assert made.file_sha256 == hashlib.sha256(SEEN.file).hexdigest()
    assert not made.as_written
    assert made.needs["eu-gdpr-34"] == ["state_media", "website_posting"]
    assert (made.recorded_by, made.recorded_role) == ("dan", "dpo")
    exact = texts(
        replace(KEY, disclosures=("derived|m|income", "inferred|m|fraud")), NOW.date(), exercise=False
    ).web_html.encode()
    again = record(case, name, replace(SEEN, file=exact, url="https://shop.example/other"))
    assert again.as_written
    assert [each.publication_id for each in publications(case.store, name)] == sorted(
        [made.publication_id, again.publication_id]
    )
    event = next(each for each in case.published("tocsin.case-events") if each["kind"] == "publication.recorded")
    assert (event["body"]["covers"], event["body"]["medium"]) == (["EU"], "website_posting")
    assert "shop.example" not in str(event)
    assert withdraw_publication(
        case.store, name, made.publication_id[:8], COUNSEL, NOW, reason="taken down"
    ).withdrawn_by == "col"  # fmt: skip
    with pytest.raises(Refused, match="was withdrawn"):
        withdraw_publication(case.store, name, made.publication_id, DPO, NOW, reason="again")


@pytest.mark.parametrize(
    ("seen", "other", "error", "says"),
    [
        (replace(SEEN, url="shop.example"), {}, BadInput, "--url shop.example"),
        (replace(SEEN, ends_at=NOW), {}, BadInput, "is not after --from"),
        (replace(SEEN, file=b""), {}, BadInput, "--file: the file is empty"),
        (replace(SEEN, covers=["UK"]), {}, BadInput, "is no jurisdiction"),
        (SEEN, {"reason": " "}, BadInput, "needs a reason"),
        (SEEN, {"actor": RESPONDER}, Refused, r"may not publication\.record"),
    ],
)
def test_what_cannot_be_is_refused(
    case: Case, seen: Seen, other: dict[str, Any], error: type[Exception], says: str
) -> None:
    name = planned(case)
    with pytest.raises(error, match=says):
        record(case, name, seen, **other)
    assert case.rows(tables.publication) == []


def test_the_same_is_not_recorded_twice(case: Case) -> None:
    name = planned(case)
    record(case, name)
    with pytest.raises(Refused, match="stands on record already"):
        record(case, name)
