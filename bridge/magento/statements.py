"""The SQL that MariaDB, MySQL and the demo's SQLite share: `{p}` is the store's table prefix, `{ids}` a list of integers.

An entity's state is one row: its id and a JSON document that the database builds, so that a wide row costs the driver one
column. Values that may be anything (decimals, times, JSON columns) travel as text: a bad one then spoils itself only.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from bridge.contracts.errors import BadInput
from bridge.magento.catalog import Attribute
from bridge.magento.changelogs import View, runs

_ADDRESS = (
    "'{alias}_country', {t}.country_id, '{alias}_region_id', {t}.region_id, '{alias}_region', {t}.region, "
    "'{alias}_postcode', {t}.postcode, '{alias}_city', {t}.city, '{alias}_street', {t}.street, "
    "'{alias}_telephone', {t}.telephone, '{alias}_first_name', {t}.firstname, '{alias}_last_name', {t}.lastname"
)


def _address(alias: str, table: str) -> str:
    return _ADDRESS.replace("{alias}", alias).replace("{t}", table)


# In two nested documents, because SQLite limits a function's arguments.
_CUSTOMER_DOCUMENT = """JSON_OBJECT(
    'website_id', c.website_id, 'store_id', c.store_id, 'email', c.email,
    'first_name', c.firstname, 'last_name', c.lastname,
    'same_address', CASE WHEN c.default_shipping = c.default_billing THEN 1 END,
    {billing}, {shipping},
    'order_country', oa.country_id, 'order_region_id', oa.region_id,
    'attributes', JSON_OBJECT({attributes})
)"""
_CUSTOMER_ADDRESSES = """
LEFT JOIN {p}customer_address_entity b ON b.entity_id = c.default_billing AND b.parent_id = c.entity_id
LEFT JOIN {p}customer_address_entity s ON s.entity_id = c.default_shipping AND s.parent_id = c.entity_id
LEFT JOIN {p}sales_order o
    ON o.entity_id = (SELECT MAX(latest.entity_id) FROM {p}sales_order latest WHERE latest.customer_id = c.entity_id)
LEFT JOIN {p}sales_order_address oa ON oa.entity_id = o.billing_address_id AND oa.parent_id = o.entity_id
"""
_CUSTOMERS = (
    "SELECT c.entity_id, {customer} FROM {p}customer_entity c {addresses} WHERE c.entity_id IN ({ids})".replace(
        "{customer}", _CUSTOMER_DOCUMENT
    ).replace("{addresses}", _CUSTOMER_ADDRESSES)
)

_ATTRIBUTE = (
    "'{code}', (SELECT CAST(v.value AS CHAR) FROM {p}customer_entity_{type} v"
    " WHERE v.entity_id = c.entity_id AND v.attribute_id = {id})"
)

WITHIN, UNIT, RECORD, NOTHING = "\x1d", "\x1f", "\x1e", "\x1c"
"""Between what many customers have in common, between the fields of one, and between customers, and what stands for a value
that is not there: characters that nobody types.
"""


def _at_once(*fields: str) -> str:
    """Return all rows' fields as one value. Each row is made binary by itself: text is put together letter by letter."""
    return f"GROUP_CONCAT(CONVERT(CONCAT_WS('{UNIT}',{','.join(fields)},'.') USING binary) SEPARATOR '{RECORD}')"


def _or_empty(*columns: str) -> list[str]:
    return [f"IFNULL({column},'')" for column in columns]


def _pair(*columns: str) -> str:
    return f"CONCAT_WS('{WITHIN}',{','.join(_or_empty(*columns))})"


def _address_at_once(alias: str) -> str:
    columns = ("region", "postcode", "city", "street", "telephone", "firstname", "lastname")
    return _at_once(
        *_or_empty(f"{alias}.parent_id"),
        _pair(f"{alias}.country_id", f"{alias}.region_id"),
        *_or_empty(*(f"{alias}.{column}" for column in columns)),
    )


