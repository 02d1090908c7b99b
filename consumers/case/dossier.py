"""What an authority is told of an incident: one document a duty, in versions, from what is recorded and nothing else.

GDPR Art. 33(3) goes in phases (Art. 33(4)); a US attorney general gets a letter with a sample of the notice; every other
authority a form that lists what its duty asks. A fact that nobody has recorded is named as missing, never filled in. What
only a person can say (consequences, measures, reasons for delay) they say in so many words; it is carried from version to
version. Content and PDF are kept by hash; that a version was submitted is recorded by a named person.
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import rfc8785

from bridge.contracts.errors import BadInput, Refused, TocsinError, nearest
from bridge.contracts.events import Residence
from bridge.contracts.scope import Scope
from consumers.case import duties
from consumers.case.acting import Actor, needed, record_act
from consumers.case.events import Body, new_salt, salted_sha256, written
from consumers.case.permissions import Act
from consumers.case.records import DossierRecord, IncidentRecord, ObligationRecord
from consumers.case.sheet import Artefacts, NoticeSamples
from consumers.case.store import CaseStore, CaseWork
from consumers.case.workflow import AWARENESS, found, known_facts, still_open
from consumers.domain.duties import Exposure, Law
from consumers.domain.jurisdictions import UNKNOWN_RESIDENCE
from consumers.domain.persons import homes_of

FORMAT = "tocsin-dossier-v1"
PHASES = ("initial", "additional", "final")
ART_33 = ("eu-gdpr-33", "gb-ukgdpr-33")
STATEMENTS: Mapping[str, str] = {
    "nature": "what happened, in words",
    "consequences": "likely consequences for people",
    "measures": "what was done and is proposed against the breach and its effects",
    "delay_reasons": "why it was not told in time",
    "contact": "contact point for more information",
    "cross_border": "other authorities that are concerned or were told",
    "other": "anything else that is asked",
}
"""What only a person can say."""
_LONGEST = 4000


@dataclass(frozen=True, slots=True)
class AuthorityEntry:
    """An authority as the law's data has it; empty: not known."""

    authority: str
    address: str
    telephone: str
    website: str
    channel: str
    confidence: str
    confirm: bool
    note: str


class AuthorityBook(Protocol):
    """Whom a duty's recipient is."""

    def __call__(self, regime_id: str, country: str | None, /) -> Sequence[AuthorityEntry]: ...


SetPdf = Callable[[Mapping[str, Any]], bytes]
"""Sets a dossier's content as a PDF."""


@dataclass(frozen=True, slots=True)
class Dossier:
    """A version as it was made. `record` is None where nothing was kept."""

    content: Mapping[str, Any]
    pdf: bytes
    record: DossierRecord | None


def make_dossier(
    store: CaseStore,
    incident_id: str,
    regime_id: str,
    actor: Actor,
    now: datetime,
    law: Law,
    *,
    controller: str | None,
    phase: str | None,
    statements: Mapping[str, str],
    authorities: AuthorityBook,
    samples: NoticeSamples,
    set_pdf: SetPdf,
    artefacts: Artefacts,
    keep: bool = True,
    reason: str | None = None,
) -> Dossier:
    """Make the next version of what a duty's authority is told, and keep it. `statements` replace those of the version
    before; an empty text takes one back. Raises BadInput for a duty that the incident does not have.
    """
    role = actor.acting_for(Act.RECORD_DUTY)
    for name, text in statements.items():
        if name not in STATEMENTS:
            raise BadInput(f"--say {name}: unknown{nearest(name, STATEMENTS)}; known: {', '.join(STATEMENTS)}")
        if len(text) > _LONGEST:
            raise BadInput(f"--say {name}: {len(text)} characters; at most {_LONGEST}")

    def prepared(case: CaseWork) -> tuple[dict[str, Any], int, dict[str, str]]:
        incident = found(case, incident_id)
        duty = the_duty(case, incident_id, regime_id, controller)
        before = [each for each in case.dossiers(incident_id) if _same(each, duty)]
        said = {**(before[-1].statements if before else {}), **{k: v.strip() for k, v in statements.items()}}
        said = {name: text for name, text in said.items() if text}
        chosen = phase or ("additional" if any(each.submitted_at for each in before) else "initial")
        content = dossier_content(
            case, incident, duty, law, now, phase=chosen, version=len(before) + 1, statements=said,
            earlier=before, authorities=authorities, samples=samples,
        )  # fmt: skip
        return content, len(before) + 1, said

    content, version, said = store.look(prepared)
    pdf = set_pdf(content)
    if not keep:
        return Dossier(content, pdf, None)
    # A crash before the row is written leaves files that nothing names.
    content_sha256, pdf_sha256 = artefacts.put(rfc8785.dumps(content)), artefacts.put(pdf)
    record = DossierRecord(
        uuid.uuid4().hex, incident_id, content["duty"]["controller"], content["duty"]["regime_id"], version,
        content["phase"], said, len(content["missing"]), content_sha256, pdf_sha256, now, actor.person_id,
    )  # fmt: skip

    def work(case: CaseWork) -> None:
        incident = found(case, incident_id)
        same = [
            each
            for each in case.dossiers(incident_id)
            if (each.controller, each.regime_id) == (record.controller, record.regime_id)
        ]
        if len(same) + 1 != version:
            raise Refused(f"{incident_id}: somebody made version {len(same)} of {regime_id} meanwhile; make it again")
        case.add_dossier(record)
        body: Body = {
            "dossier_id": record.dossier_id, "regime_id": record.regime_id, "dossier_version": version, "phase": record.phase,
            "missing_count": record.missing_count, "content_sha256": content_sha256, "pdf_sha256": pdf_sha256,
        }  # fmt: skip
        record_act(case, actor, role, "dossier.made", body, at=now, incident=incident, reason=reason)

    store.change(work)
    return Dossier(content, pdf, record)


