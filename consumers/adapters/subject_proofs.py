"""What the evidence log says of one person's notices, and a proof of each: for their copy (`subject_commands`)."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bridge.contracts.events import AttemptState
from consumers.adapters.case_store.evidence_rows import EvidenceRows, LoggedPerson
from consumers.adapters.case_store.subjects import HeldNotice
from consumers.domain.delivery import ARRIVED
from consumers.evidence.checkpoint import Checkpoint
from consumers.evidence.key_chain import handovers_beside
from consumers.evidence.leaf_types import DeliveryOutcomeLeaf
from consumers.evidence.note import Note
from consumers.evidence.proof import Extra, Proof
from consumers.evidence.reader import CHECKPOINT, LogFolder, LogReader


def proofs_of(folder: Path, rows: EvidenceRows, notices: Sequence[HeldNotice]) -> Any:
    """Return for each notice its entries in the log, and the proof of the one that says how they were reached, else the newest.

    Reads the log once. A text says why where there is none.
    """
    if not notices:
        return "no notice, so nothing in the log is about them"
    files = LogFolder(folder)
    signed = files.read(CHECKPOINT)
    if signed is None:
        return "the evidence log is not on this machine; `tocsin evidence prove` where it is makes the proofs"
    head = Checkpoint.parse_text(Note.parse(signed).text)
    reader = LogReader(files, head.size)
    people: dict[tuple[str, str], LoggedPerson] = {}
    for incident_id in sorted({each.incident_id for each in notices}):
        roots = {each.root for each in notices if each.incident_id == incident_id}
        for person in rows.people(incident_id):
            if not roots.isdisjoint(person.roots):
                people[incident_id, person.commitment] = person
    marks = [commitment.encode() for _, commitment in people]
    entries: dict[tuple[str, str], list[tuple[int, dict[str, Any]]]] = {key: [] for key in people}
    for index, entry in reader.backwards():
        if any(mark in entry for mark in marks):
            leaf = json.loads(entry)
            about = leaf.get("subject") or leaf.get("body", {}).get("subject")
            if (leaf.get("incident_id"), about) in entries:
                entries[leaf["incident_id"], about].append((index, leaf))
    found = []
    for (incident_id, commitment), person in people.items():
        about = entries[incident_id, commitment]
        said: dict[str, Any] = {
            "incident_id": incident_id,
            "commitment": commitment,
            "entries": [{"index": index, "says": leaf} for index, leaf in reversed(about)],
        }
        chosen = next((index for index, leaf in about if _arrived(leaf)), about[0][0] if about else None)
        if chosen is not None:
            extra = Extra(reader.entry(chosen), person.opening, tuple(handovers_beside(files, head)))
            proof = Proof(chosen, reader.inclusion_proof(chosen), signed, extra.encode())
            said["proof"] = proof.encode().decode()
            said["how_to_check"] = "save `proof` as a file: tocsin evidence verify FILE --vkey KEY"
        found.append(said)
    return found


def _arrived(leaf: dict[str, Any]) -> bool:
    return leaf["type"] == DeliveryOutcomeLeaf.TYPE and AttemptState(leaf["state"]) in ARRIVED
