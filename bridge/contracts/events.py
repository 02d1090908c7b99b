"""Every message that travels on a topic, as a frozen model. One class, one `ce_type`; the version is part of the type.

Personal data appears here only sealed (`SealedContact`) or as keyed hashes. In clear are ids, residence, locale, store,
which channels exist, and provenance facts. Adding an optional field keeps the version; anything else is a new type, and
the samples of the old one under `tests/contract/samples` must still parse.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from bridge.contracts.scope import AskedScope, Instant, Rewriting, Scope

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Root = Annotated[str, Field(pattern=r"^(customer|order)/[0-9]+$")]
"""The entity that an event belongs to for good; decides the partition."""
IncidentId = Annotated[str, Field(pattern=r"^INC-[0-9]{4}-[0-9]{4,}$")]


class Kind(StrEnum):
    """How a value came about."""

    SYNTHETIC = "synthetic"
    DERIVED = "derived"
    INFERRED = "inferred"
    REAL = "real"


class Sensitivity(StrEnum):
    """How much harm a leak of the value can do, lowest first."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


SENSITIVITY_ORDER: tuple[Sensitivity, ...] = tuple(Sensitivity)


class Channel(StrEnum):
    """A way to reach a person."""

    EMAIL = "email"
    SMS = "sms"
    ACCOUNT_NOTICE = "account_notice"
    LETTER = "letter"


class Event(BaseModel):
    """Base of all messages."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    ce_type: ClassVar[str] = ""


class Pack(Event):
    """Base of messages that carry many events of one type, which also travel singly: one record for hundreds.

    Key and `ce_root` are the `recipient_id` of its first event; all others belong to the same partition, so a recipient's
    events are in order whichever way they travel. `ce_id` follows from the ids of all of them: a repeat has it again.
    """

    of: ClassVar[type[Event]] = Event
    """What it carries; declared again as the type of `events`."""
    events: tuple[Event, ...]


class Residence(BaseModel):
    """One claim on where a person lives."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    code: str
    """ISO 3166-1 (`DE`) or 3166-2 (`US-CA`)."""
    source: Literal["default_billing", "default_shipping", "last_order", "order_billing", "order_shipping", "store"]


class SealedContact(BaseModel):
    """A contact sealed at the relay (see `bridge.runtime.sealing`); opaque to everyone but dispatch."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    key_id: str
    """Which public key of dispatch the data key is wrapped to."""
    wrapped_key: str
    """Base64 of the HPKE encapsulation and ciphertext of the data key."""
    nonce: str
    ciphertext: str
    digest: Sha256 | None = None
    """Keyed hash of root and contact: tells that two seals hold the same, and nothing else."""
    mailbox: Sha256 | None = Field(default=None, exclude_if=lambda value: value is None)
    """As `email_hmac`, of the e-mail address with its domain in ASCII; only where a shop stores it otherwise, so that both ways
    to write it lead to one person.
    """


class Contact(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A contact in clear; lives in memory only, at the relay and at dispatch. Its repr shows nothing."""

    email: str | None = None
    phone: str | None = None
    """E.164, or None if the store's value is no phone number."""
    first_name: str | None = None
    last_name: str | None = None
    postal_address: tuple[str, ...] = ()
    """Lines as on an envelope, country code last."""

    def __repr__(self) -> str:
        return "Contact()"


class _Person(Event):
    """What is known of a data subject beside provenance."""

    root: Root
    customer_id: int | None
    website_id: int
    store_id: int
    locale: str
    residence: tuple[Residence, ...] = ()
    channels: tuple[Channel, ...] = ()
    contact: SealedContact | None = None
    email_hmac: Sha256 | None = None
    """HMAC-SHA256(join key, SHA-256(trimmed, lower-cased e-mail))."""


class CustomerChanged(_Person):
    """A customer's current state."""

    ce_type: ClassVar[str] = "tocsin.customer.changed.v1"
    attribute_hmacs: dict[str, Sha256] = Field(default_factory=dict)
    """Keyed hash of the value of each registered AI-written attribute, by attribute code."""
    faults: tuple[str, ...] = ()
    """What could not be understood of the row (`phone`, `country_id`), by field name."""


class OrderChanged(_Person):
    """The current state of an order that holds provenance; guests have no customer id."""

    ce_type: ClassVar[str] = "tocsin.order.changed.v1"
    order_id: int
    faults: tuple[str, ...] = ()


class EntityRemoved(Event):
    """The store no longer holds the entity. On the wire a tombstone: this is read from its headers."""

    ce_type: ClassVar[str] = "tocsin.entity.removed.v1"
    root: Root
    key: str


