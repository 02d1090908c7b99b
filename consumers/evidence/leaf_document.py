"""`LEAVES.md`: what may stand in the log, type by type and field by field. `python -m consumers.evidence.leaf_document`
writes it; a test holds it to the types in force, and asks for a meaning of each.
"""

import sys
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from bridge.contracts.events import IncidentId
from consumers.evidence.leaf_patterns import unwrapped
from consumers.evidence.leaves import (
    At,
    CaseLeaf,
    Cluster,
    Code,
    Digest,
    EventLeaf,
    Id,
    Opaque,
    Place,
    Slug,
    Version,
    Word,
    discover,
)
from consumers.evidence.rotation import RawSignature

DOCUMENT = Path(__file__).parent / "LEAVES.md"

_SORTS: tuple[tuple[Any, str], ...] = (
    (Digest, "hash or commitment, 64 hexadecimal digits"),
    (Word, "word"),
    (Slug, "name in rules or settings"),
    (Place, "ISO 3166 code"),
    (Opaque, "id, random or counted"),
    (Id, "random id, 32 hexadecimal digits"),
    (Code, "short code"),
    (Cluster, "Kafka cluster id"),
    (Version, "version"),
    (IncidentId, "incident id"),
    (RawSignature, "Ed25519 signature, 128 hexadecimal digits"),
    (At, "instant, UTC, six decimals"),
)

