"""From a leaked log to the people whom it is about, for logs that name no customer: a scope, and what could not be found.

Lines are read, compared and forgotten: no value of the log is stored, logged or shown. Addresses become keyed hashes;
order numbers and carts are looked up in the store; sessions in a file that came with the log. What leads to nobody is
listed by line number and never dropped. Not for whether the leak is real (`verification`).
"""

import csv
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from bridge.contracts.errors import BadInput, Refused
from bridge.contracts.scope import Scope
from consumers.case.verification import KeyKind, LeakedKey, LeakMatcher
from consumers.domain.contacts import spellings

MAX_SCOPE_BYTES = 900_000
"""What one message about an incident can carry."""


class ClueKind(StrEnum):
    """What a field of a log says about whom a line is."""

    CUSTOMER = "customer"
    EMAIL = "email"
    HASH = "hash"
    """SHA-256, in hex, of a trimmed, lower-cased e-mail address."""
    ORDER = "order"
    """The order's entity id."""
    ORDER_NUMBER = "order_number"
    QUOTE = "quote"


NAMES: Mapping[ClueKind, frozenset[str]] = {
    ClueKind.CUSTOMER: frozenset({"customer_id", "customerid", "customer", "root"}),
    ClueKind.EMAIL: frozenset({"email", "e_mail", "mail", "email_address", "customer_email", "user_email"}),
    ClueKind.HASH: frozenset({"email_sha256", "email_hash", "hashed_email", "customer_email_sha256"}),
    ClueKind.ORDER: frozenset({"order_id", "orderid", "order", "order_entity_id"}),
    ClueKind.ORDER_NUMBER: frozenset({"increment_id", "order_number", "order_no", "order_increment_id"}),
    ClueKind.QUOTE: frozenset({"quote_id", "quoteid", "quote", "cart_id", "cart"}),
}
"""Names of fields, lower case with underscores, by what they hold."""


@dataclass(frozen=True, slots=True)
class Clue:
    """One value that leads to somebody. Its value is never shown."""

    kind: ClueKind
    value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a log: what leads to somebody, and the values of its other fields by name, for a mapping file."""

    number: int
    clues: tuple[Clue, ...]
    others: Mapping[str, str] = field(default_factory=dict, repr=False)
    readable: bool = True


class Reason(StrEnum):
    """Why a line leads to nobody."""

    UNREADABLE = "cannot be read"
    NO_CLUE = "holds nothing that names a person"
    NOT_MAPPED = "its session is not in the mapping file"
    NOT_IN_STORE = "the store holds no such order or cart"
    NOT_IN_INDEX = "nobody whom the index knows"
    UNDECIDED = "a partition of the index did not answer"


class References(Protocol):
    """The store, asked for order numbers and carts."""

    def look_up(self, order_numbers: Sequence[str], quote_ids: Sequence[str]) -> Iterable["Reference"]:
        """Return what the store holds of these. Raises Unreachable, or Refused for a missing right."""
        ...


class Reference(Protocol):
    """What the store says of one order number or cart."""

    @property
    def kind(self) -> str: ...
    @property
    def reference(self) -> str: ...
    @property
    def order_id(self) -> int | None: ...
    @property
    def customer_id(self) -> int | None: ...
    @property
    def email(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Identified:
    """Whom a log is about."""

    scope: Scope | None
    """None: no line names anybody."""
    line_count: int
    identified_count: int
    person_count: int
    """Different people behind the identified lines, as the index knows them by root."""
    by_clue: Mapping[str, int]
    """Identified lines by what led to the person."""
    unresolved: Sequence[tuple[int, Reason]]
    partition_count: int
    silent_partitions: tuple[int, ...]


def read_log(content: bytes, name: str, fields: Mapping[str, ClueKind] | None = None) -> list[Line]:
    """Return the lines of a log: JSON objects (one a line, or a list), nested ones included, or CSV with a header.

    `fields` says what further fields hold, by name. Raises BadInput for what is no such log; a value is never shown.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadInput(f"{name}: not UTF-8 text; save the log as JSON lines or CSV in UTF-8") from None
    known = {each: kind for kind, names in NAMES.items() for each in names} | {
        _plain(each): kind for each, kind in (fields or {}).items()
    }
    start = text.lstrip()[:1]
    rows = list(_json_rows(text, name) if start in ("{", "[") else _csv_rows(text, name))
    if not rows:
        raise BadInput(f"{name}: holds no line")
    return [
        Line(number, (), readable=False) if row is None else _line(number, row, known) for number, row in rows
    ]  # fmt: skip


