"""The bridge's commands: `tocsin relay`, `tocsin topics`, `tocsin dead-letters`."""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

import click

from bridge.contracts.errors import BadInput, Refused, Unreachable
from bridge.contracts.events import DeadLettered
from bridge.contracts.queries import IndexAnswers
from bridge.contracts.topics import STORE_CHANGES, TOPICS
from bridge.generation_switch import GenerationSwitch
from bridge.magento.backfill import ENTITIES, Backfill
from bridge.magento.grants import grants, rights_on
from bridge.magento.look import StoreLook
from bridge.magento.servers import detect
from bridge.magento.session import store_engine, store_url, translated
from bridge.relay_verbs import relay_status, verify
from bridge.runtime.acls import acls, as_command
from bridge.runtime.clock import Clock
from bridge.runtime.parts import Parts
from bridge.runtime.printing import print_json, print_table
from bridge.runtime.redrive import (
    SETTLE_SECONDS,
    Redriven,
    dead_letters,
    find,
    original_value,
    reasons_against,
    redrive,
)
from bridge.runtime.sealing import load_join_key
from bridge.runtime.settings import Kafka, Settings, Store
from bridge.runtime.topics_admin import Difference, TopicsAdmin
from bridge.verification import Verification

_AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_EMBEDDED = "the embedded Kafka makes its topics by itself: nothing to do"


# relay


@click.group()
def relay() -> None:
    """From the store's tables into Kafka."""


@relay.command("grants")
@click.option("--user", help="Account; default: the one in store.url.")
@click.option("--host", default="%", show_default=True, help="From where that account connects.")
@click.option(
    "--galera", is_flag=True, help="With what a Galera cluster needs beside, where a leased row says who leads."
)
@click.option(
    "--check", is_flag=True, help="Compare with what the account in store.url has; exit code 1 if it lacks any."
)
@_AS_JSON
@click.pass_obj
def relay_grants(parts: Parts, user: str | None, host: str, galera: bool, check: bool, as_json: bool) -> None:
    """Print the only rights that the bridge needs in Magento's database, ready for `mysql`."""
    store = parts.get(Settings).store
    url = store_url(store)
    if url.get_backend_name() == "sqlite":
        if as_json:
            print_json({"missing": [], "excess": []} if check else [])
        else:
            click.echo("-- a file has no accounts: nothing to grant")
        return
    if not url.database or not (user or url.username):
        raise BadInput("store.url names no database or no account; give them there, or the account with --user")
    if check:
        _check_grants(store, as_json)
        return
    lines = grants(url.database, user or str(url.username), host, store.table_prefix, by_lease=galera)
    if as_json:
        print_json(lines)
    else:
        for line in lines:
            click.echo(line)


def _check_grants(store: Store, as_json: bool) -> None:
    engine = store_engine(store)
    try:
        with translated(store, Unreachable), engine.connect() as connection:
            by_lease = detect(connection).galera
            rights = rights_on(connection, str(engine.url.database), store.table_prefix, by_lease=by_lease)
    finally:
        engine.dispose()
    if as_json:
        print_json({"missing": list(rights.missing), "excess": list(rights.excess)})
    else:
        for line in rights.missing:
            click.echo(f"missing: {line}")
        for line in rights.excess:
            click.echo(f"more than needed: {line}")
        if rights.reads_secrets:
            click.echo("this account may read customers' password hashes and reset tokens; the bridge never does")
        if not rights.missing and not rights.excess:
            click.echo("the account has what the bridge needs and no more")
    if rights.missing:
        with_lease = " --galera" if by_lease else ""
        raise Refused(f"{len(rights.missing)} rights are missing; `tocsin relay grants{with_lease}` prints them")