def submit_dossier(
    store: CaseStore,
    incident_id: str,
    regime_id: str,
    actor: Actor,
    now: datetime,
    law: Law,
    *,
    controller: str | None,
    version: int | None,
    submitted_at: datetime,
    reference: str | None,
    reason: str | None,
) -> DossierRecord:
    """Record that a version (the newest) was submitted; the first one that was meets the duty. May be repeated after a
    crash. Raises Refused for one that is recorded already.
    """
    role = actor.acting_for(Act.RECORD_DUTY)
    why = needed(reason)

    def chosen(case: CaseWork) -> tuple[DossierRecord, bool]:
        duty = the_duty(case, incident_id, regime_id, controller)
        versions = [each for each in case.dossiers(incident_id) if _same(each, duty)]
        record = next((each for each in reversed(versions) if version in (None, each.version)), None)
        if record is None:
            known = ", ".join(str(each.version) for each in versions) or "none was made"
            raise BadInput(f"{incident_id}: no such version of the dossier for {regime_id} ({known})")
        if record.submitted_at is not None:
            raise Refused(f"{incident_id}: version {record.version} for {regime_id} was submitted "
                          f"{written(record.submitted_at)}, says {record.submitted_by}")  # fmt: skip
        return record, duty.met is None

    record, unmet = store.look(chosen)
    if submitted_at < record.made_at.replace(microsecond=0) - timedelta(minutes=1) or submitted_at > now:
        raise BadInput(f"--at {written(submitted_at)}: a version is submitted after it was made ({written(record.made_at)}) "
                       "and before now")  # fmt: skip
    if unmet:
        # A crash after this leaves the duty met by this very file and the version unmarked: repeated, it is marked.
        duties.record_met(
            store, incident_id, record.regime_id, actor, now, law, met_at=submitted_at, controller=record.controller,
            reference=reference, file=(f"{incident_id}-{record.regime_id}-v{record.version}.pdf", record.pdf_sha256),
            reason=why,
        )  # fmt: skip

    def work(case: CaseWork) -> DossierRecord:
        incident = still_open(case, incident_id)
        case.submit_dossier(record.dossier_id, by=actor.person_id, at=submitted_at, reference=reference)
        salt = new_salt()
        body: Body = {
            "dossier_id": record.dossier_id, "regime_id": record.regime_id, "dossier_version": record.version,
            "submitted_at": written(submitted_at), "content_sha256": record.content_sha256,
            "pdf_sha256": record.pdf_sha256,
            "reference_sha256": None if reference is None else salted_sha256(salt, reference),
        }  # fmt: skip
        record_act(case, actor, role, "dossier.submitted", body, at=now, incident=incident, reason=why, salt=salt)
        return replace(record, submitted_at=submitted_at, submitted_by=actor.person_id, reference=reference)

    return store.change(work)


