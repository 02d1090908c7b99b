"""A table of which nothing is told any more is noticed by the next rows that are added to it, and none other is."""

from bridge.magento.changelogs import View
from bridge.magento.watch import TOLD_COLUMNS, Watch

NOTHING = dict.fromkeys(TOLD_COLUMNS, 0)


def newest(**numbers: int) -> dict[str, int]:
    return NOTHING | numbers


def test_the_first_look_says_nothing_of_what_was_there_before() -> None:
    watch = Watch()
    assert watch.look(newest(customer_entity=100)) == {}
    assert watch.look(newest(customer_entity=100)) == {}
    assert watch.look(newest(customer_entity=100)) == {}


def test_what_was_told_before_or_after_the_look_that_found_it_was_heard() -> None:
    watch = Watch()
    watch.look(newest(customer_entity=100))
    watch.told(View.CUSTOMER, [101, 7])
    assert watch.look(newest(customer_entity=101, sales_order=5)) == {}
    watch.told(View.ORDER, range(4, 6))
    assert watch.look(newest(customer_entity=101, sales_order=5)) == {"customer_entity": True, "sales_order": True}


def test_what_nothing_told_of_was_not_heard_whatever_other_views_tell() -> None:
    watch = Watch()
    watch.look(newest(customer_entity=100, customer_address_entity=100))
    watch.told(View.CUSTOMER_ADDRESS, [101])
    watch.told(View.CUSTOMER, [99])
    watch.look(newest(customer_entity=101, customer_address_entity=101))
    found = {"customer_entity": False, "customer_address_entity": True}
    assert watch.look(newest(customer_entity=101, customer_address_entity=101)) == found
    assert watch.look(newest(customer_entity=101, customer_address_entity=101)) == {}, "said once for each row"


def test_rows_that_go_are_no_news() -> None:
    watch = Watch()
    watch.look(newest(customer_entity=100))
    watch.look(newest(customer_entity=90))
    assert watch.look(newest(customer_entity=90)) == {}
