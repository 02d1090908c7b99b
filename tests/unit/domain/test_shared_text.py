"""The hash of a text that many people share is that of the text filled for each of them."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.contracts.errors import Refused
from bridge.contracts.events import Contact
from consumers.domain import notices
from consumers.domain.notices import (
    Language,
    SharedText,
    body_sha256,
    fill,
    plain_name,
    shared_slots,
    slots_for,
)

ENGLISH = Language("en", tuple(f"Month{n}" for n in range(1, 13)), "{day} {month} {year}", "customer")
slots = st.sampled_from(
    ["{{name}}", "{{name_html}}", "{{case_number}}", "{{date_html}}", "{{", "}}", "text", "ß€", "\0"]
)
parts = st.lists(st.lists(slots, max_size=6).map("".join), min_size=1, max_size=3)
names = st.one_of(
    st.none(),
    st.text(max_size=12),
    st.text("aZ09'-. @:/wÀÖ×÷Øÿ" + "e\u0301", max_size=90),
    st.sampled_from(["Anna", "O'Neill", "Jean-Luc", "Ann a", "a.b.com"]),
)


@given(parts, names, names)
def test_it_is_the_hash_of_the_filled_parts(texts: list[str], first: str | None, last: str | None) -> None:
    values = slots_for(Contact(first_name=first, last_name=last), "INC-2026-0001", date(2026, 3, 1), ENGLISH)
    shared = SharedText(texts, shared_slots("INC-2026-0001", date(2026, 3, 1), ENGLISH))
    if any("{{text}}" in text for text in texts):
        # no such slot is known to either
        with pytest.raises(Refused, match="'text'"):
            shared.body_sha256(values)
        with pytest.raises(Refused, match="'text'"):
            body_sha256(*(fill(text, values) for text in texts))
        return
    assert shared.body_sha256(values) == body_sha256(*(fill(text, values) for text in texts))


def test_a_slot_without_a_value_is_refused_by_name() -> None:
    with pytest.raises(Refused, match="'code'"):
        SharedText(["Hello {{code}}"], {}).body_sha256({"name": "Anna"})


@pytest.mark.parametrize(
    ("first", "last", "shown"),
    [
        ("Anna", "Example", "Anna Example"),
        ("Anna", None, "Anna"),
        ("Anna ", " Example", "Anna Example"),
        ("Mary Ann", "O'Neill-Smith", "Mary Ann O'Neill-Smith"),
        ("A" * 60, "B" * 60, "A" * 60 + " " + "B" * 18 + "…"),
        ("Visit", "www.example.com", ""),
    ],
)
def test_a_plain_name_is_shown_as_it_is(first: str | None, last: str | None, shown: str) -> None:
    assert plain_name(Contact(first_name=first, last_name=last)) == shown


@given(names, names)
def test_a_name_that_is_taken_as_it_is_would_have_come_out_the_same(first: str | None, last: str | None) -> None:
    contact = Contact(first_name=first, last_name=last)
    quickly = plain_name(contact)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notices, "_PLAIN", lambda _: None)
        assert plain_name(contact) == quickly