class ProvenanceRecorded(Event):
    """One AI write: which model, which version, wrote what about whom. Append-only; only `deleted_at` may be set later."""

    ce_type: ClassVar[str] = "tocsin.provenance.recorded.v1"
    root: Root
    record_id: str
    customer_id: int | None
    order_id: int | None
    entity_type: str
    entity_id: int
    attribute: str
    model_id: str
    model_version: str
    run_id: str | None = None
    dataset_version: str | None = None
    generated_at: Instant
    deleted_at: Instant | None = None
    supersedes: str | None = None
    kind: Kind
    confidence: float | None = None
    sensitivity: Sensitivity
    categories: tuple[str, ...] = ()
    elements: tuple[str, ...] = ()
    source_system: str | None = None
    storage_location: str | None = None
    input_fields: tuple[str, ...] = ()
    legal_basis: str | None = None
    loaded_at: Instant | None = None
    """When it was recorded, where that was more than a day after it was generated: history that somebody loaded. Does not
    show that writes were recorded as they happened. None: recorded as it happened (or by a relay that did not say)."""
    faults: tuple[str, ...] = ()


class StoreBeat(Event):
    """The relay's heartbeat row as it came through changelog and relay, once to every partition: no state, only time."""

    ce_type: ClassVar[str] = "tocsin.store.beat.v1"
    beat_at: Instant
    """When the relay wrote the row in the store, by the relay's clock."""


class CustomerDeparted(_Person):
    """A deleted customer who is still owed a notice until `expires_at`."""

    ce_type: ClassVar[str] = "tocsin.customer.departed.v1"
    attribute_hmacs: dict[str, Sha256] = Field(default_factory=dict)
    """As last seen: who held a value without a record is still possibly affected."""
    departed_at: Instant
    expires_at: Instant


class SubjectErased(Event):
    """Somebody's request to be forgotten, carried out: once the store holds them no more, nothing of this root may be held.

    Kept beside the departed, as a rebuild reads the records again from topics that compaction has not reached yet. Key
    `erased/<root>`; tombstoned when deleted records would not be kept any more either.
    """

    ce_type: ClassVar[str] = "tocsin.subject.erased.v1"
    root: Root
    erased_at: Instant


class UntaggedWrite(Event):
    """A registered attribute's value changed and no record says who wrote it. Kept beside the departed: a rebuild finds it.

    Key `untagged/<root>/<attribute>/<seen_at in ms>`; a tombstone takes it back when a record comes for the write after all.
    """

    ce_type: ClassVar[str] = "tocsin.value.untagged.v1"
    root: Root
    customer_id: int | None
    attribute: str
    since: Instant | None
    """The earliest moment at which it may have been written; None: before anything was seen."""
    seen_at: Instant
    until: Instant | None = None
    """When the value was replaced or removed."""
    record_at: Instant | None = None
    """When the newest record about the attribute was generated at that time."""


class WatchStarted(Event):
    """From when on the store is watched: an attribute's values from their first hash on, everything after the heartbeat had
    been away. Kept beside the departed, by every partition for itself: a rebuild finds it.

    Key `watch/<attribute>`, or `watch/*/<after in ms>` for the heartbeat.
    """

    ce_type: ClassVar[str] = "tocsin.watch.started.v1"
    attribute: str
    """`*`: everything; the heartbeat came again."""
    at: Instant
    after: Instant | None = None
    """When the last heartbeat before was written; None for an attribute, which nobody watched before."""


class AlertReceived(Event):
    """A leak alert as intake understands it, whoever sent it. `status` "resolved" closes nothing."""

    ce_type: ClassVar[str] = "tocsin.leak.alerted.v1"
    source: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    """Name of the monitor, as in settings."""
    fingerprint: Annotated[str, Field(min_length=1, max_length=200)]
    """Same source and fingerprint: same incident."""
    title: Annotated[str, Field(max_length=300)] = ""
    status: Literal["firing", "resolved"] = "firing"
    detected_at: Instant
    scope: AskedScope | None = None
    scenario: str | None = None
    """A leak scenario of the template library (`inference_log_exposed`, ...)."""
    exercise: bool = False


class IncidentRevised(Event):
    """An incident as the index must know it: key = incident id, newest revision wins."""

    ce_type: ClassVar[str] = "tocsin.incident.revised.v1"
    incident_id: IncidentId
    revision: Annotated[int, Field(ge=1)]
    status: Literal["open", "closed"]
    scope: Scope | None
    """None while the scope is unresolved: nothing to resolve yet."""
    scope_sha256: Sha256 | None
    detected_at: Instant
    exercise: bool = False
    rewriting: Rewriting | None = None
    """By which state of registry and lineage the scope was rewritten; None: it was taken as it is."""


