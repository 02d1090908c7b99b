"""The case store's tables. Natural keys are unique, so that what is read twice from a topic is stored once.

Instants are UTC. A change here needs a migration under `migrations/versions` (one linear history; a test compares).
"""

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

from consumers.domain.delivery import PersonEnd

ENDED = ("dismissed", "closed")
"""States of an incident that tells nobody any more."""
metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class Instant(TypeDecorator[datetime]):
    """A timezone-aware instant, stored in UTC with microseconds. Naive values are refused."""

    impl = sa.DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        if dialect.name in ("mysql", "mariadb"):
            return dialect.type_descriptor(mysql.DATETIME(fsp=6))
        return dialect.type_descriptor(sa.DateTime())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive instant cannot be stored; give it a time zone")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else value.replace(tzinfo=UTC)


def _id(length: int = 100) -> sa.String:
    return sa.String(length)


BigAutoId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
LongText = sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
LongBytes = sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")

incident = sa.Table(
    "incident",
    metadata,
    sa.Column("incident_id", _id(32), primary_key=True),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("year", sa.Integer, nullable=False),
    sa.Column("source", _id(64), nullable=False),
    sa.Column("fingerprint", _id(200), nullable=False),
    sa.Column(
        "fingerprint_sha256",
        _id(64),
        nullable=False,
        comment="compared instead of the text: no collation makes two one",
    ),
    sa.Column("occurrence", sa.Integer, nullable=False, comment="2 and up: it fired anew after its incident had ended"),
    sa.Column("title", sa.String(300), nullable=False),
    sa.Column("scenario", _id(100)),
    sa.Column("state", _id(32), nullable=False, comment="suspected, verifying, confirmed, dismissed, closed"),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("scope", sa.JSON, comment="null while unresolved"),
    sa.Column("scope_sha256", _id(64)),
    sa.Column("scope_unresolved", sa.JSON, comment="what was not understood and the nearest known names"),
    sa.Column("scope_rewriting", sa.JSON, comment="the scope as asked and by which registry state it was rewritten"),
    sa.Column("unsigned_source", sa.Boolean, nullable=False),
    sa.Column("exercise", sa.Boolean, nullable=False),
    sa.Column("repeat_count", sa.Integer, nullable=False),
    sa.Column("detected_at", Instant, nullable=False),
    sa.Column("opened_at", Instant, nullable=False),
    sa.Column("closed_at", Instant),
    sa.Column("acknowledged_at", Instant),
    sa.Column("acknowledged_by", _id(100)),
    sa.Column("epoch", sa.Integer, nullable=False, comment="dispatch refuses commands of an older epoch"),
    sa.UniqueConstraint("source", "fingerprint_sha256", "occurrence"),
    sa.UniqueConstraint("year", "number"),
)

