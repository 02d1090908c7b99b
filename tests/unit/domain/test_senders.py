"""Who writes to whom: first match, nobody by default, bad entries refused by key."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bridge.contracts.errors import BadInput
from consumers.domain.senders import Shop, parse_senders

SHOP = Shop("The legal entity", "officer@shop.example", "security@shop.example", None, "https://shop.example/")
SHIPPED = yaml.safe_load((Path(__file__).parents[3] / "templates" / "senders.yaml").read_text(encoding="utf-8"))


def test_the_shipped_file_writes_as_the_settings_say() -> None:
    sender = parse_senders(SHIPPED).sender(7, 3, SHOP)
    assert sender is not None
    assert (sender.name, sender.dpo, sender.from_address) == (SHOP.controller, SHOP.dpo, SHOP.from_address)
    assert (sender.contact, sender.account_url) == (SHOP.from_address, "https://shop.example/customer/account/")


def test_a_store_view_has_its_own_sender_and_one_that_nobody_names_has_none() -> None:
    entries = [
        {"websites": [1], "stores": [3], "name": "Laden", "from_address": "post@laden.example",
         "reply_to": "frage@laden.example"},
        {"websites": [1], "name": "Shop"},
    ]  # fmt: skip
    senders = parse_senders({"senders": entries})
    of_3 = senders.sender(1, 3, SHOP)
    assert of_3 is not None
    assert (of_3.name, of_3.from_address, of_3.contact) == ("Laden", "post@laden.example", "frage@laden.example")
    other = senders.sender(1, 4, SHOP)
    assert other is not None
    assert (other.name, other.from_address) == ("Shop", SHOP.from_address)
    assert senders.sender(2, 3, SHOP) is None
    assert senders.from_addresses(SHOP.from_address) == ("post@laden.example", "security@shop.example")


@pytest.mark.parametrize(
    ("entries", "complaint"),
    [
        ([], "write a list of senders"),
        ([{"naem": "x"}], "senders.0.naem: unknown key; did you mean 'name'"),
        ([{}, {"name": "x"}], "those after it never match"),
        ([{"from_address": "Shop <a@b.example>"}], "senders.0.from_address"),
        ([{"from_address": "a@b.example\nBcc: x@y.example"}], "line break"),
        ([{"name": "{{name}}"}], "brace"),
        ([{"name": "x\u202ey"}], "invisible"),
        ([{"name": "x" * 301}], "at most 300"),
        ([{"shop_url": "javascript:alert(1)"}], "https://"),
        ([{"websites": ["1"]}], "list of ids"),
    ],
)
def test_a_bad_entry_is_refused(entries: list[Any], complaint: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_senders({"senders": entries})
    assert complaint in str(caught.value)


@given(st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner) | st.dictionaries(
    st.sampled_from(["senders", "websites", "name", "x"]), inner), max_leaves=8))  # fmt: skip
def test_anything_else_is_our_error(content: Any) -> None:
    try:
        parse_senders(content)
    except BadInput:
        return
