"""The tables and views of one index file, and how their columns are stored."""

# ruff: noqa: S608  statements are put together from the constants here, compiled predicates and placeholders only

from collections.abc import Mapping

from consumers.adapters import index_answers

Columns = Mapping[str, str | list[str]]

PERSON_COLUMNS: Columns = {
    "root": "VARCHAR",
    "customer_id": "BIGINT",
    "order_id": "BIGINT",
    "website_id": "BIGINT",
    "store_id": "BIGINT",
    "locale": "VARCHAR",
    "residence": "VARCHAR",
    "jurisdictions": ["VARCHAR"],
    "channels": ["VARCHAR"],
    "contact": "VARCHAR",
    "email_hmac": "VARCHAR",
    "attribute_hmacs": "VARCHAR",
    "attributes": ["VARCHAR"],
    "faults": ["VARCHAR"],
    "seen_at": "TIMESTAMP",
}
DEPARTED_COLUMNS: Columns = {**PERSON_COLUMNS, "departed_at": "TIMESTAMP", "expires_at": "TIMESTAMP"}
RECORD_COLUMNS: Columns = {
    "record_id": "VARCHAR",
    "root": "VARCHAR",
    "customer_id": "BIGINT",
    "order_id": "BIGINT",
    "entity_type": "VARCHAR",
    "entity_id": "BIGINT",
    "attribute": "VARCHAR",
    "model_id": "VARCHAR",
    "model_version": "VARCHAR",
    "run_id": "VARCHAR",
    "dataset_version": "VARCHAR",
    "generated_at": "TIMESTAMP",
    "deleted_at": "TIMESTAMP",
    "supersedes": "VARCHAR",
    "kind": "VARCHAR",
    "confidence": "DOUBLE",
    "sensitivity": "VARCHAR",
    "categories": ["VARCHAR"],
    "elements": ["VARCHAR"],
    "source_system": "VARCHAR",
    "storage_location": "VARCHAR",
    "input_fields": ["VARCHAR"],
    "legal_basis": "VARCHAR",
    "loaded_at": "TIMESTAMP",
    "faults": ["VARCHAR"],
}
HELD_COLUMNS: Columns = {
    "root": "VARCHAR",
    "attribute": "VARCHAR",
    "hmac": "VARCHAR",
    "seen_at": "TIMESTAMP",
    "record_at": "TIMESTAMP",
}
MARK_COLUMNS: Columns = {
    "root": "VARCHAR",
    "customer_id": "BIGINT",
    "attribute": "VARCHAR",
    "since": "TIMESTAMP",
    "seen_at": "TIMESTAMP",
    "until": "TIMESTAMP",
    "record_at": "TIMESTAMP",
}
DERIVED_ROOT = "coalesce('customer/' || {0}customer_id, 'order/' || {0}order_id)"
"""What most records' root is: it is stored only where it is another, as it is the dearest of all columns to read."""


def root_told(of: str = "") -> str:
    return f"coalesce({of}root, {DERIVED_ROOT.format(of)})"


_MAY_CHANGE = frozenset({"record_id", "deleted_at", "loaded_at", "faults"})
# What was not there before may come (a later version reads more of a row), and what was unreadable may be put right.
DIFFERS = (
    "len(b.faults) = 0 AND ("
    + " OR ".join(
        f"(b.{name} IS NOT NULL AND b.{name} IS DISTINCT FROM n.{name})"
        for name in RECORD_COLUMNS
        if name not in {"root", *_MAY_CHANGE}
    )
    + f" OR {root_told('b.')} <> {root_told('n.')})"
)
RECORD = ", ".join(RECORD_COLUMNS)
STORED = ", ".join(f"{root_told()} AS root" if name == "root" else name for name in RECORD_COLUMNS)
"""The columns of `record`, roots told."""
SETS = index_answers.SETS
"""Lists of which few differ among millions of records. They are stored as JSON text, which is read and written in a tenth of
the time that a list takes."""
AS_LISTS = ", ".join(f"{index_answers.listed(name)} AS {name}" for name in SETS)
ALTERED = "~altered-"
"""In the id of a record that holds what another one said before somebody altered it in the store."""


def _columns(columns: Columns) -> str:
    return ", ".join(f"{name} {type_of(kind)}" for name, kind in columns.items())


def type_of(kind: str | list[str]) -> str:
    return kind if isinstance(kind, str) else f"{kind[0]}[]"


_TEXTS = ", ".join(f"{name} AS {index_answers.text_of(name)}" for name in SETS)
_COMPRESSED = frozenset({"run_id", "storage_location"})
"""Long texts that differ from record to record. DuckDB would try a dictionary of each; this takes less time, and no more room."""


def _stored_type(name: str) -> str | list[str]:
    if name in _COMPRESSED:
        return "VARCHAR USING COMPRESSION zstd"
    return "VARCHAR" if name in SETS else RECORD_COLUMNS[name]


_STORED_COLUMNS = {name: _stored_type(name) for name in RECORD_COLUMNS}
SETTLED = """
CREATE OR REPLACE VIEW settled AS SELECT {columns}, altered FROM record ANTI JOIN superseded USING (at_offset)
    WHERE at_offset < {upto};
CREATE OR REPLACE VIEW fresh AS SELECT {columns}, at_offset FROM record WHERE at_offset >= {upto};
"""
"""Where the settled records end, as a number in both views: so DuckDB need not look at the others."""

