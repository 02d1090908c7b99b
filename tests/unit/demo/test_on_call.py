"""Who is on call in the demo: only signed pages are taken, and a hurried configuration differs in nothing but time."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from consumers.adapters.pager_receivers import Webhook
from consumers.demo.on_call import DEPLOY, HURRY, OnCall, hurried
from consumers.domain.paging import ReceiverKind, StandingPage

NOW = datetime.now(UTC)
PAGE = StandingPage(
    "p1", "INC-2026-0001", "incident_opened", "critical", "INC-2026-0001 suspected", {"people_count": 3},
    "tocsin incident ack INC-2026-0001", NOW, settled=False, exercise=False, deadline_at=NOW + timedelta(hours=9),
)  # fmt: skip


@pytest.fixture
def on_call(tmp_path: Path) -> Iterator[OnCall]:
    receiver = OnCall(tmp_path / "on-call.jsonl")
    yield receiver
    receiver.close()


def test_a_page_of_our_pager_is_verified_and_kept(on_call: OnCall, tmp_path: Path) -> None:
    Webhook(ReceiverKind.ON_CALL, f"{on_call.url}/page", "generic", on_call.secret).deliver(
        PAGE, escalated=False, now=datetime.now(UTC)
    )
    page = on_call.page("incident_opened")
    assert page is not None
    assert page["next"] == "tocsin incident ack INC-2026-0001"
    assert json.loads((tmp_path / "on-call.jsonl").read_text())["data"] == page


def test_an_unsigned_page_is_refused(on_call: OnCall) -> None:
    request = urllib.request.Request(f"{on_call.url}/page", b"{}", method="POST")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=5)
    assert refused.value.code == 401
    refused.value.close()
    assert on_call.page("incident_opened") is None


@pytest.mark.parametrize(
    "file",
    [DEPLOY / "alertmanager" / "alertmanager.yaml", *sorted((DEPLOY / "prometheus").glob("**/rules/*.yaml"))],
    ids=lambda file: file.stem,
)
def test_a_hurried_file_differs_in_durations_alone(file: Path) -> None:
    shipped = yaml.safe_load(file.read_text(encoding="utf-8"))

    def differences(one: Any, other: Any) -> Iterator[tuple[Any, Any]]:
        assert type(one) is type(other)
        if isinstance(one, dict):
            assert one.keys() == other.keys()
            for key in one:
                yield from differences(one[key], other[key])
        elif isinstance(one, list):
            for a, b in zip(one, other, strict=True):
                yield from differences(a, b)
        elif one != other:
            yield one, other

    for before, after in differences(shipped, hurried(shipped)):
        assert before[-1] in "smh"
        assert after.endswith("ms")


def test_durations_are_divided_and_expressions_are_not() -> None:
    rule = {"alert": "A", "expr": "rate(x[1h]) > 3", "for": "1m", "labels": {"severity": "warning"}}
    assert hurried(rule) == {**rule, "for": f"{60_000 // HURRY}ms"}
    assert hurried({"route": {"group_wait": "15s", "repeat_interval": "4h"}}, 15) == {
        "route": {"group_wait": "1000ms", "repeat_interval": "960000ms"}
    }
