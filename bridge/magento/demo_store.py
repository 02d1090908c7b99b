"""The demo's store: SQLite with the tables of Magento that Tocsin touches, and triggers that write the same changelogs.

The one place that knows of it; never for a real shop. Columns that nothing here reads are left out. What differs from
MariaDB is held equal: rows that a foreign key removes or nulls fire triggers in SQLite and none in InnoDB, so the triggers
look whether the parent is still there. Who leads is `demo_session`'s.
"""

from pathlib import Path
from typing import Any

import sqlalchemy as sa

from bridge.contracts.errors import Refused
from bridge.magento.changelogs import View

_BUSY_SECONDS = 30

_TABLES = """
CREATE TABLE store_website (website_id INTEGER PRIMARY KEY, code TEXT UNIQUE, name TEXT, sort_order INTEGER DEFAULT 0,
    default_group_id INTEGER NOT NULL DEFAULT 0, is_default INTEGER DEFAULT 0);
CREATE TABLE store_group (group_id INTEGER PRIMARY KEY,
    website_id INTEGER NOT NULL DEFAULT 0 REFERENCES store_website (website_id) ON DELETE CASCADE,
    name TEXT NOT NULL, root_category_id INTEGER NOT NULL DEFAULT 0, default_store_id INTEGER NOT NULL DEFAULT 0,
    code TEXT UNIQUE);
CREATE TABLE store (store_id INTEGER PRIMARY KEY, code TEXT UNIQUE,
    website_id INTEGER NOT NULL DEFAULT 0 REFERENCES store_website (website_id) ON DELETE CASCADE,
    group_id INTEGER NOT NULL DEFAULT 0 REFERENCES store_group (group_id) ON DELETE CASCADE,
    name TEXT NOT NULL, sort_order INTEGER NOT NULL DEFAULT 0, is_active INTEGER NOT NULL DEFAULT 0);
CREATE TABLE core_config_data (config_id INTEGER PRIMARY KEY, scope TEXT NOT NULL DEFAULT 'default',
    scope_id INTEGER NOT NULL DEFAULT 0, path TEXT NOT NULL DEFAULT 'general', value TEXT,
    UNIQUE (scope, scope_id, path));
CREATE TABLE directory_country_region (region_id INTEGER PRIMARY KEY, country_id TEXT NOT NULL DEFAULT '0', code TEXT,
    default_name TEXT);
CREATE TABLE eav_entity_type (entity_type_id INTEGER PRIMARY KEY, entity_type_code TEXT NOT NULL,
    entity_model TEXT NOT NULL, entity_table TEXT);
CREATE TABLE eav_attribute (attribute_id INTEGER PRIMARY KEY,
    entity_type_id INTEGER NOT NULL DEFAULT 0 REFERENCES eav_entity_type (entity_type_id) ON DELETE CASCADE,
    attribute_code TEXT NOT NULL, backend_type TEXT NOT NULL DEFAULT 'static', frontend_input TEXT, frontend_label TEXT,
    is_user_defined INTEGER NOT NULL DEFAULT 0, UNIQUE (entity_type_id, attribute_code));
CREATE TABLE customer_entity (entity_id INTEGER PRIMARY KEY AUTOINCREMENT,
    website_id INTEGER REFERENCES store_website (website_id) ON DELETE SET NULL, email TEXT,
    group_id INTEGER NOT NULL DEFAULT 0, increment_id TEXT,
    store_id INTEGER DEFAULT 0 REFERENCES store (store_id) ON DELETE SET NULL,
    created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP, updated_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
    is_active INTEGER NOT NULL DEFAULT 1, firstname TEXT, middlename TEXT, lastname TEXT, dob TEXT, password_hash TEXT,
    rp_token TEXT, rp_token_created_at TEXT, default_billing INTEGER, default_shipping INTEGER, gender INTEGER,
    failures_num INTEGER DEFAULT 0, first_failure TEXT, lock_expires TEXT, session_cutoff TEXT,
    UNIQUE (email, website_id));
CREATE INDEX CUSTOMER_ENTITY_STORE_ID ON customer_entity (store_id);
CREATE TABLE customer_address_entity (entity_id INTEGER PRIMARY KEY AUTOINCREMENT,
    parent_id INTEGER REFERENCES customer_entity (entity_id) ON DELETE CASCADE,
    created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP, updated_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
    is_active INTEGER NOT NULL DEFAULT 1, city TEXT NOT NULL, company TEXT, country_id TEXT NOT NULL,
    firstname TEXT NOT NULL, lastname TEXT NOT NULL, postcode TEXT, region TEXT, region_id INTEGER, street TEXT NOT NULL,
    telephone TEXT NOT NULL);
CREATE INDEX CUSTOMER_ADDRESS_ENTITY_PARENT_ID ON customer_address_entity (parent_id);
CREATE TABLE sales_order (entity_id INTEGER PRIMARY KEY AUTOINCREMENT, state TEXT, status TEXT,
    store_id INTEGER REFERENCES store (store_id) ON DELETE SET NULL,
    customer_id INTEGER REFERENCES customer_entity (entity_id) ON DELETE SET NULL,
    grand_total NUMERIC, base_currency_code TEXT, customer_is_guest INTEGER, billing_address_id INTEGER,
    shipping_address_id INTEGER, increment_id TEXT, quote_id INTEGER,
    customer_email TEXT, customer_firstname TEXT, customer_lastname TEXT,
    created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP, updated_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
    UNIQUE (increment_id, store_id));
CREATE INDEX SALES_ORDER_CUSTOMER_ID ON sales_order (customer_id);
CREATE INDEX SALES_ORDER_QUOTE_ID ON sales_order (quote_id);
CREATE TABLE sales_order_grid (entity_id INTEGER PRIMARY KEY, customer_id INTEGER);
CREATE INDEX SALES_ORDER_GRID_CUSTOMER_ID ON sales_order_grid (customer_id);
CREATE TABLE quote (entity_id INTEGER PRIMARY KEY AUTOINCREMENT, store_id INTEGER, is_active INTEGER DEFAULT 1,
    customer_id INTEGER, customer_email TEXT);
CREATE TABLE sales_order_address (entity_id INTEGER PRIMARY KEY AUTOINCREMENT,
    parent_id INTEGER REFERENCES sales_order (entity_id) ON DELETE CASCADE, customer_address_id INTEGER,
    region_id INTEGER, customer_id INTEGER, region TEXT, postcode TEXT, lastname TEXT, street TEXT, city TEXT, email TEXT,
    telephone TEXT, country_id TEXT, firstname TEXT, address_type TEXT, company TEXT);
CREATE INDEX SALES_ORDER_ADDRESS_PARENT_ID ON sales_order_address (parent_id);
CREATE TABLE tocsin_provenance (id INTEGER PRIMARY KEY AUTOINCREMENT, record_id TEXT NOT NULL UNIQUE, root TEXT NOT NULL,
    customer_id INTEGER, order_id INTEGER, entity_type TEXT NOT NULL, entity_id INTEGER NOT NULL, attribute TEXT NOT NULL,
    model_id TEXT NOT NULL, model_version TEXT NOT NULL, run_id TEXT, dataset_version TEXT, generated_at TEXT NOT NULL,
    deleted_at TEXT, supersedes TEXT, kind TEXT NOT NULL, confidence NUMERIC, sensitivity TEXT NOT NULL,
    categories TEXT NOT NULL, elements TEXT NOT NULL, source_system TEXT, storage_location TEXT, input_fields TEXT,
    legal_basis TEXT, created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP);
CREATE INDEX TOCSIN_PROVENANCE_CUSTOMER_ID ON tocsin_provenance (customer_id);
CREATE INDEX TOCSIN_PROVENANCE_ORDER_ID ON tocsin_provenance (order_id);
CREATE TABLE tocsin_account_notice (id INTEGER PRIMARY KEY AUTOINCREMENT, notice_id TEXT NOT NULL UNIQUE,
    customer_id INTEGER NOT NULL, incident_id TEXT NOT NULL, title TEXT NOT NULL, body TEXT NOT NULL,
    locale TEXT NOT NULL, created_at TEXT NOT NULL, withdrawn_at TEXT, read_at TEXT);
CREATE INDEX TOCSIN_ACCOUNT_NOTICE_CUSTOMER_ID ON tocsin_account_notice (customer_id);
CREATE TABLE tocsin_heartbeat (id INTEGER PRIMARY KEY, relay TEXT NOT NULL, beat_at TEXT NOT NULL);
INSERT INTO tocsin_heartbeat VALUES (1, '', '1970-01-01 00:00:00')
"""
_VALUE_TYPES = {
    "varchar": "TEXT", "int": "INTEGER NOT NULL DEFAULT 0", "decimal": "NUMERIC NOT NULL DEFAULT 0",
    "text": "TEXT NOT NULL", "datetime": "TEXT",
}  # fmt: skip
_VALUE_TABLE = """
CREATE TABLE customer_entity_{type} (value_id INTEGER PRIMARY KEY,
    attribute_id INTEGER NOT NULL DEFAULT 0 REFERENCES eav_attribute (attribute_id) ON DELETE CASCADE,
    entity_id INTEGER NOT NULL DEFAULT 0 REFERENCES customer_entity (entity_id) ON DELETE CASCADE,
    value {affinity}, UNIQUE (entity_id, attribute_id))
"""
_CHANGELOG = (
    "CREATE TABLE {view}_cl (version_id INTEGER PRIMARY KEY AUTOINCREMENT,"
    " entity_id INTEGER NOT NULL DEFAULT 0{additional})"
)

