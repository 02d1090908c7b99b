"""Leaves of delivery outcomes, made many times a second: the same bytes as `DeliveryOutcomeLeaf` encodes, without a model
and a canonicaliser for each. What does not fit in every field is not made here: the allow-list decides over it.
"""

import re
from datetime import UTC, datetime
from functools import lru_cache

from bridge.contracts.events import DeliveryOutcome
from consumers.evidence.leaf_types import DeliveryOutcomeLeaf
from consumers.evidence.leaves import MAX_NUMBER, Source

_SLUG = re.compile(r"[a-z][a-z0-9]*([._-][a-z0-9]+){0,12}\Z")
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}\Z")
_END = f'"type":"{DeliveryOutcomeLeaf.TYPE}","version":{DeliveryOutcomeLeaf.VERSION}}}'


def encode(
    event: DeliveryOutcome, cluster: str, topic: str, topic_id: str | None, partition: int, offset: int
) -> bytes | None:
    """Return the canonical JSON (RFC 8785) of the outcome's leaf, or None where a field does not fit its allow-listed sort.

    The event's own model has checked ids and digests by the same patterns; nothing in a leaf needs an escape.
    """
    provider, sub_type, kind = event.provider, event.sub_type, event.receipt_kind
    if (
        len(provider) > 64
        or _SLUG.match(provider) is None
        or (sub_type is not None and _WORD.match(sub_type) is None)
        or (kind is not None and _WORD.match(kind) is None)
        or not 0 <= event.attempt_number <= MAX_NUMBER
    ):
        return None
    round_number = event.round
    if round_number is not None and not 0 <= round_number <= MAX_NUMBER:
        return None
    body, bundle, message = event.body_commitment, event.bundle_sha256, event.provider_message_sha256
    of_round = "" if round_number is None else f',"round":{round_number}'
    before, after = _source(cluster, topic, topic_id)
    text = (
        f'{{"attempt_number":{event.attempt_number}'
        f"{'' if body is None else _member('body_digest', body)}"
        f"{'' if bundle is None else _member('bundle_sha256', bundle)}"
        f',"channel":"{event.channel}","exercise":{"true" if event.exercise else "false"}'
        f',"incident_id":"{event.incident_id}","occurred_at":"{_instant(event.occurred_at)}"'
        f',"previous_state":"{event.previous_state}","provider":"{provider}"'
        f"{'' if message is None else _member('provider_message_digest', message)}"
        f"{'' if kind is None else _member('receipt_kind', kind)}"
        f',"recorded_at":"{_instant(event.recorded_at)}"'
        f'{of_round},"source":{before}{offset},"partition":{partition}{after}'
        f',"state":"{event.state}"{"" if sub_type is None else _member("sub_type", sub_type)}'
        f',"subject":"{event.subject_commitment}",{_END}'
    )
    return text.encode()


def _member(name: str, value: str) -> str:
    return f',"{name}":"{value}"'


@lru_cache(maxsize=64)
def _source(cluster: str, topic: str, topic_id: str | None) -> tuple[str, str]:
    """Return what stands before and after the place in a source. Raises ValidationError for one that may not be logged."""
    Source(cluster=cluster, topic=topic, topic_id=topic_id, partition=0, offset=0)
    last = "" if topic_id is None else f',"topic_id":"{topic_id}"'
    return f'{{"cluster":"{cluster}","offset":', f',"topic":"{topic}"{last}}}'


@lru_cache(maxsize=4096)
def _instant(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
