"""Reads what the ledger, the mailbox and the evidence log say, in the oracle's words. Reads only; judges nothing."""

import json
import urllib.request
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import yaml

from consumers.demo.oracle import LedgerRow, LogTally, Step
from consumers.domain.simulators import is_simulated_email
from consumers.evidence.checkpoint import Checkpoint
from consumers.evidence.leaves import canonical_content
from consumers.evidence.note import Note
from consumers.evidence.reader import CHECKPOINT, LogFolder, LogReader


def ledger_rows(engine: sa.Engine, incident_id: str) -> list[LedgerRow]:
    """Return every recipient of the incident with all attempts, by plain SQL."""
    with engine.connect() as connection:
        steps: dict[str, list[Step]] = defaultdict(list)
        for recipient_id, channel, state in connection.execute(
            sa.text(
                "SELECT recipient_id, channel, state FROM attempt WHERE incident_id = :i ORDER BY recipient_id, number"
            ),
            {"i": incident_id},
        ):
            steps[recipient_id].append((channel, state))
        rows = connection.execute(
            sa.text(
                "SELECT recipient_id, roots, final_state, subject_commitment FROM recipient WHERE incident_id = :i"
            ),
            {"i": incident_id},
        )
        return [
            LedgerRow(
                frozenset(json.loads(roots) if isinstance(roots, str) else roots),
                end,
                tuple(steps[recipient_id]),
                commitment,
            )
            for recipient_id, roots, end, commitment in rows
        ]


def mailbox(sandbox_url: str) -> list[dict[str, Any]]:
    """Return every message that the AWS sandbox accepted, but those to SES's simulator: canary messages tell nobody."""
    with urllib.request.urlopen(f"{sandbox_url}/_mailbox.json", timeout=60) as answer:  # noqa: S310  loopback
        messages: list[dict[str, Any]] = json.load(answer)["messages"]
        return [message for message in messages if not is_simulated_email(message["to"])]


def log_tally(folder: Path, incident_id: str) -> LogTally:
    """Return what the evidence log says of the incident's attempts and people. Repeated leaves count once."""
    files = LogFolder(folder)
    signed = files.read(CHECKPOINT)
    if signed is None:
        return LogTally({}, {})
    reader = LogReader(files, Checkpoint.parse_text(Note.parse(signed).text).size)
    attempts: dict[tuple[str, int], Step] = {}
    ends: dict[str, str] = {}
    for _, entry in reader.entries():
        leaf = canonical_content(entry)
        if leaf.get("incident_id") != incident_id:
            continue
        if leaf["type"] == "tocsin.delivery-outcome":
            attempts[(leaf["subject"], leaf["attempt_number"])] = (leaf["channel"], leaf["state"])
        elif leaf["type"] == "tocsin.case.person.finished":
            ends[leaf["body"]["subject"]] = leaf["body"]["state"]
    return LogTally(attempts, ends)


def lost_answers(sandbox_url: str) -> int:
    """Return to how many recipients' calls the sandbox took the message and gave no answer."""
    with urllib.request.urlopen(f"{sandbox_url}/_mailbox.json?bodies=0", timeout=60) as answer:  # noqa: S310  loopback
        recipients = json.load(answer)["recipients"].values()
        return sum(1 for each in recipients if each["unanswered"] and each["accepted"])


def sentences(templates: Path, languages: Sequence[str]) -> dict[str, dict[tuple[str, str], str]]:
    """Return by language and (kind, category) the sentence that the approved text has for the leaked model."""
    from consumers.demo.shop import LEAKED_MODEL

    found: dict[str, dict[tuple[str, str], str]] = {}
    for language in languages:
        content = yaml.safe_load((templates / "disclosure" / f"{language}.yaml").read_text(encoding="utf-8"))
        name = content["systems"][LEAKED_MODEL]["name"]
        found[language] = {
            (kind, category): " ".join(text.replace("{system}", name).split())
            for kind, systems in content["sentences"].items()
            for category, text in {**systems.get("any", {}), **systems.get(LEAKED_MODEL, {})}.items()
        }
    return found


def keep(folder: Path, engine: sa.Engine, sandbox_url: str, incident_id: str) -> None:
    """Leave in `folder`, as readable JSON, what the mailbox shows and every partition's resolution record."""
    messages = mailbox(sandbox_url)
    (folder / "mailbox" / "messages.json").write_text(json.dumps(messages, indent=1), encoding="utf-8")
    resolutions = folder / "resolutions"
    resolutions.mkdir(exist_ok=True)
    # `partition` is a reserved word in MariaDB: SQLAlchemy quotes it where that is due
    columns: list[sa.ColumnClause[Any]] = [sa.column(name) for name in ("revision", "partition", "event")]
    query = sa.select(*columns).select_from(sa.table("resolution")).where(sa.column("incident_id") == incident_id)
    with engine.connect() as connection:
        for revision, partition, event in connection.execute(query):
            file = resolutions / f"{incident_id}-{revision}-{partition}.json"
            file.write_text(json.dumps(json.loads(event), indent=1), encoding="utf-8")
