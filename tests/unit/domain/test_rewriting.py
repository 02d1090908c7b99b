"""A rewritten scope finds what the asked one means: compared with a second opinion that never rewrites anything."""

from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from bridge.contracts.events import ProvenanceRecorded
from bridge.contracts.scope import AskedScope, Scope
from consumers.domain.registry import Node, RegisteredVersion, RegistryMemory, RegistrySnapshot, observe
from consumers.domain.rewriting import Lineage, rewrite
from consumers.domain.scope_matching import Verdict, verdict
from tests.unit.domain.test_scope_matching import record

MARCH = datetime(2026, 3, 1, tzinfo=UTC)
MODELS, VERSIONS, ALIASES = ("a", "b", "c"), ("1.0.0", "2.0.0", "3.0.0"), ("champion", "shadow")
NODES = [(model, version) for model in MODELS for version in VERSIONS]


def keyed(sha256: str) -> str:
    return sha256[::-1]


def registry(
    *versions: RegisteredVersion, aliases: dict[tuple[str, str], str] | None = None, at: datetime = MARCH
) -> RegistryMemory:
    snapshot = RegistrySnapshot(tuple(versions), aliases or {})
    return observe(RegistryMemory("test"), snapshot, at, longest_gap=timedelta(minutes=3))


class Runs:
    """Lineage in memory: what runs read and wrote, and who started whom."""

    def __init__(
        self,
        reads: Iterable[tuple[str, str]] = (),
        writes: Iterable[tuple[str, str]] = (),
        started: Iterable[tuple[str, str]] = (),
    ) -> None:
        self.reads, self.writes, self.started = set(reads), set(writes), set(started)

    def readers(self, dataset_versions: Collection[str]) -> set[str]:
        return {run for run, name in self.reads if name in dataset_versions}

    def outputs(self, run_ids: Collection[str]) -> set[str]:
        return {name for run, name in self.writes if run in run_ids}

    def children(self, run_ids: Collection[str]) -> set[str]:
        return {child for parent, child in self.started if parent in run_ids}

    def parents(self, run_ids: Collection[str]) -> set[str]:
        return {parent for parent, child in self.started if child in run_ids}


def rewritten(asked: AskedScope, memory: RegistryMemory | None, lineage: Lineage | None = None) -> Scope:
    done = rewrite(asked, memory, lineage, keyed=keyed)
    assert done.scope is not None, done.faults
    return done.scope


# The second opinion: what the words mean for one record.


def means(
    asked: AskedScope, facts: ProvenanceRecorded, memory: RegistryMemory, aliases: dict[tuple[str, str], str]
) -> Verdict:
    """Say of a record whether `asked` means it, from the words' definitions."""
    own = _own(asked, facts.model_id, facts.model_version, aliases)
    if asked.with_descendants:
        seeds: set[Node] = {node for node in NODES if _own(asked, *node, aliases) is True}
        found = set(seeds)
        ways = True
        while ways:
            new = {
                each.node for each in memory.versions.values()
                if any(parent in found or (parent[1] is None and parent[0] in {one for one, _ in found})
                       for parent in each.parents)
            } - found  # fmt: skip
            found |= new
            ways = bool(new)
        derived = found - seeds
        own = _or([own, *(_is(node, facts) for node in derived)])
    plain = Scope(kinds=asked.kinds)
    return _and(
        [
            own,
            verdict(plain, facts, None),
            *(means(part, facts, memory, aliases) for part in asked.all_of),
            _or([means(part, facts, memory, aliases) for part in asked.any_of]) if asked.any_of else True,
            *(_not(means(part, facts, memory, aliases)) for part in asked.none_of),
        ]
    )


def _own(asked: AskedScope, model_id: str, version: str, aliases: dict[tuple[str, str], str]) -> Verdict:
    """The words about models of one scope, without descendants."""
    facts = record(model_id=model_id, model_version=version)
    said = [
        verdict(Scope(model_ids=asked.model_ids, model_versions=asked.model_versions), facts, None),
        verdict(Scope(version_ranges=asked.version_ranges), facts, None),
    ]
    if asked.model_aliases:
        named: set[tuple[str, str]] = set()
        for each in asked.model_aliases:
            model, _, alias = each.rpartition("@")
            models = [model] if model else asked.model_ids or MODELS
            named |= {(one, aliases[one, alias]) for one in models if (one, alias) in aliases}
        said.append(_or([_is(node, facts) for node in named]))
    return _and(said)


