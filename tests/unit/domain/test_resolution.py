"""The leaves, the root over them, and why a person is affected."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from bridge.contracts.events import Kind, Sensitivity
from consumers.domain.resolution import member_leaf, merkle_root, why_of
from tests.unit.domain.test_scope_matching import record


def _by_definition(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + _by_definition(leaves[:split]) + _by_definition(leaves[split:])).digest()


@given(st.lists(st.binary(max_size=8), max_size=40))
def test_the_root_is_the_one_of_rfc_6962(leaves: list[bytes]) -> None:
    assert merkle_root(leaves) == _by_definition(leaves).hex()


def test_a_leaf_depends_on_person_records_and_standing_and_not_on_order() -> None:
    leaf = member_leaf("customer/1", ["b", "a", "a"], "recorded")
    assert leaf == b'["customer/1",["a","b"],"recorded"]'
    assert leaf == member_leaf("customer/1", ["a", "b"], "recorded")
    assert leaf != member_leaf("customer/1", ["a", "b"], "possible")


def test_why_sums_up_records_and_names_every_sentence_the_notice_must_hold() -> None:
    why = why_of(
        [
            record(record_id="b", sensitivity=Sensitivity.LOW, categories=("financial", "behaviour")),
            record(record_id="a", model_id="narrator", kind=Kind.SYNTHETIC, categories=(), model_version="2"),
        ]
    )
    assert why.record_ids == ("a", "b")
    assert why.models == ("fraud-scorer@7", "narrator@2")
    assert why.disclosures == (
        "derived|fraud-scorer|behaviour",
        "derived|fraud-scorer|financial",
        "synthetic|narrator|unspecified",
    )
    assert why.highest_sensitivity is Sensitivity.HIGH
    assert why.kinds == (Kind.DERIVED, Kind.SYNTHETIC)