def the_duty(case: CaseWork, incident_id: str, regime_id: str, controller: str | None) -> ObligationRecord:
    """Return the duty to an authority. Raises BadInput, also for a duty to people."""
    rows = case.obligations(incident_id)
    named = [each for each in rows if each.regime_id == regime_id]
    if not named:
        known = {each.regime_id for each in rows if each.recipient not in ("individual", "internal", "media")}
        raise BadInput(f"{incident_id} has no duty {regime_id}{nearest(regime_id, known)}; see "
                       f"`tocsin incident obligations {incident_id}`")  # fmt: skip
    if named[0].recipient in ("individual", "internal", "media"):
        raise BadInput(f"{regime_id} tells no authority ({named[0].recipient}); a dossier is for authorities")
    chosen = [each for each in named if controller in (None, each.controller)]
    if len(chosen) != 1:
        raise BadInput(
            f"{regime_id} is a duty of {', '.join(each.controller for each in named)}; say whose: --controller"
        )
    return chosen[0]


def _same(record: DossierRecord, duty: ObligationRecord) -> bool:
    return (record.controller, record.regime_id) == (duty.controller, duty.regime_id)


# The content


def dossier_content(
    case: CaseWork,
    incident: IncidentRecord,
    duty: ObligationRecord,
    law: Law,
    now: datetime,
    *,
    phase: str,
    version: int,
    statements: Mapping[str, str],
    earlier: Sequence[DossierRecord],
    authorities: AuthorityBook,
    samples: NoticeSamples,
) -> dict[str, Any]:
    """Return all that the document says, and what it lacks."""
    name, detail = incident.incident_id, duty.detail
    regime, place = str(detail.get("regime_id", duty.regime_id)), str(detail.get("jurisdiction", ""))
    entity = law.controllers.by_key.get(duty.controller)
    known = known_facts(case, incident)
    exposures = {each.controller: each for each in (case.exposures(name) or (0, ()))[1]}
    exposure = exposures.get(duty.controller)
    rule = law.rules.by_id.get(regime)
    rule_version = (
        next((each for each in rule.versions if each.version == detail.get("version")), None) if rule else None
    )
    due_at = duty.watched_at
    is_late = due_at is not None and duty.met is None and now > due_at
    country = _lead_country(entity, place)
    kind = "gdpr_33" if regime in ART_33 else "us_attorney_general" if _is_state_ag(duty, place) else "generic"
    sections, missing = _sections(
        case, incident, duty, exposure, known, statements, kind, is_late=is_late, dpo=entity.dpo if entity else "",
        asks=(rule_version.content or "") if rule_version else "", place=place,
    )  # fmt: skip
    sample = _sample_notice(case, incident, place, samples) if kind == "us_attorney_general" else None
    if kind == "us_attorney_general" and sample is None:
        missing.append("sample of the notice to residents: none is approved for them yet")
    addressees = [
        {key: getattr(each, key) for key in AuthorityEntry.__slots__} for each in authorities(regime, country)
    ]  # fmt: skip
    if not addressees:
        missing.append("the authority's address and channel: not in authorities.yaml")
    return {
        "format": FORMAT,
        "kind": kind,
        "incident_id": name,
        "exercise": incident.exercise,
        "revision": incident.revision,
        "version": version,
        "phase": phase,
        "made_at": written(now),
        "controller": {"key": duty.controller, "name": entity.name if entity else duty.controller},
        "duty": {
            "controller": duty.controller, "regime_id": duty.regime_id, "recipient": duty.recipient, "jurisdiction": place,
            "law": detail.get("law"), "citation": detail.get("citation"), "confidence": detail.get("confidence"),
            "status": duty.status, "deadline_at": None if due_at is None else written(due_at),
            "counted": None if due_at is None else "recorded" if duty.deadline_at else "conservative",
            "is_late": is_late,
        },
        "authorities": addressees,
        "sections": sections,
        "missing": missing,
        "counts": _counts(exposure, place),
        "timeline": _timeline(case, incident, known, earlier, due_at),
        "sample_notice": sample,
        "earlier": [
            {"version": each.version, "phase": each.phase, "made_at": written(each.made_at),
             "submitted_at": None if each.submitted_at is None else written(each.submitted_at), "reference": each.reference}
            for each in earlier
        ],
    }  # fmt: skip


def _is_state_ag(duty: ObligationRecord, place: str) -> bool:
    return duty.recipient == "attorney_general" and place.startswith("US")


def _lead_country(entity: Any, place: str) -> str | None:
    """Return the Member State whose authority leads: that of the first establishment in the EEA; None elsewhere."""
    if place not in ("EU", "EEA") or entity is None:
        return None
    established = entity.facts().get("establishments") or ()
    return str(next(iter(established), "")) or None


