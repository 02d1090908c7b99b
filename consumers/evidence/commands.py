"""`tocsin evidence`: make the log's key, take a proof out of the log, verify a proof or a whole log offline."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import click

from bridge.contracts.errors import BadInput, Refused, TocsinError
from bridge.contracts.events import AttemptState
from bridge.runtime.parts import Parts
from bridge.runtime.printing import print_json
from bridge.runtime.settings import Settings
from consumers.domain.delivery import ARRIVED
from consumers.evidence.checkpoint import Checkpoint
from consumers.evidence.commitment import Opening
from consumers.evidence.cosignature import WitnessKey
from consumers.evidence.key_chain import handovers_beside
from consumers.evidence.keys import read_vkey, vkey_path, write_new_key
from consumers.evidence.leaf_types import DeliveryOutcomeLeaf
from consumers.evidence.leaves import discover
from consumers.evidence.merkle import check_inclusion, leaf_hash
from consumers.evidence.note import Note
from consumers.evidence.package import Package, history, is_package, verify_package
from consumers.evidence.proof import Extra, Proof
from consumers.evidence.reader import CHECKPOINT, LogFolder, LogReader
from consumers.evidence.timestamps import read_roots
from consumers.evidence.verifier import verify_log, verify_proof


@dataclass(frozen=True, slots=True)
class Named:
    """One notice to one person as the log names them; `opening` shows whose the commitment is."""

    incident_id: str
    commitment: str
    round: int
    opening: Opening | None


class ProofSubjects(Protocol):
    """Who is behind the log's commitments: the log itself holds no id that points to a person."""

    def of_person(self, incident_id: str, root: str, token_file: Path | None) -> Sequence[Named]:
        """Return the notices to a person, the first one first; that somebody looked is recorded.

        Raises Refused without the right to, or where the person is none of the incident or was erased; BadInput.
        """
        ...

    def of_attempt(self, attempt_id: str, token_file: Path | None) -> tuple[Named, int] | None:
        """Return whose attempt it is, and its number; None for an attempt that nobody knows."""
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
@click.option("--incident", "incident_id", help="With --person: the incident.")
@click.option("--person", help="Account or order, such as customer/42: the entry that says how they were reached.")
@click.option("--attempt", help="A delivery attempt's id; its newest entry is proved.")
@click.option("--log", "folder", type=click.Path(path_type=Path, file_okay=False), help="Default as in the settings.")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The proof's file.")
@click.option("--token-file", type=click.Path(path_type=Path, dir_okay=False), help="File with your token.")
@click.pass_obj
def prove(
    parts: Parts,
    index: int | None,
    incident_id: str | None,
    person: str | None,
    attempt: str | None,
    folder: Path | None,
    out: Path,
    token_file: Path | None,
) -> None:
    """Write one entry with the proof of its place in the signed log, and of whom it is (c2sp.org/tlog-proof@v1)."""
    if sum(each is not None for each in (index, person, attempt)) != 1:
        raise click.UsageError("give one of --index, --person and --attempt")
    if (person is None) != (incident_id is None) and attempt is None:
        raise click.UsageError("--person and --incident belong together")
    files = LogFolder(folder or parts.get(Settings).paths.evidence)
    signed = files.read(CHECKPOINT)
    if signed is None:
        raise BadInput(f"{files.root} holds no checkpoint: no evidence was logged there yet, or it is another folder")
    head = Checkpoint.parse_text(Note.parse(signed).text)
    reader = LogReader(files, head.size)
    opening = None
    if person is not None and incident_id is not None:
        found = parts.get(ProofSubjects).of_person(incident_id, person, token_file)
        index, opening = _newest_about(reader, found, person)
    elif attempt is not None:
        index, opening = _newest_of_attempt(reader, attempt, parts.get(ProofSubjects).of_attempt(attempt, token_file))
    assert index is not None
    entry, path = reader.entry(index), reader.inclusion_proof(index)
    # A proof that does not hold here will hold nowhere: the log is damaged, and this is the moment to say so.
    check_inclusion(index, head.size, leaf_hash(entry), path, head.root)
    extra = Extra(entry, opening, tuple(handovers_beside(files, head)))
    out.write_bytes(Proof(index, path, signed, extra.encode()).encode())
    click.echo(f"Entry {index} of {head.size} of the log {head.origin}, with its proof: {out}")
    if opening is not None:
        click.echo(f"It shows that the entry is about {opening.subject}: keep it as you keep personal data.")
    click.echo(f"Anybody can check it: tocsin evidence verify {out} --vkey KEY")


