"""The changelogs that Magento's triggers write, and one batch read from them.

A changelog row says only that something of an entity changed. Rows are read oldest first, never past a watermark:
auto-increment ids commit out of order, and what commits late must still be found.
"""

import itertools
from collections.abc import Mapping, Sequence
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
class ChangeBatch:
    """The oldest unsettled changes of every view, and what they are about; each entity once, in reading order.

    `version_ids` are the very rows that were read: settling deletes those and no others.
    """

    version_ids: Mapping[View, Sequence[int]] = field(default_factory=dict)
    customer_ids: Sequence[int] = ()
    order_ids: Sequence[int] = ()
    provenance_row_ids: Sequence[int] = ()
    notice_row_ids: Sequence[int] = ()
    beat: bool = False
    """Whether the heartbeat row changed."""
    full: bool = False
    """Whether there may be more: a changelog held as much as was asked for, or not all of it was looked at."""

    def __len__(self) -> int:
        return sum(len(ids) for ids in self.version_ids.values())


def batch_of(
    version_ids: Mapping[View, Sequence[int]], entity_ids: Mapping[View, Sequence[int]], full: bool
) -> ChangeBatch:
    """Return the batch of changelog rows, given as their version ids and their entity ids by view.

    Entity 0 is what NULL becomes in a trigger's INSERT IGNORE (an address without customer): it is settled unread.
    """
    return ChangeBatch(
        version_ids={view: read for view, read in version_ids.items() if read},
        customer_ids=_distinct(*(entity_ids.get(view, ()) for view in CUSTOMER_VIEWS)),
        order_ids=_distinct(entity_ids.get(View.ORDER, ())),
        provenance_row_ids=_distinct(entity_ids.get(View.PROVENANCE, ())),
        notice_row_ids=_distinct(entity_ids.get(View.ACCOUNT_NOTICE, ())),
        beat=bool(entity_ids.get(View.HEARTBEAT)),
        full=full,
    )


def _distinct(*lists: Sequence[int]) -> Sequence[int]:
    there = [ids for ids in lists if ids]
    if len(there) == 1 and isinstance(there[0], range) and 0 not in there[0]:
        return there[0]
    return [entity_id for entity_id in dict.fromkeys(itertools.chain.from_iterable(there)) if entity_id]


def runs(ids: Sequence[int]) -> list[tuple[int, int]]:
    """Return ascending, distinct `ids` as (first, last) of each unbroken run: every id between the two is one of them."""
    found: list[tuple[int, int]] = []
    if not ids:
        return found
    if ids[-1] - ids[0] + 1 == len(ids):
        return [(ids[0], ids[-1])]
    first = last = ids[0]
    for number in ids[1:]:
        if number != last + 1:
            found.append((first, last))
            first = number
        last = number
    found.append((first, last))
    return found
