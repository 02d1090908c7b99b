"""Sealing: only the right key opens, for the right root; keyed hashes join plain and hashed lists; key files are private."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.contracts.errors import BadInput, Refused
from bridge.contracts.events import Contact
from bridge.runtime.clock import SetClock
from bridge.runtime.sealing import (
    KeyNotHeld,
    Opener,
    Sealer,
    email_hmac,
    email_sha256,
    generate_join_key,
    generate_sealing_keys,
    hashed_email_hmac,
    load_join_key,
    load_private_keys,
    load_public_key,
    open_bytes,
    seal_bytes,
    value_hmac,
    write_key_file,
)

KEYS = generate_sealing_keys()
CLOCK = SetClock(datetime(2026, 3, 1, tzinfo=UTC))
CONTACT = Contact(
    email="person@shop.example.com",
    phone="+491713920001",
    first_name="Placeholder",
    last_name="Näme",
    postal_address=("Placeholder Näme", "Musterweg 1", "10115 Beispielstadt", "DE"),
)


def test_what_was_sealed_opens_with_the_private_key() -> None:
    sealed = Sealer(KEYS.public, CLOCK).seal(CONTACT, "customer/42")
    assert Opener([generate_sealing_keys().private, KEYS.private]).open(sealed, "customer/42") == CONTACT


@given(st.builds(Contact, email=st.none() | st.text(), first_name=st.none() | st.text(), phone=st.none() | st.text()))
def test_every_contact_survives(contact: Contact) -> None:
    opener, sealed = Opener([KEYS.private]), Sealer(KEYS.public, CLOCK).seal(contact, "order/1")
    assert opener.open(sealed, "order/1") == contact
    # as a JSON column has it
    assert opener.open_json(json.dumps(sealed.model_dump(mode="json"), ensure_ascii=False), "order/1") == contact


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda _: "{", "stored"),
        (lambda _: '"person@shop.example.com"', "stored"),
        (lambda seal: json.dumps({**seal, "more": "person@shop.example.com"}), "stored"),
        (lambda seal: json.dumps({**seal, "nonce": None}), "stored"),
        (lambda seal: json.dumps({**seal, "nonce": "not base64 !"}), "changed"),
        (lambda seal: json.dumps({**seal, "nonce": "ä"}), "changed"),
    ],
)
def test_what_is_stored_and_no_seal_is_refused_and_not_shown(change: Callable[[dict[str, Any]], str], why: str) -> None:
    sealed = Sealer(KEYS.public, CLOCK).seal(CONTACT, "customer/42").model_dump(mode="json")
    with pytest.raises(Refused, match=f"customer/42 .*{why}") as refused:
        Opener([KEYS.private]).open_json(change(sealed), "customer/42")
    assert "person@" not in str(refused.value)


@pytest.mark.parametrize(
    "clear", [b"{", b"[]", b'{"mail":"person@shop.example.com"}', b'{"email":1}', b'{"email":"\xff"}']
)
def test_what_opens_to_no_contact_is_refused_and_not_shown(clear: bytes) -> None:
    sealed = Sealer(KEYS.public, CLOCK).seal_json(clear, "customer/42")
    with pytest.raises(Refused, match="cannot read") as refused:
        Opener([KEYS.private]).open_json(sealed, "customer/42")
    assert "person@" not in str(refused.value)


def test_a_contact_moved_to_another_root_does_not_open() -> None:
    sealed = Sealer(KEYS.public, CLOCK).seal(CONTACT, "customer/42")
    with pytest.raises(Refused, match="customer/43") as refused:
        Opener([KEYS.private]).open(sealed, "customer/43")
    assert "person@" not in str(refused.value)


@pytest.mark.parametrize("field", ["nonce", "ciphertext", "wrapped_key"])
def test_a_changed_seal_does_not_open(field: str) -> None:
    sealed = Sealer(KEYS.public, CLOCK).seal(CONTACT, "customer/42")
    content = bytearray(base64.b64decode(getattr(sealed, field)))
    content[0] ^= 1
    changed = sealed.model_copy(update={field: base64.b64encode(content).decode()})
    with pytest.raises(Refused, match="changed"):
        Opener([KEYS.private]).open(changed, "customer/42")
    with pytest.raises(Refused, match="changed"):
        Opener([KEYS.private]).open(sealed.model_copy(update={field: "not base64 !"}), "customer/42")


def test_without_the_key_the_refusal_names_the_key() -> None:
    sealed = Sealer(KEYS.public, CLOCK).seal(CONTACT, "customer/42")
    assert sealed.key_id == hashlib.sha256(KEYS.public).hexdigest()[:16]
    with pytest.raises(Refused, match=sealed.key_id):
        Opener([generate_sealing_keys().private]).open(sealed, "customer/42")


def test_the_data_key_changes_every_hour() -> None:
    clock = SetClock(CLOCK.at)
    sealer = Sealer(KEYS.public, clock)
    first = sealer.seal(CONTACT, "customer/1")
    clock.at += timedelta(minutes=59)
    assert sealer.seal(CONTACT, "customer/1").wrapped_key == first.wrapped_key
    clock.at += timedelta(minutes=1)
    second = sealer.seal(CONTACT, "customer/1")
    assert second.wrapped_key != first.wrapped_key
    opener = Opener([KEYS.private])
    assert opener.open(first, "customer/1") == opener.open(second, "customer/1") == CONTACT


def test_a_clock_set_back_holds_up_no_change_of_keys() -> None:
    clock, public = SetClock(CLOCK.at), [KEYS.public]
    sealer = Sealer(KEYS.public, clock, reload=lambda: public[0])
    first = sealer.seal(CONTACT, "customer/1")
    clock.at -= timedelta(days=1)
    second = sealer.seal(CONTACT, "customer/1")
    assert second.wrapped_key != first.wrapped_key
    clock.at += timedelta(hours=1)
    assert sealer.seal(CONTACT, "customer/1").wrapped_key != second.wrapped_key
    public[0] = generate_sealing_keys().public
    clock.at -= timedelta(minutes=10)
    assert sealer.seal(CONTACT, "customer/1").key_id == hashlib.sha256(public[0]).hexdigest()[:16]


def test_equal_contacts_do_not_look_equal() -> None:
    sealer = Sealer(KEYS.public, CLOCK)
    one, other = sealer.seal(CONTACT, "customer/1"), sealer.seal(CONTACT, "customer/1")
    assert one.nonce != other.nonce
    assert one.ciphertext != other.ciphertext


def test_a_batch_is_sealed_one_by_one_under_nonces_of_their_own_and_no_more_than_it_holds() -> None:
    seal, opener = Sealer(KEYS.public, CLOCK).seals(100), Opener([KEYS.private])
    clear = msgspec.json.encode(CONTACT)
    sealed = [seal(clear, b"customer/%d" % number) for number in range(100)]
    assert len({json.loads(each)["nonce"] for each in sealed}) == 100
    for number, each in enumerate(sealed):
        assert opener.open_json(each, f"customer/{number}") == CONTACT
        with pytest.raises(Refused):
            opener.open_json(each, f"customer/{number + 1}")
    with pytest.raises(StopIteration):
        seal(clear, b"customer/100")


def test_nothing_shows_a_secret() -> None:
    sealer, opener = Sealer(KEYS.public, CLOCK), Opener([KEYS.private])
    sealed = sealer.seal(CONTACT, "customer/42")
    shown = f"{sealer!r} {opener!r} {KEYS!r} {CONTACT!r} {sealed!r}"
    assert "person@" not in shown
    assert repr(KEYS.private) not in shown


def test_a_key_that_is_none_is_refused() -> None:
    with pytest.raises(BadInput, match="32 bytes"):
        Sealer(b"short", CLOCK)
    with pytest.raises(BadInput, match="32 bytes"):
        Opener([b"short"])


# Joining


def test_plain_and_hashed_addresses_join() -> None:
    key = generate_join_key()
    hashed = hashlib.sha256(b"person@shop.example.com").hexdigest()
    assert email_sha256(" Person@Shop.example.com ") == hashed
    assert email_hmac(key, "PERSON@shop.example.com\n") == hashed_email_hmac(key, hashed.upper())
    assert email_hmac(generate_join_key(), "person@shop.example.com") != email_hmac(key, "person@shop.example.com")


@pytest.mark.parametrize("text", ["", "person@shop.example.com", "ab" * 31, "zz" * 32])
def test_what_is_no_hash_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(BadInput, match="64 hex digits") as refused:
        hashed_email_hmac(generate_join_key(), text)
    assert "person" not in str(refused.value)


def test_values_hash_by_attribute() -> None:
    key = generate_join_key()
    assert value_hmac(key, "fraud_score", "0.5") == value_hmac(key, "fraud_score", "0.5")
    assert value_hmac(key, "fraud_score", "0.5") != value_hmac(key, "income_band", "0.5")
    assert value_hmac(key, "a", "b") != value_hmac(key, "ab", "")


@given(st.binary(max_size=100), st.text(max_size=100))
def test_keyed_hashes_are_hmac_sha256(key: bytes, value: str) -> None:
    message = b"attribute\0a\0" + value.encode()
    assert value_hmac(key, "a", value) == hmac.digest(key, message, "sha256").hex()


# Key files


def test_keys_come_back_from_their_files(tmp_path: Path) -> None:
    old = generate_sealing_keys()
    join = generate_join_key()
    write_key_file(tmp_path / "keys" / "sealing.pub", KEYS.public)
    write_key_file(tmp_path / "keys" / "sealing.key", KEYS.private, old.private)
    write_key_file(tmp_path / "keys" / "join.key", join)
    assert load_public_key(tmp_path / "keys" / "sealing.pub") == KEYS.public
    assert load_private_keys(tmp_path / "keys" / "sealing.key") == [KEYS.private, old.private]
    assert load_join_key(tmp_path / "keys" / "join.key") == join
    assert (tmp_path / "keys" / "join.key").stat().st_mode & 0o777 == 0o600


def test_a_key_file_is_never_overwritten(tmp_path: Path) -> None:
    write_key_file(tmp_path / "join.key", generate_join_key())
    with pytest.raises(Refused, match="never overwritten"):
        write_key_file(tmp_path / "join.key", generate_join_key())


def test_a_secret_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "join.key"
    write_key_file(path, generate_join_key())
    path.chmod(0o640)
    with pytest.raises(BadInput, match=r"0640.*chmod 600"):
        load_join_key(path)


@pytest.mark.parametrize("content", ["", "# only a comment\n", "not base64\n", "c2hvcnQ=\n", "é\n"])
def test_a_file_that_holds_no_key_is_refused_without_showing_it(tmp_path: Path, content: str) -> None:
    path = tmp_path / "join.key"
    path.touch(mode=0o600)
    path.write_text(content, encoding="utf-8")
    with pytest.raises(BadInput, match=r"join\.key") as refused:
        load_join_key(path)
    assert "c2hvcnQ" not in str(refused.value)


def test_a_missing_key_file_says_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="tocsin init"):
        load_public_key(tmp_path / "sealing.pub")


def test_bytes_go_there_and_back_and_open_to_nobody_else() -> None:
    keys, others = generate_sealing_keys(), generate_sealing_keys()
    sealed = seal_bytes(keys.public, b"to: ann@shop.example.com")
    assert b"ann" not in sealed
    assert open_bytes([others.private, keys.private], sealed) == b"to: ann@shop.example.com"
    with pytest.raises(KeyNotHeld):
        open_bytes([others.private], sealed)
    for changed in (sealed[:-8] + b"AAAAAAA=", b"x", b""):
        with pytest.raises(Refused):
            open_bytes([keys.private], changed)
