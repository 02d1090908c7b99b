"""What can be written to: addresses and numbers as shops store them, and whose mailbox it is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.domain.contacts import MAILBOXES, deliverable_email, deliverable_phone, mailbox_provider


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ("ann@mail.example.com", "ann@mail.example.com"),
        ("ann+shop@mail.example.com", "ann+shop@mail.example.com"),
        ("anna@bücher.example.com", "anna@xn--bcher-kva.example.com"),
        ("o'neil@mail.example.com", "o'neil@mail.example.com"),
        ("jörg@mail.example.com", None),
        ("ann", None),
        ("ann@", None),
        ("ann@localhost", None),
        ("ann..b@mail.example.com", None),
        ("ann@-mail.example.com", None),
        ("a@b@mail.example.com", None),
        ("ann@mail.example.com, bo@mail.example.com", None),
        ("ann@mail.example.com\nBcc: x@y.example.com", None),
        ("x" * 65 + "@mail.example.com", None),
        ("", None),
    ],
)
def test_an_address_is_taken_as_providers_take_it_or_not_at_all(stored: str, expected: str | None) -> None:
    assert deliverable_email(stored) == expected


@given(st.text(max_size=80))
def test_whatever_is_stored_becomes_an_ascii_address_or_nothing(stored: str) -> None:
    taken = deliverable_email(stored)
    assert taken is None or (taken.isascii() and taken.count("@") == 1 and "\n" not in taken)


@pytest.mark.parametrize(
    ("stored", "taken"),
    [
        ("+4915112345678", True), ("+14254147755", True), ("015112345678", False), ("+49", False), ("n/a", False),
        ("+0015112345678", False), ("+49 151 12345678", False), ("+999123456789", False), ("", False),
    ],
)  # fmt: skip
def test_a_number_is_in_e164_and_of_a_possible_length(stored: str, taken: bool) -> None:
    assert deliverable_phone(stored) == (stored if taken else None)


@pytest.mark.parametrize(
    ("address", "mailbox"),
    [
        ("a@gmail.com", "gmail"), ("a@GoogleMail.com", "gmail"), ("a@outlook.de", "microsoft"), ("a@hotmail.co.uk", "microsoft"),
        ("a@yahoo.co.jp", "yahoo"), ("a@icloud.com", "apple"), ("a@live.example.com", "other"), ("a@shop.example.com", "other"),
        ("", "other"),
    ],
)  # fmt: skip
def test_mailboxes_are_told_apart_by_public_domains_only(address: str, mailbox: str) -> None:
    assert mailbox_provider(address) == mailbox
    assert mailbox in MAILBOXES