@relay.command("backfill")
@click.option("--entity", "names", multiple=True, type=click.Choice(list(ENTITIES)), help="Only this; default all.")
@click.option("--chunk", type=click.IntRange(1, 100_000), default=5000, show_default=True, help="Rows at a time.")
@click.option("--per-second", type=click.IntRange(1), default=50_000, show_default=True, help="At most so many rows.")
@click.option("--restart", is_flag=True, help="Start over instead of going on where it was stopped.")
@click.option("--dry-run", is_flag=True, help="Only say how much there is to do.")
@click.pass_obj
def relay_backfill(
    parts: Parts, names: Sequence[str], chunk: int, per_second: int, restart: bool, dry_run: bool
) -> None:
    """Enqueue every row once more; the running relay publishes them. Can be stopped, and goes on where it was."""
    settings = parts.get(Settings)
    backfill = Backfill(settings.store, settings.paths.data / "relay-backfill.json")
    try:
        for name in names or list(ENTITIES):
            if restart and not dry_run:
                backfill.restart(name)
            left = backfill.left(name, from_start=restart)
            if not restart and (reached := backfill.reached(name)):
                click.echo(f"{name}: going on behind {reached:,}, where one was stopped; --restart begins anew")
            if dry_run:
                click.echo(f"{name}: {left} to enqueue")
                continue
            with click.progressbar(length=left, label=f"{name:16}", file=sys.stderr) as bar:
                for count in backfill.run(name, chunk):
                    bar.update(count)
                    time.sleep(count / per_second)
            click.echo(f"{name}: {left} enqueued")
    finally:
        backfill.close()


relay.add_command(verify)
relay.add_command(relay_status)


# topics


@click.group()
def topics() -> None:
    """The topics: declared in one place, created and kept so."""


@topics.command("show")
@click.option("--acls", "show_acls", is_flag=True, help="Print the rights that each process needs, for kafka-acls.sh.")
@_AS_JSON
@click.pass_obj
def topics_show(parts: Parts, show_acls: bool, as_json: bool) -> None:
    """Print the declaration, or the rights that each process needs."""
    if show_acls:
        _print_acls(parts.get(Settings).kafka, as_json)
        return
    rows = [
        {
            "topic": topic.name,
            "key": topic.key,
            "partitions": topic.partitions,
            "cleanup": topic.cleanup,
            "retention": "for ever" if topic.retention_ms is None else f"{topic.retention_ms // 86_400_000} d",
            "writers": ", ".join(topic.writers),
            "readers": ", ".join(topic.readers),
            "purpose": topic.purpose,
        }
        for topic in TOPICS
    ]
    if as_json:
        print_json(rows)
    else:
        # What fits a terminal; all of it is in the JSON.
        print_table(rows, ["topic", "partitions", "cleanup", "retention"])


