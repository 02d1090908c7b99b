"""Who falls under a scope and why, in DuckDB's SQL over one partition's tables (`index_schema`).

The answer lies in the connection's temporary table `answer`, one row a root, and nobody's row becomes a Python object unless
it is asked for: a leak can concern a hundred thousand people. What it must say is written down in
`consumers.domain.scope_matching.verdict` and `consumers.domain.resolution.why_of`; property tests hold the two equal.
Not for finding files, keeping them, or telling anybody.
"""

from collections.abc import Sequence
from typing import Any

import duckdb

from bridge.contracts.events import SENSITIVITY_ORDER, Kind, Sensitivity, Why
from bridge.contracts.scope import Scope
from consumers.adapters.scope_sql import asks_for_people, asks_for_versions, compile_scope, narrowing, stored
from consumers.domain.resolution import UNSPECIFIED, Found, Person
from consumers.domain.scope_matching import named_models

# ruff: noqa: S608  statements are put together from the constants here, compiled predicates and placeholders only

WHY_LISTS = (
    "record_ids", "attributes", "models", "kinds", "disclosures", "categories", "elements", "input_fields",
)  # fmt: skip
SETS = ("categories", "elements", "input_fields")
"""Lists of a record, which the file keeps as JSON text."""
_LEVELS = "[" + ", ".join(f"'{each.value}'" for each in SENSITIVITY_ORDER) + "]"


def listed(text: str) -> str:
    """Return the expression for the list that `text` says as JSON."""
    return f"from_json({text}, '[\"VARCHAR\"]')"


def text_of(name: str) -> str:
    """Return the name of the column of `told` that says the list `name` as JSON."""
    return f"{name}_text"


def level(rank: str) -> str:
    """Return the expression for the name of a sensitivity's `rank`, which counts from 1."""
    return f"{_LEVELS}[{rank}]"


def _set_of(expression: str) -> str:
    return f"list_sort(list_distinct(list({expression})))"


def _union_of(column: str) -> str:
    return f"list_sort(list_distinct(flatten(list({column}))))"


def _members_of(column: str) -> str:
    return f"list_sort(list_distinct({column}))"


_DISCLOSED = (
    f"list_transform(CASE WHEN len(categories) = 0 THEN ['{UNSPECIFIED}'] ELSE categories END,"
    " lambda category: kind || '|' || model_id || '|' || category)"
)
_WHY = f"""list_sort(list(record_id)) AS record_ids, {_set_of("attribute")} AS attributes,
    {_set_of("model_id || '@' || model_version")} AS models, {_set_of("kind")} AS kinds,
    {_union_of("disclosures")} AS disclosures, max(rank) AS rank, {_union_of("categories")} AS categories,
    {_union_of("elements")} AS elements, {_union_of("input_fields")} AS input_fields"""
_WHY_OF_ONE = """[record_id] AS record_ids, [attribute] AS attributes, [model_id || '@' || model_version] AS models,
    [kind] AS kinds, disclosures, rank, categories, elements, input_fields"""
"""The same of a single record."""
_STANDING = "CASE WHEN {0} THEN 'recorded' ELSE 'possible' END AS standing"
_COLUMNS = (
    "root VARCHAR, customer_id BIGINT, standing VARCHAR, record_ids VARCHAR[], attributes VARCHAR[], models VARCHAR[],"
    " kinds VARCHAR[], disclosures VARCHAR[], rank INTEGER, categories VARCHAR[], elements VARCHAR[],"
    " input_fields VARCHAR[]"
)
_NEEDED = (
    "root", "customer_id", "record_id", "attribute", "model_id", "model_version", "kind", "sensitivity",
    *map(text_of, SETS),
)  # fmt: skip


def _sets(name: str, beside: str = "", more: str = "") -> str:
    """Return the query for the different lists `name` that the records in `hit` have: text, and its members."""
    text = text_of(name)
    return f"""SELECT {beside}{text}, {_members_of(name)} AS {name}{more}
        FROM (SELECT *, {listed(text)} AS {name} FROM (SELECT DISTINCT {beside}{text} FROM hit))"""


