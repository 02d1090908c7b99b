"""Samples of approved notices for people who look at them: what a made-up person of a segment would get, by medium.

Only approved bundles are opened, so a sample is the text that a release sends. Composed once a segment.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from bridge.contracts.errors import Refused
from consumers.adapters.notice_renderer import compose
from consumers.adapters.template_catalog import ApprovedBundles, ApprovedRow
from consumers.case.sheet import Rendered, Sample, TextApproval
from consumers.domain.notices import ComposedNotice, as_exercise, fill, outside_gsm7, sms_parts
from consumers.domain.segments import SegmentKey, segment_key_from

SAMPLE_NAME = "Sample Person"
DAY_OF_SENDING = "[day of sending]"


class Approvals(Protocol):
    """Which bundles are approved."""

    def in_force(self, at: datetime) -> Sequence[ApprovedRow]: ...


class ApprovedSamples:
    """Implements `consumers.case.sheet.NoticeSamples`."""

    def __init__(self, bundles: ApprovedBundles, approvals: Approvals) -> None:
        self._bundles = bundles
        self._approvals = approvals
        self._made: dict[tuple[str, bool], Sample] = {}

    def sample(self, key: Mapping[str, Any], *, exercise: bool = False) -> Sample:
        """Return the sample of a segment's approved text. Raises TocsinError that says why there is none."""
        parsed = segment_key_from(key)
        if parsed.bundle_sha256 is None:
            raise Refused("no approved text")
        if not parsed.sender:
            raise Refused("nobody is named in senders.yaml who writes to these people")
        name = (parsed.segment_id, exercise)
        if name not in self._made:
            notice = compose(self._bundles.load(parsed.bundle_sha256), parsed)
            self._made[name] = sample_of(as_exercise(notice) if exercise else notice, parsed)
        return self._made[name]

    def approval(self, bundle_sha256: str, at: datetime) -> TextApproval | None:
        """Return the approval of a bundle that is in force at `at`, or None."""
        rows = [each for each in self._approvals.in_force(at) if each.bundle_sha256 == bundle_sha256]
        return TextApproval(rows[0].valid_until, tuple(rows[0].jurisdictions)) if rows else None


def sample_of(notice: ComposedNotice, key: SegmentKey) -> Sample:
    """Return `notice` filled for the made-up person, in every medium that it has."""
    values = {"name": SAMPLE_NAME, "case_number": key.incident_id, "date": DAY_OF_SENDING}
    slots = values | {f"{slot}_html": value for slot, value in values.items()}
    count, alphabet = sms_parts(notice.sms)
    forcing = f", because of {outside_gsm7(notice.sms)}" if alphabet == "ucs2" else ""
    return Sample(
        (
            Rendered("email", fill(notice.subject, slots), fill(notice.text, slots), fill(notice.html, slots)),
            Rendered("sms", "", notice.sms, None, f"{count} {'part' if count == 1 else 'parts'}, {alphabet}{forcing}"),
            Rendered("account_notice", notice.account_title, notice.account_body),
            Rendered("letter", "", fill(notice.letter, slots)),
        ),
        count,
    )
