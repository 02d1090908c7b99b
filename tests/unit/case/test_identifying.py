"""From a leaked log to people: every kind of clue, what leads to nobody is listed, and no value of the log comes out."""

import hashlib
import json
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bridge.contracts.errors import BadInput, Refused
from bridge.contracts.scope import Scope
from bridge.magento.references import Referred
from consumers.case.identify_commands import identify_
from consumers.case.identifying import ClueKind, Reason, References, identify, mapped, read_log
from consumers.case.rewriting import ScopeRewriter
from consumers.case.verification import KeyKind, LeakedKey, LeakMatcher, Matched
from tests.unit.case.cases import Case
from tests.unit.case.test_commands import Desk


def keyed(sha256: str) -> str:
    return sha256[::-1]


def hashed(address: str) -> str:
    return hashlib.sha256(address.encode()).hexdigest()


class Index:
    """Knows some people by key."""

    def __init__(self, *known: str, silent: tuple[int, ...] = ()) -> None:
        self.known = dict(each.split("=") for each in known)
        self.silent = silent

    def match(self, keys: Sequence[LeakedKey]) -> Matched:
        def root(key: LeakedKey) -> str | None:
            if key.kind is KeyKind.EMAIL:
                return self.known.get(key.value)
            if key.kind is KeyKind.HASH:
                return next((root for who, root in self.known.items() if hashed(who) == key.value), None)
            name = f"{key.kind}/{key.value}"
            return name if name in self.known.values() else None

        return Matched({key: frozenset({at}) for key in keys if (at := root(key))}, 4, self.silent)


class Shop:
    """The store's answers, and what it was asked."""

    def __init__(self, *rows: Referred) -> None:
        self.rows = rows
        self.asked: list[tuple[Sequence[str], Sequence[str]]] = []

    def look_up(self, order_numbers: Sequence[str], quote_ids: Sequence[str]) -> Iterable[Referred]:
        self.asked.append((order_numbers, quote_ids))
        return [each for each in self.rows if each.reference in {*order_numbers, *quote_ids}]


LOG = (
    """
{"ts": 1, "request": {"customer": {"email": "Anna@Mail.Example"}}, "score": 0.2}
{"ts": 2, "email_sha256": "%s"}
{"ts": 3, "increment_id": "000000077"}
{"ts": 4, "cart": 12}
{"ts": 5, "session_id": "s-1"}
{"ts": 6, "session_id": "s-9"}
{"ts": 7, "order_number": "000000099"}
not json
{"ts": 9, "customer_id": 5}
{"ts": 10, "email": "nobody@mail.example"}
{"ts": 11, "prompt": "hello"}
""".strip()
    % hashed("bert@mail.example")
)
INDEX = Index(
    "anna@mail.example=customer/1", "bert@mail.example=customer/2", "x=order/77", "y=customer/3", "z=customer/4"
)
SHOP = Shop(
    Referred("order_number", "000000077", 77, None, "guest@mail.example"), Referred("quote", "12", None, 3, None)
)


def test_every_kind_of_clue_leads_to_people_and_the_rest_is_listed_with_its_line() -> None:
    mapping = read_log(b"session_id;customer_id\ns-1;4\ns-2;5\n", "mapping")
    lines = mapped(read_log(LOG.encode(), "log"), mapping, None)
    found = identify(lines, INDEX, SHOP, keyed, is_mapped=True)
    assert (found.line_count, found.identified_count, found.person_count) == (11, 5, 5)
    assert found.by_clue == {"customer": 1, "email": 1, "hash": 1, "order_number": 1, "quote": 1}
    assert found.unresolved == [
        (6, Reason.NOT_MAPPED), (7, Reason.NOT_IN_STORE), (8, Reason.UNREADABLE), (9, Reason.NOT_IN_INDEX),
        (10, Reason.NOT_IN_INDEX), (11, Reason.NOT_MAPPED),
    ]  # fmt: skip
    addresses = ["anna@mail.example", "bert@mail.example", "guest@mail.example", "nobody@mail.example"]
    assert found.scope == Scope(
        everyone=True,
        any_of=(
            Scope(roots=("customer/3", "customer/4", "customer/5", "order/77")),
            Scope(email_hmacs=tuple(sorted(keyed(hashed(each)) for each in addresses))),
        ),
    )
    assert SHOP.asked == [(["000000077", "000000099"], ["12"])]