@dataclass(frozen=True, slots=True)
class _Answers:
    """What is known, and what is not, section by section."""

    sections: list[dict[str, Any]]
    missing: list[str]

    def add(self, title: str, citation: str, lines: Sequence[tuple[str, str | None]]) -> None:
        """Add a section; a line without a value is missing, by name."""
        self.sections.append(
            {
                "title": title,
                "citation": citation,
                "lines": [{"label": label, "value": value} for label, value in lines],
            }
        )
        self.missing.extend(f"{title}: {label}" for label, value in lines if value is None)


def _sections(
    case: CaseWork,
    incident: IncidentRecord,
    duty: ObligationRecord,
    exposure: Exposure | None,
    known: Mapping[str, Any],
    said: Mapping[str, str],
    kind: str,
    *,
    is_late: bool,
    dpo: str,
    asks: str,
    place: str,
) -> tuple[list[dict[str, Any]], list[str]]:
    answers = _Answers([], [])
    is_33 = kind == "gdpr_33"
    scope = None if incident.scope is None else Scope.model_validate(incident.scope)
    aware = next((str(known[name]) for name in AWARENESS if isinstance(known.get(name), str)), None)
    nature: list[tuple[str, str | None]] = [
        ("what happened", said.get("nature")),
        ("scenario, as the alert named it", incident.scenario or "not classified"),
        ("detected at", _minute(incident.detected_at)),
        ("aware since", None if aware is None else _minute(datetime.fromisoformat(aware))),
        ("data lay open from", None if scope is None or scope.exposed_from is None else _minute(scope.exposed_from)),
        ("data lay open to", None if scope is None or scope.exposed_to is None else _minute(scope.exposed_to)),
        ("AI systems whose output or input leaked", _models(scope)),
        ("encrypted", _yes_no(known.get("encrypted"))),
    ]
    answers.add("Nature of the breach", "Art. 33(3)(a)" if is_33 else "", nature)
    people = None if exposure is None else exposure.people_count
    records = case.record_count(incident.incident_id) if exposure is not None else None
    possible = None if exposure is None else f"{exposure.possible_count:,}"
    named = [] if exposure is None else [each.replace("_", " ") for each in exposure.elements]
    elements = None if exposure is None else ", ".join(named) or "none in the vocabulary"
    whom: list[tuple[str, str | None]] = [
        ("approximate number of people", None if people is None else f"{people:,}"),
        ("of these only possibly concerned (a value without a record)", possible),
        ("categories of people", "customers and guest buyers of the shop"),
        ("approximate number of records", None if records is None else f"{records:,} provenance records"),
        ("categories of data", elements),
        ("how the data came about", None if exposure is None else _kinds(exposure)),
    ]  # fmt: skip
    if place and place not in ("EU", "EEA") and exposure is not None:
        whom.insert(1, (f"of these in {place}", f"{_residents(exposure, place):,}"))
    answers.add("People and records concerned", "Art. 33(3)(a)" if is_33 else "", whom)
    answers.add("Contact", "Art. 33(3)(b)" if is_33 else "", [
        ("data protection officer", dpo or None), ("contact point for more information", said.get("contact") or (dpo or None)),
    ])  # fmt: skip
    answers.add("Likely consequences", "Art. 33(3)(c)" if is_33 else "", [
        ("likely consequences for people", said.get("consequences")),
        ("risk as assessed (gdpr_risk)", str(known["gdpr_risk"]) if known.get("gdpr_risk") else None),
    ])  # fmt: skip
    answers.add("Measures", "Art. 33(3)(d)" if is_33 else "", [
        ("measures taken and proposed", said.get("measures")), ("people told so far", _told(case, incident)),
    ])  # fmt: skip
    if is_late or said.get("delay_reasons"):
        citation = "Art. 33(1)" if is_33 else ""
        answers.add("Reasons for the delay", citation, [("why it is told late", said.get("delay_reasons"))])
    if is_33:
        answers.add(
            "Other authorities",
            "Art. 33, 55, 56",
            [("concerned or told", said.get("cross_border") or _others(case, incident, duty))],
        )
    else:
        lines = [(f"asked: {each}", said.get("other") or None) for each in _asked(asks)]
        if lines:
            answers.add(
                "What this duty asks, to be checked against the above", str(duty.detail.get("citation") or ""), []
            )
            answers.sections[-1]["lines"] = [
                {"label": label, "value": value or "see above, or add it"} for label, value in lines
            ]
        else:
            answers.missing.append("what this duty asks: the rule does not say; look at its citation")
    return answers.sections, answers.missing