incident_number = sa.Table(
    "incident_number",
    metadata,
    sa.Column("year", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("last", sa.Integer, nullable=False),
)

alert = sa.Table(
    "alert",
    metadata,
    sa.Column("alert_id", _id(64), primary_key=True, comment="derived from source and message id: repeats collapse"),
    sa.Column("incident_id", _id(32), nullable=False, index=True),
    sa.Column("source", _id(64), nullable=False),
    sa.Column("received_at", Instant, nullable=False),
    sa.Column("signed", sa.Boolean, nullable=False),
    sa.Column("readable", sa.Boolean, nullable=False),
    sa.Column("body", LongBytes, nullable=False, comment="the bytes as received"),
)

everybody_confirmation = sa.Table(
    "everybody_confirmation",
    metadata,
    sa.Column("incident_id", _id(32), primary_key=True),
    sa.Column("scope_sha256", _id(64), primary_key=True),
    sa.Column("affected_count", sa.Integer, nullable=False),
    sa.Column("people_count", sa.Integer, comment="all whom the index knows; null: not known"),
    sa.Column("confirmed_at", Instant, nullable=False),
    sa.Column("confirmed_by", _id(100), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
)

scope_proposal = sa.Table(
    "scope_proposal",
    metadata,
    sa.Column("proposal_id", _id(64), primary_key=True),
    sa.Column("incident_id", _id(32), nullable=False, index=True),
    sa.Column("scope", sa.JSON, nullable=False),
    sa.Column("proposed_at", Instant, nullable=False),
    sa.Column("decided_at", Instant),
    sa.Column("decided_by", _id(100)),
    sa.Column("accepted", sa.Boolean),
)

webhook_seen = sa.Table(
    "webhook_seen",
    metadata,
    sa.Column("source", _id(64), primary_key=True),
    sa.Column("webhook_sha256", _id(64), primary_key=True, comment="of the id: no collation makes two ids one"),
    sa.Column("seen_at", Instant, nullable=False, index=True),
    sa.Column("incident_id", _id(32), nullable=False),
)

fact = sa.Table(
    "fact",
    metadata,
    sa.Column("fact_id", BigAutoId, primary_key=True, autoincrement=True),
    sa.Column("incident_id", _id(32), nullable=False, index=True),
    sa.Column("name", _id(100), nullable=False),
    sa.Column("value", sa.JSON),
    sa.Column("recorded_at", Instant, nullable=False),
    sa.Column("recorded_by", _id(100)),
    sa.Column("reason", sa.Text),
)

affected = sa.Table(
    "affected",
    metadata,
    sa.Column("incident_id", _id(32), primary_key=True),
    sa.Column("revision", sa.Integer, primary_key=True),
    sa.Column("root", _id(64), primary_key=True),
    sa.Column("partition", sa.Integer, nullable=False),
    sa.Column("standing", _id(16), nullable=False),
    sa.Column("departed", sa.Boolean, nullable=False),
    sa.Column("late", sa.Boolean, nullable=False),
    sa.Column("member_leaf", _id(64), nullable=False, comment="SHA-256 leaf of the resolution's Merkle tree"),
    sa.Column("event", LongText, nullable=False, comment="CustomerAffected as received; contact sealed"),
    sa.Column(
        "exclusion_id", _id(32), comment="who left out this possibly affected person; void once there is a record"
    ),
    sa.Index("ix_affected_incident_revision_partition", "incident_id", "revision", "partition"),
)

late_addition = sa.Table(
    "late_addition",
    metadata,
    sa.Column("incident_id", _id(32), primary_key=True),
    sa.Column("revision", sa.Integer, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("added_at", Instant, nullable=False),
    sa.Column("member_count", sa.Integer, nullable=False),
    sa.Column("merkle_root", _id(64), nullable=False, comment="over its members' leaves, sorted by root"),
)

late_member = sa.Table(
    "late_member",
    metadata,
    sa.Column("incident_id", _id(32), primary_key=True),
    sa.Column("revision", sa.Integer, primary_key=True),
    sa.Column("root", _id(64), primary_key=True),
    sa.Column("member_leaf", _id(64), primary_key=True, comment="of the event as it came: what came twice is one"),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("partition", sa.Integer, nullable=False),
    sa.Column("known", sa.Boolean, nullable=False, comment="true: a member already, of whom more was found"),
    sa.Index("ix_late_member_incident_revision_number", "incident_id", "revision", "number"),
)

resolution = sa.Table(
    "resolution",
    metadata,
    sa.Column("incident_id", _id(32), primary_key=True),
    sa.Column("revision", sa.Integer, primary_key=True),
    sa.Column("partition", sa.Integer, primary_key=True),
    sa.Column("partition_count", sa.Integer, nullable=False),
    sa.Column("affected_count", sa.Integer, nullable=False),
    sa.Column("possible_count", sa.Integer, nullable=False),
    sa.Column("merkle_root", _id(64), nullable=False),
    sa.Column("event", LongText, nullable=False, comment="PartitionResolved as received"),
    sa.Column("received_at", Instant, nullable=False),
)

exclusion = sa.Table(
    "exclusion",
    metadata,
    sa.Column("exclusion_id", _id(32), primary_key=True),
    sa.Column("incident_id", _id(32), nullable=False, index=True),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("people_count", sa.Integer, nullable=False, comment="accounts and orders that it left out"),
    sa.Column("coverage_sha256", _id(64), nullable=False, comment="of the coverage that the decision rests on"),
    sa.Column("decided_at", Instant, nullable=False),
    sa.Column("decided_by", _id(100), nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("withdrawn_at", Instant),
    sa.Column("withdrawn_by", _id(100)),
)

crosscheck = sa.Table(
    "crosscheck",
    metadata,
    sa.Column("crosscheck_id", _id(32), primary_key=True),
    sa.Column("incident_id", _id(32), nullable=False, index=True),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("checked_at", Instant, nullable=False),
    sa.Column("checked_by", _id(100), nullable=False),
    sa.Column("counts", sa.JSON, nullable=False, comment="people in both answers, and differences by cause"),
    sa.Column("unexplained_count", sa.Integer, nullable=False),
    sa.Column("unexplained_sha256", _id(64), nullable=False, comment="of the roots whose difference nothing explains"),
    sa.Column("named_at", Instant, comment="when a person took responsibility for what is unexplained"),
    sa.Column("named_by", _id(100)),
    sa.Column("reason", sa.Text),
)

plan = sa.Table(
    "plan",
    metadata,
    sa.Column("incident_id", _id(32), primary_key=True),
    sa.Column("revision", sa.Integer, primary_key=True),
    sa.Column("state", _id(16), nullable=False, comment="gathering, complete, superseded"),
    sa.Column("rules_sha256", _id(64)),
    sa.Column("residents", sa.JSON, comment="people per jurisdiction, unknown apart"),
    sa.Column("recipient_count", sa.Integer),
    sa.Column("held_count", sa.Integer),
    sa.Column("completed_at", Instant),
    sa.Column(
        "partly_drawn",
        sa.Boolean,
        nullable=False,
        server_default=sa.false(),
        comment="some of its people are as drawn up last, others as before: nothing is prepared or approved",
    ),
)

obligation = sa.Table(
    "obligation",
    metadata,
    sa.Column("incident_id", _id(32), primary_key=True),
    sa.Column("revision", sa.Integer, primary_key=True),
    sa.Column("controller", _id(64), primary_key=True),
    sa.Column("regime_id", _id(64), primary_key=True),
    sa.Column("status", _id(64), nullable=False),
    sa.Column("recipient", _id(64), nullable=False),
    sa.Column("deadline_at", Instant),
    sa.Column("conservative_deadline_at", Instant),
    sa.Column("detail", sa.JSON, nullable=False, comment="the whole answer of obligations_for"),
)

exposure = sa.Table(
    "exposure",
    metadata,
    sa.Column("incident_id", _id(32), primary_key=True),
    sa.Column("revision", sa.Integer, primary_key=True),
    sa.Column("controller", _id(64), primary_key=True),
    sa.Column("people_count", sa.Integer, nullable=False),
    sa.Column("possible_count", sa.Integer, nullable=False),
    sa.Column("residents", sa.JSON, nullable=False, comment="people per jurisdiction, unknown apart"),
    sa.Column("triggering", sa.JSON, nullable=False, comment="of them those whose exposed elements trigger a notice"),
    sa.Column("triggered", sa.JSON, nullable=False, comment="people per regime of individual notice"),
    sa.Column("elements", sa.JSON, nullable=False),
    sa.Column("kinds", sa.JSON, nullable=False),
)

duty_ground = sa.Table(
    "duty_ground",
    metadata,
    sa.Column("incident_id", _id(32), primary_key=True),
    sa.Column("ground", sa.JSON, nullable=False, comment="hash of each thing that the written duties rest on"),
    sa.Column("computed_at", Instant, nullable=False),
)

duty_movement = sa.Table(
    "duty_movement",
    metadata,
    sa.Column("movement_id", BigAutoId, primary_key=True, autoincrement=True),
    sa.Column("incident_id", _id(32), nullable=False, index=True),
    sa.Column("moved_at", Instant, nullable=False),
    sa.Column("controller", _id(64), nullable=False),
    sa.Column("regime_id", _id(64), nullable=False),
    sa.Column("recipient", _id(64), nullable=False),
    sa.Column("before", sa.JSON, nullable=False, comment="status and dates as they stood; null: not considered"),
    sa.Column("after", sa.JSON, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
)

duty_met = sa.Table(
    "duty_met",
    metadata,
    sa.Column("duty_met_id", _id(32), primary_key=True),
    sa.Column("incident_id", _id(32), nullable=False, index=True),
    sa.Column("controller", _id(64), nullable=False),
    sa.Column("regime_id", _id(64), nullable=False),
    sa.Column("met_at", Instant, nullable=False),
    sa.Column("recorded_at", Instant, nullable=False),
    sa.Column("recorded_by", _id(100), nullable=False),
    sa.Column("reference", sa.String(200), comment="the authority's number"),
    sa.Column("file_name", sa.String(200)),
    sa.Column("file_sha256", _id(64), comment="what was submitted, in the artefact store"),
    sa.Column("reason", sa.Text),
    sa.Column("withdrawn_at", Instant, comment="recorded in error; the row stays"),
    sa.Column("withdrawn_by", _id(100)),
)

dossier = sa.Table(
    "dossier",
    metadata,
    sa.Column("dossier_id", _id(32), primary_key=True),
    sa.Column("incident_id", _id(32), nullable=False),
    sa.Column("controller", _id(64), nullable=False),
    sa.Column("regime_id", _id(64), nullable=False),
    sa.Column("version", sa.Integer, nullable=False, comment="1 and up, for each duty"),
    sa.Column("phase", _id(16), nullable=False, comment="initial, additional, final"),
    sa.Column("statements", sa.JSON, nullable=False, comment="what people wrote into it, by field"),
    sa.Column("missing_count", sa.Integer, nullable=False),
    sa.Column("content_sha256", _id(64), nullable=False, comment="JSON in the artefact store"),
    sa.Column("pdf_sha256", _id(64), nullable=False, comment="PDF in the artefact store"),
    sa.Column("made_at", Instant, nullable=False),
    sa.Column("made_by", _id(100), nullable=False),
    sa.Column("submitted_at", Instant),
    sa.Column("submitted_by", _id(100)),
    sa.Column("reference", sa.String(200), comment="the authority's number"),
    sa.UniqueConstraint("incident_id", "controller", "regime_id", "version"),
)

clock_mark = sa.Table(
    "clock_mark",
    metadata,
    sa.Column("mark_id", _id(64), primary_key=True, comment="of duty, deadline and percent: each is told once"),
    sa.Column("incident_id", _id(32), nullable=False, index=True),
    sa.Column("told_at", Instant, nullable=False),
)

match_test = sa.Table(
    "match_test",
    metadata,
    sa.Column("match_test_id", _id(32), primary_key=True),
    sa.Column("incident_id", _id(32), nullable=False, index=True),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("tested_at", Instant, nullable=False),
    sa.Column("tested_by", _id(100), nullable=False),
    sa.Column("counts", sa.JSON, nullable=False, comment="rows and matches by kind of key; no row, no key"),
    sa.Column("partition_count", sa.Integer, nullable=False),
    sa.Column("silent_count", sa.Integer, nullable=False, comment="partitions that did not answer"),
    sa.Column("file_salt", _id(32), nullable=False),
    sa.Column(
        "file_sha256", _id(64), nullable=False, comment="SHA-256 of salt and file: it can be recognised, not guessed"
    ),
)

dismissal = sa.Table(
    "dismissal",
    metadata,
    sa.Column("dismissal_id", _id(32), primary_key=True),
    sa.Column("incident_id", _id(32), nullable=False, index=True),
    sa.Column("match_test_id", _id(32), comment="null: there are no leaked rows to compare"),
    sa.Column("proposed_at", Instant, nullable=False),
    sa.Column("proposed_by", _id(100), nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("confirmed_at", Instant),
    sa.Column("confirmed_by", _id(100)),
    sa.Column("revision", sa.Integer, comment="of the scope that it was proposed for; null: not known"),
)

assessment = sa.Table(
    "assessment",
    metadata,
    sa.Column("assessment_id", _id(32), primary_key=True),
    sa.Column("incident_id", _id(32), nullable=False, index=True),
    sa.Column("assessed_at", Instant, nullable=False),
    sa.Column("assessed_by", _id(100), nullable=False),
    sa.Column("factors", sa.JSON, nullable=False, comment="each factor with its value and why; changed ones marked"),
    sa.Column("severity_hundredths", sa.Integer, nullable=False),
    sa.Column("proposed_risk", _id(16), nullable=False),
    sa.Column("risk", _id(16), nullable=False),
    sa.Column("reason", sa.Text),
)

law_adoption = sa.Table(
    "law_adoption",
    metadata,
    sa.Column("law_adoption_id", BigAutoId, primary_key=True, autoincrement=True),
    sa.Column("regime_id", _id(64), nullable=False, index=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column(
        "version_sha256", _id(64), nullable=False, comment="of the rule as it read: a changed rule is not adopted"
    ),
    sa.Column("adopted_at", Instant, nullable=False),
    sa.Column("adopted_by", _id(100), nullable=False),
    sa.Column("reason", sa.Text),
)

notice_bundle = sa.Table(
    "notice_bundle",
    metadata,
    sa.Column("bundle_sha256", _id(64), primary_key=True),
    sa.Column("name", _id(100), nullable=False, index=True),
    sa.Column("jurisdictions", sa.JSON, nullable=False),
    sa.Column("approved_at", Instant, nullable=False),
    sa.Column("approved_by", _id(100), nullable=False),
    sa.Column("valid_until", Instant, nullable=False),
    sa.Column("revoked_at", Instant),
    sa.Column("revoked_by", _id(100)),
    sa.Column("reason", sa.Text),
)

segment = sa.Table(
    "segment",
    metadata,
    sa.Column("segment_id", _id(64), primary_key=True),
    sa.Column("incident_id", _id(32), nullable=False, index=True),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("name", _id(100), nullable=False),
    sa.Column(
        "key", sa.JSON, nullable=False, comment="what all its people share: controller, locale, disclosures, ..."
    ),
    sa.Column("bundle_sha256", _id(64)),
    sa.Column("channels", sa.JSON, nullable=False, comment="channels in order of fallback"),
    sa.Column("lane", _id(32), nullable=False),
    sa.Column("priority", sa.Integer, nullable=False, comment="lower goes first among equal deadlines"),
    sa.Column("sms_details", sa.Boolean, nullable=False, comment="may an SMS say what leaked, or only point to log-in"),
    sa.Column("count", sa.Integer, nullable=False),
)

recipient = sa.Table(
    "recipient",
    metadata,
    sa.Column("recipient_id", _id(100), primary_key=True, comment="incident id : root"),
    sa.Column("incident_id", _id(32), nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("root", _id(64), nullable=False),
    sa.Column("roots", sa.JSON, nullable=False, comment="all roots merged into this person"),
    sa.Column("subject_commitment", _id(64), nullable=False),
    sa.Column("customer_id", sa.BigInteger),
    sa.Column("controller", _id(64), nullable=False),
    sa.Column("website_id", sa.Integer, nullable=False),
    sa.Column("store_id", sa.Integer, nullable=False),
    sa.Column("locale", _id(16), nullable=False),
    sa.Column("residence", sa.JSON, nullable=False),
    sa.Column("jurisdictions", sa.JSON, nullable=False, comment="regimes whose individual notice this person is owed"),
    sa.Column("standing", _id(16), nullable=False),
    sa.Column("late", sa.Boolean, nullable=False),
    sa.Column("highest_sensitivity", _id(16), nullable=False),
    sa.Column("segment_id", _id(64), index=True),
    sa.Column("channels", sa.JSON, nullable=False, comment="channels that exist for this person"),
    sa.Column("contact", sa.JSON, comment="sealed; removed when the incident closes"),
    sa.Column("why", sa.JSON, nullable=False),
    sa.Column("deadline_at", Instant, comment="earliest deadline owed to this person, conservative"),
    sa.Column("held_reason", _id(200)),
    sa.Column("final_state", _id(32), comment="reached, substituted, unreachable_reported"),
    sa.Column("final_at", Instant),
    sa.Column("round", sa.Integer, nullable=False, server_default="1", comment="2 and up: a supplement"),
    sa.Column("supplements", _id(100), index=True, comment="the first round's recipient id; null: this is it"),
    sa.Column(
        "added_at", Instant, index=True, comment="when the late record came that added or supplements; null: in time"
    ),
    sa.Column("notice_sha256", _id(64), comment="equal in two incidents: they would tell the same"),
    sa.Column("told_in", _id(100), index=True, comment="the recipient id, of another incident, that told the same"),
    sa.Column("correction", _id(16), comment="not_concerned, told_too_much: was told what is not true of them"),
    sa.Column(
        "is_correction",
        sa.Boolean,
        nullable=False,
        server_default=sa.false(),
        comment="puts right what `supplements` was told; planning leaves it alone",
    ),
    sa.Index("ix_recipient_incident_final", "incident_id", "final_state"),
    sa.Index("ix_recipient_incident_late", "incident_id", "late"),
    sa.Index("ix_recipient_root_notice", "root", "notice_sha256"),
)

merged_root = sa.Table(
    "merged_root",
    metadata,
    sa.Column("root", _id(64), primary_key=True, comment="merged into the recipient besides `recipient.root`"),
    sa.Column("recipient_id", _id(100), primary_key=True, index=True),
)

release = sa.Table(
    "release",
    metadata,
    sa.Column("release_id", _id(64), primary_key=True),
    sa.Column("incident_id", _id(32), nullable=False, index=True),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column(
        "policy", sa.JSON, nullable=False, comment="scope, rules, bundles, channels, frozen list's root, late cap"
    ),
    sa.Column("policy_sha256", _id(64), nullable=False),
    sa.Column("mode", _id(32), nullable=False, comment="two_approvers, four_eyes, break_glass"),
    sa.Column("state", _id(16), nullable=False, comment="prepared, releasing, paused, finished, cancelled, void"),
    sa.Column("late_cap", sa.Integer, nullable=False),
    sa.Column("prepared_by", _id(100), nullable=False),
    sa.Column("prepared_role", _id(32), nullable=False),
    sa.Column("prepared_at", Instant, nullable=False),
    sa.Column("released_at", Instant),
    sa.Column("finished_at", Instant),
    sa.Column("stopped_at", Instant, comment="paused or cancelled since then"),
    sa.Column("canary_state", _id(16), comment="testing, passed, held, waived; null: the policy has no canary"),
    sa.Column("started_epoch", sa.Integer, comment="the incident's, as it was approved; null: not known"),
    sa.Column("stopped_epoch", sa.Integer, comment="the incident's, as it was cancelled or void; null: not known"),
    sa.Column("start_number", sa.Integer, comment="the how manieth of its incident's releases to begin; null: has not"),
)

lane_rate = sa.Table(
    "lane_rate",
    metadata,
    sa.Column("incident_id", _id(32), primary_key=True),
    sa.Column("channel", _id(16), primary_key=True),
    sa.Column(
        "per_second", sa.Float, nullable=False, comment="at most so many of this incident; never above the lane's"
    ),
    sa.Column("set_at", Instant, nullable=False),
    sa.Column("set_by", _id(100), nullable=False),
)

lane_pace = sa.Table(
    "lane_pace",
    metadata,
    sa.Column("incident_id", _id(32), primary_key=True),
    sa.Column("channel", _id(16), primary_key=True),
    sa.Column("per_second", sa.Float, nullable=False, comment="put on the belt lately"),
    sa.Column("lane_per_second", sa.Float, nullable=False, comment="what the whole lane may do now"),
    sa.Column("measured_at", Instant, nullable=False),
)

approval = sa.Table(
    "approval",
    metadata,
    sa.Column("release_id", _id(64), primary_key=True),
    sa.Column("person", _id(100), primary_key=True),
    sa.Column("role", _id(32), nullable=False),
    sa.Column("policy_sha256", _id(64), nullable=False),
    sa.Column("approved_at", Instant, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("sheet_sha256", _id(64), comment="the sheet that the approver saw, in the artefact store"),
)

gate = sa.Table(
    "gate",
    metadata,
    sa.Column("gate_id", _id(64), primary_key=True),
    sa.Column("incident_id", _id(32), nullable=False, index=True),
    sa.Column("kind", _id(32), nullable=False, comment="law_enforcement_hold, authority_first, notice_incomplete"),
    sa.Column("covers", sa.JSON, nullable=False, comment="jurisdictions, or ['*']"),
    sa.Column("segments", sa.JSON, comment="segments that it covers besides"),
    sa.Column("people", sa.JSON, comment="roots of single persons whom it covers besides"),
    sa.Column("until_at", Instant, comment="until when it was asked for; it ends when somebody lifts it"),
    sa.Column("controller", _id(64), comment="whose people it covers; null: everybody's"),
    sa.Column("regime_id", _id(64), comment="the duty that it follows from; null: a person set it"),
    sa.Column("set_at", Instant, nullable=False),
    sa.Column("set_by", _id(100), nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("lifted_at", Instant),
    sa.Column("lifted_by", _id(100)),
)

attempt = sa.Table(
    "attempt",
    metadata,
    sa.Column("attempt_id", _id(64), primary_key=True),
    sa.Column("recipient_id", _id(100), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("incident_id", _id(32), nullable=False),
    sa.Column("release_id", _id(64), nullable=False),
    sa.Column("channel", _id(16), nullable=False),
    sa.Column("provider", _id(32), nullable=False),
    sa.Column("state", _id(16), nullable=False),
    sa.Column("state_at", Instant, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("commanded_at", Instant),
    sa.Column("intended_at", Instant),
    sa.Column("dispatcher", _id(64)),
    sa.Column("handed_over_at", Instant),
    sa.Column("expires_at", Instant, comment="no final receipt by then: the next channel"),
    sa.Column("send_count", sa.Integer, nullable=False, comment="claims of this attempt; tells one from the next"),
    sa.Column("timeout_seconds", sa.Integer, comment="for a final receipt, by the segment's policy; null: settings"),
    sa.Column("provider_message_id", _id(200)),
    sa.Column("message_salt", _id(64)),
    sa.Column("body_sha256", _id(64)),
    sa.Column("bundle_sha256", _id(64)),
    sa.Column(
        "fallback", sa.Boolean, nullable=False, server_default=sa.false(), comment="not the person's first attempt"
    ),
    sa.Column(
        "due_at",
        Instant,
        nullable=False,
        server_default="9999-12-31 00:00:00",
        comment="the person's deadline, for the order of going; the far future where none is owed",
    ),
    sa.Column("priority", sa.Integer, nullable=False, server_default="0", comment="the segment's: lower goes first"),
    sa.Column(
        "kept_until", Instant, comment="somebody may not be told now, says a gate or a region; looked at again then"
    ),
    sa.Column(
        "kept_why", _id(16), comment="gate, region, told_elsewhere, deferred: why until then; null: another reason"
    ),
    sa.Column("deferred_at", Instant, comment="since then its recipient's own server puts it off; null: it does not"),
    sa.Column(
        "called_count",
        sa.Integer,
        nullable=False,
        server_default="0",
        comment="provider calls that may have been made: of the first claim, and of later ones once begun; at most 2",
    ),
    sa.Column("phone_hmac", _id(64), comment="keyed hash of the number that an SMS was sent to; null: not known"),
    sa.UniqueConstraint("recipient_id", "number"),
    # what waits for one lane, in the order in which it goes; also all that is asked by incident and state
    sa.Index(
        "ix_attempt_incident_state_channel_order",
        "incident_id",
        "state",
        "channel",
        "fallback",
        "due_at",
        "priority",
    ),
    sa.Index("ix_attempt_provider_message", "provider", "provider_message_id"),
)

receipt = sa.Table(
    "receipt",
    metadata,
    sa.Column("provider", _id(32), primary_key=True),
    sa.Column("provider_event_id", _id(200), primary_key=True),
    sa.Column("provider_message_id", _id(200), nullable=False),
    sa.Column("attempt_id", _id(64), index=True, comment="null: of a message we do not know yet"),
    sa.Column("kind", _id(32), nullable=False),
    sa.Column("sub_type", _id(64)),
    sa.Column("occurred_at", Instant, nullable=False),
    sa.Column("received_at", Instant, nullable=False),
    sa.Column("raw_sha256", _id(64), nullable=False),
    sa.Column("applied", sa.Boolean, nullable=False, comment="false: kept aside or without effect on the state"),
    sa.Index("ix_receipt_message", "provider", "provider_message_id"),
)

lost_message = sa.Table(
    "lost_message",
    metadata,
    sa.Column("attempt_id", _id(64), primary_key=True),
    sa.Column("provider", _id(32), nullable=False),
    sa.Column(
        "message_sha256", _id(64), nullable=False, comment="of the attempt's salt and the provider's id, as logged"
    ),
    sa.Column("lost_at", Instant, nullable=False),
)

publication = sa.Table(
    "publication",
    metadata,
    sa.Column("publication_id", _id(32), primary_key=True),
    sa.Column("incident_id", _id(32), nullable=False, index=True),
    sa.Column("controller", _id(64), nullable=False),
    sa.Column("medium", _id(32), nullable=False, comment="website_posting, state_media"),
    sa.Column("covers", sa.JSON, nullable=False, comment="jurisdictions whose people it is for, or ['*']"),
    sa.Column("needs", sa.JSON, nullable=False, comment="regime -> media that make up its substitute notice"),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("file_sha256", _id(64), nullable=False, comment="the saved page or clipping that somebody looked at"),
    sa.Column("text_sha256", _id(64), nullable=False, comment="the approved text"),
    sa.Column("as_written", sa.Boolean, nullable=False, comment="the file is the approved text, byte for byte"),
    sa.Column("bundle_sha256", _id(64), nullable=False),
    sa.Column("locale", _id(16), nullable=False),
    sa.Column("starts_at", Instant, nullable=False),
    sa.Column("ends_at", Instant, nullable=False),
    sa.Column("recorded_by", _id(100), nullable=False),
    sa.Column("recorded_role", _id(32), nullable=False),
    sa.Column("recorded_at", Instant, nullable=False),
    sa.Column("withdrawn_at", Instant, comment="it did not stand, or not long enough"),
    sa.Column("withdrawn_by", _id(100)),
)

hard_bounce = sa.Table(
    "hard_bounce",
    metadata,
    sa.Column("root", _id(64), primary_key=True),
    sa.Column("channel", _id(16), primary_key=True),
    sa.Column("contact_digest", _id(64), primary_key=True, comment="keyed hash of the contact; empty: not known"),
    sa.Column("bounced_at", Instant, nullable=False),
    sa.Column("attempt_id", _id(64), nullable=False),
    sa.Column("email_hmac", _id(64), index=True, comment="keyed hash of the e-mail address alone; null: not known"),
    sa.Column("phone_hmac", _id(64), index=True, comment="keyed hash of the telephone number alone; null: not known"),
)

third_party_notice = sa.Table(
    "third_party_notice",
    metadata,
    sa.Column("notice_id", _id(32), primary_key=True),
    sa.Column("release_id", _id(64), nullable=False),
    sa.Column("incident_id", _id(32), nullable=False, index=True),
    sa.Column("party", _id(64), nullable=False),
    sa.Column("topic_arn", sa.Text, nullable=False),
    sa.Column("document", LongText, nullable=False, comment="what is published: ids and counts"),
    sa.Column("document_sha256", _id(64), nullable=False),
    sa.Column("state", _id(16), nullable=False, comment="planned, intended, published"),
    sa.Column("state_at", Instant, nullable=False),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("code", _id(64), comment="the provider's word for why the last try failed"),
    sa.Column("message_id", _id(200)),
    sa.Column("message_salt", _id(32), nullable=False),
    sa.UniqueConstraint("release_id", "party"),
)

person_key = sa.Table(
    "person_key",
    metadata,
    sa.Column("root", _id(64), primary_key=True),
    sa.Column("key", sa.LargeBinary(), comment="null once erased: the commitments are unlinkable then"),
    sa.Column("made_at", Instant, nullable=False),
    sa.Column("erased_at", Instant),
)

provider_circuit = sa.Table(
    "provider_circuit",
    metadata,
    sa.Column("dispatcher", _id(64), primary_key=True),
    sa.Column("provider", _id(32), primary_key=True),
    sa.Column("channel", _id(16), nullable=False),
    sa.Column("state", _id(16), nullable=False, comment="closed, open, half_open"),
    sa.Column("since", Instant, nullable=False),
    sa.Column("try_at", Instant, comment="when an open one is tried again; null: by order, until a person ends it"),
    sa.Column("probes", sa.Integer, nullable=False),
    sa.Column("calls", sa.Integer, nullable=False),
    sa.Column("error_share", sa.Float, nullable=False),
    sa.Column("mean_seconds", sa.Float, nullable=False),
    sa.Column("told_at", Instant, nullable=False, comment="one that fell silent says nothing any more"),
)

provider_order = sa.Table(
    "provider_order",
    metadata,
    sa.Column("provider", _id(32), primary_key=True),
    sa.Column("wanted", _id(16), nullable=False, comment="open: no message goes there; closed: it learns by itself"),
    sa.Column("ordered_at", Instant, nullable=False),
    sa.Column("ordered_by", _id(100), nullable=False),
)

preflight_override = sa.Table(
    "preflight_override",
    metadata,
    sa.Column("release_id", _id(64), primary_key=True),
    sa.Column("code", _id(64), primary_key=True, comment="of the finding; why stands in the table act"),
    sa.Column("overridden_by", _id(100), nullable=False),
    sa.Column("role", _id(32), nullable=False),
    sa.Column("overridden_at", Instant, nullable=False),
)

erasure = sa.Table(
    "erasure",
    metadata,
    sa.Column("erasure_id", _id(32), primary_key=True),
    sa.Column("root", _id(64), nullable=False, index=True, comment="as asked for"),
    sa.Column("roots", sa.JSON, nullable=False, comment="everything that was this person, once carried out"),
    sa.Column("requested_at", Instant, nullable=False),
    sa.Column("requested_by", _id(100), nullable=False),
    sa.Column("carried_out_at", Instant, comment="null: held by an open incident"),
)

reconciliation = sa.Table(
    "reconciliation",
    metadata,
    sa.Column("incident_id", _id(32), primary_key=True),
    sa.Column("reconciled_at", Instant, nullable=False),
    sa.Column("log_size", sa.BigInteger, nullable=False),
    sa.Column("difference_count", sa.Integer, nullable=False),
    sa.Column("differences", sa.JSON, nullable=False, comment="between ledger, log and receipts, in words"),
)

page = sa.Table(
    "page",
    metadata,
    sa.Column("page_id", _id(64), primary_key=True),
    sa.Column("incident_id", _id(32), index=True),
    sa.Column("kind", _id(64), nullable=False),
    sa.Column("severity", _id(16), nullable=False),
    sa.Column("roles", sa.JSON, nullable=False),
    sa.Column("title", sa.String(300), nullable=False),
    sa.Column("body", sa.JSON, nullable=False, comment="counts, earliest deadline, the next command; no personal data"),
    sa.Column("raised_at", Instant, nullable=False),
    sa.Column("acknowledged_at", Instant),
    sa.Column("acknowledged_by", _id(100)),
)

page_delivery = sa.Table(
    "page_delivery",
    metadata,
    sa.Column("page_id", _id(64), primary_key=True),
    sa.Column("receiver", _id(32), primary_key=True),
    sa.Column("delivered_at", Instant, comment="when the receiver last took it"),
    sa.Column("tried_at", Instant),
    sa.Column("failures", sa.Integer, nullable=False, comment="in a row"),
    sa.Column("settled", sa.Boolean, nullable=False, comment="the receiver knows that somebody has acknowledged it"),
)

act = sa.Table(
    "act",
    metadata,
    sa.Column("case_event_id", _id(64), primary_key=True),
    sa.Column("incident_id", _id(32), index=True),
    sa.Column("kind", _id(64), nullable=False),
    sa.Column("person", _id(100), nullable=False),
    sa.Column("role", _id(32), nullable=False),
    sa.Column("reason", sa.Text, comment="free text stays here; its leaf holds a salted hash"),
    sa.Column("reason_salt", _id(32)),
    sa.Column("occurred_at", Instant, nullable=False),
)

registry_state = sa.Table(
    "registry_state",
    metadata,
    sa.Column("registry", _id(32), primary_key=True, comment="which adapter's"),
    sa.Column("revision", sa.Integer, nullable=False, comment="counts the looks that found something changed"),
    sa.Column("changed_at", Instant),
    sa.Column("looked_at", Instant, comment="the last look that was answered"),
    sa.Column("fault", sa.Text, comment="why looks since then were not"),
)

registry_version = sa.Table(
    "registry_version",
    metadata,
    sa.Column("registry", _id(32), primary_key=True),
    sa.Column("name_sha256", _id(64), primary_key=True, comment="of model and version: no collation makes two one"),
    sa.Column("model_id", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("parents", sa.JSON, nullable=False, comment="[model, version or null] each"),
    sa.Column("created_at", Instant, comment="as the registry says"),
    sa.Column("fault", sa.Text, comment="why its parents could not be read"),
    sa.Column("gone", sa.Boolean, nullable=False, comment="the registry has it no longer"),
)

registry_alias = sa.Table(
    "registry_alias",
    metadata,
    sa.Column("registry_alias_id", BigAutoId, primary_key=True, autoincrement=True),
    sa.Column("registry", _id(32), nullable=False, index=True),
    sa.Column("model_id", sa.Text, nullable=False),
    sa.Column("alias", sa.Text, nullable=False),
    sa.Column("version", sa.Text, comment="null: it named none"),
    sa.Column("after", Instant, comment="the look before, at which it was not so yet"),
    sa.Column("seen_from", Instant, nullable=False),
    sa.Column("ended_at", Instant, comment="first instant at which it was not so, or of which nothing is known"),
    sa.Column("stated", sa.Boolean, nullable=False, comment="the registry itself says since when"),
)

registry_watch = sa.Table(
    "registry_watch",
    metadata,
    sa.Column("registry", _id(32), primary_key=True),
    sa.Column("watched_from", Instant, primary_key=True),
    sa.Column("watched_until", Instant, nullable=False, comment="of the time between, aliases are known"),
)

lineage_run = sa.Table(
    "lineage_run",
    metadata,
    sa.Column("run_id", _id(36), primary_key=True, comment="UUID in lower case"),
    sa.Column("source", _id(64), nullable=False, comment="who reported it, as in settings"),
    sa.Column("job_namespace", sa.Text, nullable=False),
    sa.Column("job_name", sa.Text, nullable=False),
    sa.Column("parent_run_id", _id(36), index=True),
    sa.Column("state", _id(16), nullable=False, comment="the newest event's type"),
    sa.Column("state_at", Instant, nullable=False),
    sa.Column("first_event_at", Instant, nullable=False),
)

lineage_dataset = sa.Table(
    "lineage_dataset",
    metadata,
    sa.Column("run_id", _id(36), primary_key=True),
    sa.Column("role", _id(8), primary_key=True, comment="input, output"),
    sa.Column("name_sha256", _id(64), primary_key=True, comment="of namespace, name and version"),
    sa.Column("namespace", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("version", sa.Text, comment="null: nobody said which"),
    sa.Column("full_sha256", _id(64), nullable=False, index=True, comment="of namespace/name@version"),
    sa.Column("short_sha256", _id(64), nullable=False, index=True, comment="of name@version"),
    sa.Column("version_sha256", _id(64), index=True, comment="of the version alone"),
    sa.Column("seen_at", Instant, nullable=False),
)

canary_message = sa.Table(
    "canary_message",
    metadata,
    sa.Column("message_id", _id(32), primary_key=True),
    sa.Column("channel", _id(32), nullable=False),
    sa.Column("provider", _id(32), nullable=False),
    sa.Column("region", _id(32), nullable=False, comment="none: the provider has none"),
    sa.Column("purpose", _id(16), nullable=False, comment="canary: by itself; check: somebody asked"),
    sa.Column("expects", _id(32), nullable=False, comment="the receipt with which it has arrived"),
    sa.Column("stage", _id(16), nullable=False),
    sa.Column("began_at", Instant, nullable=False, index=True),
    sa.Column("settled_at", Instant, comment="when it arrived or failed"),
    sa.Column("provider_message_id", _id(200)),
    sa.Column("code", _id(100), comment="why it failed"),
    sa.Column("kinds", sa.JSON, nullable=False, comment="receipts in the order of their coming"),
    sa.Index("ix_canary_message_route", "channel", "provider", "region", "began_at"),
    sa.Index("ix_canary_message_provider_message", "provider", "provider_message_id"),
)

outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("outbox_id", BigAutoId, primary_key=True, autoincrement=True),
    sa.Column("topic", _id(64), nullable=False),
    sa.Column("root", _id(100), nullable=False, comment="decides the partition"),
    sa.Column("key", _id(200), nullable=False),
    sa.Column("ce_type", _id(100), nullable=False),
    sa.Column("event_id", _id(64), nullable=False),
    sa.Column("value", LongText, nullable=False),
    sa.Column("written_at", Instant, nullable=False),
)

kafka_position = sa.Table(
    "kafka_position",
    metadata,
    sa.Column("stage", _id(32), primary_key=True),
    sa.Column("topic", _id(64), primary_key=True),
    sa.Column("partition", sa.Integer, primary_key=True),
    sa.Column("next_offset", sa.BigInteger, nullable=False),
    sa.Column("topic_id", _id(64), comment="of the topic that the offset is of; null: the broker told none"),
)

lease = sa.Table(
    "lease",
    metadata,
    sa.Column("name", _id(64), primary_key=True),
    sa.Column("holder", _id(100), nullable=False),
    sa.Column("fencing", sa.BigInteger, nullable=False),
    sa.Column("expires_at", Instant, nullable=False),
)


def still_concerned() -> sa.ColumnElement[bool]:
    """Say of a recipient that the incident's scope in force is about them. Somebody who was written to before the scope
    was corrected stays in the table, but nothing more is owed to them if it left them out.
    """
    now = (
        sa.select(incident.c.revision)
        .where(incident.c.incident_id == recipient.c.incident_id)
        # also where the outer query reads incidents itself
        .correlate(recipient)
        .scalar_subquery()
    )
    return (recipient.c.revision == now) | sa.exists().where(
        (affected.c.incident_id == recipient.c.incident_id)
        & (affected.c.revision == now)
        & (affected.c.root == recipient.c.root)
    )


def all_told(incident_id: str, controller: str) -> sa.ColumnElement[bool]:
    """Say of a controller's people that each was reached. Who came late, or is owed a supplement, has a clock of their own."""
    theirs = (recipient.c.incident_id == incident_id) & (recipient.c.controller == controller)
    ended = recipient.c.final_state.in_((PersonEnd.REACHED.value, PersonEnd.SUBSTITUTED.value))
    untold = recipient.c.final_state.is_(None) | (recipient.c.final_state == PersonEnd.UNREACHABLE_REPORTED.value)
    return sa.and_(
        sa.exists().where(theirs & ended),
        ~sa.exists().where(theirs & untold & recipient.c.added_at.is_(None) & still_concerned()),
    )
