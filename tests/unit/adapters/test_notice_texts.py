"""Where messages really go under `delivery.mode`."""

from datetime import UTC, datetime

import pytest

from bridge.contracts.events import Channel
from consumers.adapters.notice_texts import Addresses
from consumers.domain.ledger import Intent

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("mode", "exercise", "reaches"),
    [
        ("live", False, True),
        ("live", True, False),
        ("simulator", False, False),
        ("simulator", True, False),
        ("sandbox", False, True),
        ("sandbox", True, True),
    ],
)
def test_only_a_live_leak_and_the_sandbox_use_the_persons_own_address(mode: str, exercise: bool, reaches: bool) -> None:
    intent = Intent(
        attempt_id="a", recipient_id="r", incident_id="INC-2026-0001", release_id="r1", channel=Channel.EMAIL,
        provider="ses", epoch=1, send_count=1, root="customer/1", customer_id=1, locale="en", website_id=1, contact=None,
        segment_id="s", segment_key={}, bundle_sha256=None, deadline_at=None, detected_at=NOW, exercise=exercise,
    )  # fmt: skip
    addresses = Addresses(mode, test_store=mode == "sandbox")
    assert (addresses.email(intent, "x@shop.example.com") == "x@shop.example.com") is reaches
    assert (addresses.phone(intent, "+491579999999") == "+491579999999") is reaches
    assert addresses.shows_on_account_page(intent) is reaches
    untold = Addresses(mode).shows_on_account_page(intent)
    assert untold is (reaches and mode == "live"), "a sandbox beside a real shop posts nothing on its account pages"
