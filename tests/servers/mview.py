"""Builds the triggers that Magento's mview would create for the module's views, from the module's own XML.

Written after the behaviour of `Magento\\Framework\\Mview\\View\\Subscription` in 2.4.7: one AFTER trigger for each event
of a table, with a statement for every view that watches it; an UPDATE is told only if a column that is not ignored has
another value (`<=>`, so NULL is a value like any other); and after the module's own `NarrowTriggerStatement`, which tells
of some tables only what its reader needs, and of some whose a row was before. Not for a real store: there Magento does it,
and `make magento-check` compares.
"""

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MODULE = Path(__file__).parents[2] / "magento_module"
EVENTS = ("INSERT", "UPDATE", "DELETE")
ALWAYS_IGNORED = frozenset({"updated_at"})
"""What Magento's own configuration ignores in every table."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """One table that a view watches."""

    view: str
    table: str
    entity_column: str
    additional: tuple[tuple[str, str], ...] = ()
    """Further columns of the row and their names in the changelog."""
    ignored: frozenset[str] = frozenset()
    """Columns whose change alone is not told."""
    told: frozenset[str] | None = None
    """The only columns whose change is told, if they are named."""
    former: tuple[tuple[str, str], ...] = ()
    """Columns that name whose the row is, each with the view that is told of whom it named before."""
    names: tuple[str, ...] = ()
    """Columns that say what the row is: where one changes, what it was is told as what no row is any more."""


def shipped_views() -> list[Subscription]:
    """Read the module's etc/mview.xml and, of its etc/di.xml, the columns that are ignored or told."""
    di = ET.parse(MODULE / "etc" / "di.xml").getroot()
    ignored = _columns(di, "ignoredUpdateColumnsBySubscription")
    told = _columns(di, "toldColumns")
    former = {
        (view.attrib["name"], table.attrib["name"]): tuple(
            (c.attrib["name"], str(c.text)) for c in table.iterfind("item")
        )
        for view in di.iterfind("type/arguments/argument[@name='formerOwners']/item")
        for table in view.iterfind("item")
    }
    names = _columns(di, "formerNames")
    return [
        Subscription(
            view=view.attrib["id"],
            table=table.attrib["name"],
            entity_column=table.attrib["entity_column"],
            additional=tuple(
                (c.attrib["name"], c.attrib["cl_name"]) for c in table.iterfind("additionalColumns/column")
            ),
            ignored=ignored.get((view.attrib["id"], table.attrib["name"]), frozenset()),
            told=told.get((view.attrib["id"], table.attrib["name"])),
            former=former.get((view.attrib["id"], table.attrib["name"]), ()),
            names=tuple(sorted(names.get((view.attrib["id"], table.attrib["name"]), ()))),
        )
        for view in ET.parse(MODULE / "etc" / "mview.xml").getroot().iterfind("view")
        for table in view.iterfind("subscriptions/table")
    ]


def _columns(di: ET.Element, name: str) -> dict[tuple[str, str], frozenset[str]]:
    """Return an argument's columns by view and table; an item that says `false` is none."""
    argument = di.find(f"type/arguments/argument[@name='{name}']")
    if argument is None:
        return {}
    return {
        (view.attrib["name"], table.attrib["name"]): frozenset(
            column.attrib["name"] for column in table.iterfind("item") if (column.text or "").strip() != "false"
        )
        for view in argument.iterfind("item")
        for table in view.iterfind("item")
    }


def triggers(subscriptions: Iterable[Subscription], columns: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield CREATE TRIGGER statements; `columns` are those of each watched table, as the database has them.

    Raises KeyError for a table that the database does not have.
    """
    by_table: dict[str, list[Subscription]] = {}
    for subscription in subscriptions:
        by_table.setdefault(subscription.table, []).append(subscription)
    for table, watchers in by_table.items():
        for event in EVENTS:
            body = "\n".join(_statement(event, watcher, columns[table]) for watcher in watchers)
            yield (
                f"CREATE TRIGGER `trg_{table}_after_{event.lower()}` AFTER {event} ON `{table}` FOR EACH ROW\n"
                f"BEGIN\n{body}\nEND"
            )


def _statement(event: str, subscription: Subscription, columns: Sequence[str]) -> str:
    row = "OLD" if event == "DELETE" else "NEW"
    names = ["`entity_id`", *(f"`{name}`" for _, name in subscription.additional)]
    values = [
        f"{row}.`{column}`" for column in (subscription.entity_column, *(name for name, _ in subscription.additional))
    ]
    insert = f"INSERT IGNORE INTO `{subscription.view}_cl` ({', '.join(names)}) VALUES ({', '.join(values)});"
    if event == "INSERT":
        return insert
    if event == "DELETE":
        return insert + _former(subscription, "OLD.`{column}` IS NOT NULL", besides=subscription.view)
    told = [column for column in columns if column not in subscription.ignored | ALWAYS_IGNORED]
    if subscription.told is not None:
        told = [column for column in columns if column in subscription.told] or told
    changed = " OR ".join(f"NOT(NEW.`{column}` <=> OLD.`{column}`)" for column in told)
    narrowed = f"IF ({changed}) THEN {insert} END IF;" if told else insert
    narrowed += _renamed(subscription)
    return narrowed + _former(subscription, "OLD.`{column}` IS NOT NULL AND NOT(NEW.`{column}` <=> OLD.`{column}`)")


def _renamed(subscription: Subscription) -> str:
    if not subscription.names:
        return ""
    changed = " OR ".join(f"NOT(NEW.`{name}` <=> OLD.`{name}`)" for name in subscription.names)
    columns = ", ".join(f"`{name}`" for name in subscription.names)
    values = ", ".join(f"OLD.`{name}`" for name in subscription.names)
    return (
        f" IF ({changed}) THEN INSERT IGNORE INTO `{subscription.view}_cl` (`entity_id`, {columns})"
        f" VALUES (4294967295, {values}); END IF;"
    )


def _former(subscription: Subscription, condition: str, besides: str | None = None) -> str:
    return "".join(
        f" IF ({condition.replace('{column}', column)}) THEN"
        f" INSERT IGNORE INTO `{view}_cl` (`entity_id`) VALUES (OLD.`{column}`); END IF;"
        for column, view in subscription.former
        if view != besides
    )