_CUSTOMER_AT_ONCE = _at_once(_pair("c.website_id", "c.store_id"), *_or_empty("c.email", "c.firstname", "c.lastname"))
CUSTOMERS_AT_ONCE = (
    "SELECT COUNT(*), GROUP_CONCAT(c.entity_id), {said}, GROUP_CONCAT(IFNULL(c.default_billing,0)),"
    " GROUP_CONCAT(IFNULL(c.default_shipping,0)) FROM {p}customer_entity c WHERE c.entity_id IN ({ids})"
).replace("{said}", _CUSTOMER_AT_ONCE)
"""How many customers there are, their ids, what is said of each, with a full stop behind (website and store, e-mail, and names)
and, all in the same order, the ids of their default addresses, 0 for none.
"""
ADDRESSES_AT_ONCE = (
    "SELECT COUNT(*), GROUP_CONCAT(a.entity_id), {said} FROM {p}customer_address_entity a WHERE a.entity_id IN ({ids})"
).replace("{said}", _address_at_once("a"))
"""The same of addresses: whose it is, country and region id, and `snapshots.ADDRESS_FIELDS`.

Asked for beside the customers, not joined to them: rows that lie together are read for a fifth of what looking up each costs.
"""
_CUSTOMERS_JOINED = """
SELECT COUNT(*), GROUP_CONCAT(c.entity_id), {said}, GROUP_CONCAT(c.default_shipping <=> c.default_billing),
    {billing}, {shipping}{values}
FROM {p}customer_entity c
LEFT JOIN {p}customer_address_entity b ON b.entity_id = c.default_billing AND b.parent_id = c.entity_id
LEFT JOIN {p}customer_address_entity s
    ON s.entity_id = IF(c.default_shipping = c.default_billing, NULL, c.default_shipping) AND s.parent_id = c.entity_id
{joins}
WHERE c.entity_id IN ({ids})
"""
_MOST_JOINED = 40
"""Attributes whose values one statement can join: MariaDB and MySQL join 61 tables."""


def customers_joined(attributes: Sequence[Attribute]) -> str | None:
    """Return the query for the same customers with all that belongs to them, or None for more attributes than can be joined.

    After what is said of each it answers whether billing and shipping are one address, what is said of the two (of one address
    as of billing only), and of each attribute how many values there are and the values, with NOTHING for each that is not.
    """
    if len(attributes) > _MOST_JOINED:
        return None
    values = "".join(
        f", COUNT(v{number}.value), " + _at_once(f"IFNULL(v{number}.value,'{NOTHING}')")
        for number in range(len(attributes))
    )
    joins = "\n".join(
        f"LEFT JOIN {{p}}customer_entity_{attribute.backend_type} v{number}"
        f" ON v{number}.entity_id = c.entity_id AND v{number}.attribute_id = {attribute.attribute_id}"
        for number, attribute in enumerate(attributes)
    )
    text = _CUSTOMERS_JOINED.replace("{said}", _CUSTOMER_AT_ONCE).replace("{values}", values).replace("{joins}", joins)
    return text.replace("{billing}", _address_at_once("b")).replace("{shipping}", _address_at_once("s"))


def values_at_once(attribute: Attribute) -> str:
    """Return the query for how many of the customers have a value of `attribute`, who they are, and the values, as two values.

    Asked for beside the customers, as the addresses are: Magento's index of entity, attribute and value holds all of it.
    """
    return (
        f"SELECT COUNT(*), GROUP_CONCAT(v.entity_id), {_at_once('v.value')}"  # noqa: S608  our own columns
        f" FROM {{p}}customer_entity_{attribute.backend_type} v"
        f" WHERE v.entity_id IN ({{ids}}) AND v.attribute_id = {attribute.attribute_id} AND v.value IS NOT NULL"
    )


LAST_ORDERS = """
SELECT o.customer_id, a.country_id, a.region_id
FROM (SELECT MAX(l.entity_id) AS entity_id FROM {p}sales_order l WHERE l.customer_id IN ({ids}) GROUP BY l.customer_id) n
JOIN {p}sales_order o ON o.entity_id = n.entity_id
JOIN {p}sales_order_address a ON a.entity_id = o.billing_address_id AND a.parent_id = o.entity_id
"""
LAST_ORDERS_AT_ONCE = LAST_ORDERS.replace(
    "SELECT o.customer_id, a.country_id, a.region_id",
    f"SELECT COUNT(*), GROUP_CONCAT(o.customer_id), {_at_once(_pair('a.country_id', 'a.region_id'))}",
)
"""The same as one row: how many, whose, and where."""


_HOLDS_PROVENANCE = "EXISTS (SELECT 1 FROM {p}tocsin_provenance r WHERE r.order_id = o.entity_id)"
_IS_KEPT = "EXISTS (SELECT 1 FROM {p}tocsin_kept_order k WHERE k.order_id = o.entity_id)"
# NULL instead of a document: the order is there and holds no provenance.
_ORDERS = """
SELECT o.entity_id, CASE WHEN {holds_provenance}
THEN JSON_OBJECT(
    'customer_id', o.customer_id, 'store_id', o.store_id, 'email', o.customer_email,
    'first_name', o.customer_firstname, 'last_name', o.customer_lastname,
    {billing}, {shipping}
) END
FROM {p}sales_order o
LEFT JOIN {p}sales_order_address b ON b.entity_id = o.billing_address_id AND b.parent_id = o.entity_id
LEFT JOIN {p}sales_order_address s ON s.entity_id = o.shipping_address_id AND s.parent_id = o.entity_id
WHERE o.entity_id IN ({ids})
"""