MEANINGS: Mapping[str, str] = {
    "tocsin.delivery-outcome": "One change of one attempt to tell somebody: intended, handed over, delivered, bounced, ... An "
    "attempt that arrived and has no `body_digest` in any entry was handed over by a dispatcher that was lost with its disk.",
    "tocsin.notice-read": "Somebody confirmed on the account page that a notice was read.",
    "tocsin.partition-resolved": "One partition's whole answer to who is concerned; `members_root` fixes the set.",
    "tocsin.positions": "How far the log has read each topic; repeated now and then.",
    "tocsin.key-rotation": "The log goes on under a next key.",
    "tocsin.unlisted": "A message of a kind that is not allow-listed: that it was there, and a keyed hash to know it by.",
    "correction.started": "People who were told what is not true of them are to be put right.",
    "deadline.missed": "A duty's deadline passed and nobody had recorded it as met.",
    "deadline.warned": "A duty's deadline came closer: 50, 75 or 90 percent of its time had passed.",
    "dossier.made": "What an authority is to be told was drawn up, as JSON and PDF.",
    "dossier.submitted": "An authority was told.",
    "duty.met": "A duty was recorded as met.",
    "duty.met_withdrawn": "That record was taken back.",
    "erasure.carried_out": "A request to be forgotten was carried out; `key_count`: how many keys of the person were erased.",
    "erasure.requested": "Somebody asked to be forgotten; `held`: an open incident concerns them.",
    "evidence.exported": "An auditor's package was made.",
    "evidence.log_read": "Somebody read tiles or entries of this log over HTTP; once for each reader and hour.",
    "evidence.reconciled": "Ledger, log and receipts of an ended incident were compared.",
    "fact.instant_recorded": "A fact that is a time was recorded: awareness and the like.",
    "fact.presumed": "Policy presumed a fact because nobody had recorded it in time.",
    "fact.recorded": "A fact was recorded or corrected; its value by salted hash.",
    "gate.lifted": "What held notices back was lifted.",
    "gate.set": "Something holds notices back: a law-enforcement hold, an authority to be told first.",
    "incident.acknowledged": "Somebody took the incident on.",
    "incident.alert_after_end": "An alert came again after the incident had ended.",
    "incident.alert_repeated": "An alert came again.",
    "incident.closed": "The incident was closed.",
    "incident.crosschecked": "The store itself was asked who is concerned, and compared.",
    "incident.differences_named": "Somebody took responsibility for differences that nothing explains.",
    "incident.dismissal_proposed": "Somebody proposed to dismiss the incident; without a match test: nothing to compare.",
    "incident.dismissed": "A second person agreed, and it was dismissed.",
    "incident.everybody_confirmed": "Somebody confirmed that a scope about everybody is meant so.",
    "incident.match_tested": "Leaked rows were compared with the people concerned.",
    "incident.opened": "An alert was received and opened an incident.",
    "incident.possible_excluded": "People who are only possibly concerned were left out.",
    "incident.possible_included": "They were taken in again.",
    "incident.rescoped": "The scope was corrected; approvals given before are void.",
    "incident.scope_checked": "The names in the scope were compared with the index; `unknown_count` were not known.",
    "incident.scope_proposed": "A repeated alert, or later knowledge, named another scope.",
    "incident.scope_understood": "What the alert names is known by now; its scope was taken as given.",
    "incident.verified": "Verification was decided.",
    "law.adopted": "Counsel adopted rules as they read, or looked at them again.",
    "letters.posted": "Letters were given to the post.",
    "letters.returned": "Letters came back.",
    "notice.approved": "Counsel approved a text for jurisdictions until a date.",
    "notice.revoked": "An approval was revoked.",
    "obligations.computed": "Duties were computed anew, by a version of the rules.",
    "party.notified": "A third party was told; `document_sha256` fixes what.",
    "people.added": "A member of staff was added, by commitment.",
    "people.added_late": "People came late; `members_root` fixes who.",
    "people.bounced_listed": "Somebody looked at whom notices had not reached; `opened`: with their contacts.",
    "people.listed": "Somebody looked at the list of people concerned.",
    "people.told_in_other_incident": "Somebody was told the very same by another incident's notice.",
    "people.told_wrongly": "A corrected scope shows that people were told what is not true of them.",
    "person.erased": "A person's key was erased; only who still has it can tell whose by the marker.",
    "person.finished": "How it ended for one person and notice.",
    "person.looked_at": "Somebody looked at one person.",
    "person.not_notified": "The incident was closed before this person was known to be told, and why; an outcome may follow.",
    "person.regrouped": "More accounts or orders turned out to be of a person who was told already.",
    "plan.completed": "Everybody concerned has a law, a text and channels.",
    "plan.extended": "The plan changed: late people, corrected facts.",
    "preflight.overridden": "Somebody released although pre-flight had objections.",
    "preflight.recorded": "What pre-flight found, by name, when a release was prepared and when an approval began it.",
    "provider.circuit_ordered": "Somebody ordered a provider to be used or left alone.",
    "publication.recorded": "A public notice was published.",
    "publication.withdrawn": "That record was taken back.",
    "release.approved": "One of the approvers approved, having seen the sheet of that hash.",
    "release.cancelled": "A release was cancelled; who was told stays told.",
    "release.canary_held": "The first few of a release did badly; it waits for a person.",
    "release.canary_passed": "The first few of a release arrived, and the others follow.",
    "release.finished": "Everybody of a release has an end.",
    "release.glass_broken": "One person alone released what could not wait.",
    "release.paused": "A release was paused.",
    "release.paused_with_others": "A release waits as others of its incident do, which a person or a canary has paused.",
    "release.prepared": "A release was drawn up for approval.",
    "release.rate_set": "Somebody set how fast a channel sends.",
    "release.resumed": "A release went on.",
    "release.retried": "People whose attempts had failed are tried again.",
    "release.started": "The approvals were complete, and notices began to leave.",
    "release.withdrawn": "What waited for approval was taken back, with the approvals that it had.",
    "subject.exported": "Somebody was given a copy of what is held of them; whose, entries `person.looked_at` say.",
    "restore.reconciled": "A restored case store was brought up to what the log knows.",
    "risk.assessed": "The risk to people was assessed.",
}
"""What each type says, case events by their kind."""

