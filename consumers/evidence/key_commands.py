"""`tocsin evidence rotate`: give the log to its next key, and put that key into place."""

from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Protocol

import click

from bridge.contracts.errors import Refused
from bridge.runtime.clock import Clock
from bridge.runtime.parts import Parts
from bridge.runtime.settings import Settings
from consumers.evidence.keys import put_in_place, read_signing_key, vkey_path
from consumers.evidence.note import SigningKey


class RotatingLog(Protocol):
    """The log with its lock held, as this command needs it."""

    def rotate(self, following: SigningKey, at: datetime) -> int: ...
    def close(self) -> None: ...


class LogToRotate(Protocol):
    """How the log is opened for one of its keys."""

    def open(self, key: SigningKey) -> RotatingLog:
        """Take the lock. Raises LogRefused."""
        ...

    def was_given_to(self, key: SigningKey) -> bool:
        """Say whether the log goes on under `key` already."""
        ...


@click.command()
@click.option(
    "--to",
    "next_file",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The next key's file, from `tocsin evidence keygen --out FILE`.",
)
@click.pass_obj
def rotate(parts: Parts, next_file: Path) -> None:
    """Give the log to its next key: an entry that the key in force signs. Stop the evidence stage first.

    Interrupted, it can be repeated: it does what is left to do.
    """
    settings = parts.get(Settings)
    given = settings.evidence.private_key
    path, origin = settings.paths.evidence_key, settings.evidence.origin
    following = read_signing_key(next_file, origin)
    if path.exists() and next_file.samefile(path):
        raise Refused(f"{path} is the key in place; `tocsin evidence keygen --out FILE` makes the next one")
    log = parts.get(LogToRotate)
    if not log.was_given_to(following):
        key = read_signing_key(path, origin, text=given.get_secret_value() if given else None)
        with closing(log.open(key)) as writer:
            index = writer.rotate(following, parts.get(Clock).now())
        click.echo(f"Entry {index} gives the log to the next key. Whoever trusts the key before can follow.")
    if given is not None:
        click.echo(f"Now set TOCSIN_EVIDENCE__PRIVATE_KEY to the content of {next_file}: the log takes no other key.")
    else:
        # A crash before this line leaves a log that takes the next key only, and says so; repeating ends here again.
        retired = put_in_place(next_file, path)
        click.echo(f"{path} is the next key now; the one before is {retired}. Nothing is signed with it any more.")
    click.echo(f"Verifier key, for everybody{'' if given else f', in {vkey_path(path)}'}:\n{following.verifier}")


SUBCOMMANDS: dict[str, list[click.Command]] = {"evidence": [rotate]}
COMMANDS: list[click.Command] = []