_RECORD_DOCUMENT = """JSON_OBJECT(
    'record_id', r.record_id, 'root', r.root, 'customer_id', r.customer_id, 'order_id', r.order_id,
    'entity_type', r.entity_type, 'entity_id', r.entity_id, 'attribute', r.attribute,
    'model_id', r.model_id, 'model_version', r.model_version, 'run_id', r.run_id, 'dataset_version', r.dataset_version,
    'generated_at', CAST(r.generated_at AS CHAR), 'deleted_at', CAST(r.deleted_at AS CHAR),
    'supersedes', r.supersedes, 'kind', r.kind, 'confidence', CAST(r.confidence AS CHAR),
    'sensitivity', r.sensitivity, 'categories', SUBSTR(CAST(r.categories AS CHAR), 1, 65000),
    'elements', SUBSTR(CAST(r.elements AS CHAR), 1, 65000),
    'source_system', r.source_system, 'storage_location', r.storage_location,
    'input_fields', SUBSTR(CAST(r.input_fields AS CHAR), 1, 65000), 'legal_basis', r.legal_basis,
    'created_at', CAST(r.created_at AS CHAR)
)"""
PROVENANCE = "SELECT r.id, {record} FROM {p}tocsin_provenance r WHERE r.id IN ({ids})".replace(
    "{record}", _RECORD_DOCUMENT
)


def _text(column: str) -> str:
    # unescaped: who reads it makes sure that nothing needs an escape
    return f"IFNULL(CONCAT('\"',r.{column},'\"'),'null')"


def _instant(column: str) -> str:
    return f"IFNULL(CONCAT('\"',REPLACE(r.{column},' ','T'),'Z\"'),'null')"


_IS_DATE = "(r.{column}>='0001-01-01' AND r.{column}+INTERVAL 0 DAY=r.{column} AND LENGTH(r.{column})=19)"
_LATE = "r.created_at>r.generated_at+INTERVAL 1 DAY"
_ITS_CUSTOMERS, _ITS_ORDERS = (f"BINARY r.root=CONCAT('{kind}/',r.{kind}_id)" for kind in ("customer", "order"))
MAY_BE_NULL = (
    "order_id", "run_id", "dataset_version", "deleted_at", "supersedes", "confidence", "storage_location",
)  # fmt: skip
"""Of what is a row's own, what whole batches may be without."""


@dataclass(frozen=True, slots=True)
class Alike:
    """What all rows of a batch have in common, as far as the statement that reads them is shorter for it."""

    without: frozenset[str] = frozenset()
    """Those of MAY_BE_NULL that are NULL in every row."""
    late: bool | None = None
    """Whether all rows, or none, were recorded more than a day after they were written; None for some."""


ANY_ROWS = Alike()


def _plain(alike: Alike) -> str:
    """Return the condition for what the model would say unchanged; everything else takes the model's way."""
    has_order, has_deletion = ("order_id" not in alike.without, "deleted_at" not in alike.without)
    when = {
        None: "r.generated_at<=r.created_at+INTERVAL 1 DAY AND LENGTH(r.created_at)=19",
        True: f"{_LATE} AND LENGTH(r.created_at)=19",
        False: "r.created_at BETWEEN r.generated_at-INTERVAL 1 DAY AND r.generated_at+INTERVAL 1 DAY",
    }[alike.late]
    conditions = [
        f"({_ITS_CUSTOMERS} OR {_ITS_ORDERS}) AND IFNULL(r.order_id,1)<>0" if has_order else _ITS_CUSTOMERS,
        "r.entity_id<>0 AND IFNULL(r.customer_id,1)<>0 AND r.record_id<>''",
        _IS_DATE.replace("{column}", "generated_at"),
        f"r.generated_at>='1990-01-01' AND {when}",
        "LENGTH(r.categories)+LENGTH(r.elements)+IFNULL(LENGTH(r.input_fields),0)<=4000",
    ]
    if has_deletion:
        is_date = _IS_DATE.replace("{column}", "deleted_at")
        conditions.append(f"(r.deleted_at IS NULL OR {is_date} AND r.deleted_at>=r.generated_at)")
    return " AND ".join(conditions)