_SETS_SAID = {
    "category_sets": _sets("categories", "kind, model_id, ", f", {_members_of(_DISCLOSED)} AS disclosures"),
    "element_sets": _sets("elements"),
    "field_sets": _sets("input_fields"),
}
"""Few lists differ among many records: to sort each of these, without repeats, costs next to nothing, where to sort every
record's own took most of an answer's time."""


def _said(hit: str) -> str:
    """Return the query for the records `hit` with the rank of their sensitivity, and their lists."""
    return f"""(SELECT hit.* EXCLUDE (sensitivity), list_position({_LEVELS}, sensitivity) AS rank,
        categories, disclosures, elements, input_fields
    FROM {hit} hit JOIN category_sets USING (kind, model_id, {text_of("categories")})
    JOIN element_sets USING ({text_of("elements")}) JOIN field_sets USING ({text_of("input_fields")}))"""


# Most people have one record that matches, and what one record says need not be gathered into lists.
_SUMMED_UP = f"""WITH several AS MATERIALIZED (SELECT root FROM hit GROUP BY root HAVING count(*) > 1),
    {", ".join(f"{name} AS MATERIALIZED ({query})" for name, query in _SETS_SAID.items())}
    SELECT root, customer_id, {_STANDING.format("certain")}, {_WHY_OF_ONE}
    FROM {_said("(FROM hit WHERE root NOT IN (FROM several))")}
    UNION ALL BY NAME SELECT root, max(customer_id) AS customer_id, {_STANDING.format("bool_or(certain)")}, {_WHY}
    FROM {_said("(FROM hit WHERE root IN (FROM several))")} GROUP BY root"""
"""The query for those whom the records in `hit` are about."""

OF_PERSON = "coalesce(p.customer_id, a.customer_id)"
"""Whose a row `a` of `answer` is: a record about an order may not say so, where its person `p` does."""


def _event() -> str:
    lists = ", ',', ".join(f"""'"{name}":', to_json(a.{name})""" for name in WHY_LISTS)
    return f"""concat('{{"root":', to_json(a.root), ',"customer_id":', coalesce({OF_PERSON}::VARCHAR, 'null'),
    ',"website_id":', coalesce(p.website_id, 0), ',"store_id":', coalesce(p.store_id, 0),
    ',"locale":', to_json(coalesce(p.locale, '')), ',"residence":', coalesce(p.residence, '[]'),
    ',"channels":', to_json(coalesce(p.channels, [])), ',"incident_id":', to_json(?::VARCHAR), ',"revision":', ?::INTEGER,
    ',"partition":', ?::INTEGER, ',"standing":"', a.standing,
    '","departed":', p.root IS NULL OR p.departed_at IS NOT NULL, ',"late":false,"why":',
    CASE WHEN a.record_ids IS NULL THEN 'null'
    ELSE concat('{{', {lists}, ',"highest_sensitivity":"', {level("a.rank")}, '"}}') END, '}}')"""


EVENT = _event()
"""A row `a` of `answer` with its person `p` as the event `CustomerAffected` in JSON, sealed contact and keyed hash left out.
Put together as text: DuckDB's own objects take twice as long. Parameters: incident id, revision, partition."""


SAID_IN_EVENT = f"""json_extract_string(event, '$.why.disclosures[*]') AS disclosures,
    json_extract_string(event, '$.why.elements[*]') AS elements,
    coalesce(list_position({_LEVELS}, json_extract_string(event, '$.why.highest_sensitivity')), 0) AS rank"""
"""What such an event says of its person, as columns: disclosures, elements, and the rank of the highest sensitivity."""


def adapt(connection: duckdb.DuckDBPyConnection) -> None:
    """Let a file of an earlier schema version, which keeps lists as lists, be asked as `answer` asks."""
    if connection.execute("SELECT 1 FROM duckdb_views() WHERE view_name = 'told_settled'").fetchall():
        return
    texts = ", ".join(f"to_json({name})::VARCHAR AS {text_of(name)}" for name in SETS)
    for name in ("told", "told_settled"):
        connection.execute(f"CREATE OR REPLACE TEMP VIEW {name} AS SELECT *, {texts} FROM provenance")


