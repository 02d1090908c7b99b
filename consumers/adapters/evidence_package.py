"""Makes an auditor's package of one incident: a part of the log, what opens it, and the files whose hashes it holds.

What a package proves is said by `consumers.evidence.package`, which is the judge here, too: a package that it finds
wanting is handed over all the same, because what is missing is what an auditor wants to know.
"""

import hashlib
import heapq
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bridge.contracts.errors import BadInput, Refused
from consumers.adapters.artefact_store import DirectoryArtefactStore
from consumers.adapters.case_store.evidence_rows import EvidenceRows
from consumers.adapters.frozen_answers import FrozenAnswers
from consumers.domain.resolution import member_leaf
from consumers.evidence.key_chain import open_head
from consumers.evidence.merkle import leaf_hash
from consumers.evidence.note import VerifierKey
from consumers.evidence.package import (
    ENTRIES_FILE,
    MEMBERS_FILE,
    PACKAGE_FILE,
    PACKAGE_TYPE,
    PEOPLE_FILE,
    PROOFS_FOLDER,
    REASONS_FILE,
    Package,
    PackageReport,
    decisive,
    proof_name,
    verify_package,
)
from consumers.evidence.reader import CHECKPOINT, LogFolder, LogReader
from consumers.evidence.single_file import single_file_verifier
from consumers.evidence.tiles import HEIGHT, WIDTH, TileName, right_edge, width_in

_WITHOUT_INCIDENT = ("tocsin.case.notice.", "tocsin.case.law.", "tocsin.key-rotation")
"""Entries that are of no incident and say what its texts, its duties and the log's signature rest on."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A package that was made."""

    folder: Path
    log_size: int
    entry_count: int
    people_count: int
    report: PackageReport


