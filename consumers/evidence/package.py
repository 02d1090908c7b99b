"""The auditor's package of one incident: what its files say, and whether they are proved, offline and whole.

A package is a folder. `checkpoint` and the hash tiles under `tile/` are the log's own (a part of them: those above the
incident's entries), `entries.jsonl` holds the incident's entries. From them everything else is judged: `members.jsonl`
must give the signed roots of who is affected, each of them must have ended, and other files have their hashes in
entries. Nothing here trusts `package.json`; it only helps to say which file was damaged.

This module and those that it imports need Python's standard library and `cryptography` only: `single_file` makes of
them the verifier that lies in every package. Not for making packages (`consumers.adapters.evidence_package`).
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from consumers.evidence.checkpoint import Checkpoint
from consumers.evidence.commitment import Opening, body_text, roots_text
from consumers.evidence.faults import Malformed, NotProved, TileDamaged
from consumers.evidence.key_chain import Handover, changes_in_words, handovers_at, open_with
from consumers.evidence.merkle import leaf_hash, root_over
from consumers.evidence.note import VerifierKey
from consumers.evidence.proof import Extra, Proof
from consumers.evidence.reader import CHECKPOINT, LogFolder, LogReader
from consumers.evidence.tiles import HEIGHT, WIDTH, Frontier, right_edge

PACKAGE_FILE = "package.json"
PACKAGE_TYPE = "tocsin.evidence-package"
ENTRIES_FILE = "entries.jsonl"
MEMBERS_FILE = "members.jsonl"
PEOPLE_FILE = "people.jsonl"
REASONS_FILE = "reasons.jsonl"
PROOFS_FOLDER = "proofs"

_OUTCOME = "tocsin.delivery-outcome"
_RESOLVED = "tocsin.partition-resolved"
_CASE = "tocsin.case."
_HEX = re.compile(r"[0-9a-f]{64}")
_ARRIVED = frozenset({"delivered", "read", "complained"})
_MOST_NAMED = 10
_CHANNELS = {
    "email": "e-mail",
    "sms": "SMS",
    "account_notice": "a notice on the account page",
    "letter": "letter",
}


@dataclass(slots=True)
class PackageReport:
    """What was found of a package. `problems` empty and nobody without outcome: it is proved and whole."""

    problems: list[str] = field(default_factory=list)
    proved: list[str] = field(default_factory=list)
    """What is proved, in sentences."""
    unproved: list[str] = field(default_factory=list)
    """What is in the package and rests on whoever made it."""
    people_count: int = 0
    without: list[str] = field(default_factory=list)
    """Who has no outcome, as the package names them."""

    @property
    def whole(self) -> bool:
        return not self.problems and not self.without

    def add(self, problem: str) -> None:
        if len(self.problems) < 2 * _MOST_NAMED:
            self.problems.append(problem)

    def sentences(self) -> list[str]:
        """Return the result in plain words, the answer first."""
        said = []
        if self.problems:
            said.append("NOT proved: this package is not whole, or was altered.")
            said += self.problems
        if self.without:
            said.append(f"{len(self.without)} of {self.people_count} without outcome: {_some(self.without)}")
        return [*said, *self.proved, *(f"Not proved by this: {each}" for each in self.unproved)]


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the log, proved to be there."""

    index: int
    content: Mapping[str, Any]
    raw: bytes = field(repr=False)

    @property
    def kind(self) -> str:
        return str(self.content.get("type", ""))

    @property
    def body(self) -> Mapping[str, Any]:
        body = self.content.get("body")
        return body if isinstance(body, dict) else {}


@dataclass(frozen=True, slots=True)
class Person:
    """One notice to one person, as the package names them; `opening` None once their key was erased."""

    subject: str
    round: int
    opening: Opening | None
    roots: tuple[str, ...]
    bodies: Mapping[int, str]
    """SHA-256 of the text of each attempt, by number."""

    @property
    def name(self) -> str:
        return self.opening.subject if self.opening is not None else f"somebody erased ({self.subject[:12]}...)"