def answer(connection: duckdb.DuckDBPyConnection, scope: Scope, roots: Sequence[str] | None = None) -> None:
    """Put everyone that `scope` concerns (of `roots` only, if given) into the temporary table `answer`.

    Recorded: a record certainly matches, or the scope names the person themselves. Possible: a record may match but
    lacks the fact that decides, or a registered attribute's value is held without any record and may come from what the
    scope names. *Why* sums up the records that decide; it is NULL where there is none.
    """
    _by_records(connection, scope, roots)
    _by_untagged_values(connection, scope, roots)
    if scope.everyone:
        _by_name(connection, scope, roots)


def found(row: dict[str, Any], person: Person | None) -> Found:
    """Return a row of `answer` as an object."""
    why = None
    if row["record_ids"] is not None:
        lists = {name: tuple(row[name]) for name in WHY_LISTS if name != "kinds"}
        why = Why(
            kinds=tuple(Kind(kind) for kind in row["kinds"]),
            highest_sensitivity=Sensitivity(SENSITIVITY_ORDER[row["rank"] - 1]),
            **lists,
        )
    return Found(row["root"], row["customer_id"], row["standing"], why, person)


def _by_records(connection: duckdb.DuckDBPyConnection, scope: Scope, roots: Sequence[str] | None) -> None:
    """Make `answer` of those whom matching records are about."""
    predicate, parameters = compiled(connection, scope, narrowed=True)
    conditions, narrow = narrowing(scope)
    if roots is not None:
        conditions.append("r.root IN (SELECT unnest(?::VARCHAR[]))")
        narrow.append(list(roots))
    people = "LEFT JOIN person p ON p.root = r.root" if asks_for_people(scope) else ""
    # Statements of their own for what one could say at once: in most cases the second one has nothing to do.
    connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE hit AS SELECT * FROM (
            SELECT {", ".join(f"r.{name}" for name in _NEEDED)}, {predicate} AS certain
            FROM {told(connection)} r {people}
            {"WHERE " + " AND ".join(conditions) if conditions else ""}
        ) WHERE certain IS NOT FALSE""",
        [*parameters, *narrow],
    )
    count, doubtful = connection.execute("SELECT count(*), count(*) FILTER (certain IS NULL) FROM hit").fetchall()[0]
    if doubtful:
        connection.execute("DELETE FROM hit WHERE certain IS NULL AND root IN (SELECT root FROM hit WHERE certain)")
    # Most changes of an open incident's people come to nothing.
    connection.execute(f"CREATE OR REPLACE TEMP TABLE answer {f'AS {_SUMMED_UP}' if count else f'({_COLUMNS})'}")
    connection.execute("DROP TABLE hit")


def told(connection: duckdb.DuckDBPyConnection) -> str:
    """Return the name of the view of all records: while none is fresh, of one that need not look for what they replace."""
    return "told" if connection.execute("SELECT 1 FROM fresh LIMIT 1").fetchall() else "told_settled"


def has_untagged_values(connection: duckdb.DuckDBPyConnection) -> bool:
    """Return whether there may be any: most stores register few attributes, and who has a value and no record is dear to ask."""
    anything = "SELECT 1 FROM person WHERE len(attributes) > 0 UNION ALL SELECT 1 FROM untagged_write LIMIT 1"
    return bool(connection.execute(anything).fetchall())


def _by_untagged_values(connection: duckdb.DuckDBPyConnection, scope: Scope, roots: Sequence[str] | None) -> None:
    if not has_untagged_values(connection):
        return
    values, given = untagged_within(scope)
    restriction = "" if roots is None else "WHERE root IN (SELECT unnest(?::VARCHAR[]))"
    if roots is not None:
        given.append(list(roots))
    if not connection.execute(f"SELECT count(*) FROM (FROM ({values}) {restriction} LIMIT 1)", given).fetchall()[0][0]:
        return
    predicate, parameters = compiled(connection, scope)
    # A value without a record counts as a record of each model that is known to write the attribute. Where the scope
    # names a model that this partition has never seen, nothing says what it writes: it may have written anything.
    seen = {model for (model,) in connection.execute("SELECT DISTINCT model_id FROM provenance").fetchall()}
    anyone = "UNION SELECT u.*, NULL FROM u" if named_models(scope) - seen else ""
    connection.execute(
        f"""INSERT INTO answer BY NAME
        WITH u AS (SELECT DISTINCT root, customer_id, attribute FROM ({values}) {restriction}),
            w AS (SELECT DISTINCT attribute, model_id FROM provenance),
            c AS (SELECT u.*, w.model_id FROM u LEFT JOIN w ON w.attribute = u.attribute {anyone}),
            r AS (SELECT c.*, '' AS record_id, 'customer' AS entity_type, NULL::VARCHAR AS model_version,
                NULL::VARCHAR AS run_id, NULL::VARCHAR AS dataset_version, NULL::VARCHAR AS source_system,
                NULL::VARCHAR AS storage_location, NULL::VARCHAR AS kind, NULL::VARCHAR AS sensitivity,
                NULL::VARCHAR[] AS categories, NULL::TIMESTAMP AS generated_at, NULL::TIMESTAMP AS deleted_at FROM c)
        SELECT DISTINCT root, customer_id, 'possible' AS standing FROM (
            SELECT r.root, r.customer_id, {predicate} AS verdict FROM r LEFT JOIN person p ON p.root = r.root
        ) WHERE verdict IS NOT FALSE AND root NOT IN (SELECT root FROM answer)""",
        [*given, *parameters],
    )


def untagged_within(scope: Scope) -> tuple[str, list[Any]]:
    """Return a query for the untagged values that may have stood in the scope's exposure window, and its parameters.

    Without a record at all nothing says since when a value stands; else it stood from before the write was seen until it
    was replaced. Only the outermost window narrows: what nests is left to the predicate, which knows less.
    """
    start, end = (None if at is None else stored(at) for at in (scope.exposed_from, scope.exposed_to))
    return (
        """SELECT root, customer_id, attribute, NULL::TIMESTAMP AS seen_at FROM unexplained
        UNION ALL SELECT root, customer_id, attribute, seen_at FROM untagged_write
        WHERE (since IS NULL OR ?::TIMESTAMP IS NULL OR since <= ?::TIMESTAMP)
        AND (until IS NULL OR ?::TIMESTAMP IS NULL OR until > ?::TIMESTAMP)""",
        [end, end, start, start],
    )


def _by_name(connection: duckdb.DuckDBPyConnection, scope: Scope, roots: Sequence[str] | None) -> None:
    predicate, parameters = compile_scope(scope)
    restriction = "" if roots is None else "WHERE p.root IN (SELECT unnest(?::VARCHAR[]))"
    connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE named AS SELECT * FROM (
            SELECT r.root, r.customer_id, {predicate} AS verdict FROM person r JOIN person p ON p.root = r.root {restriction}
        ) WHERE verdict IS NOT FALSE""",
        [*parameters, *([] if roots is None else [list(roots)])],
    )
    connection.execute(
        "UPDATE answer SET standing = 'recorded' FROM named WHERE named.root = answer.root AND named.verdict"
    )
    connection.execute(
        """INSERT INTO answer BY NAME
        SELECT root, customer_id, CASE WHEN verdict THEN 'recorded' ELSE 'possible' END AS standing
        FROM named WHERE root NOT IN (SELECT root FROM answer)"""
    )
    connection.execute("DROP TABLE named")


def compiled(connection: duckdb.DuckDBPyConnection, scope: Scope, *, narrowed: bool = False) -> tuple[str, list[Any]]:
    """Return `scope` as an expression and its parameters, versions looked up where it asks for ranges of them."""
    if not asks_for_versions(scope):
        return compile_scope(scope, narrowed=narrowed)
    rows = connection.execute("SELECT DISTINCT model_version FROM provenance").fetchall()
    return compile_scope(scope, [version for (version,) in rows], narrowed=narrowed)
