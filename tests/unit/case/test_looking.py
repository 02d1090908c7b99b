"""Looking at single people: recorded before it is shown, by those who may, and addresses only into a private file."""

import json
import stat
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from bridge.contracts.errors import BadInput, Refused
from bridge.contracts.events import Contact, SealedContact
from consumers.adapters.case_store import tables
from consumers.adapters.case_store.incidents import SqlCaseStore
from consumers.case import looking, looking_commands
from consumers.case.looking import find_person, list_bounced, roots_behind
from consumers.case.verification import LeakedKey, Matched
from consumers.domain.sending import ReceiptKind
from tests.unit.adapters.ledger_case import EMAIL_LANE, INCIDENT, NOW, sqlite_case
from tests.unit.adapters.ledger_case import Case as LedgerCase
from tests.unit.case.cases import DPO, SRE

SEALED = {"key_id": "k", "wrapped_key": "w", "nonce": "n", "ciphertext": "c"}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[LedgerCase]:
    made = sqlite_case(tmp_path)
    yield made
    made.database.close()


class Index:
    """Knows one address."""

    def match(self, keys: Sequence[LeakedKey]) -> Matched:
        return Matched({key: frozenset({"order/7"}) for key in keys if key.value == "known@shop.example.com"}, 4, (2,))


class Opening:
    """Opens every seal to one address, and counts."""

    def __init__(self) -> None:
        self.opened: list[str] = []

    def open(self, sealed: SealedContact, root: str) -> Contact:
        self.opened.append(root)
        return Contact(email=f"{root.replace('/', '-')}@shop.example.com", phone="+4930123456")


def bounced_person(ledger: LedgerCase) -> None:
    with ledger.database.write() as connection:
        connection.execute(sa.update(tables.segment).values(channels=["email", "sms"]))
    ledger.person(5, roots=["customer/5", "order/7"], contact=SEALED)
    with ledger.database.write() as connection:
        connection.execute(sa.update(tables.release).values(
            policy={"segments": {"s1": {"bundle_sha256": "b" * 64, "channels": ["email", "sms"]}}}))  # fmt: skip
    [intent] = ledger.claim(EMAIL_LANE)
    ledger.hand_over([intent])
    ledger.receive(intent, ReceiptKind.BOUNCED_HARD)


def test_one_person_is_found_by_address_and_the_look_is_recorded(ledger: LedgerCase) -> None:
    bounced_person(ledger)
    ledger.commands()
    store = SqlCaseStore(ledger.database, ledger.clock)
    roots = roots_behind(Index(), email=" known@shop.example.com ")
    with pytest.raises(Refused, match=r"may not person.look; it takes one of: dpo"):
        find_person(store, roots, SRE, NOW)
    assert ledger.case_events() == []
    [seen] = find_person(store, roots, DPO, NOW)
    assert (seen.root, seen.final_state) == ("customer/5", None), "found by any root of theirs"
    assert [(each.number, each.channel, each.state) for each in seen.attempts] == [
        (1, "email", "bounced"), (2, "sms", "planned"),
    ]  # fmt: skip
    assert [kind for kind, _, _ in seen.attempts[0].receipts] == ["bounced_hard"]
    [event] = ledger.case_events()
    assert (event["kind"], event["body"]["view"]) == ("person.looked_at", "delivery_find")
    assert event["body"]["subject_commitment"] == f"{5:064d}"
    with pytest.raises(Refused, match="nobody is known by this address, but 1 of 4 partitions did not answer"):
        roots_behind(Index(), email="stranger@shop.example.com")
    with pytest.raises(Refused, match="no incident is about this person"):
        find_person(store, ["customer/77"], DPO, NOW)
    with pytest.raises(BadInput, match="one of --email, --customer and --root"):
        roots_behind(None, customer_id=5, root="customer/5")


def test_bounced_addresses_are_listed_by_id_and_opened_for_a_reason_only(ledger: LedgerCase) -> None:
    bounced_person(ledger)
    ledger.commands()
    store = SqlCaseStore(ledger.database, ledger.clock)
    [row] = list_bounced(store, INCIDENT, DPO, NOW)
    assert (row.record.customer_id, row.record.channel, row.record.kind, row.address) == (
        5,
        "email",
        "bounced_hard",
        None,
    )
    opener = Opening()
    with pytest.raises(BadInput, match="needs a reason"):
        list_bounced(store, None, DPO, NOW, opener=opener)
    assert opener.opened == []
    [row] = list_bounced(store, None, DPO, NOW, opener=opener, reason="the shop writes to them")
    assert row.address == "customer-5@shop.example.com"
    assert "customer-5@" not in repr(row)
    assert [event["body"]["opened"] for event in ledger.case_events()] == [False, True]
    store.change(lambda case: case.remove_contacts(INCIDENT))
    [row] = list_bounced(store, None, DPO, NOW + timedelta(hours=1), opener=opener, reason="again")
    assert row.address is None, "the contacts of a closed incident are gone"


def test_a_list_with_addresses_goes_into_a_file_of_its_own_that_nobody_else_reads(
    ledger: LedgerCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounced_person(ledger)
    opener, store = Opening(), SqlCaseStore(ledger.database, ledger.clock)
    known = {"CaseStore": store, "Clock": ledger.clock, "ContactOpener": opener}

    class Parts:
        def get(self, part: type) -> object:
            return known[part.__name__]

    monkeypatch.setattr(looking_commands, "authenticated", lambda _parts, _file: DPO)
    out = tmp_path / "bounced.csv"

    def run(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(looking_commands.bounced, words, obj=Parts(), catch_exceptions=True)
        return done.exit_code, done.output + str(done.exception or "")

    assert "name the file" in run("--with-addresses", "--reason", "x")[1]
    assert run("--with-addresses", "-o", str(out), "--reason", "x") == (0, f"1 rows in {out}\n")
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert "customer-5@shop.example.com" in out.read_text()
    assert "exists already; nothing was written" in run("--with-addresses", "-o", str(out), "--reason", "x")[1]
    code, text = run("--json")
    assert (code, json.loads(text)[0]["root"]) == (0, "customer/5")
    assert "@" not in text
    assert looking.ContactOpener.__name__ in known
