"""`tocsin evidence`: make the log's key, take a proof out of the log, verify a proof or a whole log offline."""

import json
from pathlib import Path
from typing import Protocol

import click

from bridge.contracts.errors import BadInput, Refused, TocsinError
from bridge.runtime.parts import Parts
from bridge.runtime.printing import print_json
from bridge.runtime.settings import Settings
from consumers.evidence.checkpoint import Checkpoint
from consumers.evidence.keys import read_vkey, vkey_path, write_new_key
from consumers.evidence.leaf_types import DeliveryOutcomeLeaf
from consumers.evidence.leaves import discover
from consumers.evidence.merkle import check_inclusion, leaf_hash
from consumers.evidence.note import Note
from consumers.evidence.proof import Extra, Proof
from consumers.evidence.reader import CHECKPOINT, LogFolder, LogReader
from consumers.evidence.verifier import verify_log, verify_proof


class AttemptReferences(Protocol):
    """How the log names an attempt, for whoever knows its id: the log itself holds no id that points to a person."""

    def reference_of(self, attempt_id: str) -> tuple[str, str, int] | None:
        """Return (incident id, commitment to the person, attempt number), or None for an attempt nobody knows."""
        ...


@click.group()
def evidence() -> None:
    """The evidence log: keys, proofs, verification."""


@evidence.command()
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Key file; default as in the settings.")
@click.pass_obj
def keygen(parts: Parts, out: Path | None) -> None:
    """Make the log's signing key (mode 0600) and, beside it, the verifier key for everybody."""
    settings = parts.get(Settings)
    path = out or settings.paths.evidence_key
    verifier = write_new_key(path, settings.evidence.origin)
    click.echo(f"Private key: {path} (keep it, and keep it to yourself: the log cannot go on without it)")
    click.echo(f"Verifier key, for everybody, in {vkey_path(path)}:\n{verifier}")


@evidence.command()
@click.option("--index", type=click.IntRange(min=0), help="The entry's index in the log, counted from 0.")
@click.option("--attempt", help="A delivery attempt's id; its newest entry is proved.")
@click.option("--log", "folder", type=click.Path(path_type=Path, file_okay=False), help="Default as in the settings.")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The proof's file.")
@click.pass_obj
def prove(parts: Parts, index: int | None, attempt: str | None, folder: Path | None, out: Path) -> None:
    """Write one entry with the proof of its place in the signed log (c2sp.org/tlog-proof@v1)."""
    if (index is None) == (attempt is None):
        raise click.UsageError("give either --index or --attempt")
    files = LogFolder(folder or parts.get(Settings).paths.evidence)
    signed = files.read(CHECKPOINT)
    if signed is None:
        raise BadInput(f"{files.root} holds no checkpoint: no evidence was logged there yet, or it is another folder")
    head = Checkpoint.parse_text(Note.parse(signed).text)
    reader = LogReader(files, head.size)
    if index is None:
        assert attempt is not None
        index = _newest_entry_of(reader, attempt, parts)
    entry, path = reader.entry(index), reader.inclusion_proof(index)
    # A proof that does not hold here will hold nowhere: the log is damaged, and this is the moment to say so.
    check_inclusion(index, head.size, leaf_hash(entry), path, head.root)
    out.write_bytes(Proof(index, path, signed, Extra(entry).encode()).encode())
    click.echo(f"Entry {index} of {head.size} of the log {head.origin}, with its proof: {out}")
    click.echo(f"Anybody can check it: tocsin evidence verify {out} --vkey KEY")


def _newest_entry_of(reader: LogReader, attempt_id: str, parts: Parts) -> int:
    reference = parts.get(AttemptReferences).reference_of(attempt_id)
    if reference is None:
        raise Refused(f"no attempt {attempt_id!r} in the case store; `tocsin delivery find` shows a person's attempts")
    incident_id, subject, number = reference
    marks = (incident_id.encode(), subject.encode())
    for index, entry in reader.backwards():
        if not all(mark in entry for mark in marks):
            continue
        leaf = json.loads(entry)
        found = (leaf.get("type"), leaf.get("incident_id"), leaf.get("subject"), leaf.get("attempt_number"))
        if found == (DeliveryOutcomeLeaf.TYPE, incident_id, subject, number):
            return index
    raise Refused(f"attempt {attempt_id!r} is not in the evidence log yet; it is logged within seconds of each change")


@evidence.command()
@click.argument("target", type=click.Path(path_type=Path, exists=True))
@click.option("--vkey", required=True, help="The log's verifier key, or a file that holds it.")
@click.option(
    "--entry", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="The entry's bytes, for a bare proof."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def verify(context: click.Context, target: Path, vkey: str, entry: Path | None, as_json: bool) -> None:
    """Verify a proof file, or the folder of a whole log. Works offline; exit code 0 proved, 1 not."""
    key = read_vkey(vkey)
    try:
        if target.is_dir():
            report = verify_log(LogFolder(target), [key], discover())
            proved, sentences = report.proved, report.sentences()
        else:
            given = None if entry is None else entry.read_bytes()
            proved, sentences = True, verify_proof(target.read_bytes(), [key], entry=given).sentences()
    except TocsinError as fault:
        proved, sentences = False, [f"NOT proved: {fault}."]
    if as_json:
        print_json({"proved": proved, "sentences": sentences})
    else:
        click.echo("\n".join(sentences))
    if not proved:
        context.exit(1)


COMMANDS: list[click.Command] = [evidence]
