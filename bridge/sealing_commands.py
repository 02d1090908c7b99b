"""`tocsin sealing`: which keys contacts are sealed to, and the way from an old key to a new one."""

import fcntl
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import click

from bridge.contracts.errors import BadInput, Refused, Unreachable
from bridge.contracts.events import DeadLettered
from bridge.contracts.queries import HeldContacts, IndexAnswers
from bridge.contracts.topics import AFFECTED_CUSTOMERS, DEPARTED_CUSTOMERS
from bridge.magento.backfill import Backfill
from bridge.magento.look import StoreLook
from bridge.runtime.clock import Clock
from bridge.runtime.kafka import partition_bounds
from bridge.runtime.parts import Parts
from bridge.runtime.printing import print_json, print_table
from bridge.runtime.redrive import dead_letters, original_value, reasons_against
from bridge.runtime.sealing import (
    KEY_LOOK_SECONDS,
    generate_sealing_keys,
    key_id_of,
    key_ids_in,
    load_private_keys,
    load_public_key,
    public_key_of,
    replace_key_file,
    sealed_bytes_key_id,
)
from bridge.runtime.settings import Kafka, Settings
from bridge.verification import enqueue_kept_orders

_RESEALED = ("customers", "orders", "orders-by-root")
_PUT_BACK_WITH_CONTACTS = frozenset({AFFECTED_CUSTOMERS.name, DEPARTED_CUSTOMERS.name})
_PATIENCE_SECONDS = 60.0
_HEAD_PATIENCE_SECONDS = 90.0
"""A worker looks every half minute whether it holds everything."""
_HEAD_LOOK_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class KeyUse:
    """One key, and what is sealed to it."""

    key_id: str
    state: str
    """`present`, `old`, or `missing`: no private key here opens what is sealed to it."""
    contacts: int = 0
    """Of customers and orders in the index; backfill reseals them."""
    departed: int = 0
    """Of customers who are gone: nothing can reseal them."""
    held: int = 0
    """In open incidents; removed when these close."""
    dead_letters: int = 0

    @property
    def carried(self) -> int:
        """How much would be lost with the key."""
        return self.contacts + self.departed + self.held + self.dead_letters


def key_uses(parts: Parts) -> list[KeyUse]:
    """Return every key that is here or that something is sealed to, the present one first. Raises Unreachable."""
    settings = parts.get(Settings)
    private = [key_id_of(public_key_of(key)) for key in load_private_keys(settings.paths.sealing_private_key)]
    present = key_id_of(load_public_key(settings.paths.sealing_public_key))
    seals = parts.get(IndexAnswers).seals()
    if not seals.complete:
        silent = ", ".join(map(str, seals.silent_partitions))
        raise Unreachable(f"partitions {silent} of the index do not answer; start their worker with `tocsin run index`")
    held = parts.get(HeldContacts).counts_by_key()
    letters = _counts_by_key_of_letters(settings.kafka)
    ids = dict.fromkeys((present, *private, *seals.present, *seals.departed, *held, *letters))
    return [
        KeyUse(
            key_id,
            "missing" if key_id not in private else "present" if key_id == present else "old",
            seals.present.get(key_id, 0),
            seals.departed.get(key_id, 0),
            held.get(key_id, 0),
            letters.get(key_id, 0),
        )
        for key_id in ids
    ]


def _counts_by_key_of_letters(kafka: Kafka) -> Mapping[str, int]:
    """Return how many dead letters are sealed to each key id, or hold contacts that are: of those that can be put back."""
    counts: Counter[str] = Counter()
    events: list[DeadLettered] = []
    for letter in dead_letters(kafka):
        key_id = sealed_bytes_key_id(original_value(letter) or b"")
        if key_id is not None:
            counts[key_id] += 1
        elif letter.topic in _PUT_BACK_WITH_CONTACTS and key_ids_in(original_value(letter) or b""):
            events.append(letter)
    against = reasons_against(kafka, events) if events else {}
    for letter in events:
        if letter.dead_letter_id not in against:
            counts.update(key_ids_in(original_value(letter) or b""))
    return counts


@click.group()
def sealing() -> None:
    """The keys that contacts are sealed to."""


@sealing.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def status(parts: Parts, as_json: bool) -> None:
    """Show what is sealed to which key; exit code 1 if something is sealed to a key that is not here."""
    uses = key_uses(parts)
    if as_json:
        print_json([asdict(each) for each in uses])
    else:
        print_table(
            [asdict(each) for each in uses], ["key_id", "state", "contacts", "departed", "held", "dead_letters"]
        )
        for each in uses:
            if each.state == "old":
                click.echo(_what_keeps(each))
    present = uses[0]
    if present.state == "missing":
        held = load_private_keys(parts.get(Settings).paths.sealing_private_key)
        raise Refused(
            f"the relay seals to key {present.key_id} (sealing.pub), and its private key is not in sealing.key: nobody opens "
            f"what is sealed to it, {present.carried:,} so far. Bring that key back into sealing.key; if it is lost, `tocsin "
            f"sealing rotate` has customers and orders sealed to {key_id_of(public_key_of(held[0]))}"
        )
    missing = [each for each in uses if each.state == "missing" and each.carried]
    if missing:
        lost = ", ".join(f"{each.carried:,} by {each.key_id}" for each in missing)
        raise Refused(
            f"sealed to keys that are not here: {lost}. Bring their private keys back into sealing.key; without them "
            f"`tocsin relay backfill` reseals customers and orders, and {sum(each.departed for each in missing):,} departed are "
            "lost"
        )


