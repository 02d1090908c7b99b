"""A scope as people hand it over: a file, lists of customers, records or addresses beside it, checked before anything opens.

Lists of addresses become keyed hashes here, in memory, line by line; no address is kept or shown. Not for what an alert
brings (`alerts`: never refused for its meaning) nor for finding anybody (the index).
"""

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Protocol

import yaml
from pydantic import ValidationError

from bridge.contracts.errors import BadInput, Refused
from bridge.contracts.queries import Preview
from bridge.contracts.scope import AskedScope, Scope
from consumers.case.alerts import Known, faults_of, listed, unknown_names
from consumers.domain.contacts import spellings
from consumers.domain.coverage import is_complete

_ROOT = re.compile(r"(customer|order)/[0-9]+")


class ScopeIndex(Protocol):
    """What a preview asks of the index."""

    def known_names(self) -> Known: ...
    def preview(self, scope: Scope) -> Preview: ...


def parse_scope(text: str, source: str) -> AskedScope:
    """Return the scope in a JSON or YAML text. Raises BadInput that names the field, as `source: field: problem`."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadInput(f"{source}: cannot be read as JSON or YAML ({type(error).__name__})") from None
    if not isinstance(document, Mapping):
        raise BadInput(f"{source}: holds no scope; write its fields, as `tocsin incident preview --schema` prints them")
    try:
        return AskedScope.model_validate(listed(document))
    except ValidationError as error:
        faults = [
            f"{each.field}: {each.why}" + (f" (near: {', '.join(each.nearest)})" if each.nearest else "")
            for each in faults_of(error, document)
        ]
        raise BadInput(f"{source}: {'; '.join(faults)}") from None


def narrowed(
    scope: AskedScope,
    *,
    customers: Iterable[str] = (),
    records: Iterable[str] = (),
    addresses: Iterable[str] = (),
    keyed: Callable[[str], str],
) -> AskedScope:
    """Return `scope` narrowed to the lists that are given, one entry a line, blank lines and `#` comments left out.

    Customers are ids or roots (`42`, `customer/42`, `order/7`); addresses are e-mails or their SHA-256 in hex, and
    `keyed` turns one of them into its keyed hash. Raises BadInput with the line's number, never its content.
    """
    fields: dict[str, Any] = {}
    if roots := [_root(line, number) for number, line in _lines(customers)]:
        fields["roots"] = roots
    if ids := [line for _, line in _lines(records)]:
        fields["record_ids"] = ids
    if hashed := [keyed(each) for _, line in _lines(addresses) for each in spellings(line)]:
        fields["email_hmacs"] = hashed
    if not fields:
        return scope
    if scope.everyone:
        # everyone is said once, of the whole
        own = scope.model_copy(update={"everyone": False})
        return AskedScope(everyone=True, all_of=(own,) if own.canonical() else (), **fields)
    return AskedScope(all_of=(scope,) if scope.canonical() else (), **fields)


def _lines(lines: Iterable[str]) -> Iterable[tuple[int, str]]:
    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip()
        if text:
            yield number, text


def _root(text: str, number: int) -> str:
    if text.isascii() and text.isdecimal():
        return f"customer/{text}"
    if _ROOT.fullmatch(text):
        return text
    raise BadInput(f"line {number} of the customers is no customer id; write 42, customer/42 or order/7")


def refuse_unknown(scope: Scope, known: Known, now: datetime) -> None:
    """Raise Refused if the scope names what no record does, each name with the nearest known ones.

    Where a partition did not answer, or was not read to its end lately, names are missing, so nothing is refused.
    """
    faults = list(unknown_names(scope, known)) if known.are_current(now) and known.versions_by_model else []
    if faults:
        raise Refused(
            "the index knows no "
            + "; no ".join(
                f"{each.field} {each.value!r}" + (f" (near: {', '.join(each.nearest)})" if each.nearest else "")
                for each in faults
            )
        )


def preview_in_words(preview: Preview, scope: Scope) -> str:
    """Return in one sentence how many people a scope concerns. "Nobody" only by full coverage of every partition."""
    answered = preview.partition_count - len(preview.silent_partitions)
    of_partitions = f"{answered} of {preview.partition_count} partitions"
    untagged = sum(each.untagged_count for each in preview.coverage)
    if preview.complete and not preview.affected_count and is_complete(list(preview.coverage), scope.exposed_from):
        return f"nobody, says every partition ({of_partitions}), by full coverage"
    words = f"{preview.affected_count - preview.possible_count:,} by record"
    if preview.possible_count or untagged:
        words += f"; {preview.possible_count:,} possible ({untagged:,} untagged writes)"
    words += f", from {of_partitions}"
    if not preview.complete:
        return f"{words}; the others did not answer, so there may be more"
    if not is_complete(list(preview.coverage), scope.exposed_from):
        words += "; coverage is incomplete, so there may be more"
    return words