def _json_rows(text: str, name: str) -> Iterator[tuple[int, Mapping[str, Any] | None]]:
    if text.lstrip().startswith("["):
        try:
            items = json.loads(text)
        except (ValueError, RecursionError):
            raise BadInput(f"{name}: not JSON; write one object a line, or one list of objects") from None
        for number, item in enumerate(items, start=1):
            yield number, item if isinstance(item, dict) else None
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except (ValueError, RecursionError):
            item = None
        yield number, item if isinstance(item, dict) else None


def _csv_rows(text: str, name: str) -> Iterator[tuple[int, Mapping[str, Any] | None]]:
    first = text.lstrip().splitlines()[:1]
    delimiter = max(",;\t|", key=(first[0] if first else "").count)
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter)
    try:
        for row in reader:
            yield reader.line_num, {key: value for key, value in row.items() if isinstance(key, str) and value}
    except csv.Error as error:
        raise BadInput(f"{name}: not readable as CSV ({error})") from None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.strip().lower())


def _line(number: int, row: Mapping[str, Any], known: Mapping[str, ClueKind]) -> Line:
    clues: list[Clue] = []
    others: dict[str, str] = {}
    for name, value in _leaves(row):
        kind = known.get(name)
        clue = None if kind is None else clue_of(kind, value)
        if clue is not None:
            clues.append(clue)
        elif kind is None:
            others.setdefault(name, value)
    return Line(number, tuple(dict.fromkeys(clues)), others)


