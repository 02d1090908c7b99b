"""An account's rights as SHOW GRANTS prints them, compared with those that are needed."""

import re

import pytest

from bridge.magento.grants import grants, rights_of

ALL_OF_THE_SHOP = "GRANT ALL PRIVILEGES ON `shop`.* TO `magento`@`%`"


def shown(*more: str, by_lease: bool = False, prefix: str = "m2_") -> list[str]:
    """What a server shows of an account that was given exactly what is printed."""
    lines = grants("shop", "relay", "%", prefix, by_lease=by_lease)
    return [
        "GRANT USAGE ON *.* TO `relay`@`%` IDENTIFIED BY PASSWORD '*CC67043C7BCFF5EEA5566BD9B1F3C74FD9A5CF5D'",
        *(re.sub(r"'([^']*)'", r"`\1`", line.removesuffix(";")) for line in lines),
        *more,
    ]


@pytest.mark.parametrize("by_lease", [False, True])
def test_what_is_printed_is_enough_and_no_more(by_lease: bool) -> None:
    rights = rights_of(shown(by_lease=by_lease), "shop", "m2_", by_lease=by_lease)
    assert (rights.missing, rights.excess, rights.reads_secrets) == ([], [], False)


@pytest.mark.parametrize(
    ("line", "excess", "secret"),
    [
        (ALL_OF_THE_SHOP, "ALL PRIVILEGES on shop.*", True),
        ("GRANT ALL PRIVILEGES ON `sh_p`.* TO `m`@`%`", "ALL PRIVILEGES on sh_p.*", True),
        ("GRANT SELECT, RELOAD ON *.* TO `m`@`%`", "SELECT, RELOAD on *.*", True),
        (
            "GRANT SELECT ON `shop`.`m2_customer_entity` TO `m`@`%`",
            "SELECT on all columns of shop.m2_customer_entity",
            True,
        ),
        (
            "GRANT SELECT (`email`, `rp_token`), UPDATE (`email`) ON `shop`.`m2_customer_entity` TO `m`@`%`",
            "SELECT on shop.m2_customer_entity (rp_token)",
            True,
        ),
        ("GRANT SELECT ON `shop`.`m2_wishlist` TO `m`@`%`", "SELECT on shop.m2_wishlist", False),
        ("GRANT SELECT ON `shop`.`m2_quote` TO `m`@`%`", "SELECT on all columns of shop.m2_quote", False),
        ("GRANT INSERT ON `shop`.`m2_tocsin_heartbeat` TO `m`@`%`", "INSERT on shop.m2_tocsin_heartbeat", False),
        ("GRANT SELECT ON `crm`.* TO `m`@`%`", "SELECT on crm.*", False),
        ("GRANT EXECUTE ON PROCEDURE `shop`.`p` TO `m`@`%`", "EXECUTE ON PROCEDURE `shop`.`p`", False),
    ],
)
def test_excess_is_listed(line: str, excess: str, secret: bool) -> None:
    rights = rights_of(shown(line), "shop", "m2_")
    assert rights.missing == []
    assert excess in rights.excess
    assert rights.reads_secrets is secret


def test_a_host_with_one_account_has_all_that_is_needed() -> None:
    rights = rights_of(["GRANT USAGE ON *.* TO `m`@`%`", ALL_OF_THE_SHOP + " WITH GRANT OPTION"], "shop", "")
    assert rights.missing == []
    assert rights.excess == ["ALL PRIVILEGES on shop.*", "GRANT OPTION on shop.*"]


@pytest.mark.parametrize("schema", ["other", "sh\\_p"])
def test_another_databases_rights_are_none_here(schema: str) -> None:
    rights = rights_of([f"GRANT ALL PRIVILEGES ON `{schema}`.* TO `m`@`%`"], "shop", "")
    assert "SELECT on customer_entity (email)" in rights.missing


def test_a_backslash_means_the_sign_itself() -> None:
    assert rights_of(["GRANT ALL PRIVILEGES ON `my\\_shop`.* TO `m`@`%`"], "my_shop", "").missing == []


def test_each_missing_right_is_named() -> None:
    lines = [line for line in shown(prefix="") if "tocsin_heartbeat`" not in line]
    lines = [line.replace(", `telephone`", "") if "customer_address_entity" in line else line for line in lines]
    rights = rights_of(lines, "shop", "")
    assert rights.missing == [
        "SELECT on customer_address_entity (telephone)",
        "SELECT on tocsin_heartbeat",
        "UPDATE on tocsin_heartbeat",
    ]


def test_with_a_role_nothing_counts_as_missing() -> None:
    rights = rights_of(["GRANT USAGE ON *.* TO `m`@`%`", "GRANT `reader`@`%` TO `m`@`%`"], "shop", "")
    assert rights.missing == []
    assert rights.excess == ["the role `reader`@`%`"]


def test_no_passwords_hash_comes_out() -> None:
    rights = rights_of(shown("GRANT ALL PRIVILEGES ON *.* TO `m`@`%` IDENTIFIED BY PASSWORD '*ABC123'"), "shop", "m2_")
    assert "ABC123" not in repr(rights)