@topics.command("switch-generation")
@click.option("--partitions", type=click.IntRange(2, 1000), help="Partitions of the new generation; more than now.")
@click.option(
    "--finish", is_flag=True, help="Delete the old generation's topics, once the index is built from the new one."
)
@click.option("--per-second", type=click.IntRange(1), default=50_000, show_default=True, help="At most so many rows.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.pass_obj
def topics_switch_generation(
    parts: Parts, partitions: int | None, finish: bool, per_second: int, dry_run: bool
) -> None:
    """Give the store's changes more partitions: a new generation is made, filled by backfill, verified and switched to.

    Can be stopped anywhere, and goes on when it is run again. Relay and index keep running and follow by themselves.
    """
    settings, clock = parts.get(Settings), parts.get(Clock)
    if settings.kafka.embedded:
        raise Refused("the embedded Kafka has four partitions and no generations")
    look = StoreLook(settings.store, clock)
    backfill = Backfill(settings.store, settings.paths.data / "generation-backfill.json")
    join_key = load_join_key(settings.paths.join_key)
    settings.paths.data.mkdir(parents=True, exist_ok=True)
    switch = GenerationSwitch(
        settings.kafka,
        look,
        backfill,
        lambda contents: Verification(look, contents, join_key, per_second=per_second),
        parts.get(IndexAnswers),
        settings.paths.data,
        click.echo,
        per_second=per_second,
    )
    try:
        look.open()
        if finish:
            if dry_run:
                raise BadInput(
                    "--finish takes no --dry-run; `tocsin topics diff` and your broker's tools show what is there"
                )
            for name in switch.finish():
                click.echo(f"deleted: {name}")
            return
        generation, count = switch.plan(partitions)
        if dry_run:
            click.echo(
                f"generation {generation} with {count} partitions would be made, filled, verified and switched to"
            )
            return
        switch.run(generation, count)
    finally:
        backfill.close()
        look.close()


def _print_acls(kafka: Kafka, as_json: bool) -> None:
    found = acls(kafka.topic_prefix)
    if as_json:
        print_json([asdict(each) for each in found])
        return
    click.echo(
        "# One principal a process; give several to one if they run under one name. With Amazon MSK's IAM access"
    )
    click.echo("# control these are statements of the role's policy instead.")
    for each in found:
        click.echo(as_command(each, kafka.bootstrap_servers))


@topics.command("diff")
@_AS_JSON
@click.pass_obj
def topics_diff(parts: Parts, as_json: bool) -> None:
    """Print what is not as declared; exit code 1 if anything."""
    kafka = parts.get(Settings).kafka
    found = [] if kafka.embedded else TopicsAdmin(kafka).differences()
    _print_differences(found, as_json)
    if kafka.embedded and not as_json:
        click.echo(_EMBEDDED)
    elif not found and not as_json:
        click.echo(f"all {len(TOPICS)} topics are as declared")
    if found:
        raise Refused(f"{len(found)} differences; `tocsin topics apply` sets right what may be changed in place")


@topics.command("apply")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@_AS_JSON
@click.pass_obj
def topics_apply(parts: Parts, dry_run: bool, as_json: bool) -> None:
    """Create what is missing and alter what differs; never a partition count."""
    kafka = parts.get(Settings).kafka
    if kafka.embedded:
        if as_json:
            print_json([])
        else:
            click.echo(_EMBEDDED)
        return
    admin = TopicsAdmin(kafka)
    found = admin.differences() if dry_run else admin.apply()
    _print_differences(found, as_json)
    if as_json:
        return
    click.echo(f"{len(found)} {'to do' if dry_run else 'done'}; {len(TOPICS)} topics are declared")
    if admin.broker_count() < 3:
        click.echo(
            f"{admin.broker_count()} broker{'' if admin.broker_count() == 1 else 's'}: what it has acknowledged is lost with its "
            "disk; three keep everything when one fails"
        )
    if not dry_run:
        for each in admin.differences():
            click.echo(
                f"not done: {each.topic} has {each.actual} copies of {each.declared}; kafka-reassign-partitions.sh moves them"
                if each.remedy == "reassign"
                else f"not yet shown by the broker: {each.topic} {each.what}"
            )


def _print_differences(found: Sequence[Difference], as_json: bool) -> None:
    if as_json:
        print_json([asdict(each) for each in found])
    elif found:
        print_table([asdict(each) for each in found], ["topic", "what", "declared", "actual", "remedy"])


# dead letters


@click.group("dead-letters")
def dead_letter_group() -> None:
    """Messages that could not be processed."""


def _row(letter: DeadLettered) -> dict[str, object]:
    return {
        "id": letter.dead_letter_id,
        "failed_at": letter.failed_at.isoformat(timespec="seconds"),
        "consumer": letter.consumer,
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "put_back_at": None if letter.put_back_at is None else letter.put_back_at.isoformat(timespec="seconds"),
        "error": letter.error,
    }


@dead_letter_group.command("list")
@_AS_JSON
@click.pass_obj
def dead_letters_list(parts: Parts, as_json: bool) -> None:
    """Print all that are kept, oldest first."""
    rows = [_row(letter) for letter in dead_letters(parts.get(Settings).kafka)]
    if as_json:
        print_json(rows)
    elif rows:
        print_table(rows, list(rows[0]))
    else:
        click.echo("no dead letters")


@dead_letter_group.command("show")
@click.argument("dead_letter_id")
@click.option("--value", "only_value", is_flag=True, help="Write the original bytes and nothing else.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, as without it.")
@click.pass_obj
def dead_letters_show(parts: Parts, dead_letter_id: str, only_value: bool, as_json: bool) -> None:
    """Print one, by its id or the start of it. Key, header and value are base64: they may be anything."""
    if only_value and as_json:
        raise BadInput("--value writes the original bytes and no JSON; give one of the two")
    (letter,) = find(list(dead_letters(parts.get(Settings).kafka)), [dead_letter_id])
    if only_value:
        sys.stdout.buffer.write(original_value(letter) or b"")
    else:
        print_json(letter.model_dump(mode="json"))


@dead_letter_group.command("redrive")
@click.argument("dead_letter_ids", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All that are kept.")
@click.option("--topic", help="With --all: only those of this topic.")
@click.option("--per-second", type=click.IntRange(1), default=50, show_default=True, help="At most so many.")
@click.option(
    "--stop-after", type=click.IntRange(0), default=10, show_default=True, help="Stop when more than this come back."
)
@click.option("--again", is_flag=True, help="Also what was put back before.")
@click.option("--dry-run", is_flag=True, help="Only say which.")
@_AS_JSON
@click.pass_obj
def dead_letters_redrive(
    parts: Parts,
    dead_letter_ids: Sequence[str],
    everything: bool,
    topic: str | None,
    per_second: int,
    stop_after: int,
    again: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Put messages back where they came from, byte for byte. What fails again becomes a dead letter again.

    States of the store are not put back, because the store knows newer ones: `tocsin relay backfill` publishes those.
    """
    if everything == bool(dead_letter_ids):
        raise BadInput("name the dead letters to put back, or give --all")
    kafka = parts.get(Settings).kafka
    say = partial(click.echo, err=as_json)
    letters = list(dead_letters(kafka))
    chosen = [each for each in letters if topic in (None, each.topic)] if everything else find(letters, dead_letter_ids)
    done = [each for each in chosen if each.put_back_at is not None] if everything and not again else []
    if done:
        chosen = [each for each in chosen if each.put_back_at is None]
        say(f"{len(done)} left out that were put back before; --again takes them, too")
    against = reasons_against(kafka, chosen, again=again)
    if not everything or (topic is not None and chosen and len(against) == len(chosen)):
        for reason in against.values():
            raise Refused(reason)
    # --all means all that may go back: one that may not keeps none of the others here
    states = sum(letter.topic == STORE_CHANGES.name for letter in chosen)
    if states:
        say(f"{states} states of the store left out; `tocsin relay verify --repair` publishes those of now")
    for letter in chosen:
        if letter.dead_letter_id in against and letter.topic != STORE_CHANGES.name:
            say(f"left out: {against[letter.dead_letter_id]}")
    chosen = [letter for letter in chosen if letter.dead_letter_id not in against]
    for letter in chosen:
        say(f"{letter.dead_letter_id} -> {letter.topic} [{letter.partition}]")
    became = Redriven(0, ())
    if dry_run:
        say(f"{len(chosen)} to put back")
    elif not chosen:
        say("0 put back")
    else:
        with click.progressbar(length=len(chosen), label="putting back", file=sys.stderr) as bar:
            became = redrive(
                kafka, chosen, per_second=per_second, stop_after=stop_after, again=again, progress=bar.update
            )
        say(f"{became.put_back} put back; {len(became.came_back)} of them became dead letters again within "
            f"{SETTLE_SECONDS:.0f} s")  # fmt: skip
        for reason in dict.fromkeys(became.came_back):
            say(f"  {reason}")
        if len(became.came_back) < became.put_back:
            say("the others are not known to be used: a stage that waits or does not run reads them later, and "
                "`tocsin dead-letters list` shows what comes back then")  # fmt: skip
    if as_json:
        print_json(
            {
                "chosen": [each.dead_letter_id for each in chosen], "put_back": became.put_back,
                "came_back": list(became.came_back), "watched_seconds": 0 if dry_run else SETTLE_SECONDS,
            }
        )  # fmt: skip


COMMANDS: list[click.Command] = [relay, topics, dead_letter_group]