def _own(alike: Alike) -> str:
    """Return what is a row's own, as JSON without escapes, as the arguments of a CONCAT."""
    loaded_at = {None: f"IF({_LATE},{_instant('created_at')},'null')", True: _instant("created_at"), False: None}
    values = {
        "customer_id": "IFNULL(r.customer_id,'null')", "order_id": "IFNULL(r.order_id,'null')", "entity_id": "r.entity_id",
        "run_id": _text("run_id"), "dataset_version": _text("dataset_version"), "generated_at": _instant("generated_at"),
        "deleted_at": _instant("deleted_at"), "supersedes": _text("supersedes"), "confidence": "IFNULL(r.confidence,'null')",
        "storage_location": _text("storage_location"), "loaded_at": loaded_at[alike.late],
    }  # fmt: skip
    arguments = ['\'{"root":"\'', "r.root", '\'","record_id":"\'', "r.record_id"]
    between = '"'
    for name, value in values.items():
        between += f',"{name}":'
        if value is None or name in alike.without:
            between += "null"
        else:
            arguments += [f"'{between}'", value]
            between = ""
    return ",".join([*arguments, f"'{between},'"])


OWN_QUOTES = 32
"""Quotation marks in what is a row's own, without those around the values that may be NULL."""
NEEDS_MODEL = "\x1d"
"""Instead of a beginning of an event."""
SHARED_FIELDS = (
    "entity_type", "attribute", "model_id", "model_version", "kind", "sensitivity", "categories", "elements",
    "source_system", "input_fields", "legal_basis",
)  # fmt: skip
"""What thousands of records have in common."""
SHARED_OR_NULL = frozenset({"source_system", "input_fields", "legal_basis"})
_SHARED = ",".join(
    f"IFNULL(CONCAT('=',r.{name}),'')" if name in SHARED_OR_NULL else f"r.{name}" for name in SHARED_FIELDS
)
_WRITTEN_PROVENANCE = (
    "SELECT COUNT(*),{late},{there},GROUP_CONCAT(CONVERT(CONCAT(r.id,CASE WHEN {plain}"
    " THEN CONCAT('\x1e',r.root,'\x1e',r.record_id,'\x1e',{own}) ELSE '\x1e\x1e\x1e{needs_model}' END) USING binary)"
    " SEPARATOR '\x1e'),GROUP_CONCAT(CONVERT(CONCAT_WS('\x1f',{shared},'.') USING binary) SEPARATOR '\x1e')"
    " FROM {p}tocsin_provenance r WHERE r.id IN ({ids})"
)


@lru_cache
def written_provenance(alike: Alike = ANY_ROWS) -> str:
    """Return the query for what the events of provenance rows say, each in two parts.

    How many rows, how many recorded late, how many with a value in each column of MAY_BE_NULL, and two values. The first has four
    fields a row: row id, root, record id and the beginning of the event, which is what is the row's own, as JSON, but without
    escapes. Where the row needs the model, NEEDS_MODEL stands for that. The second has, in the same order, what many rows share:
    SHARED_FIELDS with a unit separator between (`=` before those that may be NULL) and a full stop behind. Between fields and
    rows stands a record separator. So the end of the event is checked and written once for thousands of rows, a batch costs the
    driver one row, and no field costs a Python object. Each part is made binary by itself: text is put together letter by letter.

    Rows that are not `alike` are seen by the counts, or need the model; the answer is then to be asked for again without it.
    """
    late = {None: f"COUNT(IF({_LATE},1,NULL))", True: "COUNT(*)", False: "0"}
    text = _WRITTEN_PROVENANCE.replace("{plain}", _plain(alike)).replace("{own}", _own(alike))
    text = text.replace("{shared}", _SHARED).replace("{late}", late[alike.late]).replace("{needs_model}", NEEDS_MODEL)
    return text.replace("{there}", ",".join(f"COUNT(r.{name})" for name in MAY_BE_NULL))


READ_NOTICES = """
SELECT n.notice_id, n.customer_id, CAST(n.read_at AS CHAR)
FROM {p}tocsin_account_notice n
WHERE n.id IN ({ids}) AND n.read_at IS NOT NULL
ORDER BY n.id
"""