_HEAD = """# What stands in the evidence log

Written by `python -m consumers.evidence.leaf_document`; a test holds it to the code.

Every entry is RFC 8785 canonical JSON of one of these types. It has `type` and `version`; fields without a value are left
out. Nothing else is logged: a field that is not here stands in the log as a keyed hash only (`unlisted_hmac`).

No entry holds a name, an address, free text, an id of a provider, or an id that could be computed from a customer's. People
stand in it as commitments: customers under a key of their own for each incident (`subject`), staff under the installation's
staff key (`actor`). Reasons stay in the case store; `reason_sha256` is a hash with a salt that lies beside the reason.

Every entry made from a message has `source` (cluster, topic, topic id, partition, offset).
"""
_CASE_HEAD = """## Case events

Each is `tocsin.case.KIND` with `source`, `incident_id`, `actor` (who decided, by commitment; absent: Tocsin itself), `role`,
`occurred_at`, `exercise` (true: a drill, in which nobody is told), and a `body` with these fields:
"""
_SHARED = frozenset({"source", "unlisted_count", "unlisted_hmac"})


def document() -> str:
    """Return the document. Raises KeyError for a type whose meaning nobody wrote down."""
    types = sorted(discover(), key=lambda leaf: (leaf.TYPE, leaf.VERSION))
    parts = [_HEAD]
    for leaf in types:
        if not issubclass(leaf, CaseLeaf):
            parts.append(f"## `{leaf.TYPE}`, version {leaf.VERSION}\n\n{MEANINGS[leaf.TYPE]}\n\n{_fields(leaf)}")
    parts.append(_CASE_HEAD)
    for leaf in types:
        if issubclass(leaf, CaseLeaf):
            body = leaf.model_fields["body"].annotation
            assert isinstance(body, type)
            assert issubclass(body, BaseModel)
            parts.append(f"### `{leaf.KIND}`, version {leaf.VERSION}\n\n{MEANINGS[leaf.KIND]}\n\n{_fields(body)}")
    return "\n".join(parts)


def _fields(model: type[BaseModel]) -> str:
    lines = ["| field | holds |", "| --- | --- |"]
    hidden = _SHARED if issubclass(model, EventLeaf) else frozenset()
    for name, field in model.model_fields.items():
        if name not in hidden:
            optional = "" if field.is_required() else ", optional"
            lines.append(f"| `{name}` | {_sort(field.annotation, field.metadata)}{optional} |")
    return "\n".join(lines) + "\n"


def _sort(sort: Any, metadata: Iterable[Any] = ()) -> str:
    sort, constraints = unwrapped(sort, metadata)
    origin = get_origin(sort)
    if origin in (Union, UnionType):
        return " or ".join(_sort(each, constraints) for each in get_args(sort) if each is not NoneType)
    if origin is tuple:
        return f"list of: {_sort(get_args(sort)[0])}"
    if origin is Literal:
        return " \\| ".join(f"`{each}`" for each in get_args(sort))
    if isinstance(sort, type) and issubclass(sort, Enum):
        return " \\| ".join(f"`{each.value}`" for each in sort)
    if isinstance(sort, type) and issubclass(sort, BaseModel):
        return f"object: {', '.join(f'`{name}`' for name in sort.model_fields)}"
    if sort is bool:
        return "true or false"
    if sort is int:
        return "whole number"
    pattern = next((item.pattern for item in constraints if getattr(item, "pattern", None)), None)
    for known, words in _SORTS:
        of, *marks = get_args(known)
        marked = [each for mark in marks for each in (mark.metadata if isinstance(mark, FieldInfo) else [mark])]
        same = next((item.pattern for item in marked if getattr(item, "pattern", None)), None)
        if same == pattern and (pattern is not None or (sort is not str and of is not str)):
            return words
    return "text of a fixed pattern"


def main() -> int:
    """Write the document; say where."""
    DOCUMENT.write_text(document(), encoding="utf-8")
    sys.stdout.write(f"{DOCUMENT}: written\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
