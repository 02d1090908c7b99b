"""Whether the triggers still tell of what the shop adds.

A tool that alters a table by filling another one and swapping the two (pt-online-schema-change, gh-ost), a dump put back without
triggers, or a changelog that somebody emptied leave a table of whose changes nothing is heard, and no error anywhere. So the
newest row of each table is looked at now and then: of one that was added since the look before, something must have been told.
Not for finding what was lost: `tocsin relay verify` does that.
"""

# ruff: noqa: S608  our own names

from collections.abc import Mapping, Sequence

from bridge.magento.changelogs import View

TOLD_COLUMNS: Mapping[str, tuple[View, str]] = {
    "customer_entity": (View.CUSTOMER, "entity_id"),
    "customer_address_entity": (View.CUSTOMER_ADDRESS, "parent_id"),
    **{
        f"customer_entity_{kind}": (View.CUSTOMER_EAV, "entity_id")
        for kind in ("varchar", "int", "decimal", "text", "datetime")
    },
    "sales_order": (View.ORDER, "entity_id"),
    "sales_order_address": (View.ORDER, "parent_id"),
    "tocsin_provenance": (View.PROVENANCE, "id"),
}
"""By table the view that tells of it, and the column that it is told by. Each has an index that ends with the largest value."""
NEWEST = "SELECT " + ", ".join(
    f"(SELECT MAX(t.{column}) FROM {{p}}{table} t)" for table, (_, column) in TOLD_COLUMNS.items()
)


class Watch:
    """What was told, and what is there, over the last looks. The first look only says from where on."""

    def __init__(self) -> None:
        self._newest: Mapping[str, int] | None = None
        self._added: Mapping[str, int] = {}
        """The newest of each table that had more at the last look than at the one before."""
        self._told: dict[View, int] = {}
        self._told_before: dict[View, int] = {}

    def told(self, view: View, ids: Sequence[int]) -> None:
        """Take note of what a changelog told of."""
        if ids:
            largest = ids[-1] if isinstance(ids, range) else max(ids)
            self._told[view] = max(largest, self._told.get(view, 0))

    def look(self, newest: Mapping[str, int]) -> dict[str, bool]:
        """Return of each table that had grown at the last look whether its newest row was told of since.

        To be called where all that was committed before is read. What had been added by the last look was told of before
        that or since, as both are committed together.
        """
        heard = {
            table: max(self._told.get(view, 0), self._told_before.get(view, 0)) >= self._added[table]
            for table, (view, _) in TOLD_COLUMNS.items()
            if table in self._added
        }
        before = self._newest
        self._added = {} if before is None else {t: number for t, number in newest.items() if number > before[t]}
        self._newest = newest
        self._told_before, self._told = self._told, {}
        return heard
