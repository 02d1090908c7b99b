"""`tocsin incident identify`: whom a leaked log is about, as a scope. Wiring around `identifying`."""

import json
import os
from pathlib import Path
from typing import Any

import click

from bridge.contracts.errors import BadInput, Refused
from bridge.runtime.parts import Parts
from bridge.runtime.printing import print_json
from consumers.case.identifying import ClueKind, Identified, References, identify, mapped, read_log
from consumers.case.permissions import Act
from consumers.case.prompts import as_json_option, authenticated, token_option
from consumers.case.rewriting import ScopeRewriter
from consumers.case.verification import LeakMatcher

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("identify")
@click.argument("log", type=_FILE)
@click.option("--mapping", type=_FILE, help="A file that says who was behind each session: JSON lines or CSV.")
@click.option(
    "--join", help="The field that LOG and the mapping file share, such as session_id; default: the only one."
)
@click.option(
    "--field",
    "pairs",
    multiple=True,
    metavar="KIND=NAME",
    help=f"A field of LOG or of the mapping file by another name; KIND is {', '.join(ClueKind)}.",
)
@click.option(
    "-o", "--output", type=_FILE, help="Write the scope here (mode 0600), for `incident preview` and `rescope`."
)
@click.option("--unresolved", "unresolved_file", type=_FILE, help="Write here which lines lead to nobody, and why.")
@token_option
@as_json_option
@click.pass_obj
def identify_(
    parts: Parts,
    log: Path,
    mapping: Path | None,
    join: str | None,
    pairs: tuple[str, ...],
    output: Path | None,
    unresolved_file: Path | None,
    token_file: Path | None,
    as_json: bool,
) -> None:
    """Find whom LOG (JSON lines or CSV) is about, by customer id, e-mail or its hash, order number, cart, or session.

    Nothing of LOG is stored or shown. Lines that lead to nobody are listed by number.
    """
    authenticated(parts, token_file).acting_for(Act.VIEW_INCIDENT)
    if join is not None and mapping is None:
        raise BadInput("--join names the field of a mapping file; name that by --mapping")
    for path in (output, unresolved_file):
        if path is not None and path.exists():
            raise Refused(f"{path} exists already; nothing was written")
    fields = dict(_field(pair) for pair in pairs)
    lines = read_log(_bytes(log), str(log), fields)
    if mapping is not None:
        lines = mapped(lines, read_log(_bytes(mapping), str(mapping), fields), join)
    found = identify(
        lines, parts.get(LeakMatcher), parts.get(References), parts.get(ScopeRewriter).keyed, is_mapped=mapping is not None
    )  # fmt: skip
    if output is not None and found.scope is not None:
        _write(output, json.dumps(found.scope.canonical(), indent=1, sort_keys=True) + "\n")
    if unresolved_file is not None:
        listed = [{"line": number, "why": reason.value} for number, reason in found.unresolved]
        _write(unresolved_file, "".join(json.dumps(each) + "\n" for each in listed))
    if as_json:
        print_json(_facts(found))
        return
    _say(found, output, unresolved_file)


def _field(pair: str) -> tuple[str, ClueKind]:
    kind, equals, name = pair.partition("=")
    if not equals or not name or kind not in set(ClueKind):
        raise BadInput(f"--field {pair}: write KIND=NAME, where KIND is one of {', '.join(ClueKind)}")
    return name, ClueKind(kind)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({type(error).__name__})") from None


def _write(path: Path, text: str) -> None:
    """Write a file that only its owner reads: it names people, though by keyed hash and number."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise Refused(f"{path} cannot be written ({type(error).__name__})") from None
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def _facts(found: Identified) -> dict[str, Any]:
    return {
        "scope": None if found.scope is None else found.scope.canonical(),
        "scope_sha256": None if found.scope is None else found.scope.sha256(),
        "line_count": found.line_count,
        "identified_count": found.identified_count,
        "person_count": found.person_count,
        "by": found.by_clue,
        "unresolved": [{"line": number, "why": reason.value} for number, reason in found.unresolved],
        "partition_count": found.partition_count,
        "silent_partitions": found.silent_partitions,
    }


def _say(found: Identified, output: Path | None, unresolved_file: Path | None) -> None:
    answered = found.partition_count - len(found.silent_partitions)
    by = ", ".join(f"{kind.replace('_', ' ')} {count:,}" for kind, count in found.by_clue.items())
    click.echo(
        f"{found.identified_count:,} of {found.line_count:,} lines are about {found.person_count:,} known accounts and orders"
        + (f" (by {by})" if by else "")
        + f", from {answered} of {found.partition_count} partitions"
    )
    reasons: dict[str, list[int]] = {}
    for number, reason in found.unresolved:
        reasons.setdefault(reason.value, []).append(number)
    for why, numbers in sorted(reasons.items()):
        more = f" and {len(numbers) - 10:,} more" if len(numbers) > 10 else ""
        click.echo(f"leads to nobody, {why}: {len(numbers):,} (line {', '.join(map(str, numbers[:10]))}{more})")
    if found.unresolved and unresolved_file is None:
        click.echo("--unresolved FILE lists them all")
    if found.scope is None:
        click.echo("no scope: no line names anybody")
    elif output is None:
        click.echo("-o scope.json writes the scope")
    else:
        click.echo(f"next: tocsin incident preview {output}")


SUBCOMMANDS: dict[str, list[click.Command]] = {"incident": [identify_]}
COMMANDS: list[click.Command] = []