class Package:
    """A package's folder, its entries proved. Raises Malformed or NotProved where it is none, or is not signed."""

    def __init__(self, root: Path, keys: Sequence[VerifierKey]) -> None:
        self.root = root
        files = LogFolder(root)
        signed = files.read(CHECKPOINT)
        if signed is None:
            raise Malformed(f"{root} holds no checkpoint: not a package, or not the whole of it")
        self.signed = signed
        rows = list(_entries(root / ENTRIES_FILE))
        self.handovers: tuple[Handover, ...] = tuple(handovers_at(rows))
        """The changes of the log's key, by which the holder of an earlier one follows; proved to be in the log below."""
        self.checkpoint: Checkpoint = open_with(signed, keys, self.handovers)
        self.reader = LogReader(files, self.checkpoint.size)
        about = _json_of(root / PACKAGE_FILE)
        if about.get("type") != PACKAGE_TYPE or about.get("version") != 1:
            raise Malformed(f"{root / PACKAGE_FILE} is not that of a package of this version")
        self.about = about
        self.incident_id = str(about.get("incident_id"))
        tree = _Tree(self.reader, self.checkpoint)
        self.entries: list[Entry] = []
        before = -1
        for number, (index, entry) in enumerate(rows, 1):
            if index <= before:
                raise Malformed(f"{ENTRIES_FILE}, line {number}: entry {index} after {before}")
            before = index
            if tree.leaf(index) != leaf_hash(entry):
                raise NotProved(f"{ENTRIES_FILE}, line {number}: this is not entry {index} of the signed log")
            content = json.loads(entry)
            if content.get("incident_id") not in (None, self.incident_id):
                raise Malformed(f"{ENTRIES_FILE}, line {number}: entry {index} is of another incident")
            self.entries.append(Entry(index, content, entry))

    def of_kind(self, kind: str) -> list[Entry]:
        return [each for each in self.entries if each.kind == kind]

    def people(self) -> list[Person]:
        """Return the people that the package names. Raises Malformed, or NotProved for an opening that opens nothing."""
        return [_person(row, number) for number, row in enumerate(_rows(self.root / PEOPLE_FILE), 1)]

    def deliveries(self) -> Iterator[tuple[Person, list[Entry]]]:
        """Yield everybody with what is logged of the attempts to tell them."""
        found: dict[tuple[str, int], list[Entry]] = {}
        for each in self.of_kind(_OUTCOME):
            found.setdefault((str(each.content.get("subject")), int(each.content.get("round", 1))), []).append(each)
        for person in self.people():
            yield person, found.get((person.subject, person.round), [])

    def finals(self) -> Mapping[tuple[str, int], Entry]:
        """Return the entry that says how a notice ended, by commitment and round; without ends that a bounce took back."""
        return _finals(self)

    def proof(self, entry: Entry, opening: Opening | None) -> bytes:
        """Return the proof of one entry as c2sp.org/tlog-proof@v1, made from the package alone."""
        path = self.reader.inclusion_proof(entry.index)
        return Proof(entry.index, path, self.signed, Extra(entry.raw, opening, self.handovers).encode()).encode()


