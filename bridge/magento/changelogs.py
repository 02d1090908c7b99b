"""The changelogs that Magento's triggers write, and one batch read from them.

A changelog row says only that something of an entity changed. Rows are read oldest first, never past a watermark:
auto-increment ids commit out of order, and what commits late must still be found.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class View(StrEnum):
    """A view of the module's mview.xml; its changelog is `<view>_cl`. What `entity_id` names stands behind each."""

    CUSTOMER = "tocsin_customer"  # the customer
    CUSTOMER_ADDRESS = "tocsin_customer_address"  # the customer, who is still known once the address is gone
    CUSTOMER_EAV = "tocsin_customer_eav"  # the customer
    ORDER = "tocsin_order"  # the order
    PROVENANCE = "tocsin_provenance"  # the row, beside its record id and root
    ACCOUNT_NOTICE = "tocsin_account_notice"  # the row
    HEARTBEAT = "tocsin_heartbeat"  # the only row

    @property
    def changelog(self) -> str:
        """The changelog's table, without the store's prefix."""
        return f"{self.value}_cl"


CUSTOMER_VIEWS = (View.CUSTOMER, View.CUSTOMER_ADDRESS, View.CUSTOMER_EAV)


@dataclass(frozen=True, slots=True)
class ProvenanceRow:
    """What a changelog says of a provenance row, also of one that is gone."""

    row_id: int
    record_id: str | None
    root: str | None


@dataclass(frozen=True, slots=True)
class ChangeBatch:
    """The oldest unsettled changes of every view, and what they are about; each entity once, in reading order.

    `version_ids` are the very rows that were read: settling deletes those and no others.
    """

    version_ids: Mapping[View, Sequence[int]] = field(default_factory=dict)
    customer_ids: Sequence[int] = ()
    order_ids: Sequence[int] = ()
    provenance: Sequence[ProvenanceRow] = ()
    notice_row_ids: Sequence[int] = ()
    beat: bool = False
    """Whether the heartbeat row changed."""
    full: bool = False
    """Whether a changelog held more than was asked for: there is a backlog."""

    def __len__(self) -> int:
        return sum(len(ids) for ids in self.version_ids.values())


def batch_of(
    rows: Mapping[View, Sequence[tuple[int, int]]], provenance: Sequence[ProvenanceRow], full: bool
) -> ChangeBatch:
    """Return the batch of changelog rows (version id, entity id) by view; `provenance` beside them.

    Entity 0 is what NULL becomes in a trigger's INSERT IGNORE (an address without customer): it is settled unread.
    """
    return ChangeBatch(
        version_ids={view: [version_id for version_id, _ in read] for view, read in rows.items() if read},
        customer_ids=_distinct(entity_id for view in CUSTOMER_VIEWS for _, entity_id in rows.get(view, ())),
        order_ids=_distinct(entity_id for _, entity_id in rows.get(View.ORDER, ())),
        # The same row twice: the later one is newer.
        provenance=list({row.row_id: row for row in provenance if row.row_id}.values()),
        notice_row_ids=_distinct(entity_id for _, entity_id in rows.get(View.ACCOUNT_NOTICE, ())),
        beat=bool(rows.get(View.HEARTBEAT)),
        full=full,
    )


def _distinct(ids: Iterable[int]) -> list[int]:
    return [entity_id for entity_id in dict.fromkeys(ids) if entity_id]
