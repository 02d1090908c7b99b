"""What is remembered of a model registry, against a naive second opinion: looks at instants, and nothing in between."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.domain.registry import (
    AliasSpan,
    AliasUnknown,
    Node,
    RegisteredVersion,
    RegistryMemory,
    RegistrySnapshot,
    UnreadableParents,
    alias_at,
    family_of,
    observe,
    parse_parents,
)

START = datetime(2026, 3, 1, tzinfo=UTC)
GAP = timedelta(minutes=3)


def minute(number: float) -> datetime:
    return START + timedelta(minutes=number)


@pytest.mark.parametrize(
    ("text", "parents"),
    [
        ("", ()),
        ("fraud-base@3", (("fraud-base", "3"),)),
        ("b@1, models:/a/2  c", (("a", "2"), ("b", "1"), ("c", None))),
        ("models:/team/model/2", (("team/model", "2"),)),
    ],
)
def test_parents_are_read_in_every_form(text: str, parents: tuple[Node, ...]) -> None:
    assert parse_parents(text) == parents


@pytest.mark.parametrize("text", ["models:/m@champion", "models:/m", "@3", "m@", "models://3"])
def test_a_tag_that_names_no_version_is_refused(text: str) -> None:
    with pytest.raises(UnreadableParents):
        parse_parents(text)


Looks = Sequence[tuple[float, str | None]]
"""Minute of a look, and the version that the alias named."""


def remembered(looks: Looks) -> RegistryMemory:
    memory = RegistryMemory("test")
    for at, version in looks:
        aliases = {} if version is None else {("m", "champion"): version}
        memory = observe(memory, RegistrySnapshot((), aliases), minute(at), longest_gap=GAP)
    return memory


def naive(looks: Looks, at: float) -> set[str] | None:
    """Return what the alias may have named at `at`; None: nobody knows. Written from the definition, look by look."""
    if at >= looks[-1][0]:
        return {looks[-1][1]} - {None}  # type: ignore[return-value]
    for seen, version in looks:
        if seen == at:
            return {version} - {None}  # type: ignore[return-value]
    before = [look for look in looks if look[0] < at]
    after = [look for look in looks if look[0] > at]
    if not before or timedelta(minutes=after[0][0] - before[-1][0]) > GAP:
        return None
    return {before[-1][1], after[0][1]} - {None}  # type: ignore[return-value]


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=12),
    st.lists(st.sampled_from(["6", "7", "8", None]), min_size=12, max_size=12),
    st.integers(-4, 160),
)
def test_an_alias_as_of_a_date_is_what_the_looks_around_it_say(
    steps: list[int], versions: list[str | None], halves: int
) -> None:
    minutes = [sum(steps[: n + 1]) for n in range(len(steps))]
    looks: Looks = list(zip(minutes, versions, strict=False))
    expected = naive(looks, halves / 2)
    memory = remembered(looks)
    if expected is None:
        with pytest.raises(AliasUnknown):
            alias_at(memory, "m", "champion", minute(halves / 2))
    else:
        assert set(alias_at(memory, "m", "champion", minute(halves / 2))) == expected


def test_before_the_first_look_the_answer_is_unknown_and_says_since_when() -> None:
    memory = remembered([(0, "7")])
    with pytest.raises(AliasUnknown, match="watched since 2026-03-01 00:00 UTC"):
        alias_at(memory, "m", "champion", minute(-1))
    with pytest.raises(AliasUnknown, match="never seen"):
        alias_at(RegistryMemory("test"), "m", "champion", None)


def test_a_time_without_looks_is_unknown_even_if_both_ends_agree() -> None:
    memory = remembered([(0, "7"), (60, "7"), (61, "7")])
    with pytest.raises(AliasUnknown, match="nobody looked at the registry from 2026-03-01 00:00 to 2026-03-01 01:00"):
        alias_at(memory, "m", "champion", minute(30))
    assert alias_at(memory, "m", "champion", minute(0)) == ("7",)
    assert memory.revision == 1


def test_what_the_registry_states_itself_needs_no_look() -> None:
    stated = (
        AliasSpan("m", "shadow", "6", None, minute(-100), minute(-50), stated=True),
        AliasSpan("m", "shadow", "7", None, minute(-50), None, stated=True),
    )
    snapshot = RegistrySnapshot((), {("m", "shadow"): "7"}, stated)
    memory = observe(RegistryMemory("test"), snapshot, minute(0), longest_gap=GAP)
    assert alias_at(memory, "m", "shadow", minute(-60)) == ("6",)
    assert alias_at(memory, "m", "shadow", minute(-50)) == ("7",)
    assert alias_at(memory, "m", "shadow", None) == ("7",)
    with pytest.raises(AliasUnknown):
        alias_at(memory, "m", "shadow", minute(-101))


def test_a_look_that_finds_the_same_is_no_new_revision_and_a_version_that_is_gone_stays_known() -> None:
    seven = RegisteredVersion("m", "7", (("base", "3"),))
    memory = observe(RegistryMemory("t"), RegistrySnapshot((seven,), {}), minute(0), longest_gap=GAP)
    again = observe(memory, RegistrySnapshot((seven,), {}), minute(1), longest_gap=GAP)
    assert (again.revision, again.changed_at, again.looked_at) == (1, minute(0), minute(1))
    gone = observe(again, RegistrySnapshot((), {}), minute(2), longest_gap=GAP)
    assert gone.versions["m", "7"].gone
    assert gone.versions["m", "7"].parents == (("base", "3"),)
    assert (gone.revision, gone.changed_at) == (2, minute(2))
    assert gone.models() == {"m": frozenset({"7"}), "base": frozenset({"3"})}


def family(parents: Mapping[Node, Sequence[Node]], *seeds: Node) -> set[Node]:
    versions = [RegisteredVersion(model, version or "", tuple(above)) for (model, version), above in parents.items()]
    return set(family_of(seeds, versions).descendants)


NODES: list[Node] = [(model, version) for model in "abc" for version in "123"]
PARENTS: list[Node] = [*NODES, ("a", None), ("b", None)]


@given(st.dictionaries(st.sampled_from(NODES), st.lists(st.sampled_from(PARENTS), max_size=3)), st.sampled_from(NODES))
def test_descendants_are_those_from_whom_a_way_up_leads_to_the_seed(
    parents: dict[Node, list[Node]], seed: Node
) -> None:
    reached, frontier = {seed}, {seed}
    while frontier:
        frontier = {
            node
            for node, above in parents.items()
            if node not in reached and any(one in above or (one[0], None) in above for one in reached)
        }
        reached |= frontier
    assert family(parents, seed) == reached - {seed}


def test_a_cycle_is_named_and_survived() -> None:
    versions = [
        RegisteredVersion("a", "1", (("c", "1"),)),
        RegisteredVersion("b", "1", (("a", "1"),)),
        RegisteredVersion("c", "1", (("b", "1"),)),
        RegisteredVersion("d", "1", (("d", "1"), ("c", "1"))),
    ]
    found = family_of([("a", "1")], versions)
    assert found.descendants == (("b", "1"), ("c", "1"), ("d", "1"))
    assert {frozenset(cycle) for cycle in found.cycles} == {frozenset({"a@1", "b@1", "c@1"}), frozenset({"d@1"})}