def _minute(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _asked(asks: str) -> list[str]:
    return [part.strip() for part in asks.split(";") if part.strip()]


def _models(scope: Scope | None) -> str | None:
    if scope is None:
        return None
    given = scope.canonical()
    named = ", ".join(map(str, given.get("model_ids", ())))
    versions = ", ".join(map(str, given.get("model_versions", ())))
    return f"{named}{f', version {versions}' if versions else ''}" if named else "not limited to single systems"


def _yes_no(value: Any) -> str | None:
    return None if value is None else "yes" if value is True else "no" if value is False else str(value)


def _kinds(exposure: Exposure) -> str:
    words = {"real": "given by people", "derived": "worked out from their real data", "inferred": "estimated by a machine",
             "synthetic": "made up by a machine"}  # fmt: skip
    return "; ".join(words.get(kind, kind) for kind in exposure.kinds) or "not known"


def _residents(exposure: Exposure, place: str) -> int:
    return sum(n for code, n in exposure.residents.items() if code == place or code.startswith(f"{place}-"))


def _told(case: CaseWork, incident: IncidentRecord) -> str:
    ends = case.ends(incident.incident_id)
    reached, total = ends.get("reached", 0), sum(ends.values())
    return f"{reached:,} of {total:,} reached" if total else "nobody yet"


def _others(case: CaseWork, incident: IncidentRecord, duty: ObligationRecord) -> str:
    told = [
        f"{each.regime_id} ({each.met.met_at:%Y-%m-%d})"
        for each in case.obligations(incident.incident_id)
        if each.met is not None
        and each.regime_id != duty.regime_id
        and each.recipient not in ("individual", "internal")
    ]
    return f"told: {', '.join(told)}" if told else "none told yet"


def _counts(exposure: Exposure | None, place: str) -> list[dict[str, Any]]:
    if exposure is None:
        return []
    rows = [{"code": code, "people": count} for code, count in exposure.residents.items()]
    rows.sort(key=lambda row: (row["code"] == UNKNOWN_RESIDENCE, -int(str(row["people"])), str(row["code"])))
    return [{**row, "here": row["code"] == place or str(row["code"]).startswith(f"{place}-")} for row in rows]


def _timeline(
    case: CaseWork,
    incident: IncidentRecord,
    known: Mapping[str, Any],
    earlier: Sequence[DossierRecord],
    due_at: datetime | None,
) -> list[dict[str, str]]:
    moments: list[tuple[datetime, str]] = [(incident.detected_at, "detected")]
    scope = None if incident.scope is None else Scope.model_validate(incident.scope)
    if scope is not None and scope.exposed_from is not None:
        moments.append((scope.exposed_from, "data open from"))
    if scope is not None and scope.exposed_to is not None:
        moments.append((scope.exposed_to, "data open to"))
    aware = sorted({str(known[name]) for name in AWARENESS if isinstance(known.get(name), str)})
    moments += [(datetime.fromisoformat(text), "aware") for text in aware[:1]]
    moments += [(each.submitted_at, f"version {each.version} submitted") for each in earlier if each.submitted_at]
    started = [each for each in case.releases(incident.incident_id) if each.released_at is not None]
    moments += [(each.released_at, "notices to people begin") for each in started[-1:] if each.released_at is not None]
    if due_at is not None:
        moments.append((due_at, "deadline"))
    return [{"at": written(at.astimezone(UTC)), "what": what} for at, what in sorted(moments)]


def _sample_notice(
    case: CaseWork, incident: IncidentRecord, place: str, samples: NoticeSamples
) -> dict[str, str] | None:
    """Return the e-mail that most residents of a place get, filled for a made-up person; None while none is approved."""
    counts: dict[str, int] = {}
    for row in case.audience(incident.incident_id):
        homes = homes_of([Residence.model_validate(claim) for claim in row.residence])
        if row.segment_id is not None and row.held_reason is None and place in homes:
            counts[row.segment_id] = counts.get(row.segment_id, 0) + row.count
    segments = {each.segment_id: each for each in case.segments(incident.incident_id, incident.revision)}
    for segment_id in sorted(counts, key=lambda each: (-counts[each], each)):
        segment = segments.get(segment_id)
        if segment is None or segment.bundle_sha256 is None:
            continue
        try:
            made = samples.sample(segment.key, exercise=incident.exercise)
        except TocsinError:
            continue
        mail = next((each for each in made.media if each.medium == "email"), made.media[0])
        return {"title": mail.title, "text": mail.text, "bundle_sha256": segment.bundle_sha256}
    return None