class Why(BaseModel):
    """Why a person is affected: the records that match, summed up."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    record_ids: tuple[str, ...]
    attributes: tuple[str, ...]
    models: tuple[str, ...]
    """`model_id@version`."""
    kinds: tuple[Kind, ...]
    disclosures: tuple[str, ...]
    """`kind|model_id|category`: the keys of the sentences that this person's notice must contain."""
    highest_sensitivity: Sensitivity
    categories: tuple[str, ...]
    elements: tuple[str, ...]
    input_fields: tuple[str, ...] = ()


class CustomerAffected(_Person):
    """One data subject under one root, found by one partition for one revision. Key `incident/root`; repeats collapse."""

    ce_type: ClassVar[str] = "tocsin.customer.affected.v1"
    incident_id: IncidentId
    revision: int
    partition: int
    standing: Literal["recorded", "possible"] = "recorded"
    departed: bool = False
    late: bool = False
    """Found after the partition's resolution record: a change that arrived late and matches."""
    why: Why | None = None


class Unwatched(BaseModel):
    """A stretch in which writes without a record would not have shown: relay or module were away, or nobody looked."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    since: Instant | None
    """None: from the beginning."""
    until: Instant | None
    """None: to this day, as the attribute is not registered."""


class Coverage(BaseModel):
    """Since when a model's writes to an attribute are recorded, and how many writes had no record."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    model_id: str
    attribute: str
    recorded_since: Instant | None
    """The first write that was recorded as it happened; None: none ever was. History that was loaded does not count."""
    loaded_since: Instant | None = None
    """The first write of loaded history. Whether that is complete only its source knows."""
    unwatched: tuple[Unwatched, ...] = ()
    """Stretches of the exposure window in which the attribute's values were not watched."""
    untagged_count: int = 0
    """People who hold, or held in the window, a value that no record explains."""
    untagged_since: Instant | None = None
    """When the first such write was seen; None where none was seen happening."""


class PartitionResolved(Event):
    """One partition's whole answer to one revision. Key `incident/revision/partition`."""

    ce_type: ClassVar[str] = "tocsin.partition.resolved.v1"
    incident_id: IncidentId
    revision: int
    partition: int
    partition_count: int
    scope_sha256: Sha256
    position_topic: str
    position_offset: int
    """Next offset of `store-changes` that the partition had not read yet."""
    affected_count: int
    """Everyone published, the possible ones included."""
    possible_count: int
    people_count: int | None = None
    """All data subjects that the partition knew, concerned or not; None: it did not say."""
    merkle_root: Sha256
    """RFC 6962 root over `consumers.domain.resolution.member_leaf` of every affected, sorted by root."""
    artefact: str
    artefact_sha256: Sha256
    departed_offset: int | None = None
    """The same of `departed-customers`."""
    coverage: tuple[Coverage, ...] = ()
    code_version: str
    rules_sha256: Sha256 | None = None
    """Version of the law in force where it was resolved; what is planned from it names its own."""
    retention: str
    duration_seconds: float
    resolved_at: Instant
    rewriting: Rewriting | None = None
    """As the incident said it."""
    exercise: bool = False


class DeliverNotice(Event):
    """A delivery command: ids only, no address. Dispatch verifies it against the case store before it does anything."""

    ce_type: ClassVar[str] = "tocsin.notice.deliver.v1"
    incident_id: IncidentId
    release_id: str
    epoch: int
    recipient_id: str
    attempt_id: str
    channel: Channel
    lane: str
    deadline_at: Instant | None = None
    exercise: bool = False
    """As the ledger said when it issued this. Dispatch refuses a command that says otherwise than the ledger does then."""


class DeliverNotices(Pack):
    """Commands in one record, in the order of their commits, all of people who belong to its partition."""

    ce_type: ClassVar[str] = "tocsin.notices.deliver.v1"
    of: ClassVar[type[Event]] = DeliverNotice
    events: Annotated[tuple[DeliverNotice, ...], Field(min_length=1)]


class AccountNotice(Event):
    """A notice for the customer's account page. Approved text without names; withdrawn ones disappear."""

    ce_type: ClassVar[str] = "tocsin.account-notice.posted.v1"
    notice_id: str
    """The attempt id."""
    incident_id: IncidentId
    customer_id: int
    locale: str
    title: str
    body: str
    withdrawn: bool = False
    posted_at: Instant
    exercise: bool = False
    """True: it may be shown in a test store only; the bridge refuses it anywhere else."""