def test_without_order_numbers_the_store_is_not_asked_and_a_silent_partition_decides_nothing() -> None:
    shop = Shop()
    found = identify(read_log(b'[{"email": "who@mail.example"}]', "log"), Index(silent=(2,)), shop, keyed)
    assert shop.asked == []
    assert found.unresolved == [(1, Reason.UNDECIDED)]
    assert found.scope is not None


def test_a_log_that_names_nobody_has_no_scope() -> None:
    found = identify(read_log(b"prompt,score\nhello,1\n", "log"), Index(), Shop(), keyed)
    assert (found.scope, found.unresolved) == (None, [(2, Reason.NO_CLUE)])


def test_an_order_id_that_begins_with_zero_is_a_number_and_other_names_can_be_said() -> None:
    [line] = read_log(
        b'{"order_id": "000000012", "Ref No": "A-1", "root": "order/7"}', "log", {"Ref No": ClueKind.ORDER_NUMBER}
    )
    assert [(clue.kind, clue.value) for clue in line.clues] == [
        (ClueKind.ORDER_NUMBER, "000000012"), (ClueKind.ORDER_NUMBER, "A-1"), (ClueKind.ORDER, "7"),
    ]  # fmt: skip
    assert "000000012" not in repr(line)


@pytest.mark.parametrize(
    ("log", "mapping", "said"),
    [
        (b'{"s": "1"}', b"t,customer_id\n1,2\n", "None does: the log has s, the mapping file t"),
        (b'{"s": "1", "t": "2"}', b"s,t,customer_id\n1,1,2\n", "Several could"),
    ],
)
def test_a_field_that_joins_must_be_the_only_one(log: bytes, mapping: bytes, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        mapped(read_log(log, "log"), read_log(mapping, "mapping"), None)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"[1", b"email\n"])
def test_what_is_no_log_is_refused_by_name(content: bytes) -> None:
    with pytest.raises(BadInput, match=r"^leaked\.log: "):
        read_log(content, "leaked.log")


def test_a_scope_that_no_incident_can_carry_is_refused() -> None:
    log = "\n".join(json.dumps({"customer_id": 10**15 + number}) for number in range(40_000))
    with pytest.raises(Refused, match="split the log"):
        identify(read_log(log.encode(), "log"), Index(), Shop(), keyed)


def test_the_command_writes_files_that_only_their_owner_reads_and_shows_no_value(case: Case, tmp_path: Path) -> None:
    desk = Desk(case, tmp_path)
    desk.parts.provide(LeakMatcher, lambda: INDEX)
    desk.parts.provide(References, lambda: SHOP)
    desk.parts.provide(ScopeRewriter, lambda: ScopeRewriter(None, None, keyed))
    log, scope, rest = tmp_path / "leaked.jsonl", tmp_path / "scope.json", tmp_path / "rest.jsonl"
    log.write_text(LOG, encoding="utf-8")

    def call(*words: str) -> Result:
        return CliRunner().invoke(identify_, words, obj=desk.parts, env={"TOCSIN_TOKEN": desk.tokens["rae"]})

    done = call(str(log), "-o", str(scope), "--unresolved", str(rest))
    assert done.exit_code == 0, done.output
    assert "4 of 11 lines are about 4 known accounts and orders" in done.output
    assert f"next: tocsin incident preview {scope}" in done.output
    assert "mail.example" not in done.output + scope.read_text() + rest.read_text()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (scope, rest)] == [0o600, 0o600]
    assert Scope.model_validate_json(scope.read_text()).everyone
    assert [json.loads(line)["line"] for line in rest.read_text().splitlines()] == [5, 6, 7, 8, 9, 10, 11]
    assert isinstance(call(str(log), "-o", str(scope)).exception, Refused)
    assert isinstance(call(str(log), "--field", "phone=x").exception, BadInput)
