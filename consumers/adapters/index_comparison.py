"""What a partition's owner answers when store and index are compared: fingerprints as `bridge.contracts.fingerprints`
defines them, here in DuckDB's SQL; which rows could not be understood in full; and which keys the contacts are sealed to.
"""

from bridge.contracts.fingerprints import FIELD, HASH_DIGITS, ITEM, NOTHING, RANGE_DIGITS, RANGE_SIZE, SUM_MODULUS
from bridge.contracts.queries import (
    FaultSeen,
    KeyPrint,
    KeysAsked,
    PartitionFaults,
    PartitionKeys,
    PartitionRanges,
    PartitionSeals,
    RangePrint,
    RangesAsked,
)
from bridge.contracts.topics import STORE_CHANGES
from consumers.adapters.index_reader import PartitionReader

_EXAMPLES = 5
"""Keys named for each field that could not be understood."""

# ruff: noqa: S608  statements are put together from the constants here and placeholders only


def _code(character: str) -> str:
    return f"chr({ord(character)})"


def _or_nothing(expression: str) -> str:
    return f"coalesce(({expression})::VARCHAR, {_code(NOTHING)})"


def _items(expression: str) -> str:
    return f"coalesce(array_to_string({expression}, {_code(ITEM)}), '')"


def _hashed(fields: list[str]) -> str:
    joined = f" || {_code(FIELD)} || ".join(fields)
    return f"('0x' || substr(sha256({joined}), 1, {HASH_DIGITS}))::BIGINT"


_PERSON = _hashed(
    [
        "root",
        _or_nothing("customer_id"),
        "website_id::VARCHAR",
        "store_id::VARCHAR",
        "locale",
        _items(
            """list_transform(from_json(residence, '[{"code": "VARCHAR", "source": "VARCHAR"}]'),"""
            " lambda claim: claim.code || ' ' || claim.source)"
        ),
        _items("channels"),
        _or_nothing("email_hmac"),
        _items(
            "list_sort(list_transform(map_entries(from_json(attribute_hmacs, '\"MAP(VARCHAR, VARCHAR)\"')),"
            " lambda each: each.key || ' ' || each.value))"
        ),
        _or_nothing("json_extract_string(contact, '$.digest')"),
        _items("faults"),
    ]
)
_RECORD_FIELDS = [
    "record_id",
    "root",
    _or_nothing("customer_id"),
    _or_nothing("order_id"),
    "entity_type",
    "entity_id::VARCHAR",
    "attribute",
    "model_id",
    "model_version",
    _or_nothing("run_id"),
    _or_nothing("dataset_version"),
    "epoch_us(generated_at)::VARCHAR",
    _or_nothing("supersedes"),
    "kind",
    _or_nothing("round(confidence * 1000000)::BIGINT"),
    "sensitivity",
    _items("categories"),
    _items("elements"),
    _or_nothing("source_system"),
    _or_nothing("storage_location"),
    _items("input_fields"),
    _or_nothing("legal_basis"),
    _items("faults"),
]
_CONTENT = _hashed(_RECORD_FIELDS)
_RECORD = _hashed([*_RECORD_FIELDS, _or_nothing("epoch_us(deleted_at)"), _or_nothing("epoch_us(loaded_at)")])

_NUMBERED = f"""SELECT root AS key, split_part(root, '/', 2)::BIGINT // {RANGE_SIZE} AS range, {_PERSON} AS fingerprint,
    {{content}} AS content, false AS deleted, false AS altered, '' AS root FROM customer"""
_LISTED = {
    "customer": _NUMBERED.replace("{content}", "0") + " WHERE order_id IS NULL",
    "order": _NUMBERED.replace("{content}", "0") + " WHERE order_id IS NOT NULL",
    "provenance": f"""SELECT 'provenance/' || record_id AS key,
        ('0x' || substr(sha256(record_id), 1, {RANGE_DIGITS}))::BIGINT AS range, {_RECORD} AS fingerprint,
        {_CONTENT} AS content, deleted_at IS NOT NULL AS deleted, altered, root FROM audited""",
}


def ranges(reader: PartitionReader, asked: RangesAsked) -> PartitionRanges:
    """Return count and sum of fingerprints of each range, of what is not deleted; and how many are."""
    rows = reader.rows(
        f"""SELECT range, count(*) FILTER (NOT deleted) AS count, count(*) FILTER (deleted) AS deleted_count,
            (coalesce(sum(fingerprint) FILTER (NOT deleted), 0) % {SUM_MODULUS})::BIGINT AS sum
        FROM ({_LISTED[asked.entity]}) GROUP BY range ORDER BY range"""
    )
    return PartitionRanges(
        partition=reader.partition,
        position_offset=reader.positions().get(STORE_CHANGES.name, 0),
        ranges=tuple(RangePrint(**row) for row in rows),
    )


def keys(reader: PartitionReader, asked: KeysAsked) -> PartitionKeys:
    """Return what is held of the keys of some ranges, of some keys, or of all that is known to be altered."""
    listed = _LISTED[asked.entity]
    select = "SELECT key, fingerprint, content, deleted, altered, root"
    if asked.altered:
        rows = reader.rows(f"{select} FROM ({listed}) WHERE altered ORDER BY key LIMIT ?", asked.limit)
    elif asked.keys:
        rows = reader.rows(
            f"{select} FROM ({listed}) WHERE key IN (SELECT unnest(?::VARCHAR[])) ORDER BY key LIMIT ?",
            list(asked.keys),
            asked.limit,
        )
    else:
        rows = reader.rows(
            f"{select} FROM ({listed}) WHERE range IN (SELECT unnest(?::BIGINT[])) ORDER BY key LIMIT ?",
            list(asked.ranges),
            asked.limit,
        )
    return PartitionKeys(
        partition=reader.partition,
        position_offset=reader.positions().get(STORE_CHANGES.name, 0),
        keys=tuple(KeyPrint(**row) for row in rows),
    )


def faults(reader: PartitionReader) -> PartitionFaults:
    """Return which fields of the store's rows could not be understood, how often, and where for example."""
    rows = reader.rows(
        f"""SELECT entity, field, count(*) AS count, list(key ORDER BY key)[1:{_EXAMPLES}] AS examples FROM (
            SELECT split_part(root, '/', 1) AS entity, root AS key, unnest(faults) AS field FROM customer
            UNION ALL SELECT 'provenance', 'provenance/' || record_id, unnest(faults) FROM provenance
        ) GROUP BY entity, field ORDER BY entity, field"""
    )
    altered = reader.rows("SELECT count(*) AS count FROM audited WHERE altered")
    return PartitionFaults(
        partition=reader.partition,
        faults=tuple(FaultSeen(**row) for row in rows),
        altered_count=int(altered[0]["count"]),
    )


def seals(reader: PartitionReader) -> PartitionSeals:
    """Count the contacts by the key that they are sealed to: of the present, and of the departed."""

    def counted(table: str) -> dict[str, int]:
        rows = reader.rows(
            f"""SELECT json_extract_string(contact, '$.key_id') AS key_id, count(*) AS count FROM {table}
            WHERE contact IS NOT NULL GROUP BY key_id ORDER BY key_id"""
        )
        return {row["key_id"]: int(row["count"]) for row in rows}

    return PartitionSeals(partition=reader.partition, present=counted("customer"), departed=counted("departed"))
