"""The rights that the bridge needs in Magento's database, and no other: never `password_hash` or `rp_token`."""

from collections.abc import Mapping, Sequence

from bridge.magento.changelogs import View
from bridge.magento.session import checked_prefix
from bridge.magento.statements import BACKEND_TYPES

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
        "billing_address_id", "shipping_address_id",
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

WRITTEN_TABLES: Mapping[str, str] = {
    **{view.changelog: "SELECT, INSERT, DELETE" for view in View},
    "tocsin_heartbeat": "SELECT, INSERT, UPDATE",
    "tocsin_account_notice": "SELECT, INSERT, UPDATE",
}
"""Rights on whole tables, all of them the module's own."""


def grants(database: str, user: str, host: str, prefix: str) -> list[str]:
    """Return the GRANT statements for account `user`@`host`, one a table."""
    checked_prefix(prefix)
    account = f"{_quoted(user, chr(39))}@{_quoted(host, chr(39))}"
    schema = _quoted(database, "`")

    def to(rights: str, table: str) -> str:
        return f"GRANT {rights} ON {schema}.`{prefix}{table}` TO {account};"

    return [
        *(to(f"SELECT ({', '.join(f'`{name}`' for name in names)})", table) for table, names in READ_COLUMNS.items()),
        *(to(rights, table) for table, rights in WRITTEN_TABLES.items()),
    ]


def _quoted(name: str, quote: str) -> str:
    return quote + name.replace("\\", "\\\\" if quote == "'" else "\\").replace(quote, quote * 2) + quote
