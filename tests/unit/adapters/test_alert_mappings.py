"""A monitor's own payload becomes an alert without code; whatever is odd in it loses nothing."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.contracts.errors import BadInput
from consumers.adapters.alert_mappings import AlertMappings, load_mapping
from consumers.case.alerts import ReadAlert, Unreadable, judge_scope

TEMPLATES = Path(__file__).parents[3] / "templates" / "alert-mappings"
NOW = datetime(2026, 3, 2, 3, 0, tzinfo=UTC)
MAPPINGS = AlertMappings(TEMPLATES, {"prom": "alertmanager", "ce": "cloudevents"})


def read(source: str, payload: Any, headers: dict[str, str] | None = None) -> list[ReadAlert]:
    return list(MAPPINGS.read(source, json.dumps(payload).encode(), headers or {}, NOW))


def test_the_generic_format_is_read_field_by_field() -> None:
    [found] = read(
        "any",
        {
            "fingerprint": "f", "title": "t", "status": "resolved", "detected_at": "2026-03-02T03:00:00+02:00",
            "scenario": "inference_log_exposed", "exercise": True, "scope": {"model_ids": ["m"]},
        },
    )  # fmt: skip
    assert (found.alert.fingerprint, found.alert.status, found.alert.exercise) == ("f", "resolved", True)
    assert found.alert.detected_at == datetime(2026, 3, 2, 1, 0, tzinfo=UTC)
    assert found.given == {"model_ids": ["m"]}


def test_cloudevents_are_read_structured_and_binary() -> None:
    data = {"fingerprint": "f", "scope": {"model_ids": "m"}}
    [structured] = read(
        "ce", {"specversion": "1.0", "id": "1", "type": "leak", "time": "2026-03-02T01:00:00Z", "data": data}
    )
    [binary] = read("ce", data, {"ce-id": "1", "ce-type": "leak", "ce-time": "2026-03-02T01:00:00Z"})
    assert structured == binary
    assert structured.alert.title == "leak"
    assert structured.alert.detected_at == datetime(2026, 3, 2, 1, 0, tzinfo=UTC)


def test_alertmanager_gives_one_alert_each_with_lists_split_at_commas() -> None:
    labels = {"alertname": "Leak", "model": "m", "model_version": "1, 2", "exercise": "true"}
    found = read("prom", {"alerts": [{"fingerprint": "a", "labels": labels}, {"fingerprint": "b", "labels": {}}]})
    assert [each.alert.fingerprint for each in found] == ["a", "b"]
    assert found[0].given == {"model_ids": ["m"], "model_versions": ["1", "2"]}
    assert found[0].alert.exercise
    assert found[1].given == {}


@pytest.mark.parametrize("body", [b"", b"\xff", b"<xml/>", b"[1]", b'"text"', b"NaN", b'{"a": NaN}', b"[" * 100_000])
def test_what_is_no_json_object_is_unreadable(body: bytes) -> None:
    with pytest.raises(Unreadable):
        MAPPINGS.read("any", body, {}, NOW)


def test_an_alertmanager_payload_without_alerts_is_unreadable() -> None:
    payloads: list[dict[str, Any]] = [{}, {"alerts": []}, {"alerts": {}}, {"alerts": ["x"]}, {"alerts": [{}] * 501}]
    for payload in payloads:
        with pytest.raises(Unreadable):
            read("prom", payload)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters()) | st.sampled_from(["2026-03-01T00:00:00Z", "9999-12-31T23:59:59-14:00", "7", "resolved"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["fingerprint", "title", "status", "detected_at", "scope", "model_ids", "exposed_from", "data",
                         "all_of", "none_of", "alerts", "labels", "annotations", "startsAt", "website_ids"]), inner,
        max_size=5,
    ),
    max_leaves=15,
)  # fmt: skip


@given(st.sampled_from(["any", "ce", "prom"]), _json)
def test_no_payload_breaks_reading_or_judging(source: str, payload: Any) -> None:
    try:
        found = read(source, payload)
    except Unreadable:
        return
    for each in found:
        judged = judge_scope(each.given, None, NOW)
        assert (judged.scope is None) == bool(judged.faults)
        json.dumps(judged.unresolved("INC-2026-0001"))


def test_without_a_fingerprint_the_same_words_are_the_same_leak() -> None:
    first, second, other = (read("any", {"title": title})[0].alert.fingerprint for title in ("a", "a", "b"))
    assert first == second != other


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fields: {fingerprnt: a}", r"fields.fingerprnt: unknown key; did you mean 'fingerprint'\?"),
        ("field: {}", r"field: unknown key; did you mean 'fields'\?"),
        ("fields: {fingerprint: 'a ||'}\nscope: item", "fields.fingerprint: 'a ||'"),
        ("fields: {fingerprint: a}\nscope: {model_id: a}", r"scope.model_id: unknown key; did you mean 'model_ids'\?"),
        ("fields: {fingerprint: a}", "scope: None: must be a JMESPath expression"),
        ("[1]", "must hold"),
        ("a: [", "not YAML"),
    ],
)
def test_a_bad_mapping_is_refused_by_key(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match=message.replace("||", r"\|\|")):
        load_mapping(file)


def test_a_mapping_that_is_not_there_is_named_with_the_nearest() -> None:
    with pytest.raises(BadInput, match="did you mean 'alertmanager'"):
        AlertMappings(TEMPLATES, {"prom": "alertmanger"})