CUSTOMERS_OF_ORDERS = (
    "SELECT DISTINCT o.customer_id FROM {p}sales_order o WHERE o.entity_id IN ({ids}) AND o.customer_id IS NOT NULL"
)
ORDERS_OF_CUSTOMERS = (
    "SELECT DISTINCT r.order_id FROM {p}tocsin_provenance r WHERE r.customer_id IN ({ids}) AND r.order_id IS NOT NULL"
)
ORDERS_ONCE_OF_CUSTOMERS = (
    "SELECT g.entity_id FROM {p}sales_order_grid g JOIN {p}sales_order o ON o.entity_id = g.entity_id"
    " WHERE g.customer_id IN ({ids}) AND o.customer_id IS NULL"
)
"""The same where an order was assigned after its records were written: Magento's list of orders has no foreign key, and goes
on naming its customer.
"""
KEPT_ORDERS_OF_CUSTOMERS = "SELECT k.order_id FROM {p}tocsin_kept_order k WHERE k.customer_id IN ({ids})"
KNOWN_ORDERS = (
    "SELECT DISTINCT r.order_id, r.customer_id, 0 FROM {p}tocsin_provenance r WHERE r.order_id IN ({ids})"
    " UNION ALL SELECT k.order_id, k.customer_id, 1 FROM {p}tocsin_kept_order k WHERE k.order_id IN ({ids})"
)
"""Whose these orders are by their records (0) and by what is noted of them (1)."""
KEEP_ORDERS = "REPLACE INTO {p}tocsin_kept_order (order_id, customer_id) VALUES (:order_id, :customer_id)"
KEPT_TABLE_THERE = (
    "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE()"
    " AND TABLE_NAME = '{p}tocsin_kept_order'"
)
"""Whether there is one that this account may use."""
GRID_COLUMNS = (
    "SELECT COUNT(*) FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = DATABASE()"
    " AND TABLE_NAME = '{p}sales_order_grid' AND COLUMN_NAME IN ('entity_id', 'customer_id')"
)
"""How many of the two this account may read."""

STORES = "SELECT t.store_id, t.website_id FROM {p}store t"
CONFIGURATION = (
    "SELECT d.path, d.scope, d.scope_id, d.value FROM {p}core_config_data d"
    " WHERE d.path IN ('general/locale/code', 'general/country/default', 'tocsin/provenance/ai_attributes')"
    " AND d.value IS NOT NULL"
)
REGIONS = "SELECT g.region_id, g.country_id, g.code FROM {p}directory_country_region g WHERE g.code IS NOT NULL"
ATTRIBUTES = (
    "SELECT a.attribute_code, a.attribute_id, a.backend_type FROM {p}eav_attribute a"
    " JOIN {p}eav_entity_type t ON t.entity_type_id = a.entity_type_id WHERE t.entity_type_code = 'customer'"
)

_CHANGELOGS = ", ".join(f"'{{p}}{view.changelog}'" for view in View)
NUMBERS_LEFT = """
SELECT t.TABLE_NAME, {last} + 1 - t.AUTO_INCREMENT FROM information_schema.TABLES t
JOIN information_schema.COLUMNS c ON c.TABLE_SCHEMA = t.TABLE_SCHEMA AND c.TABLE_NAME = t.TABLE_NAME
WHERE t.TABLE_SCHEMA = DATABASE() AND t.TABLE_NAME IN ({changelogs}) AND c.COLUMN_NAME = 'version_id' AND c.DATA_TYPE = 'int'
    AND t.AUTO_INCREMENT > {last} - {few}
""".replace("{changelogs}", _CHANGELOGS).replace("{last}", "4294967295")
"""Changelogs as Magento makes them that can number `{few}` changes more at most, and how many: the triggers ignore that there
are no more, and tell nothing from then on.
"""
HAVE_TIMES = (
    "SELECT COUNT(*) FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = DATABASE() AND COLUMN_NAME = 'changed_at'"  # noqa: S608
    f" AND TABLE_NAME IN ({_CHANGELOGS})"
)
"""How many changelogs say when a change was made: Magento's own do not, the module adds it."""
OLDEST_TIMES = " UNION ALL ".join(
    f"(SELECT CAST(l.changed_at AS CHAR) FROM {{p}}{view.changelog} l ORDER BY l.version_id LIMIT 1)"  # noqa: S608  as above
    for view in View
)

HEARTBEAT = "SELECT h.relay, CAST(h.beat_at AS CHAR) FROM {p}tocsin_heartbeat h WHERE h.id = 1"
BEAT = "UPDATE {p}tocsin_heartbeat SET relay = :relay, beat_at = :beat_at WHERE id = 1"

