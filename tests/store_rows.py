"""Rows of a small shop, for MariaDB and SQLite alike. All names and addresses are of reserved domains and ranges."""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa


class StoreRows:
    """Writes to a store's tables as the shop would; every statement is committed by itself unless `connection` is used."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine

    def run(self, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        with self.engine.begin() as connection:
            return run(connection, statement, **values)

    def add(self, table: str, **values: Any) -> None:
        with self.engine.begin() as connection:
            add(connection, table, values)

    def changelog(self, view: str) -> list[Any]:
        return [entity_id for (entity_id,) in self.run(f"SELECT entity_id FROM {view}_cl ORDER BY version_id")]

    def base(self) -> None:
        """Two websites with a view each: 1 is German, 2 has nothing of its own."""
        for number in (1, 2):
            self.add("store_website", website_id=number, code=f"website{number}")
            self.add("store_group", group_id=number, website_id=number, name="Main")
            self.add("store", store_id=number, code=f"view{number}", website_id=number, group_id=number, name="View")
        self.add("core_config_data", scope="default", scope_id=0, path="general/locale/code", value="en_GB")
        self.add("core_config_data", scope="stores", scope_id=1, path="general/locale/code", value="de_DE")
        self.add("directory_country_region", region_id=12, country_id="US", code="CA", default_name="California")
        self.add("directory_country_region", region_id=81, country_id="DE", code="BAY", default_name="Bayern")
        self.add("eav_entity_type", entity_type_id=1, entity_type_code="customer", entity_model="x")
        for attribute_id, code, kind in ((201, "fraud_score", "decimal"), (202, "income_band", "varchar")):
            self.add(
                "eav_attribute", attribute_id=attribute_id, entity_type_id=1, attribute_code=code, backend_type=kind
            )

    def customer(self, customer_id: int, *, country: str = "DE", region_id: int | None = None, **values: Any) -> None:
        """A customer with one address, which has the customer's own number."""
        row = {
            "entity_id": customer_id,
            "website_id": 1,
            "store_id": 1,
            "email": f"person{customer_id}@shop.example.com",
            "firstname": "Placeholder",
            "lastname": f"Number{customer_id}",
            "default_billing": customer_id,
            "password_hash": "secret-hash",
        }
        self.add("customer_entity", **(row | values))
        self.add(
            "customer_address_entity",
            entity_id=customer_id,
            parent_id=customer_id,
            city="Beispielstadt",
            country_id=country,
            region_id=region_id,
            postcode="10115",
            firstname="Placeholder",
            lastname=f"Number{customer_id}",
            street="Musterweg 1\nHinterhaus",
            telephone="0171 3920001" if country == "DE" else "213 555 0101",
        )

    def order(self, order_id: int, *, customer_id: int | None = None, country: str = "DE", **values: Any) -> None:
        """An order with a billing address, which has the order's own number."""
        row = {
            "entity_id": order_id,
            "store_id": 1,
            "customer_id": customer_id,
            "customer_email": f"buyer{order_id}@shop.example.com",
            "billing_address_id": order_id,
            "increment_id": f"{order_id:09d}",
        }
        self.add("sales_order", **(row | values))
        self.add(
            "sales_order_address",
            entity_id=order_id,
            parent_id=order_id,
            country_id=country,
            firstname="Buyer",
            lastname=f"Number{order_id}",
            street="Musterweg 2",
            city="Beispielstadt",
            postcode="10115",
            telephone="n/a",
            address_type="billing",
        )

    def provenance(self, record_id: str, root: str, **values: Any) -> None:
        """A record of one AI write about `root`."""
        self.add("tocsin_provenance", **provenance_row(record_id, root, **values))


def provenance_row(record_id: str, root: str, **values: Any) -> dict[str, Any]:
    entity, _, number = root.partition("/")
    row = {
        "record_id": record_id,
        "root": root,
        "customer_id": int(number) if entity == "customer" else None,
        "order_id": int(number) if entity == "order" else None,
        "entity_type": entity,
        "entity_id": int(number),
        "attribute": "fraud_score",
        "model_id": "scorer",
        "model_version": "7",
        "generated_at": "2026-03-01 10:00:00",
        "kind": "inferred",
        "sensitivity": "high",
        "categories": '["fraud_assessment"]',
        "elements": "[]",
    }
    return row | values


def add(connection: sa.Connection, table: str, values: Mapping[str, Any]) -> None:
    connection.execute(sa.insert(sa.table(table, *(sa.column(name) for name in values))), [dict(values)])


def run(connection: sa.Connection, statement: str, **values: Any) -> list[tuple[Any, ...]]:
    result = connection.execute(sa.text(statement), values)
    return [tuple(row) for row in result] if result.returns_rows else []
