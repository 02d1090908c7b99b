"""The AsyncAPI document: in step with the declarations, whole in its references, and true of real messages."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # ships no types
import pytest

from bridge.contracts.asyncapi import DOCUMENT, as_text, document
from bridge.contracts.events import EVENTS
from bridge.contracts.topics import TOPICS, Topic

SAMPLES = sorted((Path(__file__).parent / "samples").glob("*.json"))
KEPT: dict[str, Any] = json.loads(DOCUMENT.read_text(encoding="utf-8"))


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for value in part.values():
            yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


def resolved(reference: str) -> Any:
    part: Any = KEPT
    for name in reference.removeprefix("#/").split("/"):
        part = part[name]
    return part


def accepts(schema: dict[str, Any], value: Any) -> bool:
    whole = schema | {"components": KEPT["components"]}
    return bool(jsonschema.Draft7Validator(whole).is_valid(value))


def test_the_kept_document_is_what_the_declarations_give() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == as_text(), "run `python -m bridge.contracts.asyncapi`"


def test_every_reference_leads_somewhere() -> None:
    for reference in references(KEPT):
        assert resolved(reference)


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_a_channel_says_what_the_topic_declares(topic: Topic) -> None:
    channel = KEPT["channels"][topic.name]
    binding = channel["bindings"]["kafka"]
    assert set(channel["messages"]) == {event.ce_type for event in topic.events}
    assert (binding["topic"], binding["partitions"]) == (topic.name, topic.partitions)
    assert binding["topicConfiguration"]["cleanup.policy"] == [topic.cleanup]
    assert binding["topicConfiguration"].get("retention.ms") == topic.retention_ms
    parties = {
        (name.partition("/")[0], operation["action"])
        for name, operation in KEPT["operations"].items()
        if operation["channel"]["$ref"] == f"#/channels/{topic.name}"
    }
    assert parties == {(name.replace(" ", "-"), "send") for name in topic.writers} | {
        (name.replace(" ", "-"), "receive") for name in topic.readers
    }


def test_every_event_is_a_message_with_its_own_type_in_the_headers() -> None:
    assert set(document()["components"]["messages"]) == set(EVENTS)
    for ce_type, message in KEPT["components"]["messages"].items():
        assert message["headers"]["properties"]["ce_type"] == {"const": ce_type}


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_kept_sample_fits_the_schema_of_its_message(path: Path) -> None:
    ce_type = path.stem.partition("@")[0]
    payload = KEPT["components"]["messages"][ce_type]["payload"]
    sample = json.loads(path.read_text(encoding="utf-8"))
    if payload == {"type": "null"}:
        assert accepts(payload, None)
        return
    assert accepts(payload, sample)
    assert not accepts(payload, sample | {"a_key_that_nobody_declared": 1})
