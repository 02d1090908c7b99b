"""The rights that the bridge needs in Magento's database, and no other: never `password_hash` or `rp_token`."""

import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from bridge.magento.changelogs import View
from bridge.magento.statements import BACKEND_TYPES, checked_prefix

_ADDRESS = (
    "entity_id", "parent_id", "country_id", "region_id", "region", "postcode", "city", "street", "telephone", "firstname",
    "lastname",
)  # fmt: skip

READ_COLUMNS: Mapping[str, Sequence[str]] = {
    "store": ("store_id", "website_id"),
    "core_config_data": ("path", "scope", "scope_id", "value"),
    "directory_country_region": ("region_id", "country_id", "code"),
    "eav_entity_type": ("entity_type_id", "entity_type_code"),
    "eav_attribute": ("attribute_id", "entity_type_id", "attribute_code", "backend_type"),
    "customer_entity": (
        "entity_id", "website_id", "store_id", "email", "firstname", "lastname", "default_billing", "default_shipping",
    ),
    **{f"customer_entity_{kind}": ("entity_id", "attribute_id", "value") for kind in BACKEND_TYPES},
    "customer_address_entity": _ADDRESS,
    "sales_order": (
        "entity_id", "customer_id", "store_id", "customer_email", "customer_firstname", "customer_lastname",
        "billing_address_id", "shipping_address_id", "increment_id", "quote_id",
    ),
    "sales_order_address": _ADDRESS,
    "tocsin_provenance": (
        "id", "record_id", "root", "customer_id", "order_id", "entity_type", "entity_id", "attribute", "model_id",
        "model_version", "run_id", "dataset_version", "generated_at", "deleted_at", "supersedes", "kind", "confidence",
        "sensitivity", "categories", "elements", "source_system", "storage_location", "input_fields", "legal_basis",
        "created_at",
    ),
}  # fmt: skip
"""Columns read, by table."""

LOOKED_UP_COLUMNS: Mapping[str, Sequence[str]] = {
    "quote": ("entity_id", "customer_id", "customer_email"),
    "sales_order_grid": ("entity_id", "customer_id"),
}
"""Columns that are read only when somebody asks whom a leaked log is about (`bridge.magento.references`), and to see which
orders a deleted customer had. The relay runs without them: a shop may keep its carts in another database.
"""

WRITTEN_TABLES: Mapping[str, str] = {
    **{view.changelog: "SELECT, INSERT, DELETE" for view in View},
    "tocsin_heartbeat": "SELECT, UPDATE",
    "tocsin_account_notice": "SELECT, INSERT, UPDATE",
}
"""Rights on whole tables, all of them the module's own."""

KEPT_ORDERS: Mapping[str, str] = {"tocsin_kept_order": "SELECT, INSERT, DELETE"}
"""Rights on the module's table of orders that stay published. The relay runs without it: an older module has none."""

LEASE_TABLE = "tocsin_relay_lease"
LEASE_RIGHTS = "SELECT, INSERT, UPDATE"
"""What leading by a lease needs beside these, on a Galera cluster."""


def needed_tables(*, by_lease: bool = False) -> list[str]:
    """Return all tables that the bridge reads or writes, without the store's prefix."""
    return [*READ_COLUMNS, *WRITTEN_TABLES, *([LEASE_TABLE] if by_lease else [])]


def grants(database: str, user: str, host: str, prefix: str, *, by_lease: bool = False) -> list[str]:
    """Return the GRANT statements for account `user`@`host`, one a table."""
    checked_prefix(prefix)
    account = f"{_quoted(user, chr(39))}@{_quoted(host, chr(39))}"
    schema = _quoted(database, "`")

    def to(rights: str, table: str) -> str:
        return f"GRANT {rights} ON {schema}.`{prefix}{table}` TO {account};"

    return [
        *(
            to(f"SELECT ({', '.join(f'`{name}`' for name in names)})", table)
            for table, names in {**READ_COLUMNS, **LOOKED_UP_COLUMNS}.items()
        ),
        *(to(rights, table) for table, rights in {**WRITTEN_TABLES, **KEPT_ORDERS}.items()),
        *([to(LEASE_RIGHTS, LEASE_TABLE)] if by_lease else []),
    ]


# What an account really has


@dataclass(frozen=True, slots=True)
class Rights:
    """An account's rights, compared with the needed ones."""

    missing: Sequence[str]
    excess: Sequence[str]
    reads_secrets: bool = False
    """Whether it may read customers' password hashes and reset tokens."""


@dataclass(frozen=True, slots=True)
class _Granted:
    right: str
    columns: frozenset[str] | None
    """None means the whole table, or all tables."""
    schema: str
    table: str

    def covers(self, database: str, table: str, right: str, column: str | None) -> bool:
        in_schema = self.schema == "*" or fnmatch.fnmatchcase(database, _pattern(self.schema))
        return (
            in_schema
            and self.table in ("*", table)
            and (self.right == right or self.right.startswith("ALL"))
            and (self.columns is None or column in self.columns)
        )


