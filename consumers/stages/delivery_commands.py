"""`tocsin delivery status`: how far an incident's people are, by channel and state."""

from collections.abc import Sequence
from typing import Protocol

import click

from bridge.runtime.parts import Parts
from bridge.runtime.printing import print_json, print_table
from consumers.case.check_commands import check
from consumers.case.circuit_commands import circuits
from consumers.domain.ledger import ChannelCount, Counts


class DeliveryNumbers(Protocol):
    """The ledger's numbers."""

    def counts(self, incident_id: str) -> Counts:
        """Return how far an incident's people are. Raises BadInput for an unknown incident."""
        ...

    def by_channel(self, incident_id: str) -> Sequence[ChannelCount]: ...


@click.group()
def delivery() -> None:
    """Notices on their way."""


@delivery.command()
@click.argument("incident_id")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def status(parts: Parts, incident_id: str, as_json: bool) -> None:
    """Say how many people of INCIDENT_ID are reached, and where every attempt stands."""
    numbers = parts.get(DeliveryNumbers)
    counts = numbers.counts(incident_id)
    channels = numbers.by_channel(incident_id)
    if as_json:
        print_json(
            {
                "people": counts.people,
                "reached": counts.reached,
                "substituted": counts.substituted,
                "unreachable_reported": counts.unreachable,
                "held": counts.held,
                "open": counts.open,
                "supplements": counts.supplements,
                "supplements_open": counts.supplements_open,
                "attempts": [
                    {"channel": each.channel, "provider": each.provider, "state": each.state, "count": each.count}
                    for each in channels
                ],
            }
        )
        return
    click.echo(
        f"{counts.reached:,} of {counts.people:,} people reached, {counts.substituted:,} told in public, "
        f"{counts.unreachable:,} unreachable and reported, "
        f"{counts.held:,} held, {counts.open:,} open"
    )
    if counts.supplements:
        click.echo(
            f"{counts.supplements:,} supplements for people of whom more was found, {counts.supplements_open:,} of them open"
        )
    print_table(
        [
            {"channel": each.channel, "provider": each.provider, "state": each.state, "attempts": f"{each.count:,}"}
            for each in channels
        ],
        ["channel", "provider", "state", "attempts"],
    )


delivery.add_command(check)
delivery.add_command(circuits)

COMMANDS: list[click.Command] = [delivery]