_CUSTOMER_TOLD = (
    "website_id", "email", "group_id", "increment_id", "store_id", "is_active", "firstname", "middlename", "lastname",
    "dob", "default_billing", "default_shipping", "gender",
)  # fmt: skip
_ADDRESS_TOLD = (
    "parent_id", "city", "company", "country_id", "firstname", "lastname", "postcode", "region", "region_id", "street",
    "telephone", "is_active",
)  # fmt: skip
_ORDER_TOLD = (
    "store_id", "customer_id", "customer_is_guest", "billing_address_id", "shipping_address_id", "customer_email",
    "customer_firstname", "customer_lastname",
)  # fmt: skip
_ORDER_ADDRESS_TOLD = (
    "parent_id", "region_id", "region", "postcode", "lastname", "street", "city", "email", "telephone", "country_id",
    "firstname",
)  # fmt: skip
_PROVENANCE_TOLD = (
    "record_id", "root", "customer_id", "order_id", "entity_type", "entity_id", "attribute", "model_id", "model_version",
    "run_id", "dataset_version", "generated_at", "deleted_at", "supersedes", "kind", "confidence", "sensitivity",
    "categories", "elements", "source_system", "storage_location", "input_fields", "legal_basis",
)  # fmt: skip

_WATCHED: tuple[tuple[View, str, str, tuple[str, ...]], ...] = (
    (View.CUSTOMER, "customer_entity", "entity_id", _CUSTOMER_TOLD),
    (View.CUSTOMER_ADDRESS, "customer_address_entity", "parent_id", _ADDRESS_TOLD),
    *(
        (View.CUSTOMER_EAV, f"customer_entity_{kind}", "entity_id", ("attribute_id", "entity_id", "value"))
        for kind in _VALUE_TYPES
    ),
    (View.ORDER, "sales_order", "entity_id", _ORDER_TOLD),
    (View.ORDER, "sales_order_address", "parent_id", _ORDER_ADDRESS_TOLD),
    (View.PROVENANCE, "tocsin_provenance", "id", _PROVENANCE_TOLD),
    (View.ACCOUNT_NOTICE, "tocsin_account_notice", "id", ("read_at",)),
    (View.HEARTBEAT, "tocsin_heartbeat", "id", ("relay", "beat_at")),
)
"""What the module's mview.xml watches: view, table, the column that becomes `entity_id`, and whose change is told."""
_FORMER_CUSTOMERS = """
CREATE TRIGGER trg_sales_order_{name}_former AFTER {event} ON sales_order FOR EACH ROW WHEN {changed}
    EXISTS (SELECT 1 FROM customer_entity WHERE entity_id = OLD.customer_id)
BEGIN INSERT INTO tocsin_customer_cl (entity_id) VALUES (OLD.customer_id); END
"""
"""Whose order it was, which the module adds."""