def _newest_about(reader: LogReader, named: Sequence[Named], person: str) -> tuple[int, Opening | None]:
    """Return the entry that says how a person was reached; else the newest one about them."""
    newest: tuple[int, Opening | None] | None = None
    by_subject = {each.commitment: each for each in named}
    for index, leaf in _backwards(reader, [each.commitment for each in named]):
        found = by_subject.get(str(leaf.get("subject") or leaf.get("body", {}).get("subject")))
        if found is None or leaf.get("incident_id") != found.incident_id:
            continue
        newest = newest or (index, found.opening)
        if leaf["type"] == DeliveryOutcomeLeaf.TYPE and AttemptState(leaf["state"]) in ARRIVED:
            return index, found.opening
    if newest is None:
        raise Refused(f"nothing is logged about {person} yet; each change is logged within seconds")
    return newest


def _newest_of_attempt(
    reader: LogReader, attempt_id: str, known: tuple[Named, int] | None
) -> tuple[int, Opening | None]:
    if known is None:
        raise Refused(f"no attempt {attempt_id!r} in the case store; `tocsin delivery find` shows a person's attempts")
    named, number = known
    wanted = (DeliveryOutcomeLeaf.TYPE, named.incident_id, named.commitment, named.round, number)
    for index, leaf in _backwards(reader, [named.commitment]):
        found = (leaf.get(name) for name in ("type", "incident_id", "subject"))
        if (*found, leaf.get("round", 1), leaf.get("attempt_number")) == wanted:
            return index, named.opening
    raise Refused(f"attempt {attempt_id!r} is not in the evidence log yet; it is logged within seconds of each change")


def _backwards(reader: LogReader, marks: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    wanted = [mark.encode() for mark in marks]
    for index, entry in reader.backwards():
        if any(mark in entry for mark in wanted):
            yield index, json.loads(entry)


@evidence.command()
@click.argument("target", type=click.Path(path_type=Path, exists=True))
@click.option("--vkey", required=True, help="The log's verifier key, or a file that holds it.")
@click.option(
    "--entry", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="The entry's bytes, for a bare proof."
)
@click.option("--person", help="In an auditor's package: what is proved of one person, such as customer/42.")
@click.option(
    "--tsa-roots",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="PEM: who may have stamped the log.",
)
@click.option("--witness", "witnesses", multiple=True, help="A witness's verifier key; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def verify(
    context: click.Context,
    target: Path,
    vkey: str,
    entry: Path | None,
    person: str | None,
    tsa_roots: Path | None,
    witnesses: tuple[str, ...],
    as_json: bool,
) -> None:
    """Verify a proof, an auditor's package, or the folder of a whole log. Works offline; exit code 0 proved, 1 not.

    Of a package it also says whether anybody was left out.
    """
    key = read_vkey(vkey)
    roots = () if tsa_roots is None else read_roots(tsa_roots.read_bytes())
    cosigners = [WitnessKey.parse(each) for each in witnesses]
    try:
        if target.is_dir() and is_package(target):
            packed = verify_package(target, [key])
            proved, sentences = packed.whole, packed.sentences()
            if person is not None:
                sentences = history(Package(target, [key]), person)
        elif target.is_dir():
            with _bar() as progress:
                report = verify_log(
                    LogFolder(target), [key], discover(), tsa_roots=roots, witnesses=cosigners, progress=progress
                )
            proved, sentences = report.proved, report.sentences()
        else:
            given = None if entry is None else entry.read_bytes()
            found = verify_proof(target.read_bytes(), [key], entry=given, witnesses=cosigners)
            proved, sentences = True, found.sentences()
    except TocsinError as fault:
        proved, sentences = False, [f"NOT proved: {fault}."]
    if as_json:
        print_json({"proved": proved, "sentences": sentences})
    else:
        click.echo("\n".join(sentences))
    if not proved:
        context.exit(1)


@contextmanager
def _bar() -> Iterator[Callable[[int, int], object] | None]:
    """Show a person at a terminal how far it is, and how long it will take: millions of entries take minutes."""
    if not sys.stderr.isatty():
        yield None
        return
    with click.progressbar(length=1, label="entries", show_pos=True, update_min_steps=10_000, file=sys.stderr) as bar:

        def show(read: int, size: int) -> None:
            bar.length = size
            bar.update(read - shown[0])
            shown[0] = read

        shown = [0]
        yield show


COMMANDS: list[click.Command] = [evidence]
