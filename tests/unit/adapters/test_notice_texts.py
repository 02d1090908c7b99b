"""Where messages really go under `delivery.mode`."""

import hashlib
import re
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from msgspec import structs

from bridge.contracts.events import Channel, Contact
from bridge.runtime.clock import SetClock
from consumers.adapters.notice_renderer import ONE_OF_EACH, compose, compose_public, sample_key
from consumers.adapters.notice_texts import Addresses, ApprovedTexts
from consumers.adapters.template_catalog import ApprovedBundles, Bundle, read_bundle
from consumers.domain.ledger import Intent
from consumers.domain.notices import as_exercise, as_public_exercise, body_sha256
from tests.golden import TEMPLATES

_KEYS = tuple(text.format("fraud-scorer") for text in ONE_OF_EACH)


class Held(ApprovedBundles):
    """One bundle that is approved."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    def load(self, sha256: str) -> Bundle:
        assert sha256 == self._bundle.sha256
        return self._bundle


NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("mode", "exercise", "reaches"),
    [
        ("live", False, True),
        ("live", True, False),
        ("simulator", False, False),
        ("simulator", True, False),
        ("sandbox", False, True),
        ("sandbox", True, False),
    ],
)
def test_only_a_real_leak_live_or_in_the_sandbox_uses_the_persons_address(
    mode: str, exercise: bool, reaches: bool
) -> None:
    intent = Intent(
        attempt_id="a", recipient_id="r", incident_id="INC-2026-0001", release_id="r1", channel=Channel.EMAIL,
        provider="ses", epoch=1, send_count=1, root="customer/1", customer_id=1, locale="en", website_id=1, contact=None,
        segment_id="s", segment_key={}, bundle_sha256=None, deadline_at=None, detected_at=NOW, exercise=exercise,
    )  # fmt: skip
    addresses = Addresses(mode, test_store=mode == "sandbox")
    assert (addresses.email(intent, "x@shop.example.com") == "x@shop.example.com") is reaches
    assert (addresses.phone(intent, "+491579999999") == "+491579999999") is reaches
    assert addresses.shows_on_account_page(intent) is (reaches or mode == "sandbox"), (
        "a test store shows exercises, too"
    )
    untold = Addresses(mode).shows_on_account_page(intent)
    assert untold is (reaches and mode == "live"), "a sandbox beside a real shop posts nothing on its account pages"


def test_a_letter_is_set_on_the_paper_of_its_country_and_named_by_its_hash() -> None:
    bundle = read_bundle(TEMPLATES, "ai-data-leak")
    key = replace(sample_key(bundle, "en", disclosures=_KEYS), bundle_sha256=bundle.sha256)
    texts = ApprovedTexts(Held(bundle), "security@shop.example.com", None, SetClock(NOW))
    intent = Intent(
        attempt_id="a", recipient_id="r", incident_id="INC-2026-0001", release_id="r1", channel=Channel.LETTER,
        provider="post", epoch=1, send_count=1, root="customer/1", customer_id=1, locale="en", website_id=1, contact=None,
        segment_id="s", segment_key=key.as_json(), bundle_sha256=bundle.sha256, deadline_at=None, detected_at=NOW,
        exercise=False,
    )  # fmt: skip
    sizes = {}
    for country in ("DE", "US"):
        contact = Contact(first_name="Zibbet", last_name="Quorn", postal_address=("Zibbet Quorn", "1 Road", country))
        made = texts.letter(intent, contact)
        assert made == texts.letter(intent, contact)
        assert (made.address, made.body_sha256) == (contact.postal_address, hashlib.sha256(made.pdf).hexdigest())
        sizes[country] = re.findall(rb"/MediaBox ?\[([^]]*)\]", made.pdf)[:1]
    assert sizes["DE"] != sizes["US"]
    drill = structs.replace(intent, exercise=True)
    exercise = Addresses("live").envelope(drill, contact)
    assert exercise.postal_address == ("SPECIMEN", "NOT FOR THE POST")
    mail, real = (
        texts.email(drill, contact).template,
        texts.email(structs.replace(intent, incident_id="INC-2026-0002"), contact),
    )
    notice = texts.account_notice(drill)
    shown = (mail.subject, mail.text, texts.sms(drill, contact).text, notice.title, notice.body)
    assert all(part.startswith("EXERCISE") for part in shown)
    assert re.search(r"<body[^>]*><p[^>]*><strong>EXERCISE", mail.html)
    letter = as_exercise(compose(bundle, key)).letter
    assert letter.startswith("EXERCISE: ")
    assert "\n# EXERCISE: " in letter
    assert texts.letter(drill, exercise).pdf != texts.letter(intent, exercise).pdf
    public = as_public_exercise(compose_public(bundle, key, NOW.date()))
    assert all(part.startswith("EXERCISE: ") for part in (public.web, public.press))
    assert "EXERCISE: " in public.web_html
    assert "EXERCISE" not in repr(real) + repr(texts.sms(intent, contact)), "the same segment's real text has no mark"
    assert body_sha256(notice.title, notice.body) == notice.body_sha256, "what is proved is what was said"