_PARENTS = {
    "customer_address_entity": ("parent_id", "customer_entity"),
    **{f"customer_entity_{kind}": ("entity_id", "customer_entity") for kind in _VALUE_TYPES},
    "sales_order": ("customer_id", "customer_entity"),
    "sales_order_address": ("parent_id", "sales_order"),
}


def create_demo_store(path: Path) -> None:
    """Create the store's file at `path` with all tables and triggers, and no row. Raises Refused if it exists."""
    if path.exists():
        raise Refused(f"{path} exists; a store is never overwritten: remove it first")
    path.parent.mkdir(parents=True, exist_ok=True)
    engine = demo_engine(sa.URL.create("sqlite", database=str(path)))
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        connection.exec_driver_sql("BEGIN")
        for statement in _schema():
            connection.exec_driver_sql(statement)
        connection.exec_driver_sql("COMMIT")
    engine.dispose()


def _schema() -> list[str]:
    statements = [statement for statement in _TABLES.split(";\n") if statement.strip()]
    for kind, affinity in _VALUE_TYPES.items():
        statements.append(_VALUE_TABLE.replace("{type}", kind).replace("{affinity}", affinity))
    for view in View:
        additional = ", record_id TEXT, root TEXT" if view is View.PROVENANCE else ""
        statements.append(_CHANGELOG.replace("{view}", view).replace("{additional}", additional))
    for view, table, entity_column, told in _WATCHED:
        statements += [_trigger(view, table, entity_column, told, event) for event in ("INSERT", "UPDATE", "DELETE")]
    for event, changed in (("UPDATE", "NEW.customer_id IS NOT OLD.customer_id AND"), ("DELETE", "")):
        statements.append(
            _FORMER_CUSTOMERS.replace("{event}", event).replace("{name}", event.lower()).replace("{changed}", changed)
        )
    return statements