class _Tree:
    """Leaf hashes out of hash tiles, each tile compared with the hash above it, up to the signed root."""

    def __init__(self, reader: LogReader, head: Checkpoint) -> None:
        self._reader = reader
        frontier = Frontier(reader.size)
        for name in right_edge(reader.size):
            frontier.levels.extend([] for _ in range(name.level + 1 - len(frontier.levels)))
            frontier.levels[name.level] = list(reader.tile(name.level, name.index))
        if frontier.root() != head.root:
            raise NotProved("the hash tiles do not give the signed root: altered, or of another log")
        self._edge = {(name.level, name.index) for name in right_edge(reader.size)}
        self._trusted: set[tuple[int, int]] = set()
        self._last: tuple[int, list[bytes]] | None = None

    def leaf(self, index: int) -> bytes:
        """Return the hash of leaf `index`. Raises NotProved or TileDamaged."""
        if not 0 <= index < self._reader.size:
            raise NotProved(f"there is no entry {index} in a log of {self._reader.size}")
        if self._last is None or self._last[0] != index // WIDTH:
            self._last = (index // WIDTH, self._hashes(0, index // WIDTH))
        return self._last[1][index % WIDTH]

    def _hashes(self, level: int, index: int) -> list[bytes]:
        hashes = self._reader.tile(level, index)
        if (level, index) in self._edge or (level, index) in self._trusted:
            return hashes
        if self._reader.size >> (HEIGHT * (level + 1)) <= index:
            raise NotProved(f"tile {index} of level {level} is not part of the signed tree")
        if self._hashes(level + 1, index // WIDTH)[index % WIDTH] != root_over(hashes):
            raise NotProved(f"tile {index} of level {level} does not fit the one above it: altered")
        self._trusted.add((level, index))
        return hashes


def is_package(folder: Path) -> bool:
    """Return whether a folder claims to be a package (a log's folder does not)."""
    return (folder / PACKAGE_FILE).is_file() or (folder / ENTRIES_FILE).is_file()


def verify_package(folder: Path, keys: Sequence[VerifierKey]) -> PackageReport:
    """Judge a package offline. Never raises for what it finds: see `problems`."""
    report = PackageReport()
    try:
        package = Package(folder, keys)
        report.proved.append(
            f"Proved: these {len(package.entries)} entries about {package.incident_id} were in the log "
            f"{package.checkpoint.origin}, in this order and unaltered, when it had {package.checkpoint.size} entries."
        )
        report.proved += changes_in_words(package.handovers, package.checkpoint.origin)
        _verify_files(package, report)
        people = package.people()
        _verify_whole(package, people, report)
        _verify_deliveries(package, people, report)
        _verify_bound(package, report)
        _verify_proofs(package, people, keys, report)
    except (Malformed, NotProved, TileDamaged) as fault:
        report.add(f"{fault}.")
    except (OSError, UnicodeDecodeError, RecursionError) as fault:
        report.add(f"a file of the package cannot be read: {type(fault).__name__}: {str(fault)[:300]}")
    report.unproved += [
        "that what was logged is true: it is what Tocsin recorded at the time, and cannot have been changed since.",
        "when the log was signed, unless its checkpoints bear time stamps; and that nothing was logged after it.",
    ]
    return report


# --- nothing was left out -------------------------------------------------------------------------------------------


def _verify_whole(package: Package, people: Sequence[Person], report: PackageReport) -> None:
    """Compare the members under the signed roots with the people who ended."""
    revision = _revision(package)
    if revision is None:
        report.unproved.append("whom this incident concerns: no partition has answered to it.")
        return
    members, excluded = _members(package, revision, report)
    redacted = sum(root is None for root in members)
    known = {root for root in members if root is not None}
    finals = _finals(package)
    regrouped = _regrouped(package)
    covered: set[str] = set()
    erased_roots = earlier = 0
    named: set[tuple[str, int]] = set()
    subjects: set[str] = set()
    for person in people:
        key = (person.subject, person.round)
        if key in named:
            report.add(f"{PEOPLE_FILE} names {person.name} twice for round {person.round}")
        named.add(key)
        final = finals.get(key)
        if final is None and person.opening is not None and known.isdisjoint(person.roots):
            earlier += 1
        elif final is None:
            report.without.append(_round(person))
        if person.opening is None:
            if person.subject not in subjects:
                erased_roots += _root_count(person, final, regrouped)
        else:
            _verify_roots(person, final, regrouped.get(key, ()), report)
            if final is not None:
                covered.update(person.roots)
        subjects.add(person.subject)
    for subject, round_ in sorted(finals.keys() - named):
        report.add(
            f"the log tells how somebody ended whom the package does not name ({subject[:12]}..., round {round_})"
        )
    waiting = {root for person in people if person.opening is not None for root in person.roots} - covered
    for root in sorted(known - covered - excluded - waiting):
        report.without.append(root)
    if redacted > erased_roots:
        report.without += ["a member without name"] * (redacted - erased_roots)
    if earlier:
        report.unproved.append(
            f"how {earlier} people fared who were concerned by an earlier scope only, not by this one."
        )
    report.people_count = (
        len(named) - earlier + len(known - covered - excluded - waiting) + max(0, redacted - erased_roots)
    )
    decided = {
        str(each.body.get("subject")): each.body.get("why") for each in package.of_kind(f"{_CASE}person.not_notified")
    }
    left = [
        decided[person.subject]
        for person in people
        if person.subject in decided and (person.subject, person.round) not in finals
    ]
    in_flight = left.count("no_receipt_yet")
    if len(left) > in_flight:
        report.proved.append(
            f"{len(left) - in_flight} of those without outcome were not notified by decisions that the log names."
        )
    if in_flight:
        report.proved.append(
            f"{in_flight} of those without outcome had a message on its way when the incident was closed; no receipt of it is "
            "in the log."
        )
    if not report.problems and not report.without:
        erased = sum(person.opening is None for person in people)
        report.proved.append(
            f"Proved: nobody was left out. {len(known) + redacted} accounts and orders stand under the signed roots of "
            f"revision {revision}; they are {len(subjects)} people, and each of them has an outcome"
            + (f"; {len(excluded & known)} were left out by a recorded decision" if excluded & known else "")
            + (f"; {erased} were erased since, and are counted without being named" if erased else "")
            + "."
        )
        ends = Counter(str(final.body.get("state")) for final in finals.values())
        report.proved.append("Outcomes: " + ", ".join(f"{count} {end}" for end, count in sorted(ends.items())) + ".")


def _revision(package: Package) -> int | None:
    found = [int(each.content.get("revision", 0)) for each in package.of_kind(_RESOLVED)]
    stated = [
        int(each.body.get("revision", 0))
        for each in package.entries
        if each.kind in (f"{_CASE}incident.rescoped", f"{_CASE}incident.scope_understood", f"{_CASE}plan.completed")
    ]
    return max(found + stated) if found else None


def _members(package: Package, revision: int, report: PackageReport) -> tuple[list[str | None], set[str]]:
    """Return the roots of all members, None for one without a name, and who was left out by decision.

    Every tree of the revision is computed anew and compared with its entry.
    """
    trees: dict[tuple[str, int], list[bytes]] = {}
    roots: list[str | None] = []
    seen: set[str] = set()
    excluded_by: dict[str, set[str]] = {}
    unnamed_late = again = 0
    for number, row in enumerate(_rows(package.root / MEMBERS_FILE), 1):
        tree, leaf, root = _member(row, number)
        trees.setdefault(tree, []).append(leaf)
        if root is None and row.get("again") is True:
            again += 1
        elif root is None or root not in seen:
            roots.append(root)
        if root is not None:
            seen.add(root)
            if "records" not in row:
                unnamed_late += 1
            if isinstance(row.get("excluded"), str):
                excluded_by.setdefault(row["excluded"], set()).add(root)
    answers = {
        int(each.content["partition"]): each
        for each in package.of_kind(_RESOLVED)
        if each.content.get("revision") == revision
    }
    partition_count = max((int(each.content["partition_count"]) for each in answers.values()), default=0)
    if len(answers) < partition_count:
        report.add(f"{len(answers)} of {partition_count} partitions have an entry with their answer")
    for partition, entry in sorted(answers.items()):
        _compare_tree(
            f"partition {partition}", trees.pop(("partition", partition), []), entry.content.get("affected_count"),
            entry.content.get("members_root"), report,
        )  # fmt: skip
    late = [each for each in package.of_kind(f"{_CASE}people.added_late") if each.body.get("revision") == revision]
    for entry in late:
        at = int(entry.body.get("number", 0))
        _compare_tree(
            f"late addition {at}", trees.pop(("late", at), []), entry.body.get("member_count"),
            entry.body.get("members_root"), report,
        )  # fmt: skip
    if again > sum(int(each.body.get("member_count", 0)) - int(each.body.get("new_count", 0)) for each in late):
        report.add(f"{again} members without name are said to be known already; the log knows of fewer")
    numbers = {int(each.body.get("number", 0)) for each in late}
    if numbers and numbers != set(range(1, max(numbers) + 1)):
        report.add("a late addition has no entry: their numbers have a gap")
    for kind, at in sorted(trees):
        report.add(f"{MEMBERS_FILE} has members of {kind} {at}, which has no entry in the log")
    if unnamed_late:
        report.unproved.append(
            f"which accounts {unnamed_late} members are: their hashes are signed, their names are ours."
        )
    return roots, _excluded(package, excluded_by, revision, report)


def _member(row: Mapping[str, Any], number: int) -> tuple[tuple[str, int], bytes, str | None]:
    where = f"{MEMBERS_FILE}, line {number}"
    for kind in ("partition", "late"):
        at = row.get(kind)
        if type(at) is int:
            break
    else:
        raise Malformed(f"{where}: neither partition nor late addition")
    root = row.get("root")
    if isinstance(root, str) and isinstance(row.get("records"), list):
        content = json.dumps(
            [root, sorted(set(row["records"])), row.get("standing")], ensure_ascii=False, separators=(",", ":")
        )
        return (kind, at), leaf_hash(content.encode()), root
    leaf = row.get("leaf")
    if not isinstance(leaf, str) or _HEX.fullmatch(leaf) is None or not (root is None or isinstance(root, str)):
        raise Malformed(f"{where}: neither the content of a member nor its hash")
    return (kind, at), bytes.fromhex(leaf), root


def _compare_tree(what: str, leaves: Sequence[bytes], count: object, root: object, report: PackageReport) -> None:
    if len(leaves) != count:
        report.add(
            f"{what}: the log says {count} members, the package has {len(leaves)}: somebody was left out or added"
        )
    elif root_over(leaves).hex() != root:
        report.add(f"{what}: its {count} members do not give the signed root: somebody was exchanged or altered")


def _excluded(package: Package, excluded_by: Mapping[str, set[str]], revision: int, report: PackageReport) -> set[str]:
    decided = {
        str(each.body.get("exclusion_id")): each
        for each in package.of_kind(f"{_CASE}incident.possible_excluded")
        if each.body.get("revision") == revision
    }
    taken_back = max((each.index for each in package.of_kind(f"{_CASE}incident.possible_included")), default=-1)
    found: set[str] = set()
    for name, roots in sorted(excluded_by.items()):
        entry = decided.get(name)
        if entry is None or entry.index < taken_back:
            report.add(
                f"{len(roots)} members were left out by a decision ({name[:12]}) that has no entry, or was taken back"
            )
        elif len(roots) > int(entry.body.get("people_count", 0)):
            report.add(
                f"{len(roots)} members were left out by a decision ({name[:12]}) that was about {entry.body.get('people_count')}"
            )
        else:
            found |= roots
    return found


def _finals(package: Package) -> dict[tuple[str, int], Entry]:
    """Return the newest end of each (person, round) that still holds."""
    finals = {
        (str(each.body.get("subject")), int(each.body.get("round", 1))): each
        for each in _by_time(package.of_kind(f"{_CASE}person.finished"), "occurred_at")
    }
    arrived: dict[tuple[str, int], dict[int, str]] = {}
    for each in _by_time(package.of_kind(_OUTCOME), "recorded_at"):
        key = (str(each.content.get("subject")), int(each.content.get("round", 1)))
        arrived.setdefault(key, {})[int(each.content.get("attempt_number", 0))] = str(each.content.get("state"))
    elsewhere = {str(each.body.get("subject")) for each in package.of_kind(f"{_CASE}people.told_in_other_incident")}
    return {
        key: final
        for key, final in finals.items()
        # an end that a later bounce has taken back is none
        if final.body.get("state") != "reached"
        or key[0] in elsewhere
        or any(state in _ARRIVED for state in arrived.get(key, {}).values())
    }


def _regrouped(package: Package) -> dict[tuple[str, int], list[Entry]]:
    found: dict[tuple[str, int], list[Entry]] = {}
    for each in package.of_kind(f"{_CASE}person.regrouped"):
        found.setdefault((str(each.body.get("subject")), int(each.body.get("round", 1))), []).append(each)
    return found


def _verify_roots(person: Person, final: Entry | None, regrouped: Sequence[Entry], report: PackageReport) -> None:
    """Check that the accounts that the package gives to somebody are those that were logged for them."""
    if person.opening is None or final is None:
        return
    commitments = {each.body.get("roots_digest") for each in (final, *regrouped)} - {None}
    if not commitments:
        return
    for commitment in commitments:
        try:
            Opening(person.opening.person_key, roots_text(person.roots)).check(str(commitment))
        except NotProved:
            continue
        return
    report.add(f"{person.name}: the package gives them other accounts and orders than their entry in the log")


def _root_count(person: Person, final: Entry | None, regrouped: Mapping[tuple[str, int], Sequence[Entry]]) -> int:
    entries = [*regrouped.get((person.subject, person.round), ()), *(() if final is None else (final,))]
    return max((int(each.body.get("root_count", 1)) for each in entries), default=0)


# --- one delivery ---------------------------------------------------------------------------------------------------


def _verify_deliveries(package: Package, people: Sequence[Person], report: PackageReport) -> None:
    texts = 0
    named = {(person.subject, person.round) for person in people}
    strangers = {
        key
        for each in package.of_kind(_OUTCOME)
        if (key := (str(each.content.get("subject")), int(each.content.get("round", 1)))) not in named
    }
    for person, outcomes in package.deliveries():
        if person.opening is None:
            continue
        digests: dict[int, set[str]] = {}
        for each in outcomes:
            if isinstance(each.content.get("body_digest"), str):
                digests.setdefault(int(each.content["attempt_number"]), set()).add(each.content["body_digest"])
        for number, body in person.bodies.items():
            for digest in digests.get(number, ()):
                try:
                    Opening(person.opening.person_key, body_text(body)).check(digest)
                except NotProved:
                    # a repeated attempt may have had another text (a corrected name); the newest one is named
                    if len(digests[number]) > 1:
                        continue
                    report.add(f"{person.name}: the text of attempt {number} is not the one that the log names")
                else:
                    texts += 1
    if strangers:
        report.add(f"the log tells of attempts to reach {len(strangers)} people whom the package does not name")
    states = Counter(str(each[-1].content.get("state")) for each in _attempts(package.of_kind(_OUTCOME)).values())
    if states:
        listed = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        report.proved.append(f"Attempts: {sum(states.values())}, by their last entry {listed}.")
    if texts:
        report.proved.append(f"Proved: the SHA-256 of the text is the logged one for {texts} attempts.")


def _by_time(entries: Iterable[Entry], name: str) -> list[Entry]:
    """Return entries in the order in which they were recorded: a restored case store logs again what it had said before."""
    return sorted(entries, key=lambda each: (str(each.content.get(name)), each.index))


def in_words(content: Mapping[str, Any]) -> str | None:
    """Return what an entry about a delivery says, in a sentence; None for another entry."""
    if content.get("type") == _OUTCOME:
        channel = _CHANNELS.get(str(content.get("channel")), str(content.get("channel")))
        via = f" through {content['provider']}" if content.get("provider") else ""
        state = str(content.get("state")).replace("_", " ")
        text = (
            f", the text being the approved bundle {str(content['bundle_sha256'])[:16]}..."
            if content.get("bundle_sha256")
            else ""
        )
        exercise = " (an exercise)" if content.get("exercise") is True else ""
        return (
            f"In words: of {content.get('incident_id')}{exercise}, attempt {content.get('attempt_number')} to tell this person, "
            f"by {channel}{via}, was {state} at {content.get('occurred_at')} (recorded {content.get('recorded_at')}){text}."
        )
    body = content.get("body")
    if content.get("type") == f"{_CASE}person.finished" and isinstance(body, dict):
        state = str(body.get("state")).replace("_", " ")
        at = content.get("occurred_at")
        return f"In words: of {content.get('incident_id')}, it ended for this person as: {state}, at {at}."
    return None


def _attempts(outcomes: Sequence[Entry]) -> dict[tuple[object, ...], list[Entry]]:
    found: dict[tuple[object, ...], list[Entry]] = {}
    for each in _by_time(outcomes, "recorded_at"):
        key = tuple(each.content.get(name) for name in ("subject", "round", "attempt_number"))
        found.setdefault(key, []).append(each)
    return found


def decisive(outcomes: Sequence[Entry]) -> Entry | None:
    """Return the entry that says that somebody was reached, else the newest one, else None."""
    attempts = _attempts(outcomes)
    arrived = [each[-1] for each in attempts.values() if each[-1].content.get("state") in _ARRIVED]
    first = [
        next(entry for entry in attempts[key] if entry.content.get("state") in _ARRIVED)
        for key in attempts
        if attempts[key][-1] in arrived
    ]
    return first[0] if first else (outcomes[-1] if outcomes else None)


def history(package: Package, subject: str) -> list[str]:
    """Return what is proved of one person, in sentences. Raises NotProved if the package does not name them."""
    rounds = [each for each in package.deliveries() if each[0].opening is not None and subject in each[0].roots]
    if not rounds:
        raise NotProved(f"the package names no {subject[:100]!r} (a name is such as customer/42 or order/77)")
    said = []
    finals = _finals(package)
    for person, outcomes in rounds:
        said.append(f"{person.name}{'' if person.round == 1 else f', notice {person.round}'}:")
        for each in outcomes:
            at, content = each.content.get("occurred_at"), each.content
            text = f", text {str(content['bundle_sha256'])[:12]}" if content.get("bundle_sha256") else ""
            via = f" through {content['provider']}" if content.get("provider") else ""
            said.append(
                f"  {at}  attempt {content.get('attempt_number')} by "
                f"{_CHANNELS.get(str(content.get('channel')), content.get('channel'))}{via}: {content.get('state')}{text} "
                f"(entry {each.index})"
            )
        final = finals.get((person.subject, person.round))
        said.append("  no outcome" if final is None else f"  outcome: {final.body.get('state')} (entry {final.index})")
    said.append("Proved: these entries are in the signed log, and their commitment is of this person.")
    return said


# --- other files ----------------------------------------------------------------------------------------------------


def _verify_files(package: Package, report: PackageReport) -> None:
    listed = package.about.get("files")
    if not isinstance(listed, dict):
        raise Malformed(f"{PACKAGE_FILE} lists no files")
    for name, sha256 in sorted(listed.items()):
        path = package.root / name
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise Malformed(f"{PACKAGE_FILE} names a file outside the package")
        if not path.is_file():
            report.add(f"{name} is missing")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            report.add(f"{name} is not the file that was packed: altered")


_BOUND: tuple[tuple[str, str, str], ...] = (
    ("texts/*.json", "bundle_sha256", "approved texts"),
    ("sheets/*.html", "sheet_sha256", "approvers' sheets"),
    ("dossiers/*.json", "content_sha256", "dossiers"),
    ("dossiers/*.pdf", "pdf_sha256", "dossiers as PDF"),
    ("law/*.json", "rules_sha256", "releases of the law"),
)
"""Files whose SHA-256 an entry names: pattern, the entries' field, what they are."""


def _verify_bound(package: Package, report: PackageReport) -> None:
    logged: dict[str, set[str]] = {}
    for each in package.entries:
        for _, name, _ in _BOUND:
            for place in (each.content, each.body):
                if isinstance(place.get(name), str):
                    logged.setdefault(name, set()).add(place[name])
    for pattern, name, what in _BOUND:
        found = 0
        for path in sorted(package.root.glob(pattern)):
            if hashlib.sha256(path.read_bytes()).hexdigest() in logged.get(name, set()):
                found += 1
            else:
                report.add(f"{path.relative_to(package.root)}: no entry of the log names this content")
        missing = len(logged.get(name, set())) - found
        if found:
            report.proved.append(f"Proved: {found} {what} are those that the log names.")
        if missing > 0:
            report.unproved.append(
                f"what {missing} {what} say: the log names their hash, the package does not hold them."
            )
    _verify_reasons(package, report)
    records = {str(each.content.get("artefact_sha256")): each for each in package.of_kind(_RESOLVED)}
    for path in sorted(package.root.glob("resolution/*.json")):
        record = _json_of(path)
        entry = records.get(str(record.get("artefact_sha256")))
        said = {
            "incident_id": "incident_id", "revision": "revision", "partition": "partition",
            "partition_count": "partition_count", "scope_sha256": "scope_sha256", "position_offset": "position_offset",
            "affected_count": "affected_count", "possible_count": "possible_count", "members_root": "merkle_root",
        }  # fmt: skip
        if entry is None or any(entry.content.get(ours) != record.get(theirs) for ours, theirs in said.items()):
            report.add(f"{path.relative_to(package.root)} is not the resolution record that the log names")


def _verify_reasons(package: Package, report: PackageReport) -> None:
    logged = {each.body.get("reason_sha256") for each in package.entries} - {None}
    given = 0
    path = package.root / REASONS_FILE
    for number, row in enumerate(_rows(path) if path.exists() else (), 1):
        salt, reason = row.get("reason_salt"), row.get("reason")
        if not isinstance(salt, str) or not isinstance(reason, str) or re.fullmatch(r"([0-9a-f]{2})*", salt) is None:
            raise Malformed(f"{REASONS_FILE}, line {number}: no reason and salt")
        if hashlib.sha256(bytes.fromhex(salt) + reason.encode("utf-8", "surrogatepass")).hexdigest() in logged:
            given += 1
        elif f"{_CASE}{row.get('kind')}" in {each.kind for each in package.entries if "reason_sha256" in each.body}:
            report.add(f"{REASONS_FILE}, line {number}: not the reason that the log names for {row.get('kind')}")
    if given:
        report.proved.append(f"Proved: {given} reasons are those that the log names.")


def _verify_proofs(
    package: Package, people: Sequence[Person], keys: Sequence[VerifierKey], report: PackageReport
) -> None:
    """Check the proofs of single deliveries: each is of an entry of this package and of the person it is filed under."""
    folder = package.root / PROOFS_FOLDER
    if not folder.is_dir():
        return
    indices = {each.index: each for each in package.entries}
    proved: set[tuple[str, int]] = set()
    for path in sorted(folder.iterdir()):
        try:
            proof = Proof.parse(path.read_bytes())
            extra = Extra.parse(proof.extra or b"")
            proof.verify(extra.entry, keys, extra.handovers)
            entry = indices.get(proof.index)
            if entry is None or entry.content != json.loads(extra.entry):
                raise NotProved("it is of an entry that the package does not have")
            if extra.opening is None:
                raise NotProved("it does not say of whom it is")
            subject = entry.content.get("subject") or entry.body.get("subject")
            extra.opening.check(str(subject))
            if (
                proof_name(extra.opening.subject, int(entry.content.get("round", entry.body.get("round", 1))))
                != path.name
            ):
                raise NotProved("it is filed under another person")
        except (Malformed, NotProved) as fault:
            report.add(f"{PROOFS_FOLDER}/{path.name}: {fault}")
        else:
            proved.add((str(subject), int(entry.content.get("round", entry.body.get("round", 1)))))
    logged = {
        (
            str(each.content.get("subject") or each.body.get("subject")),
            int(each.content.get("round", each.body.get("round", 1))),
        )
        for each in package.entries
        if each.kind in (_OUTCOME, f"{_CASE}person.finished")
    }
    for person in people:
        key = (person.subject, person.round)
        if person.opening is not None and key in logged and key not in proved:
            report.add(f"{PROOFS_FOLDER}/{proof_name(person.opening.subject, person.round)} is missing: {person.name}")
    if proved:
        report.proved.append(
            f"Proved: {len(proved)} single proofs, each of a delivery to the person it is filed under."
        )


def proof_name(subject: str, round_: int) -> str:
    """Return the file name of the proof of one notice to somebody: `customer-42.tlog-proof`, `customer-42-2.tlog-proof`."""
    return f"{subject.replace('/', '-')}{'' if round_ == 1 else f'-{round_}'}.tlog-proof"


# --- reading --------------------------------------------------------------------------------------------------------


def _json_of(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise Malformed(f"{path.name} is missing: not a package, or not the whole of it") from None
    except ValueError:
        raise Malformed(f"{path.name} is no JSON") from None
    if not isinstance(content, dict):
        raise Malformed(f"{path.name} is no JSON object")
    return content


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise Malformed(f"{path.name} is missing: not a package, or not the whole of it") from None
    with file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                raise Malformed(f"{path.name}, line {number} is no JSON") from None
            if not isinstance(row, dict):
                raise Malformed(f"{path.name}, line {number} is no JSON object")
            yield row


def _entries(path: Path) -> Iterator[tuple[int, bytes]]:
    for number, row in enumerate(_rows(path), 1):
        index, entry = row.get("index"), row.get("entry")
        if type(index) is not int or not isinstance(entry, str) or set(row) != {"index", "entry"}:
            raise Malformed(f"{path.name}, line {number}: not an index and an entry")
        yield index, entry.encode("utf-8", "surrogatepass")


def _person(row: Mapping[str, Any], number: int) -> Person:
    where = f"{PEOPLE_FILE}, line {number}"
    commitment, round_ = row.get("commitment"), row.get("round")
    if not isinstance(commitment, str) or _HEX.fullmatch(commitment) is None or type(round_) is not int:
        raise Malformed(f"{where}: no commitment and round")
    if row.get("subject") is None:
        return Person(commitment, round_, None, (), {})
    subject, key, roots, bodies = (row.get(name) for name in ("subject", "key", "roots", "bodies"))
    if (
        not isinstance(subject, str)
        or not isinstance(key, str)
        or _HEX.fullmatch(key) is None
        or not isinstance(roots, list)
        or not all(isinstance(each, str) for each in roots)
        or not isinstance(bodies, dict)
        or not all(isinstance(each, str) and name.isdigit() and len(name) < 10 for name, each in bodies.items())
    ):
        raise Malformed(f"{where}: subject, key, roots and bodies are not what they should be")
    opening = Opening(bytes.fromhex(key), subject)
    try:
        opening.check(commitment)
    except NotProved:
        raise NotProved(f"{where}: the key does not open the commitment; this is somebody else") from None
    if subject not in roots:
        raise Malformed(f"{where}: the person is not among their own accounts")
    return Person(commitment, round_, opening, tuple(roots), {int(name): each for name, each in bodies.items()})


def _round(person: Person) -> str:
    return person.name if person.round == 1 else f"{person.name} (notice {person.round})"


def _some(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