_NAME = r"`(?:[^`]|``)*`"
_GRANT = re.compile(
    rf"GRANT (?P<rights>.+?) ON (?:TABLE )?(?P<schema>\*|{_NAME})\.(?P<table>\*|{_NAME}) TO .*?(?P<passes>WITH GRANT OPTION)?$",
    re.DOTALL,
)
_RIGHT = re.compile(r"(?P<right>[A-Za-z_ ]+?)\s*(?:\((?P<columns>[^)]*)\))?\s*(?:,\s*|$)")
_HARMLESS = frozenset({"USAGE"})


def rights_of(lines: Iterable[str], database: str, prefix: str, *, by_lease: bool = False) -> Rights:
    """Compare what SHOW GRANTS printed for an account with what the bridge needs.

    A role's rights are not in those lines: with one, nothing counts as missing and the role itself as excess.
    """
    needed = {**WRITTEN_TABLES, **KEPT_ORDERS, **({LEASE_TABLE: LEASE_RIGHTS} if by_lease else {})}
    wanted: list[tuple[str, str, str | None]] = [
        *(
            (prefix + table, "SELECT", column)
            for table, columns in {**READ_COLUMNS, **LOOKED_UP_COLUMNS}.items()
            for column in columns
        ),
        *((prefix + table, right, None) for table, rights in needed.items() for right in rights.split(", ")),
    ]
    granted: list[_Granted] = []
    excess: list[str] = []
    has_role = False
    for line in lines:
        found = _GRANT.match(line)
        if found is None:
            what = line.removeprefix("GRANT ").partition(" TO ")[0]
            if line.startswith("GRANT `"):
                has_role = True
                what = f"the role {what}"
            if line.startswith("GRANT "):
                excess.append(what)
            continue
        schema, table = _unquoted(found["schema"]), _unquoted(found["table"])
        new = [_Granted(right, columns, schema, table) for right, columns in _rights_in(found["rights"])]
        granted += new
        excess += _excess(new, database, wanted)
        if found["passes"]:
            excess.append(f"GRANT OPTION on {schema}.{table}")
    missing = [
        f"{right} on {table}" + (f" ({column})" if column else "")
        for table, right, column in wanted
        if not any(each.covers(database, table, right, column) for each in granted)
    ]
    customers = f"{prefix}customer_entity"
    secret = any(
        each.covers(database, customers, "SELECT", column)
        for each in granted
        for column in ("password_hash", "rp_token")
    )
    return Rights([] if has_role else missing, list(dict.fromkeys(excess)), secret)


def _excess(granted: Sequence[_Granted], database: str, wanted: Sequence[tuple[str, str, str | None]]) -> Iterator[str]:
    wide = [each.right for each in granted if each.right not in _HARMLESS and "*" in (each.schema, each.table)]
    if wide:
        yield f"{', '.join(wide)} on {granted[0].schema}.{granted[0].table}"
    for each in granted:
        if each.right in _HARMLESS or "*" in (each.schema, each.table):
            continue
        columns = {
            column
            for table, right, column in wanted
            if (each.schema, each.table, each.right) == (database, table, right)
        }
        if not columns:
            yield f"{each.right} on {each.schema}.{each.table}"
        elif columns != {None} and each.columns is None:
            yield f"{each.right} on all columns of {each.schema}.{each.table}"
        elif each.columns is not None and None not in columns and each.columns - columns:
            yield f"{each.right} on {each.schema}.{each.table} ({', '.join(sorted(each.columns - columns))})"


def _rights_in(text: str) -> Iterator[tuple[str, frozenset[str] | None]]:
    for found in _RIGHT.finditer(text):
        columns = found["columns"]
        names = None if columns is None else frozenset(_unquoted(name.strip()) for name in columns.split(","))
        yield found["right"].strip().upper(), names


def _pattern(schema: str) -> str:
    # In a grant on a whole database % and _ stand for others, unless a backslash says that they are meant.
    signs = {"%": "*", "_": "?"}
    parts = re.findall(r"\\.|.", schema, re.DOTALL)
    return "".join(
        part[1] if len(part) == 2 else signs.get(part, f"[{part}]" if part in "*?[" else part) for part in parts
    )


def _unquoted(name: str) -> str:
    return name[1:-1].replace("``", "`") if name.startswith("`") else name


def rights_on(connection: sa.Connection, database: str, prefix: str, *, by_lease: bool = False) -> Rights:
    """Ask the server what this very account may do. The lines themselves may hold a password's hash: they stay here."""
    lines = [str(row[0]) for row in connection.exec_driver_sql("SHOW GRANTS")]
    return rights_of(lines, database, prefix, by_lease=by_lease)


def _quoted(name: str, quote: str) -> str:
    return quote + name.replace("\\", "\\\\" if quote == "'" else "\\").replace(quote, quote * 2) + quote