ERASED = "CREATE TABLE IF NOT EXISTS erased (root VARCHAR PRIMARY KEY, erased_at TIMESTAMP);"
"""Whom a request had forgotten. Made when a file is opened, too: one of an earlier version is the same but for this."""
TOPIC_ID = "CREATE TABLE IF NOT EXISTS topic_id (topic VARCHAR PRIMARY KEY, topic_id VARCHAR);"
"""Which topics the positions are of. Made when a file is opened, too, as above."""
READ_TO_END = "CREATE TABLE IF NOT EXISTS read_to_end (read_at TIMESTAMP);"
"""When the file was last known to hold all that had been published, empty while it never was. Made as above."""
SCHEMA = f"""
CREATE TABLE meta (schema_version INTEGER, topic VARCHAR, cluster VARCHAR, partition INTEGER, partition_count INTEGER,
    head_at TIMESTAMP, kept_since TIMESTAMP);
CREATE TABLE position (topic VARCHAR PRIMARY KEY, next_offset BIGINT);
CREATE TABLE customer ({_columns(PERSON_COLUMNS)});
CREATE TABLE departed ({_columns(DEPARTED_COLUMNS)});
{ERASED}
{TOPIC_ID}
{READ_TO_END}
-- Records lie in the order in which they came, each with its offset (a kept copy: -1). Among the settled ones no two have
-- one id: all but the newest are in `superseded`, by offset. Behind them are the fresh ones, of which the newest of an id
-- holds. To look up every record by its id as it comes would cost more than all the rest of reading it, and to delete what
-- is superseded would write its row group anew.
CREATE TABLE record ({_columns(_STORED_COLUMNS)}, at_offset BIGINT, altered BOOLEAN);
CREATE TABLE superseded (at_offset BIGINT);
{SETTLED.format(columns=STORED, upto=0)}CREATE VIEW newest AS
    SELECT {RECORD} FROM fresh
    WHERE (record_id, at_offset) IN (SELECT (record_id, max(at_offset)) FROM fresh GROUP BY record_id);
CREATE VIEW held_records AS
    SELECT {RECORD} FROM settled WHERE record_id NOT IN (SELECT record_id FROM fresh) UNION ALL FROM newest;
CREATE VIEW provenance AS SELECT * REPLACE ({AS_LISTS}) FROM held_records;
-- The same, and its lists as they are stored; and as it is while nothing is fresh.
CREATE VIEW told AS SELECT * REPLACE ({AS_LISTS}), {_TEXTS} FROM held_records;
CREATE VIEW told_settled AS SELECT * REPLACE ({AS_LISTS}), {_TEXTS} FROM settled;
-- What was known of fresh records before: the settled one, else the first that came.
CREATE VIEW earlier AS
    SELECT {RECORD}, altered FROM settled WHERE record_id IN (SELECT record_id FROM fresh)
    UNION ALL SELECT {RECORD}, false FROM fresh WHERE (record_id, at_offset) IN
        (SELECT (record_id, min(at_offset)) FROM fresh GROUP BY record_id HAVING count(*) > 1)
        AND record_id NOT IN (SELECT record_id FROM settled);
CREATE VIEW merged AS
    SELECT n.*, coalesce(b.altered OR ({DIFFERS}), false) AS altered
    FROM newest n LEFT JOIN earlier b ON b.record_id = n.record_id;
-- Provenance, and whether a record's content was altered after it was first read.
CREATE VIEW audited AS
    SELECT * REPLACE ({AS_LISTS},
        altered OR record_id IN (
            SELECT split_part(record_id, '{ALTERED}', 1) FROM settled WHERE contains(record_id, '{ALTERED}')
        ) AS altered)
    FROM (FROM settled WHERE record_id NOT IN (SELECT record_id FROM fresh) UNION ALL FROM merged)
    WHERE NOT contains(record_id, '{ALTERED}');
CREATE TABLE held ({_columns(HELD_COLUMNS)});
CREATE TABLE untagged_write ({_columns(MARK_COLUMNS)});
-- Since when what is watched, see `WatchStarted`; `kept` once the topic has it too.
CREATE TABLE watch (attribute VARCHAR, started_at TIMESTAMP, silent_from TIMESTAMP, kept BOOLEAN);
CREATE TABLE beat (written_at TIMESTAMP, visible_at TIMESTAMP);
CREATE TABLE resolved (incident_id VARCHAR, revision INTEGER, PRIMARY KEY (incident_id, revision));
-- Who was published for a revision, and what was said of them: see `standing.Concern`.
CREATE TABLE member (incident_id VARCHAR, revision INTEGER, root VARCHAR, standing VARCHAR,
    disclosures VARCHAR[], elements VARCHAR[], rank INTEGER,
    PRIMARY KEY (incident_id, revision, root));
CREATE VIEW person AS
    SELECT *, NULL::TIMESTAMP AS departed_at, NULL::TIMESTAMP AS expires_at FROM customer
    UNION ALL SELECT * FROM departed WHERE root NOT IN (SELECT root FROM customer);
-- Values of registered attributes that no record at all is about; who changed one without a record is in untagged_write.
CREATE VIEW unexplained AS
    SELECT value.root, value.customer_id, value.attribute
    FROM (SELECT root, customer_id, unnest(attributes) AS attribute FROM person) value
    ANTI JOIN provenance ON provenance.root = value.root AND provenance.attribute = value.attribute;
CREATE VIEW untagged AS
    FROM unexplained UNION SELECT root, customer_id, attribute FROM untagged_write WHERE until IS NULL;
"""