def _is(node: Node, facts: ProvenanceRecorded) -> Verdict:
    if facts.model_id != node[0]:
        return False
    return None if facts.model_version == "unknown" else facts.model_version == node[1]


def _and(said: Iterable[Verdict]) -> Verdict:
    all_said = list(said)
    return False if False in all_said else None if None in all_said else True


def _or(said: Iterable[Verdict]) -> Verdict:
    return _not(_and([_not(each) for each in said]))


def _not(said: Verdict) -> Verdict:
    return None if said is None else not said


some = st.lists
model_scopes = st.fixed_dictionaries(
    {},
    optional={
        "model_ids": some(st.sampled_from(MODELS), max_size=2),
        "model_versions": some(st.sampled_from(VERSIONS), max_size=2),
        "version_ranges": some(st.sampled_from([">=2", "<2", ">=1 <3"]), max_size=1),
        "model_aliases": some(st.sampled_from([*ALIASES, "a@champion", "b@shadow"]), max_size=2),
        "with_descendants": st.booleans(),
        "kinds": st.just(["derived"]),
    },
)
asked_scopes = st.recursive(
    model_scopes,
    lambda inner: st.tuples(
        model_scopes, st.sampled_from(["all_of", "any_of", "none_of"]), some(inner, min_size=1, max_size=2)
    ).map(lambda drawn: {**drawn[0], drawn[1]: drawn[2]}),
    max_leaves=4,
)  # fmt: skip
parents = st.dictionaries(
    st.sampled_from(NODES), some(st.sampled_from([*NODES, ("a", None), ("b", None)]), max_size=2), min_size=1
)


@given(
    asked_scopes,
    parents,
    st.dictionaries(st.tuples(st.sampled_from(MODELS), st.sampled_from(ALIASES)), st.sampled_from(VERSIONS)),
)
def test_a_rewritten_scope_means_what_was_asked(
    fields: dict[str, Any], above: dict[Node, list[Node]], aliases: dict[tuple[str, str], str]
) -> None:
    try:
        asked = AskedScope.model_validate(fields)
    except ValidationError:
        assume(False)
    versions = [RegisteredVersion(model, version, tuple(above.get((model, version), ()))) for model, version in NODES]
    memory = registry(*versions, aliases=aliases)
    done = rewrite(asked, memory, None, keyed=keyed)
    if done.scope is None:
        assert done.faults
        return
    for model, version in [*NODES, ("a", "unknown"), ("z", "1.0.0")]:
        facts = record(model_id=model, model_version=version)
        assert verdict(done.scope, facts, None) == means(asked, facts, memory, aliases), (model, version)


def test_versions_that_contradict_each_other_have_no_descendants() -> None:
    asked = {"model_ids": ["b"], "model_versions": ["1.0.0"], "version_ranges": [">=2"], "with_descendants": True}
    memory = registry(RegisteredVersion("a", "1.0.0", (("b", None),)))
    done = rewrite(AskedScope.model_validate(asked), memory, None, keyed=keyed)
    assert done.scope is not None
    assert verdict(done.scope, record(model_id="a", model_version="1.0.0"), None) is False


def test_the_issues_own_sentence_across_models() -> None:
    memory = registry(
        RegisteredVersion("fraud-scorer", "7"),
        RegisteredVersion("fraud-scorer", "8", (("fraud-scorer", "7"),)),
        RegisteredVersion("credit-limit", "2", (("fraud-scorer", "8"),)),
        RegisteredVersion("credit-limit", "3"),
    )
    asked = AskedScope(model_ids=("fraud-scorer",), model_versions=("7",), with_descendants=True)
    done = rewrite(asked, memory, None, keyed=keyed)
    assert done.scope is not None
    assert done.rewriting is not None
    assert done.scope.canonical() == {
        "all_of": [
            {
                "any_of": [
                    {"model_ids": ["credit-limit"], "model_versions": ["2"]},
                    {"model_ids": ["fraud-scorer"], "model_versions": ["7"]},
                    {"model_ids": ["fraud-scorer"], "model_versions": ["8"]},
                ]
            }
        ]
    }
    assert done.rewriting.descendants == ("credit-limit@2", "fraud-scorer@8")
    assert (done.rewriting.registry, done.rewriting.registry_revision, done.rewriting.registry_seen_at) == (
        "test",
        1,
        MARCH,
    )
    assert done.rewriting.asked == asked.canonical()