def _leaves(value: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and depth < 20:
        for key, inner in value.items():
            yield from _leaves(inner, _plain(str(key)), depth + 1)
    elif isinstance(value, list) and depth < 20:
        for inner in value:
            yield from _leaves(inner, name, depth + 1)
    elif isinstance(value, (str, int)) and not isinstance(value, bool) and str(value).strip():
        yield name, str(value).strip()


_ROOT = re.compile(r"(customer|order)/([1-9]\d{0,17})")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")
_NUMBER = re.compile(r"[1-9]\d{0,17}")


def clue_of(kind: ClueKind, value: str) -> Clue | None:
    """Return what `value` of a field that holds `kind` leads by; None if it is not in that form."""
    if match := _ROOT.fullmatch(value):
        return Clue(ClueKind(match[1]), match[2])
    if kind in (ClueKind.EMAIL, ClueKind.HASH):
        if _EMAIL.fullmatch(value):
            return Clue(ClueKind.EMAIL, value.lower())
        return Clue(ClueKind.HASH, value.lower()) if re.fullmatch(r"[0-9a-fA-F]{64}", value) else None
    if kind is ClueKind.ORDER and re.fullmatch(r"0\d{1,49}", value):
        # no id of a row begins with 0, and Magento's order numbers do
        return Clue(ClueKind.ORDER_NUMBER, value)
    if kind is ClueKind.ORDER_NUMBER:
        return Clue(kind, value) if re.fullmatch(r"[A-Za-z0-9_#./-]{1,50}", value) else None
    return Clue(kind, value) if _NUMBER.fullmatch(value) else None


def mapped(lines: Sequence[Line], mapping: Sequence[Line], join: str | None) -> list[Line]:
    """Return `lines` with the clues that `mapping` holds for the same value of the field `join`.

    Without `join` it is the one field that both have and that names no person by itself. Raises BadInput if there is none,
    or more than one.
    """
    in_log = {name for line in lines for name in line.others}
    in_mapping = {name for line in mapping for name in line.others}
    wanted = _plain(join) if join is not None else None
    both = sorted(in_log & in_mapping) if wanted is None else [wanted] if wanted in in_log & in_mapping else []
    if len(both) != 1:
        here = f"the log has {', '.join(sorted(in_log)) or 'none'}, the mapping file {', '.join(sorted(in_mapping)) or 'none'}"
        raise BadInput(
            f"which field joins log and mapping file? {'Several could' if both else 'None does'}: {here}; name it by --join"
        )
    by_value: dict[str, list[Clue]] = {}
    for line in mapping:
        if both[0] in line.others:
            by_value.setdefault(line.others[both[0]], []).extend(line.clues)
    return [
        Line(line.number, tuple(dict.fromkeys((*line.clues, *by_value.get(line.others.get(both[0], ""), ())))),
             line.others, line.readable)
        for line in lines
    ]  # fmt: skip


def identify(
    lines: Sequence[Line],
    matcher: LeakMatcher,
    references: References,
    keyed: Callable[[str], str],
    *,
    is_mapped: bool = False,
) -> Identified:
    """Return whom `lines` are about. `keyed` turns an address's SHA-256 into its keyed hash.

    Raises Unreachable if the store (where it must be asked) or the whole index does not answer, Refused for a scope that is
    too large for one incident.
    """
    numbers = sorted({clue.value for line in lines for clue in line.clues if clue.kind is ClueKind.ORDER_NUMBER})
    quotes = sorted({clue.value for line in lines for clue in line.clues if clue.kind is ClueKind.QUOTE})
    found: dict[Clue, set[LeakedKey]] = {}
    for each in references.look_up(numbers, quotes) if numbers or quotes else ():
        keys = found.setdefault(Clue(ClueKind(each.kind), each.reference), set())
        if each.customer_id is not None:
            keys.add(LeakedKey(KeyKind.CUSTOMER, str(each.customer_id)))
        else:
            keys |= {LeakedKey(KeyKind.ORDER, str(each.order_id))} if each.order_id is not None else set()
            keys |= (
                {LeakedKey(KeyKind.EMAIL, each.email.strip().lower())} if each.email and "@" in each.email else set()
            )
    leads = {clue: _keys_of(clue, found) for line in lines for clue in line.clues}
    keys = {key for each in leads.values() for key in each}
    match = matcher.match(sorted(keys, key=lambda key: (key.kind, key.value)))
    unresolved: list[tuple[int, Reason]] = []
    by_clue: Counter[str] = Counter()
    people: set[str] = set()
    for line in lines:
        hits = {clue: {root for key in leads[clue] for root in match.roots.get(key, ())} for clue in line.clues}
        led = {clue.kind for clue, roots in hits.items() if roots}
        if led:
            by_clue.update(led)
            people.update(*hits.values())
            continue
        unresolved.append(
            (line.number, _reason(line, leads, silent=bool(match.silent_partitions), is_mapped=is_mapped))
        )
    return Identified(
        _scope(keys, keyed), len(lines), len(lines) - len(unresolved), len(people), dict(sorted(by_clue.items())),
        unresolved, match.partition_count, match.silent_partitions,
    )  # fmt: skip


def _keys_of(clue: Clue, found: Mapping[Clue, set[LeakedKey]]) -> set[LeakedKey]:
    if clue.kind in (ClueKind.ORDER_NUMBER, ClueKind.QUOTE):
        return found.get(clue, set())
    return {LeakedKey(KeyKind(clue.kind), clue.value)}


def _reason(line: Line, leads: Mapping[Clue, set[LeakedKey]], *, silent: bool, is_mapped: bool) -> Reason:
    if not line.readable:
        return Reason.UNREADABLE
    if not line.clues:
        return Reason.NOT_MAPPED if is_mapped else Reason.NO_CLUE
    if not any(leads[clue] for clue in line.clues):
        return Reason.NOT_IN_STORE
    return Reason.UNDECIDED if silent else Reason.NOT_IN_INDEX


def _scope(keys: Iterable[LeakedKey], keyed: Callable[[str], str]) -> Scope | None:
    """Return a scope of everybody named, also whom the index does not know yet: who comes late is added then."""
    roots, hmacs = set[str](), set[str]()
    for key in keys:
        if key.kind in (KeyKind.EMAIL, KeyKind.HASH):
            hashed = [hashlib.sha256(each.encode()).hexdigest() for each in spellings(key.value)]
            hmacs.update(map(keyed, [key.value] if key.kind is KeyKind.HASH else hashed))
        else:
            roots.add(f"{key.kind}/{key.value}")
    parts = [Scope(roots=tuple(sorted(roots)))] if roots else []
    parts += [Scope(email_hmacs=tuple(sorted(hmacs)))] if hmacs else []
    if not parts:
        return None
    scope = Scope(everyone=True, any_of=tuple(parts))
    size = len(json.dumps(scope.canonical()))
    if size > MAX_SCOPE_BYTES:
        raise Refused(
            f"the scope would have {size:,} bytes, more than the {MAX_SCOPE_BYTES:,} of one incident: split the log, and "
            "give each part an incident of its own"
        )
    return scope
