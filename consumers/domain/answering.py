"""The answer to a scope straight from the definition, record by record: what the index's SQL says, by another road.

Slow and plain on purpose: it checks the index, and stands in for it where there is none. Pure.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from bridge.contracts.scope import Scope
from bridge.contracts.store_answers import StorePerson, StoreRecord, ValueHolder
from consumers.domain.differing import RecordSet
from consumers.domain.scope_matching import UntaggedValue, named_models, verdict


@dataclass(slots=True)
class Answer:
    """Whom a scope concerns."""

    members: dict[str, RecordSet] = field(default_factory=dict)
    """By root: record ids and standing."""
    persons: dict[str, StorePerson] = field(default_factory=dict)
    """Those whom the store still holds."""
    newest: dict[str, StoreRecord] = field(default_factory=dict)
    """By record id, of the members."""
    may_hold: set[str] = field(default_factory=set)
    """Roots with a value that nothing explains and of which nothing says certainly that another model wrote it. Whoever
    knows fewer of the attribute's writers (a partition of the index) may call more of them possible than `members` does."""


def answered(
    scope: Scope,
    records: Iterable[StoreRecord],
    holders: Iterable[ValueHolder],
    writers: Mapping[str, frozenset[str]],
    people: Iterable[StorePerson],
) -> Answer:
    """Return whom `scope` concerns. `people` are asked only where the scope means everyone."""
    answer = Answer()
    certain: dict[str, set[str]] = {}
    uncertain: dict[str, set[str]] = {}
    for each in records:
        said = verdict(scope, each.record, each.person)
        if said is False:
            continue
        root = each.record.root
        (certain if said else uncertain).setdefault(root, set()).add(each.record.record_id)
        answer.newest[each.record.record_id] = each
        if each.person is not None:
            answer.persons[root] = each.person
    answer.members |= {root: (frozenset(ids), "possible") for root, ids in uncertain.items()}
    answer.members |= {root: (frozenset(ids), "recorded") for root, ids in certain.items()}
    seen = frozenset[str]().union(*writers.values())
    for holder in holders:
        person = holder.person
        models: set[str | None] = set(writers.get(holder.attribute, ()))
        if not models or named_models(scope) - seen:
            models.add(None)
        for model in (*models, None):
            value = UntaggedValue(person.root, person.customer_id, holder.attribute, model)
            if verdict(scope, value, person) is False:
                continue
            answer.may_hold.add(person.root)
            if model in models:
                answer.persons[person.root] = person
                answer.members.setdefault(person.root, (frozenset(), "possible"))
    for person in people if scope.everyone else ():
        said = verdict(scope, UntaggedValue(person.root, person.customer_id, "", None), person)
        if said is not False:
            ids, standing = answer.members.get(person.root, (frozenset(), "possible"))
            answer.members[person.root] = (ids, "recorded" if said else standing)
            answer.persons[person.root] = person
    return answer