# `{now_ms}` and `{lead_ms}` are the lead's: the server's clock, and how long a lease lasts, in milliseconds.
ADD_LEASE = "INSERT IGNORE INTO {p}tocsin_relay_lease (id, holder, fencing_number, held_until_ms) VALUES (1, '', 0, 0)"
LEASE_NUMBER = "SELECT fencing_number FROM {p}tocsin_relay_lease WHERE id = 1"
TAKE_LEASE = (
    "UPDATE {p}tocsin_relay_lease SET holder = :holder, fencing_number = fencing_number + 1,"
    " held_until_ms = {now_ms} + {lead_ms} WHERE id = 1 AND held_until_ms < {now_ms}"
)
RENEW_LEASE = (
    "UPDATE {p}tocsin_relay_lease SET held_until_ms = {now_ms} + {lead_ms} WHERE id = 1 AND fencing_number = :number"
)
RELEASE_LEASE = "UPDATE {p}tocsin_relay_lease SET held_until_ms = 0 WHERE id = 1 AND fencing_number = :number"

ADD_NOTICE = (
    "INSERT INTO {p}tocsin_account_notice"
    " (notice_id, customer_id, incident_id, title, body, locale, created_at, withdrawn_at)"
    " VALUES (:notice_id, :customer_id, :incident_id, :title, :body, :locale, :created_at, :withdrawn_at)"
)
# Withdrawn is final, and a withdrawal carries no text: so repeats and replays in any order end the same.
CHANGE_NOTICE = (
    "UPDATE {p}tocsin_account_notice SET title = :title, body = :body, locale = :locale"
    " WHERE notice_id = :notice_id AND withdrawn_at IS NULL"
)
WITHDRAW_NOTICE = (
    "UPDATE {p}tocsin_account_notice SET withdrawn_at = :withdrawn_at"
    " WHERE notice_id = :notice_id AND withdrawn_at IS NULL"
)
NOTICES_THERE = "SELECT n.notice_id FROM {p}tocsin_account_notice n WHERE n.notice_id IN :words"
HAS_NOTICE = "SELECT 1 FROM {p}tocsin_account_notice WHERE notice_id = :notice_id"

BACKEND_TYPES = ("varchar", "int", "decimal", "text", "datetime")


def has_value_table(attribute: Attribute) -> bool:
    """Return whether a value table holds the attribute's values, and its code can stand in a statement."""
    code = attribute.code
    return attribute.backend_type in BACKEND_TYPES and code.isascii() and code.replace("_", "").isalnum()


def checked_prefix(prefix: str) -> str:
    """Return Magento's table prefix. Raises BadInput if it could be more than part of a name."""
    if not re.fullmatch(r"[A-Za-z0-9_]{0,32}", prefix):
        raise BadInput(f"store.table_prefix {prefix!r}: letters, digits and _ only, as in Magento's app/etc/env.php")
    return prefix


def customers(attributes: Iterable[Attribute]) -> str:
    """Return the query for customers' states with the values of `attributes`, each of which has a value table."""
    parts = []
    for attribute in attributes:
        part = _ATTRIBUTE.replace("{code}", attribute.code).replace("{type}", attribute.backend_type)
        parts.append(part.replace("{id}", str(attribute.attribute_id)))
    text = _CUSTOMERS.replace("{billing}", _address("billing", "b")).replace("{shipping}", _address("shipping", "s"))
    return text.replace("{attributes}", ", ".join(parts))


def orders(*, hold_provenance: bool = False, kept: bool = False) -> str:
    """Return the query for orders' states; with `hold_provenance` of orders that are known to hold some, with `kept` also of
    those that the store notes as such.
    """
    holding = f"({_HOLDS_PROVENANCE} OR {_IS_KEPT})" if kept else _HOLDS_PROVENANCE
    text = _ORDERS.replace("{holds_provenance}", "1 = 1" if hold_provenance else holding)
    return text.replace("{billing}", _address("billing", "b")).replace("{shipping}", _address("shipping", "s"))


# A record's person is who its root names; a foreign key removes no record, so there may be none any more.
_ROOT_NUMBER = (
    "CASE WHEN SUBSTR(r.root, 1, {length}) = '{kind}/' THEN CAST(SUBSTR(r.root, {length} + 1) AS UNSIGNED) END"
)
_ORDER_DOCUMENT = """JSON_OBJECT(
    'customer_id', x.customer_id, 'store_id', x.store_id, 'email', x.customer_email,
    {billing}, {shipping}
)"""
_ANSWERS = """
SELECT r.id, {record}, c.entity_id, {customer}, x.entity_id, {order}
FROM {p}tocsin_provenance r
LEFT JOIN {p}customer_entity c ON c.entity_id = {customer_root}
{addresses}
LEFT JOIN {p}sales_order x ON x.entity_id = {order_root}
LEFT JOIN {p}sales_order_address xb ON xb.entity_id = x.billing_address_id AND xb.parent_id = x.entity_id
LEFT JOIN {p}sales_order_address xs ON xs.entity_id = x.shipping_address_id AND xs.parent_id = x.entity_id
WHERE r.id > {after} AND {narrowing} ORDER BY r.id LIMIT {limit}
"""


