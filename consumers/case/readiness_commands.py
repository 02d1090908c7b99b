"""`tocsin delivery readiness`: could everybody in the index be told in time, today, and what keeps somebody from it?"""

from pathlib import Path
from typing import Protocol

import click

from bridge.contracts.errors import Refused
from bridge.runtime.parts import Parts
from bridge.runtime.printing import print_json, print_table
from consumers.case.permissions import Act
from consumers.case.prompts import as_json_option, authenticated, token_option
from consumers.case.readiness import NOBODY, Readiness, YearRound, readiness_of


class ReadinessSource(Protocol):
    """Counts the index and asks the providers."""

    def look(self, *, lists: bool = True) -> YearRound:
        """Return what there is now. `lists`: the provider's suppression list too, which is read page by page.

        Raises Unreachable when no index worker answers; what a silent provider would have said is missing.
        """
        ...


@click.command()
@token_option
@as_json_option
@click.pass_obj
def readiness(parts: Parts, token_file: Path | None, as_json: bool) -> None:
    """Say how long telling everybody in the index would take, and what keeps somebody from it. It ends with 1 if it takes
    longer than delivery.readiness.bound_hours, or if somebody cannot be told.
    """
    authenticated(parts, token_file).acting_for(Act.VIEW_INCIDENT)
    done = readiness_of(parts.get(ReadinessSource).look())
    if as_json:
        print_json(done.facts())
    else:
        _print(done)
    if done.stops:
        codes = ", ".join(dict.fromkeys(each.code or each.about for each in done.stops))
        raise Refused(f"not ready: {codes}; AWS raises quotas in days, and deadlines run in hours")


def _print(done: Readiness) -> None:
    answered = done.partition_count - len(done.partitions_silent)
    click.echo(done.sentence())
    click.echo(
        f"{done.people:,} accounts and guest orders from {answered} of {done.partition_count} partitions; who has several counts "
        "in each"
    )
    names = [name for name in done.first if name != NOBODY]
    print_table(
        [
            {
                "channel": name.replace("_", " "),
                "first": f"{done.first[name]:,}",
                "at all": f"{done.by_channel[name]:,}",
                "takes": _span(done, name),
            }
            for name in names
        ]
        + [{"channel": "no channel", "first": f"{done.first[NOBODY]:,}", "at all": "-", "takes": "-"}],
        ("channel", "first", "at all", "takes"),
    )
    for each in done.findings:
        click.echo(f"{each.level}: {each.about}: {each.says}" + (f"; {each.next}" if each.next else ""))
    for missing in done.not_asked:
        click.echo(f"not asked: {missing}")
    click.echo(
        "Counted in the index by country of residence and existing channels: no contact was opened, an SMS counts as one part, "
        "and which deadline would apply is not known before an incident."
    )


def _span(done: Readiness, name: str) -> str:
    if name not in done.takes or not done.first[name]:
        return "-"
    return done.in_words(name)


SUBCOMMANDS: dict[str, list[click.Command]] = {"delivery": [readiness]}
COMMANDS: list[click.Command] = []
"""None of its own: `consumers.stages.delivery_commands` owns `tocsin delivery`."""
