"""Public communication on record: which approved text stands where, from when to when, and who saw it there.

A named person records it with a reason; the file that they saved of the page or paper is kept by its hash. From then on
it stands in for people without any channel, where the law of each of them lets it (`consumers.domain.publication`). Not
for writing the text nor for putting it up.
"""

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any, Protocol
from urllib.parse import urlsplit

from bridge.contracts.errors import BadInput, Refused, nearest
from consumers.case.acting import Actor, needed, record_act
from consumers.case.events import Body, written
from consumers.case.permissions import Act
from consumers.case.records import PublicationRecord, SegmentRecord
from consumers.case.store import CaseStore, CaseWork
from consumers.case.workflow import found, still_open
from consumers.domain.duties import Law
from consumers.domain.publication import needs_of
from consumers.domain.segments import SegmentKey, check_codes, segment_key_from

RELEASED = ("releasing", "paused", "finished")


@dataclass(frozen=True, slots=True)
class PublicText:
    """The approved public texts of a controller in one language: file name -> content."""

    locale: str
    bundle_sha256: str
    web_html: str
    web: str
    press: str


class PublicTexts(Protocol):
    """Composes what the public is told from an approved bundle. Raises TocsinError when it cannot be had."""

    def __call__(self, key: SegmentKey, on: date, /, *, exercise: bool) -> PublicText: ...


@dataclass(frozen=True, slots=True)
class Seen:
    """What a person says stands in public."""

    medium: str
    url: str
    file: bytes
    starts_at: datetime
    ends_at: datetime
    covers: Sequence[str]
    controller: str | None
    locale: str | None


def public_text(
    store: CaseStore, incident_id: str, texts: PublicTexts, on: date, *, controller: str | None, locale: str | None
) -> tuple[str, PublicText]:
    """Return whose text it is and the text as published on `on`. Raises Refused while no release is approved."""
    key, exercise = store.look(
        lambda case: (
            _public_key(case, incident_id, controller, locale), found(case, incident_id).exercise,
        )
    )  # fmt: skip
    return key.controller, texts(key, on, exercise=exercise)


def record_publication(
    store: CaseStore, incident_id: str, actor: Actor, now: datetime, texts: PublicTexts, law: Law, seen: Seen,
    *, reason: str | None,
) -> PublicationRecord:  # fmt: skip
    """Put on record that a public notice stands; return the record.

    Raises BadInput for what cannot be, Refused while no release is approved or where no law makes the medium part of a
    substitute notice.
    """
    role = actor.acting_for(Act.RECORD_PUBLICATION)
    why = needed(reason)
    check_codes(seen.covers)
    if urlsplit(seen.url).scheme not in ("https", "http") or not urlsplit(seen.url).hostname:
        raise BadInput(f"--url {seen.url}: write where it stands, as https://...")
    if seen.ends_at <= seen.starts_at:
        raise BadInput(f"--until {written(seen.ends_at)} is not after --from {written(seen.starts_at)}")
    if not seen.file:
        raise BadInput("--file: the file is empty; save the page as it is shown, or scan the clipping")

    def work(case: CaseWork) -> PublicationRecord:
        incident = still_open(case, incident_id)
        key = _public_key(case, incident_id, seen.controller, seen.locale)
        text = texts(key, seen.starts_at.date(), exercise=incident.exercise)
        needs = needs_of(seen.medium, law.rules.notices)
        shown = (text.web_html if seen.medium == "website_posting" else text.press).encode()
        file_sha256 = hashlib.sha256(seen.file).hexdigest()
        text_sha256 = hashlib.sha256(shown).hexdigest()
        for known in case.publications(incident_id):
            same = (known.controller, known.medium, known.url, known.starts_at)
            if same == (key.controller, seen.medium, seen.url, seen.starts_at) and known.withdrawn_at is None:
                raise Refused(f"{incident_id}: this stands on record already, as {known.publication_id}")
        record = PublicationRecord(
            uuid.uuid4().hex, incident_id, key.controller, seen.medium, sorted(set(seen.covers)), needs, seen.url,
            file_sha256, text_sha256, file_sha256 == text_sha256, text.bundle_sha256, text.locale, seen.starts_at,
            seen.ends_at, actor.person_id, role.value, now,
        )  # fmt: skip
        case.add_publication(record)
        body: Body = {
            **_named(record), "covers": list(record.covers), "starts_at": written(record.starts_at),
            "ends_at": written(record.ends_at), "file_sha256": file_sha256, "text_sha256": text_sha256,
            "as_written": record.as_written, "bundle_sha256": record.bundle_sha256,
            "url_sha256": hashlib.sha256(seen.url.encode()).hexdigest(),
        }  # fmt: skip
        record_act(case, actor, role, "publication.recorded", body, at=now, incident=incident, reason=why)
        return record

    return store.change(work)


