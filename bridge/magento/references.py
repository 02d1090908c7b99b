"""Whom order numbers and carts are about: read-only queries on the store, for logs that name no customer.

Reads the columns of `tocsin relay grants` and no other; values are put into the statement only in the narrow form that is
checked here. Not for what an order or a customer is (`bridge.magento.store`).
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from bridge.contracts.errors import Unreachable
from bridge.magento.servers import prepare_session
from bridge.magento.session import store_engine, translated
from bridge.magento.statements import checked_prefix
from bridge.runtime.settings import Store

ORDER_NUMBER = re.compile(r"[A-Za-z0-9_#./-]{1,50}")
CART_ID = re.compile(r"[1-9][0-9]{0,9}")
_AT_ONCE = 900
"""Longer lists of values MariaDB rewrites into a join."""


@dataclass(frozen=True, slots=True)
class Referred:
    """What the store says of one reference. A number can belong to orders of several store views: each is one of these."""

    kind: str
    """`order_number` or `quote`."""
    reference: str = field(repr=False)
    order_id: int | None
    customer_id: int | None
    email: str | None = field(repr=False)
    """Of a guest, whom the index knows at most by a later account of the same address."""


class StoreReferences:
    """Looks references up in the store, on a connection of its own, without any lock."""

    def __init__(self, settings: Store) -> None:
        self._settings = settings
        self._prefix = checked_prefix(settings.table_prefix)

    def look_up(self, order_numbers: Sequence[str], quote_ids: Sequence[str]) -> list[Referred]:
        """Return what the store holds of these, in one statement a table for each 900 references.

        References in another form than numbers have are passed over. Raises Unreachable, or Refused for a missing right.
        """
        numbers = sorted({each for each in order_numbers if ORDER_NUMBER.fullmatch(each)})
        carts = sorted({each for each in quote_ids if CART_ID.fullmatch(each)}, key=int)
        asked = [("order_number", each) for each in numbers] + [("quote", each) for each in carts]
        if not asked:
            return []
        engine = store_engine(self._settings)
        try:
            with translated(self._settings, Unreachable), engine.connect() as connection:
                if engine.dialect.name != "sqlite":
                    prepare_session(connection)
                    connection.exec_driver_sql("SET SESSION TRANSACTION READ ONLY")
                return [
                    Referred(row.kind, str(row.reference), row.order_id, row.customer_id or None, row.email or None)
                    for start in range(0, len(asked), _AT_ONCE)
                    for statement in self._statements(asked[start : start + _AT_ONCE])
                    for row in connection.exec_driver_sql(statement)
                ]
        finally:
            engine.dispose()

    def _statements(self, asked: Sequence[tuple[str, str]]) -> Iterator[str]:
        # No UNION: an upgraded store's tables differ in collation, and a server takes no mixture.
        numbers = ", ".join(f"'{each}'" for kind, each in asked if kind == "order_number")
        carts = ", ".join(each for kind, each in asked if kind == "quote")
        # A guest's address alone is needed: who has an account is known by it.
        email = "CASE WHEN {t}.customer_id IS NULL THEN {t}.customer_email END AS email"
        order = f"o.entity_id AS order_id, o.customer_id, {email.format(t='o')} FROM {self._prefix}sales_order o"
        if numbers:
            yield f"SELECT 'order_number' AS kind, o.increment_id AS reference, {order} WHERE o.increment_id IN ({numbers})"
        if carts:
            yield f"SELECT 'quote' AS kind, o.quote_id AS reference, {order} WHERE o.quote_id IN ({carts})"
            yield (
                "SELECT 'quote' AS kind, q.entity_id AS reference, NULL AS order_id, q.customer_id,"  # noqa: S608
                f" {email.format(t='q')} FROM {self._prefix}quote q WHERE q.entity_id IN ({carts})"
            )