class AttemptState(StrEnum):
    """Where one attempt on one channel stands; transitions are `consumers.domain.delivery.TRANSITIONS`."""

    PLANNED = "planned"
    COMMANDED = "commanded"
    INTENDED = "intended"
    HANDED_OVER = "handed_over"
    UNKNOWN = "unknown"
    DELIVERED = "delivered"
    READ = "read"
    COMPLAINED = "complained"
    BOUNCED = "bounced"
    REJECTED = "rejected"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class DeliveryOutcome(Event):
    """One change of one attempt, or of a person's end state. Everything in it may become a leaf."""

    ce_type: ClassVar[str] = "tocsin.delivery.outcome.v1"
    outcome_id: str
    incident_id: IncidentId
    recipient_id: str
    subject_commitment: Sha256
    """HMAC under the person's key: unlinkable once that key is erased."""
    attempt_id: str
    attempt_number: int
    round: int | None = None
    """Which notice to this person: 1 is the first, 2 and up supplement or correct it. Attempts are numbered within it."""
    channel: Channel
    provider: str
    state: AttemptState
    previous_state: AttemptState
    sub_type: str | None = None
    """The provider's class word (`General`, `Suppressed`), from a closed list."""
    body_commitment: Sha256 | None = None
    """HMAC of the final text's SHA-256 under the person's key: a text that holds a name could be guessed from its hash."""
    bundle_sha256: Sha256 | None = None
    provider_message_sha256: Sha256 | None = None
    """Salted hash; the id itself stays in the case store."""
    receipt_kind: str | None = None
    occurred_at: Instant
    recorded_at: Instant
    exercise: bool = False


class DeliveryOutcomes(Pack):
    """Outcomes in one record, in the order of their commits, all of people who belong to its partition."""

    ce_type: ClassVar[str] = "tocsin.delivery.outcomes.v1"
    of: ClassVar[type[Event]] = DeliveryOutcome
    events: Annotated[tuple[DeliveryOutcome, ...], Field(min_length=1)]


class NoticeRead(Event):
    """The customer confirmed on the account page that a notice was read. Key `notice/<id>`."""

    ce_type: ClassVar[str] = "tocsin.account-notice.read.v1"
    notice_id: str
    customer_id: int
    read_at: Instant


Scalar = str | int | bool | None


class CaseEvent(Event):
    """A decision or fact of the case: written with its row through the outbox, destined for the evidence log.

    `body` holds enums, numbers, instants, hashes and commitments; never free text, an address or a staff name.
    """

    ce_type: ClassVar[str] = "tocsin.case.event.v1"
    case_event_id: str
    kind: Annotated[str, Field(pattern=r"^[a-z]+(\.[a-z_]+)+$")]
    incident_id: IncidentId | None
    actor: Sha256 | None
    """Keyed commitment to the person who decided; None for Tocsin itself."""
    role: str | None = None
    occurred_at: Instant
    body: dict[str, Scalar | list[str] | list[int]] = Field(default_factory=dict)
    exercise: bool = False


class DeadLettered(Event):
    """A message that can never be processed, with its original bytes (base64) and why."""

    ce_type: ClassVar[str] = "tocsin.message.dead-lettered.v1"
    dead_letter_id: str
    topic: str
    partition: int
    offset: int
    key: str | None
    headers: dict[str, str]
    """Values base64: they may be anything."""
    value: str | None
    consumer: str
    error: str
    failed_at: Instant
    sent_at: Instant | None = None
    """When the original was written to its topic."""
    left_out_bytes: int = 0
    """How much of a message that is too large for a letter is not kept here: of its value, then of its headers and key."""
    put_back_at: Instant | None = None
    """When it was put back where it came from: said by a later message of the same id, without the original's bytes."""


EVENTS: dict[str, type[Event]] = {
    event.ce_type: event
    for event in (
        CustomerChanged, OrderChanged, EntityRemoved, ProvenanceRecorded, CustomerDeparted, SubjectErased, UntaggedWrite,
        WatchStarted,
        AlertReceived, IncidentRevised, CustomerAffected, PartitionResolved, DeliverNotice, DeliverNotices, AccountNotice,
        DeliveryOutcome, DeliveryOutcomes, NoticeRead, CaseEvent, DeadLettered, StoreBeat,
    )
}  # fmt: skip
"""Every message by its `ce_type`."""

PACKS: dict[str, type[Pack]] = {
    event.of.ce_type: event for event in EVENTS.values() if issubclass(event, Pack)
}  # fmt: skip
"""What carries many events, by the `ce_type` of those."""


def each_of(event: Event) -> Sequence[Event]:
    """Return the events in a pack, or the event itself."""
    return event.events if isinstance(event, Pack) else (event,)


def json_schema(event: type[Event]) -> dict[str, Any]:
    """Return the JSON Schema of an event's value."""
    return event.model_json_schema() | {"$id": event.ce_type}