def answers(narrowing: str) -> str:
    """Return the one query that answers a scope: records with who they are about, in the order of row ids.

    `narrowing` is a condition on `r`; `{after}` and `{limit}` stay to be filled.
    """
    customer = _CUSTOMER_DOCUMENT.replace("{billing}", _address("billing", "b")).replace("{attributes}", "")
    order = _ORDER_DOCUMENT.replace("{billing}", _address("billing", "xb"))
    text = _ANSWERS.replace("{record}", _RECORD_DOCUMENT).replace("{addresses}", _CUSTOMER_ADDRESSES)
    text = text.replace("{customer}", customer.replace("{shipping}", _address("shipping", "s")))
    text = text.replace("{order}", order.replace("{shipping}", _address("shipping", "xs")))
    for kind in ("customer", "order"):
        number = _ROOT_NUMBER.replace("{kind}", kind).replace("{length}", str(len(kind) + 1))
        text = text.replace(f"{{{kind}_root}}", number)
    return text.replace("{narrowing}", narrowing)


_VALUE_HOLDERS = """
SELECT v.entity_id FROM {p}customer_entity_{type} v JOIN {p}customer_entity c ON c.entity_id = v.entity_id
LEFT JOIN {p}tocsin_provenance r
    ON r.customer_id = v.entity_id AND SUBSTR(r.root, 1, 6) <> 'order/' AND r.attribute = '{code}'
WHERE v.attribute_id = {id} AND v.value IS NOT NULL AND r.id IS NULL AND v.entity_id > {after}
ORDER BY v.entity_id LIMIT {limit}
"""


def value_holders(attribute: Attribute) -> str:
    """Return the query for the customers with a value of `attribute`, and no record of it; `{after}` and `{limit}` stay."""
    text = _VALUE_HOLDERS.replace("{code}", attribute.code).replace("{type}", attribute.backend_type)
    return text.replace("{id}", str(attribute.attribute_id))


WRITERS = "SELECT DISTINCT r.attribute, r.model_id FROM {p}tocsin_provenance r"

_FEW_RUNS = 8


def changelogs(
    limit: int, besides: Mapping[View, Sequence[int]], views: Iterable[View] = tuple(View), *, behind: bool = False
) -> str:
    """Return the query for the oldest `limit` rows of each changelog of `views`, without those of `besides`; with `behind` only
    those with higher ids than these.

    One row a changelog: the view's number, the sums of version and entity ids, and the ids themselves, comma separated (NULL
    where there are none). So a batch costs the driver six rows, however large it is; the sums show a value that was cut short.
    """
    columns = "SUM(l.version_id), SUM(l.entity_id), GROUP_CONCAT(l.version_id), GROUP_CONCAT(l.entity_id)"
    return _of_changelogs(columns, limit, besides, views, behind=behind)


def unbroken(limit: int, besides: Mapping[View, Sequence[int]], *, behind: bool = False) -> str:
    """Return the query that tells of the same rows whether they are unbroken, as they are where rows that follow each other
    changed one after the other; with `behind` of those only that would follow `besides` without a gap.

    One row a changelog: the view's number, how many, the first and the last version id, and the least and the greatest difference
    of entity id and version id. Where the two are equal, and the versions without a gap, this says every id.
    """
    difference = "CAST(l.entity_id AS SIGNED) - CAST(l.version_id AS SIGNED)"
    columns = f"COUNT(*), MIN(l.version_id), MAX(l.version_id), MIN({difference}), MAX({difference})"
    return _of_changelogs(columns, limit, besides, tuple(View), behind=behind, following=behind)


def _of_changelogs(
    columns: str, limit: int, besides: Mapping[View, Sequence[int]], views: Iterable[View], *, behind: bool,
    following: bool = False,
) -> str:  # fmt: skip
    select = f"SELECT {{number}}, {columns} FROM "  # noqa: S608  our own columns
    oldest = "(SELECT version_id, entity_id FROM {p}{changelog}{without} ORDER BY version_id LIMIT {limit}) l"
    # Without a table in between, for a third.
    next_ones = "{p}{changelog} l WHERE version_id > {last} AND version_id <= {last} + {limit}"
    texts = []
    for number, view in enumerate(View):
        if view in views:
            known = besides.get(view, ())
            text = next_ones.replace("{last}", str(known[-1])) if following and known else oldest
            text = text.replace("{changelog}", view.changelog).replace("{limit}", str(int(limit)))
            texts.append(
                (select + text.replace("{without}", _excluding(known, behind=behind))).replace("{number}", str(number))
            )
    return " UNION ALL ".join(texts)


