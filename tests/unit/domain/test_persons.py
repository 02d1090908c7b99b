"""Who is one person: the same customer, or the same address at one controller; against an oracle that only compares."""

from collections.abc import Sequence

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from bridge.contracts.events import Channel, CustomerAffected, Kind, Residence, SealedContact, Sensitivity, Why
from consumers.domain.persons import Affected, Claim, alone, loose_marks, merge

CONTROLLER_OF = {1: "shop", 2: "shop", 3: "other"}
"""Websites 1 and 2 are one company's, 3 is another's."""


def affected(
    root: str, *, customer: int | None = None, mail: str | None = None, website: int = 1,
    channels: tuple[Channel, ...] = (Channel.EMAIL, Channel.LETTER),
) -> CustomerAffected:  # fmt: skip
    why = Why(
        record_ids=(f"r-{root}",), attributes=("score",), models=("m@1",), kinds=(Kind.DERIVED,),
        disclosures=(f"derived|m|{root}",), highest_sensitivity=Sensitivity.HIGH, categories=(), elements=(),
    )  # fmt: skip
    return CustomerAffected(
        root=root, customer_id=customer, website_id=website, store_id=1, locale="", incident_id="INC-2026-0001",
        revision=1, partition=0, email_hmac=None if mail is None else mail * 64, why=why,
        channels=channels,
    )  # fmt: skip


def groups(members: Sequence[CustomerAffected]) -> list[tuple[str, ...]]:
    return sorted(person.roots for person in merge(members, CONTROLLER_OF.__getitem__))


def test_what_is_read_again_is_all_that_the_event_says_of_somebody() -> None:
    """A field that only the event had would be missing in every plan."""
    event = affected("customer/1", customer=1, mail="a")
    again = msgspec.json.decode(event.model_dump_json(), type=Affected)
    assert event.why is not None
    assert again.why is not None
    assert again.why.as_json() == event.why.model_dump(mode="json")
    about_the_incident = {"incident_id", "revision", "partition"}
    assert {*Affected.__struct_fields__, *about_the_incident} == set(CustomerAffected.model_fields)
    assert Claim.__struct_fields__ == tuple(Residence.model_fields)
    assert {person.roots for person in merge([again], CONTROLLER_OF.__getitem__)} == {("customer/1",)}


def test_a_customer_and_their_guest_orders_are_one_person_who_hears_of_all() -> None:
    members = [
        affected("customer/1", customer=1, mail="a"),
        affected("order/5", customer=1),
        affected("order/6", mail="a"),
        affected("order/7", mail="a", website=2),
        affected("order/8", mail="b"),
    ]
    assert groups(members) == [("customer/1", "order/5", "order/6", "order/7"), ("order/8",)]
    one, _ = merge(members, CONTROLLER_OF.__getitem__)
    assert one.disclosures == tuple(sorted(f"derived|m|{root}" for root in one.roots))
    assert (one.root, one.customer_id) == ("customer/1", 1)


def test_the_same_address_at_two_controllers_stays_two_people() -> None:
    members = [affected("customer/1", customer=1, mail="a"), affected("customer/2", customer=2, mail="a", website=3)]
    assert groups(members) == [("customer/1",), ("customer/2",)]
    assert {person.controller for person in merge(members, CONTROLLER_OF.__getitem__)} == {"shop", "other"}


def test_an_address_whose_domain_is_written_in_two_ways_is_one_persons() -> None:
    def sealed(mailbox: str | None) -> SealedContact:
        return SealedContact(key_id="k", wrapped_key="w", nonce="n", ciphertext="c", mailbox=mailbox)

    as_people_write, in_ascii, other = (affected(f"customer/{n}", customer=n, mail="abc"[n - 1]) for n in (1, 2, 3))
    members = [
        as_people_write.model_copy(update={"contact": sealed("b" * 64)}),
        in_ascii.model_copy(update={"contact": sealed(None)}),
        other.model_copy(update={"contact": sealed(None)}),
    ]
    assert groups(members) == [("customer/1", "customer/2"), ("customer/3",)]
    again = [msgspec.json.decode(each.model_dump_json(), type=Affected) for each in members]
    assert {each.roots for each in merge(again, CONTROLLER_OF.__getitem__)} == set(groups(members))
    for those in (members, again):
        first, second, third = ({*loose_marks(each)} for each in those)
        assert first & second
        assert not first & third


def test_what_is_no_address_makes_nobody_another_one() -> None:
    """A shop writes "n/a" for each who orders by telephone: of those who are one person by that, one would be told."""
    by_letter = (Channel.SMS, Channel.LETTER)
    members = [affected(f"order/{number}", mail="e", channels=by_letter) for number in (1, 2)]
    members += [affected("customer/1", customer=1, mail="e", channels=by_letter), affected("order/3", customer=1)]
    assert groups(members) == [("customer/1", "order/3"), ("order/1",), ("order/2",)]
    assert {mark for member in members for mark in loose_marks(member)} == {hash(("customer", 1))}


@st.composite
def many(draw: st.DrawFn) -> list[CustomerAffected]:
    roots = draw(
        st.lists(
            st.sampled_from([f"customer/{n}" for n in range(1, 5)] + [f"order/{n}" for n in range(1, 8)]), unique=True
        )
    )
    return [
        affected(
            root,
            customer=int(root[9:]) if root.startswith("customer/") else draw(st.sampled_from([None, 1, 2, 3])),
            mail=draw(st.sampled_from([None, "a", "b"])),
            website=draw(st.sampled_from([1, 2, 3])),
        )
        for root in roots
    ]


@given(many())
def test_people_are_those_whom_a_chain_of_equal_ids_or_addresses_joins(members: list[CustomerAffected]) -> None:
    def same(one: CustomerAffected, other: CustomerAffected) -> bool:
        if one.customer_id is not None and one.customer_id == other.customer_id:
            return True
        at_one_controller = CONTROLLER_OF[one.website_id] == CONTROLLER_OF[other.website_id]
        return one.email_hmac is not None and one.email_hmac == other.email_hmac and at_one_controller

    # the oracle: put everybody apart, then join until nothing joins any more
    apart = [{member.root} for member in members]
    by_root = {member.root: member for member in members}
    joined = True
    while joined:
        joined = False
        for one in apart:
            for other in apart:
                if one is not other and any(same(by_root[a], by_root[b]) for a in one for b in other):
                    one |= other
                    apart.remove(other)
                    joined = True
                    break
            if joined:
                break
    assert groups(members) == sorted(tuple(sorted(each)) for each in apart)


@given(many())
def test_somebody_alone_is_the_person_that_merging_makes_of_one_root(members: list[CustomerAffected]) -> None:
    for member in members:
        assert [alone(member, "shop")] == merge([member], lambda _: "shop")
