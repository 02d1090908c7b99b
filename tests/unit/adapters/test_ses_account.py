"""How the addresses that SES suppresses are found among sealed contacts."""

import pytest

from bridge.runtime.sealing import email_hmac
from consumers.adapters.ses_account import hashed_suppressions
from consumers.domain.contacts import deliverable_email

KEY = b"k" * 32


@pytest.mark.parametrize(
    "stored",
    ["Ann@Shop.Example.com", "x@müller.de", "X@MÜLLER.de", "x@straße.de", "x@www.βόλος.com", "x+new@xn--strae-oqa.de"],
)
def test_a_suppressed_address_is_known_however_the_shop_wrote_its_domain(stored: str) -> None:
    sent = deliverable_email(stored)
    assert sent is not None
    for listed in (sent, sent.upper()):
        assert hashed_suppressions([(listed, "COMPLAINT")], KEY)[email_hmac(KEY, stored)] == "COMPLAINT"


def test_a_domain_that_cannot_be_read_is_known_as_it_stands() -> None:
    listed = "x@xn--\N{LATIN SMALL LETTER E WITH ACUTE}.example.com"
    assert hashed_suppressions([(listed, "BOUNCE")], KEY) == {email_hmac(KEY, listed): "BOUNCE"}