def _excluding(version_ids: Sequence[int], *, behind: bool) -> str:
    if not version_ids:
        return ""
    if behind:
        return f" WHERE version_id > {version_ids[-1]}"
    known = runs(version_ids)
    if len(known) <= _FEW_RUNS:
        return " WHERE " + " AND ".join(f"NOT (version_id BETWEEN {first} AND {last})" for first, last in known)
    return f" WHERE version_id NOT IN ({_listed(version_ids)})"


GONE_PROVENANCE = """
SELECT l.entity_id, l.record_id, l.root FROM {p}tocsin_provenance_cl l
WHERE l.version_id BETWEEN {first} AND {last} AND l.entity_id IN ({ids}) ORDER BY l.version_id
"""
"""What the changelog says of rows that are no more."""
ROWS_OF_RECORDS = "SELECT r.id, r.record_id FROM {p}tocsin_provenance r WHERE r.record_id IN :words"


def settling(view: View, version_ids: Sequence[int]) -> list[str]:
    """Return the statements that delete the rows that were read, and no other.

    ORDER BY with a LIMIT keeps both servers from reading past the last of them, or all of a small table: there they would
    wait for rows that the shop has not committed yet.
    """
    known = runs(version_ids)
    if len(known) <= _FEW_RUNS:
        wheres = [(f"version_id BETWEEN {first} AND {last}", last - first + 1) for first, last in known]
    else:
        wheres = [(f"version_id IN ({_listed(version_ids)})", len(version_ids))]
    delete = f"DELETE FROM {{p}}{view.changelog} WHERE "  # noqa: S608  ids are integers
    return [f"{delete}{where} ORDER BY version_id LIMIT {count}" for where, count in wheres]


def forgetting(order_ids: Iterable[int]) -> str:
    """Return the statement that forgets what is noted of orders."""
    return f"DELETE FROM {{p}}tocsin_kept_order WHERE order_id IN ({_listed(sorted(order_ids))})"  # noqa: S608  integers


def settling_unordered(view: View, version_ids: Sequence[int]) -> list[str]:
    """Return the same for SQLite, which need not know LIMIT here and has one writer anyway."""
    return [f"DELETE FROM {{p}}{view.changelog} WHERE version_id IN ({_listed(version_ids)})"]  # noqa: S608


_SMALL_GAP, _WORTH_A_RANGE = 4, 8


def filled_near(text: str, ids: Iterable[int]) -> str:
    """Return a statement that asks for all of `ids`, of which there is one, and for few others that lie between them."""
    return _AMONG.sub(lambda found: near(found[1], ids), text)


def near(column: str, ids: Iterable[int]) -> str:
    """Return the condition for that.

    To look up a row costs a server as much as to read four or five that follow each other.
    """
    in_order = sorted(set(ids))
    first, last = in_order[0], in_order[-1]
    if last - first < 2 * len(in_order):
        return f"{column} BETWEEN {first} AND {last}"
    singles: list[int] = []
    ranges: list[str] = []
    begin = 0
    for place, number in enumerate(in_order, start=1):
        if place < len(in_order) and in_order[place] - number <= _SMALL_GAP:
            continue
        if place - begin < _WORTH_A_RANGE:
            singles += in_order[begin:place]
        else:
            ranges.append(f"{column} BETWEEN {in_order[begin]} AND {number}")
        begin = place
    if singles:
        ranges.append(f"{column} IN ({_listed(singles)})")
    return f"({' OR '.join(ranges)})"


_AMONG = re.compile(r"(\w+\.\w+) IN \(\{ids\}\)")


def filled(text: str, prefix: str, ids: Sequence[int] = (), limit: int = 0) -> str:
    """Return a statement ready to run: prefix, integers and limit in place."""
    filled = text.replace("{p}", prefix)
    if not (ids or limit):
        return filled
    in_order = ids if isinstance(ids, range) else sorted(set(ids))
    if len(ids) > _FEW_RUNS and len(known := runs(in_order)) <= _FEW_RUNS:
        # Ids that follow each other are read as a range, for an eighth of what looking up each costs the server.
        ranges = " OR ".join(rf"\1 BETWEEN {first} AND {last}" for first, last in known)
        filled = _AMONG.sub(f"({ranges})", filled)
    return filled.replace("{ids}", _listed(ids) if "{ids}" in filled else "").replace("{limit}", str(int(limit)))


def _listed(ids: Sequence[int]) -> str:
    return ",".join(map(str, map(int, ids)))