def withdraw_publication(
    store: CaseStore, incident_id: str, publication_id: str, actor: Actor, now: datetime, *, reason: str | None
) -> PublicationRecord:
    """Put on record that a publication did not stand as recorded: it stands in for nobody from now on."""
    role = actor.acting_for(Act.RECORD_PUBLICATION)
    why = needed(reason)

    def work(case: CaseWork) -> PublicationRecord:
        incident = still_open(case, incident_id)
        known = {each.publication_id: each for each in case.publications(incident_id)}
        matching = [each for each in known.values() if each.publication_id.startswith(publication_id)]
        if len(matching) != 1:
            raise BadInput(
                f"{incident_id} has no publication {publication_id!r}{nearest(publication_id, known)}; see `tocsin "
                f"delivery publication list {incident_id}`"
            )
        record = matching[0]
        if record.withdrawn_at is not None:
            raise Refused(f"{record.publication_id} was withdrawn at {written(record.withdrawn_at)}")
        case.withdraw_publication(record.publication_id, by=actor.person_id, at=now)
        record_act(case, actor, role, "publication.withdrawn", _named(record), at=now, incident=incident, reason=why)
        return replace(record, withdrawn_at=now, withdrawn_by=actor.person_id)

    return store.change(work)


def publications(store: CaseStore, incident_id: str) -> Sequence[PublicationRecord]:
    """Return an incident's publications. Raises BadInput if there is no such incident."""
    return store.look(lambda case: case.publications(found(case, incident_id).incident_id))


def _named(record: PublicationRecord) -> dict[str, Any]:
    return {"publication_id": record.publication_id, "medium": record.medium}


def _public_key(case: CaseWork, incident_id: str, controller: str | None, locale: str | None) -> SegmentKey:
    """Return the key that the public text is composed for: all that leaked, under a text that two people released."""
    incident = found(case, incident_id)
    approved = {
        segment_id
        for release in case.releases(incident_id)
        if release.state in RELEASED
        for segment_id in release.policy.get("segments", {})
    }
    released: list[tuple[SegmentRecord, SegmentKey]] = [
        (each, segment_key_from(each.key))
        for each in case.segments(incident_id, incident.revision)
        if each.segment_id in approved and each.bundle_sha256 is not None and each.key.get("policy") != "correction"
    ]
    if not released:
        raise Refused(f"{incident_id}: no release is approved, so that no text may stand in public; `tocsin incident "
                      f"sheet {incident_id}` shows what waits")  # fmt: skip
    controllers = sorted({key.controller for _, key in released})
    if controller is None and len(controllers) > 1:
        raise BadInput(f"{incident_id} concerns {', '.join(controllers)}: name one with --controller")
    chosen = controller or controllers[0]
    own = [(each, key) for each, key in released if key.controller == chosen]
    if not own:
        raise BadInput(f"--controller {chosen}: no released text is theirs; there are {', '.join(controllers)}")
    languages = sorted({key.locale for _, key in own})
    if locale is not None and locale not in languages:
        raise BadInput(f"--locale {locale}: no released text is in it{nearest(locale, languages)}; "
                       f"there are {', '.join(languages)}")  # fmt: skip
    spoken = [(each, key) for each, key in own if locale in (None, key.locale)]
    first = max(spoken, key=lambda pair: (pair[0].count, pair[0].segment_id))[1]
    keys = [key for _, key in own]

    def union(name: str) -> tuple[str, ...]:
        return tuple(sorted({word for key in keys for word in getattr(key, name)}))

    return replace(
        first, disclosures=union("disclosures"), asks=union("asks"), forbids=union("forbids"), states=union("states")
    )
