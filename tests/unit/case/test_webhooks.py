"""Signatures agree with the published library, and a forged, old or odd one is refused."""

import base64
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from bridge.contracts.errors import BadInput
from consumers.case.webhooks import BadSignature, Secrets, load_secrets

NOW = datetime(2026, 3, 2, 3, 0, tzinfo=UTC)
KEY, OTHER = b"1" * 32, b"2" * 32
SECRETS = Secrets((KEY,))
TOLERANCE = timedelta(seconds=300)


@given(st.text(min_size=0, max_size=50))
def test_the_published_library_signs_what_we_verify(text: str) -> None:
    body = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    signature = Webhook(KEY).sign("msg_1", NOW, body)
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(NOW.timestamp())),
        "webhook-signature": f"v1a,xx {signature}",
    }
    assert SECRETS.verify(headers, body.encode(), now=NOW, tolerance=TOLERANCE) == "msg_1"
    assert SECRETS.sign("msg_1", NOW, body.encode())["webhook-signature"] == signature


def test_forged_old_and_odd_headers_are_refused() -> None:
    body = b"\xff{}"
    good = SECRETS.sign("msg_1", NOW, body)
    assert SECRETS.verify(good, body, now=NOW + TOLERANCE, tolerance=TOLERANCE) == "msg_1"
    assert Secrets((OTHER, KEY)).verify(good, body, now=NOW, tolerance=TOLERANCE) == "msg_1"
    bad: list[tuple[dict[str, str], bytes, datetime]] = [
        (good, body + b" ", NOW),
        (good | {"webhook-id": "msg_2"}, body, NOW),
        (good | {"webhook-timestamp": str(int(NOW.timestamp()) + 1)}, body, NOW),
        (good, body, NOW + TOLERANCE + timedelta(seconds=1)),
        (good, body, NOW - TOLERANCE - timedelta(seconds=1)),
        (Secrets((OTHER,)).sign("msg_1", NOW, body), body, NOW),
        (good | {"webhook-signature": "v1,not base64!"}, body, NOW),
        (good | {"webhook-signature": good["webhook-signature"].replace("v1,", "v2,")}, body, NOW),
        (good | {"webhook-timestamp": "soon"}, body, NOW),
        (good | {"webhook-timestamp": "9" * 30}, body, NOW),
        (good | {"webhook-id": "m" * 201}, body, NOW),
        ({}, body, NOW),
    ]
    for headers, content, now in bad:
        with pytest.raises(BadSignature):
            SECRETS.verify(headers, content, now=now, tolerance=TOLERANCE)


def test_secret_files_are_read_or_refused_without_being_shown(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    encoded = base64.b64encode(KEY).decode()
    file.write_text(f"whsec_{encoded}\nwhsec_{base64.b64encode(OTHER).decode()}\n", encoding="ascii")
    assert load_secrets("monitor", file).keys == (KEY, OTHER)
    assert "111" not in repr(load_secrets("monitor", file))
    for text in (encoded, "whsec_short", "whsec_!!!", ""):
        file.write_text(text, encoding="ascii")
        with pytest.raises(BadInput, match=r"intake\.secrets\.monitor") as refused:
            load_secrets("monitor", file)
        assert encoded not in str(refused.value)
    with pytest.raises(BadInput, match="cannot be read"):
        load_secrets("monitor", tmp_path / "none")
