"""Customers read at once say what customers read one by one say, to the byte, whatever stands in their rows."""

import json
from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bridge.magento.catalog import Attribute, Catalog
from bridge.magento.snapshots import ADDRESS_FIELDS, Belongings, ReadCustomers, customer_state
from bridge.magento.statements import UNIT, WITHIN
from bridge.relay import StateMessages
from bridge.runtime.sealing import Seal, contact_digest

JOIN_KEY = bytes(32)
CODES = ("fraud_score", "income_band")
CATALOG = Catalog(
    website_of_store={1: 1, 2: 2},
    configuration={("general/locale/code", "stores", 1): "de_DE", ("general/country/default", "default", 0): "DE"},
    regions={12: ("US", "CA"), 81: ("DE", "BAY")},
    attributes=tuple(Attribute(code, number, "varchar") for number, code in enumerate(CODES)),
)


class Unsealed:
    """Seals nothing, so that what would be sealed can be compared."""

    def seals(self, count: int) -> Seal:
        return lambda contact, root: json.dumps(
            {"clear": contact.decode(), "root": root.decode(), "digest": contact_digest(JOIN_KEY, contact, root)}
        )


# No separators: a row that holds one is read by itself.
texts = st.text(st.characters(codec="utf-8", exclude_characters="\x1c\x1d\x1e\x1f"), max_size=12)
addresses = st.none() | st.fixed_dictionaries(
    {
        "owner": st.sampled_from(["7", "8"]),
        "country": st.sampled_from(["", "DE", "de", "US", "FR", "XX"]),
        "region_id": st.sampled_from(["", "12", "81"]),
        "region": texts, "postcode": texts, "city": texts | st.just("Town"), "first_name": texts, "last_name": texts,
        "street": texts | st.sampled_from(["Way 1", "Way 1\n\n Back", "9" * 2001]),
        "telephone": texts | st.sampled_from(["0171 3920001", "(213) 555-0101", "n/a", "12", "+49 (0)171 3920001"]),
    }
)  # fmt: skip
values = st.none() | texts | st.just("x" * 40)
customers = st.fixed_dictionaries(
    {
        "website_id": st.sampled_from(["", "1", "2"]), "store_id": st.sampled_from(["", "0", "1", "2"]),
        "email": texts | st.sampled_from(["a.b@shop.example.com", " A@SHOP.example.com ", "no address", " "]),
        "first_name": texts, "last_name": texts, "billing": addresses, "shipping": addresses, "one_address": st.booleans(),
        "order": st.sampled_from([("", ""), ("US", "12"), ("XX", "")]), **dict.fromkeys(CODES, values),
    }
)  # fmt: skip


def read(rows: list[dict[str, Any]], number: int) -> ReadCustomers:
    """Return customers of this number as the store has read them."""

    def said(address: dict[str, str] | None) -> str | None:
        if address is None:
            return None
        own = [address[name] for name in ADDRESS_FIELDS]
        return UNIT.join([address["owner"], f"{address['country']}{WITHIN}{address['region_id']}", *own])

    billing = [said(row["billing"]) for row in rows]
    shipping = [one if row["one_address"] else said(row["shipping"]) for row, one in zip(rows, billing, strict=True)]
    return ReadCustomers(
        [str(number)] * len(rows),
        [UNIT.join([f"{row['website_id']}{WITHIN}{row['store_id']}", row["email"], row["first_name"], row["last_name"]])
         for row in rows],
        billing,
        shipping,
        [WITHIN.join(row["order"]) for row in rows],
        {code: [row[code] for row in rows] for code in CODES},
        Belongings(CATALOG, None),
    )  # fmt: skip


def document(row: dict[str, Any], number: int) -> str:
    """Return the same customer as the database writes them by themselves, whose addresses are joined if they are theirs."""
    found = {name: row[name] for name in ("website_id", "store_id", "email", "first_name", "last_name")}
    found |= {"order_country": row["order"][0], "order_region_id": row["order"][1]}
    found["attributes"] = {code: row[code] for code in CODES}
    found["same_address"] = 1 if row["one_address"] else None
    for kind in ("billing", "shipping"):
        address = row["billing" if row["one_address"] else kind]
        if address is not None and address["owner"] == str(number):
            found |= {f"{kind}_{name}": value for name, value in address.items()}
    return json.dumps(found)


@given(st.lists(customers, max_size=5))
def test_customers_read_at_once_are_customers_read_one_by_one(rows: list[dict[str, Any]]) -> None:
    at_once = read(rows, 7)
    singly = [customer_state(7, document(row, 7), CATALOG, None) for row in rows]
    assert list(at_once) == singly
    messages, at = StateMessages(Unsealed(), JOIN_KEY), datetime(2026, 11, 27, tzinfo=UTC)
    written = [
        (key, root, value, dict(headers))
        for key, root, value, headers in messages.customers(messages.events_of(at_once), at)
    ]
    modelled = [message for _, message in messages.of(singly, at)]
    said = [value.encode() if isinstance(value, str) else value for _, _, value, _ in written]
    assert said == [message.value for message in modelled]
    for (key, root, _, headers), message in zip(written, modelled, strict=True):
        assert (key.decode(), root.decode()) == (message.key, message.root) == ("customer/7", "customer/7")
        others = dict(message.headers)
        assert headers.pop("ce_id") != others.pop("ce_id")
        assert headers == others