def _what_keeps(each: KeyUse) -> str:
    if not each.carried:
        return f"old key {each.key_id}: nothing is sealed to it any more; `tocsin sealing rotate --finish` removes it"
    reasons = []
    if each.contacts:
        reasons.append(f"{each.contacts:,} contacts (`tocsin sealing rotate` reseals them)")
    if each.departed:
        reasons.append(f"{each.departed:,} departed customers, who would be lost (until their time is over)")
    if each.held:
        reasons.append(f"{each.held:,} contacts held by open incidents (until these close)")
    if each.dead_letters:
        reasons.append(f"{each.dead_letters:,} dead letters (until they are put back or expire)")
    return f"old key {each.key_id} stays for: {'; '.join(reasons)}"


@sealing.command("rotate")
@click.option("--finish", is_flag=True, help="Remove old private keys that nothing is sealed to any more.")
@click.option("--new-key", is_flag=True, help="Make another key though old ones stay, for departed customers say.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--per-second", type=click.IntRange(1), default=5_000, show_default=True, help="Reseal at most so many.")
@click.pass_obj
def rotate(parts: Parts, finish: bool, new_key: bool, dry_run: bool, per_second: int) -> None:
    """Make a new key and have everything sealed to it; or go on with that. With --finish, remove the old key.

    The relay and dispatch take up the new key by themselves within seconds. Relays on other machines need the new
    sealing.pub there, and dispatch on other machines the new sealing.key, before --finish.
    """
    if finish and new_key:
        raise BadInput("--finish ends a rotation and --new-key begins one: give one of them")
    with _alone(parts.get(Settings).paths.sealing_private_key):
        if finish:
            _finish(parts, dry_run=dry_run)
        else:
            _rotate(parts, per_second, new_key=new_key, dry_run=dry_run)


@contextmanager
def _alone(private_file: Path) -> Iterator[None]:
    """Keep any other rotation of these keys out: each writes all keys that it read, and would lose what the other one made."""
    try:
        folder = os.open(private_file.parent, os.O_RDONLY)
    except OSError as error:
        raise Refused(
            f"{private_file.parent}, where the private sealing keys are, cannot be read: {error.strerror}; is this the machine "
            "that dispatch runs on, and the settings its own?"
        ) from None
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(
                "another `tocsin sealing rotate` is at work on these keys: run this again when it has ended"
            ) from None
        yield
    finally:
        os.close(folder)


def _rotate(parts: Parts, per_second: int, *, new_key: bool, dry_run: bool) -> None:
    settings = parts.get(Settings)
    private_file, public_file = settings.paths.sealing_private_key, settings.paths.sealing_public_key
    keys, public = load_private_keys(private_file), load_public_key(public_file)
    interrupted = public_key_of(keys[0]) != public
    begins = not interrupted and (new_key or len(keys) == 1)
    if interrupted:
        # A crash between the two files: the private key was written first, so that nothing was ever sealed unopenably.
        click.echo(f"going on: key {key_id_of(public_key_of(keys[0]))} was made and not yet sealed to")
        if not dry_run:
            replace_key_file(public_file, public_key_of(keys[0]))
            _await_takeover()
    elif begins:
        click.echo(f"{'would make' if dry_run else 'making'} a new key; {key_id_of(public)} becomes the old one")
        if not dry_run:
            # What a rotation that was stopped had resealed is sealed to an old key from now on.
            _progress_file(settings).unlink(missing_ok=True)
            fresh = generate_sealing_keys()
            replace_key_file(private_file, fresh.private, *keys)
            # A crash here leaves a private key that nothing is sealed to yet: the next run goes on above.
            replace_key_file(public_file, fresh.public)
            _await_takeover()
    else:
        click.echo(f"going on with the rotation to {key_id_of(public)}")
    present = key_id_of(load_public_key(public_file))
    old = sum(each.contacts for each in key_uses(parts) if (begins and dry_run) or each.key_id != present)
    if dry_run:
        click.echo(f"{old:,} contacts would be sealed anew: all customers and orders are published once more")
        return
    if not (old or begins or interrupted):
        # An index that has not read everything, as one that is built anew, counts too few.
        _await_head(parts)
        old = sum(each.contacts for each in key_uses(parts) if each.key_id != present)
    # To a key of just now nothing is sealed, whatever an index that is behind counts.
    if old or begins or interrupted:
        _reseal(parts, per_second)
        _await_resealed(parts, present)
    else:
        click.echo(
            f"everything that can be is sealed to {present}; `tocsin sealing rotate --new-key` begins another rotation"
        )
    for each in key_uses(parts):
        if each.state == "old":
            click.echo(_what_keeps(each))