def _trigger(view: View, table: str, entity_column: str, told: tuple[str, ...], event: str) -> str:
    row = "OLD" if event == "DELETE" else "NEW"
    columns, values = "entity_id", f"IFNULL({row}.{entity_column}, 0)"
    if view is View.PROVENANCE:
        columns, values = f"{columns}, record_id, root", f"{values}, {row}.record_id, {row}.root"
    when = ""
    if event == "UPDATE":
        when = " OR ".join(f"NEW.{column} IS NOT OLD.{column}" for column in told)
    if table in _PARENTS and event != "INSERT":
        key, parent = _PARENTS[table]
        parent_is_there = f"EXISTS (SELECT 1 FROM {parent} WHERE entity_id = OLD.{key})"  # noqa: S608  our own names
        if event == "DELETE" and table != "sales_order":
            when = f"OLD.{key} IS NULL OR {parent_is_there}"
        elif event == "UPDATE" and table == "sales_order":
            when = f"({when}) AND (NEW.{key} IS OLD.{key} OR NEW.{key} IS NOT NULL OR {parent_is_there})"
    condition = f"WHEN {when} " if when else ""
    head = f"CREATE TRIGGER trg_{table}_after_{event.lower()} AFTER {event} ON {table} FOR EACH ROW"
    return f"{head} {condition}BEGIN INSERT INTO {view}_cl ({columns}) VALUES ({values}); END"  # noqa: S608  our own names


def demo_engine(url: sa.URL, *, autocommit: bool = True) -> sa.Engine:
    """Return an engine for the store's file: foreign keys on, patient with other writers.

    `autocommit` False is for who plays the shop, whose changes come in transactions. Foreign keys hold only over this
    engine: SQLite ignores them on a connection that does not ask.
    """
    engine = sa.create_engine(
        url,
        isolation_level="AUTOCOMMIT" if autocommit else "SERIALIZABLE",
        hide_parameters=True,
        connect_args={"timeout": _BUSY_SECONDS, "check_same_thread": False},
    )

    @sa.event.listens_for(engine, "connect")
    def _set_up(connection: Any, _record: object) -> None:
        # As on MariaDB: text that is no UTF-8 is read, and named as a fault.
        connection.text_factory = lambda stored: stored.decode(errors="replace")
        cursor = connection.cursor()
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.close()

    return engine