class EvidencePackages:
    """Makes packages out of a log's folder, the case store and the artefact store."""

    def __init__(
        self,
        log: Path,
        vkey: VerifierKey,
        rows: EvidenceRows,
        artefacts: DirectoryArtefactStore,
    ) -> None:
        self._files = LogFolder(log)
        self._vkey = vkey
        self._rows = rows
        self._artefacts = artefacts

    def write(self, incident_id: str, folder: Path, now: datetime, *, single_proofs: bool = True) -> Packed:
        """Make the package of `incident_id` in `folder`, which must not exist.

        Without `single_proofs` there is no file for each person; the verifier makes one from the package when asked.
        A crash leaves a folder `.partial-...` beside it. Raises BadInput, Refused or Unreachable.
        """
        revision = self._rows.revision(incident_id)
        signed = self._files.read(CHECKPOINT)
        if signed is None:
            raise Refused(
                f"{self._files.root} holds no checkpoint: no evidence was logged yet, or it is another folder"
            )
        head = open_head(signed, [self._vkey], self._files)
        if folder.exists():
            raise BadInput(f"{folder} exists; name another folder with -o")
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
        try:
            (partial / CHECKPOINT).write_bytes(signed)
            indices = self._entries(incident_id, LogReader(self._files, head.size), partial)
            self._tiles(LogReader(self._files, head.size), indices, partial)
            self._members(incident_id, revision, partial)
            people_count = self._people(incident_id, partial)
            self._documents(incident_id, partial)
            (partial / "log.vkey").write_text(f"{self._vkey}\n", encoding="utf-8")
            (partial / "verify.py").write_text(single_file_verifier(), encoding="utf-8")
            (partial / "README.md").write_text(
                _README.format(incident=incident_id, now=now.isoformat(timespec="seconds"), origin=head.origin),
                encoding="utf-8",
            )
            self._contents(incident_id, partial)
            if single_proofs:
                self._proofs(partial)
                self._contents(incident_id, partial)
            report = verify_package(partial, [self._vkey])
            partial.replace(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return Packed(folder, head.size, len(indices), people_count, report)

    def _entries(self, incident_id: str, reader: LogReader, folder: Path) -> list[int]:
        """Write the incident's entries, those about its texts and the law, changes of the key; return their indices."""
        mark = incident_id.encode()
        bundles: set[object] = set()
        others: list[tuple[int, bytes]] = []
        indices: list[int] = []
        with tempfile.TemporaryFile("w+", encoding="utf-8", dir=folder) as own:
            for index, entry in reader.entries():
                if mark not in entry and b'"incident_id"' in entry:
                    continue
                content = json.loads(entry)
                if content.get("incident_id") == incident_id:
                    bundles.add(content.get("bundle_sha256"))
                    own.write(_line({"index": index, "entry": entry.decode()}))
                elif "incident_id" not in content and content["type"].startswith(_WITHOUT_INCIDENT):
                    others.append((index, entry))
            own.seek(0)
            kept = [
                (index, _line({"index": index, "entry": entry.decode()}))
                for index, entry in others
                if (bundle := json.loads(entry).get("body", {}).get("bundle_sha256")) is None or bundle in bundles
            ]
            with (folder / ENTRIES_FILE).open("w", encoding="utf-8") as file:
                for index, line in heapq.merge(((json.loads(line)["index"], line) for line in own), kept):
                    indices.append(index)
                    file.write(line)
        return indices

    @staticmethod
    def _tiles(reader: LogReader, indices: Iterable[int], folder: Path) -> None:
        """Copy the hash tiles from the entries up to the root, and those at the right edge."""
        wanted = set(right_edge(reader.size))
        below = {index // WIDTH for index in indices}
        level = 0
        while below:
            names = {TileName(level, index, width_in(reader.size, level, index)) for index in below}
            wanted |= {name for name in names if name.width}
            below = {name.index // WIDTH for name in names if reader.size >> (HEIGHT * (level + 1)) > name.index}
            level += 1
        for name in wanted:
            path = folder / name.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(reader.bytes_of(name))

    def _members(self, incident_id: str, revision: int, folder: Path) -> None:
        """Write who is under the signed roots, each tree in its order, and each partition's record."""
        erased = self._rows.erased_roots(incident_id)
        left_out = self._rows.left_out(incident_id, revision)
        frozen = FrozenAnswers(self._artefacts)
        (folder / "resolution").mkdir()
        with (folder / MEMBERS_FILE).open("w", encoding="utf-8") as file:
            for record in self._rows.resolutions(incident_id, revision):
                path = folder / "resolution" / f"partition-{record.partition:03d}.json"
                path.write_text(json.dumps(record.model_dump(mode="json"), indent=1), encoding="utf-8")
                for root, records, standing in frozen.read(record.artefact_sha256).members:
                    row: dict[str, Any] = {"partition": record.partition}
                    if root in erased:
                        row["leaf"] = leaf_hash(member_leaf(root, records, standing)).hex()
                    else:
                        row |= {"root": root, "records": sorted(set(records)), "standing": standing}
                        if root in left_out:
                            row["excluded"] = left_out[root]
                    file.write(_line(row))
            for member in self._rows.late_members(incident_id, revision):
                row = {"late": member.number}
                leaf = (
                    None
                    if member.records is None
                    else leaf_hash(member_leaf(member.root, member.records, member.standing)).hex()
                )
                if member.root in erased or member.root.startswith("erased/"):
                    row |= {"leaf": member.leaf} | ({"again": True} if member.known else {})
                elif leaf == member.leaf and member.records is not None:
                    row |= {"root": member.root, "records": sorted(set(member.records)), "standing": member.standing}
                else:
                    row |= {"root": member.root, "leaf": member.leaf}
                if member.root in left_out and "root" in row:
                    row["excluded"] = left_out[member.root]
                file.write(_line(row))

    def _people(self, incident_id: str, folder: Path) -> int:
        """Write whom the commitments are of: for each notice the subject and the key of this incident, not the person's."""
        count = 0
        with (folder / PEOPLE_FILE).open("w", encoding="utf-8") as file:
            for person in self._rows.people(incident_id):
                row: dict[str, Any] = {"commitment": person.commitment, "round": person.round}
                if person.opening is not None:
                    row |= {
                        "subject": person.opening.subject,
                        "key": person.opening.person_key.hex(),
                        "roots": list(person.roots),
                        "bodies": {str(number): body for number, body in sorted(person.bodies.items())},
                    }
                file.write(_line(row))
                count += 1
        return count

    def _documents(self, incident_id: str, folder: Path) -> None:
        """Write what the log names by hash: texts, sheets, dossiers, the law, reasons. What is lost is left out, and shows."""
        logged: dict[str, set[str]] = {"bundle_sha256": set(), "rules_sha256": set()}
        with (folder / ENTRIES_FILE).open(encoding="utf-8") as file:
            for line in file:
                content = json.loads(json.loads(line)["entry"])
                for name, values in logged.items():
                    for place in (content, content.get("body", {})):
                        if isinstance(place.get(name), str):
                            values.add(place[name])
        for bundle in sorted(logged["bundle_sha256"]):
            archive = self._artefact(bundle)
            if archive is not None:
                _write(folder / "texts" / f"{bundle[:16]}.json", archive)
                for name, text in json.loads(archive)["files"].items():
                    _write(folder / "texts" / bundle[:16] / name, text.encode())
        for sheet in self._rows.sheets(incident_id):
            if (page := self._artefact(sheet)) is not None:
                _write(folder / "sheets" / f"{sheet[:16]}.html", page)
        for each in self._rows.dossiers(incident_id):
            for column, ending in (("content_sha256", "json"), ("pdf_sha256", "pdf")):
                content = self._artefact(each[column])
                if content is not None:
                    name = f"{each['controller']}-{each['regime_id']}-{each['version']}.{ending}"
                    _write(folder / "dossiers" / name, content)
        for rules in sorted(logged["rules_sha256"]):
            if (text := self._artefact(rules)) is not None:
                _write(folder / "law" / f"{rules[:16]}.json", text)
        with (folder / REASONS_FILE).open("w", encoding="utf-8") as out:
            out.writelines(_line(row) for row in self._rows.reasons(incident_id))

    def _artefact(self, sha256: str) -> bytes | None:
        try:
            return self._artefacts.get(sha256)
        except Refused:
            return None

    def _proofs(self, folder: Path) -> None:
        """Write for each notice the proof of the entry that says how it arrived, or how it ended."""
        package = Package(folder, [self._vkey])
        (folder / PROOFS_FOLDER).mkdir()
        finals = package.finals()
        for person, outcomes in package.deliveries():
            if person.opening is None:
                continue
            entry = decisive(outcomes) or finals.get((person.subject, person.round))
            if entry is not None:
                path = folder / PROOFS_FOLDER / proof_name(person.opening.subject, person.round)
                path.write_bytes(package.proof(entry, person.opening))

    @staticmethod
    def _contents(incident_id: str, folder: Path) -> None:
        """Write the list of files. What is in the log needs no list; this one tells a damaged file from a forged one."""
        listed = {
            path.relative_to(folder).as_posix(): _sha256(path)
            for path in _files(folder)
            if path.name != PACKAGE_FILE and PROOFS_FOLDER not in path.relative_to(folder).parts[:1]
        }
        about = {"type": PACKAGE_TYPE, "version": 1, "incident_id": incident_id, "files": listed}
        (folder / PACKAGE_FILE).write_text(json.dumps(about, indent=1), encoding="utf-8")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    for place, _, names in os.walk(folder):
        for name in sorted(names):
            yield Path(place) / name


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n"


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


_README = """# Evidence of {incident}

Made {now} from the log `{origin}`. This folder can be checked on any machine, without Tocsin, without a database and
without a network:

    python3 verify.py --vkey KEY                          everything, and that nobody was left out
    python3 verify.py --vkey KEY --person customer/42     what one person was told, when, and by which channel
    python3 verify.py --vkey KEY proofs/customer-42.tlog-proof

It needs Python 3.11 or newer and the package `cryptography`. KEY is the log's verifier key. One lies here as `log.vkey`; compare
it with the key that the shop has published or handed over before: whoever can forge this folder can forge that file. An earlier
key of the log does as well: the entries by which one key names the next are here, too.

| what | holds | is proved by |
| --- | --- | --- |
| `checkpoint`, `tile/` | the log's signed head and a part of its hashes (c2sp.org/tlog-tiles) | the key |
| `entries.jsonl` | every entry of this incident as it was logged | the hashes |
| `resolution/`, `members.jsonl` | whom it concerns: each partition's answer, late additions | Merkle roots in entries |
| `people.jsonl` | whose the commitments in entries are, and what opens them, for this incident only | the commitments |
| `texts/` | the approved texts as they were sent; a person's own has their name, number and date in it | SHA-256 in entries |
| `sheets/` | what the approvers saw: a sample for each group of people | SHA-256 in entries |
| `dossiers/` | what authorities were told | SHA-256 in entries |
| `law/` | the rules by which duties were computed | SHA-256 in entries |
| `reasons.jsonl` | why people decided; with its salt each gives the hash in its entry | SHA-256 in entries |
| `proofs/` | for each notice the entry that says how it arrived, as c2sp.org/tlog-proof@v1, for any other verifier | the key |

What cannot be proved by it: that what was logged is true (it is what was recorded at the time, and cannot have been
changed since), and that nothing was logged after the checkpoint.

`people.jsonl`, `members.jsonl` and `proofs/` say whom it concerns, by the shop's own numbers. Keep this folder as you
would keep personal data. The log itself holds none.
"""