def _progress_file(settings: Settings) -> Path:
    return settings.paths.data / "sealing-rotation.json"


def _await_takeover() -> None:
    # The relay looks at its key file this often; what it sealed before is found and sealed again.
    time.sleep(KEY_LOOK_SECONDS + 1)


def _reseal(parts: Parts, per_second: int) -> None:
    settings = parts.get(Settings)
    backfill = Backfill(settings.store, _progress_file(settings))
    try:
        for name in _RESEALED:
            with click.progressbar(length=backfill.left(name), label=f"{name:16}", file=sys.stderr) as bar:
                for count in backfill.run(name, 2000):
                    bar.update(count)
                    time.sleep(count / per_second)
    finally:
        backfill.close()
    look = StoreLook(settings.store, parts.get(Clock))
    try:
        look.open()
        enqueue_kept_orders(look, parts.get(IndexAnswers))
    finally:
        look.close()


def _await_resealed(parts: Parts, present: str) -> None:
    """Wait while the number of contacts under old keys falls."""
    left, until = None, time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < until:
        with suppress(Unreachable):
            seals = parts.get(IndexAnswers).seals()
            count = sum(number for key_id, number in seals.present.items() if key_id != present)
            if count == 0 and seals.complete:
                return
            if left is None or count < left:
                left, until = count, time.monotonic() + _PATIENCE_SECONDS
        time.sleep(0.5)
    raise Refused(
        f"{left if left is not None else 'an unknown number of'} contacts are still sealed to old keys and none was resealed for "
        f"{_PATIENCE_SECONDS:.0f} s; see `tocsin relay status`, then run `tocsin sealing rotate` again: it goes on"
    )


def _await_head(parts: Parts) -> None:
    """Wait until every partition of the index holds all that was published before now, the departed too."""
    index, until = parts.get(IndexAnswers), time.monotonic() + _HEAD_PATIENCE_SECONDS
    began: dict[int, datetime] = {}
    behind: list[int] = []
    while time.monotonic() < until:
        for each in (partitions := index.status().partitions):
            began.setdefault(each.partition, each.head_at)
        # By the workers' own clock; a file that is built anew shows where the old one stands, which reads no more.
        behind = [each.partition for each in partitions if each.rebuilding or each.head_at <= began[each.partition]]
        if partitions and not behind:
            return
        time.sleep(_HEAD_LOOK_SECONDS)
    raise Refused(
        f"partitions {', '.join(map(str, behind)) or 'of the index'} have not read all that is published within"
        f" {_HEAD_PATIENCE_SECONDS:.0f} s, and what they have not read may be sealed to an old key; see `tocsin index status`"
    )


def _await_stored(parts: Parts) -> None:
    """Wait until the case store holds everybody whom the index found before now: their contacts are counted there."""
    kafka, held = parts.get(Settings).kafka, parts.get(HeldContacts)
    bounds, until = partition_bounds(kafka, AFFECTED_CUSTOMERS.name), time.monotonic() + _PATIENCE_SECONDS
    while True:
        stored = held.stored_up_to()
        left = sum(max(0, high - max(low, stored.get(partition, 0))) for partition, (low, high) in bounds.items())
        if not left:
            return
        if time.monotonic() >= until:
            raise Refused(
                f"{left:,} messages about people whom an incident concerns are not stored yet, and may be sealed to an old key;"
                " they are once `tocsin run planning` has read them"
            )
        time.sleep(_HEAD_LOOK_SECONDS)


def _finish(parts: Parts, *, dry_run: bool) -> None:
    settings = parts.get(Settings)
    uses = {each.key_id: each for each in key_uses(parts)}
    keys = load_private_keys(settings.paths.sealing_private_key)
    old = [key for key in keys if uses[key_id_of(public_key_of(key))].state == "old"]
    if not old:
        raise Refused("there is no old key: nothing to finish. `tocsin sealing rotate` begins a rotation")
    if any(not uses[key_id_of(public_key_of(key))].carried for key in old):
        # What an index has not read yet, as one that is built anew, it does not count.
        _await_head(parts)
        _await_stored(parts)
        uses = {each.key_id: each for each in key_uses(parts)}
    removable = [key for key in old if not uses[key_id_of(public_key_of(key))].carried]
    for key in old:
        key_id = key_id_of(public_key_of(key))
        if key in removable:
            click.echo(f"old key {key_id}: {'would be removed' if dry_run else 'removed'}, nothing is sealed to it")
        else:
            click.echo(_what_keeps(uses[key_id]))
    if removable and not dry_run:
        replace_key_file(settings.paths.sealing_private_key, *(key for key in keys if key not in removable))
    if len(removable) < len(old):
        raise Refused(f"{len(old) - len(removable)} old keys stay: something is sealed to them")


COMMANDS: list[click.Command] = [sealing]