def test_without_a_registry_the_named_versions_are_found_and_the_rest_is_said_to_be_unknown() -> None:
    asked = AskedScope(model_ids=("fraud-scorer",), model_versions=("7",), with_descendants=True)
    done = rewrite(asked, None, None, keyed=keyed)
    assert done.scope == Scope(model_ids=("fraud-scorer",), model_versions=("7",))
    assert done.rewriting is not None
    assert "no model registry is set up" in done.rewriting.unknown[0]
    unlisted = rewrite(asked, registry(RegisteredVersion("fraud-scorer", "8")), None, keyed=keyed).rewriting
    assert unlisted is not None
    assert unlisted.unlisted == ("fraud-scorer@7",)


def test_an_alias_of_a_time_that_nobody_watched_is_unknown_and_never_guessed() -> None:
    memory = registry(RegisteredVersion("m", "7"), aliases={("m", "champion"): "7"})
    asked = AskedScope(model_aliases=("m@champion",), aliases_at=MARCH - timedelta(days=1))
    done = rewrite(asked, memory, None, keyed=keyed)
    assert done.scope is None
    assert "watched since 2026-03-01 00:00 UTC" in done.faults[0].why
    assert rewritten(AskedScope(model_aliases=("m@champion",)), memory) == Scope(
        all_of=(Scope(model_ids=("m",), model_versions=("7",)),)
    )


def test_a_dataset_version_finds_what_its_readers_wrote_though_records_carry_the_run_alone() -> None:
    runs = Runs(
        reads=[("r1", "warehouse/customers@d1"), ("r2", "warehouse/customers@d2"), ("r3", "warehouse/features@f1")],
        writes=[("r1", "warehouse/features@f1")],
        started=[("dag", "r1"), ("r1", "task"), ("dag", "other")],
    )
    scope = rewritten(AskedScope(dataset_versions=("warehouse/customers@d1",)), None, runs)
    found = {
        run for run in ("r1", "dag", "task", "other", "r2", "r3") if verdict(scope, record(run_id=run), None) is True
    }
    assert found == {"r1", "dag", "task"}
    assert verdict(scope, record(dataset_version="warehouse/customers@d1"), None) is True
    onward = rewritten(AskedScope(dataset_versions=("warehouse/customers@d1",), with_descendants=True), None, runs)
    assert verdict(onward, record(run_id="r3"), None) is True
    assert verdict(onward, record(run_id="r4", dataset_version="features@f1"), None) is True
    started = rewritten(AskedScope(run_ids=("r1",)), None, runs)
    assert started == Scope(run_ids=("r1", "task"))


def test_hashed_addresses_become_keyed_hashes_at_every_depth_and_leave_nothing_behind() -> None:
    plain = "ab" * 32
    asked = AskedScope(none_of=(AskedScope(email_sha256s=(plain.upper(),), email_hmacs=("c" * 64,)),))
    done = rewrite(asked, None, None, keyed=keyed)
    assert done.scope == Scope(none_of=(Scope(email_hmacs=("c" * 64, keyed(plain))),))
    assert plain not in str(done)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"with_descendants": True}, "with_descendants needs one of"),
        ({"aliases_at": MARCH}, "aliases_at needs model_aliases"),
        ({"model_aliases": ["@x@"]}, "is no alias"),
        (
            {"everyone": True, "store_ids": [1], "model_aliases": ["champion"]},
            "everyone cannot be joined with model_aliases",
        ),
    ],
)
def test_words_without_an_object_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        AskedScope.model_validate(fields)
