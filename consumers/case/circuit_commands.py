"""`tocsin delivery circuits`: how providers stand, what they cost, and taking one out of service."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import click

from bridge.contracts.events import Channel
from bridge.runtime.clock import Clock
from bridge.runtime.parts import Parts
from bridge.runtime.printing import instant, print_json, print_table
from bridge.runtime.settings import Settings
from consumers.case.circuits import Known, ProviderView, look, order_circuit
from consumers.case.permissions import Act
from consumers.case.prompts import as_json_option, authenticated, reason_option, token_option
from consumers.case.store import CaseStore
from consumers.domain.accounts import Price
from consumers.domain.circuit import CircuitState
from consumers.domain.duties import LawInForce


def known_providers(settings: Settings) -> dict[str, Known]:
    """Return the providers of the settings by name."""
    delivery = settings.delivery
    thousand = delivery.email_price_per_thousand
    price, aws = Price(None if thousand is None else thousand / 1000, None), delivery.aws_region
    known = {"ses": Known(Channel.EMAIL.value, False, price, aws)}
    if delivery.smtp is not None:
        thousand = delivery.smtp.price_per_thousand
        price = Price(None if thousand is None else thousand / 1000, delivery.smtp.budget_per_month)
        said = delivery.smtp.region is not None
        known["smtp"] = Known(Channel.EMAIL.value, True, price, delivery.region_of(delivery.smtp), said)
    known["sns"] = Known(Channel.SMS.value, False, Price(None, None), aws)
    if delivery.sms_gateway is not None:
        price = Price(delivery.sms_gateway.price_per_message, delivery.sms_gateway.budget_per_month)
        said = delivery.sms_gateway.region is not None
        known["sms_gateway"] = Known(Channel.SMS.value, True, price, delivery.region_of(delivery.sms_gateway), said)
    return known


@click.group(invoke_without_command=True)
@token_option
@as_json_option
@click.pass_context
def circuits(context: click.Context, token_file: Path | None, as_json: bool) -> None:
    """Show each provider: its circuit, since when, errors, latency, what went over it and what that costs."""
    if context.invoked_subcommand is not None:
        return
    parts: Parts = context.obj
    authenticated(parts, token_file).acting_for(Act.VIEW_INCIDENT)
    settings, now = parts.get(Settings), parts.get(Clock).now()
    seen = look(parts.get(CaseStore), known_providers(settings), parts.get(LawInForce)().regions, now)
    if as_json:
        print_json([asdict(each) for each in seen])
        return
    currency = settings.delivery.price_currency
    print_table(
        [
            {
                "provider": each.provider + (" (second)" if each.second else ""),
                "channel": each.channel,
                "region": each.region,
                "circuit": each.state.replace("_", " "),
                "since": "-" if each.since is None else instant(each.since, now),
                "errors": "-" if each.error_share is None else f"{each.error_share:.0%} of {each.calls:,}",
                "a call": "-" if each.mean_seconds is None else f"{each.mean_seconds * 1000:,.0f} ms",
                "this month": f"{each.sent_this_month:,}",
                "spent": _money(each, currency),
            }
            for each in seen
        ],
        ("provider", "channel", "region", "circuit", "since", "errors", "a call", "this month", "spent"),
    )
    for line in _remarks(seen, now):
        click.echo(line)


def _money(seen: ProviderView, currency: str) -> str:
    spent = "price unknown" if seen.spent is None else f"{seen.spent:,.2f}"
    if seen.budget is None:
        return spent if seen.spent is None else f"{spent} {currency}"
    return f"{spent} of {seen.budget:,.2f} {currency}" + (" OVER BUDGET" if seen.over_budget else "")


def _remarks(seen: Sequence[ProviderView], now: datetime) -> list[str]:
    lines = []
    for each in seen:
        if each.order is not None and each.order.wanted == CircuitState.OPEN.value:
            lines.append(
                f"{each.provider} was taken out of service by {each.order.ordered_by} {instant(each.order.ordered_at, now)}; "
                f"back with: tocsin delivery circuits close {each.provider} --reason TEXT"
            )
        elif each.state == CircuitState.OPEN.value and each.try_at is not None:
            lines.append(f"{each.provider} is tried with a few messages {instant(each.try_at, now)}")
    for each in seen:
        if not each.region_said:
            lines.append(
                f"nobody has said where {each.provider} is (delivery.{each.provider}.region): it is taken to be in "
                f"{each.region}, where AWS is"
            )
        if each.closed_to:
            first = next(other.provider for other in seen if other.channel == each.channel and not other.second)
            also = f"; they wait while {first} takes nothing" if each.second else ""
            whose = " nor to ".join(each.closed_to)
            lines.append(
                f"{each.provider} is in {each.region}: regions.yaml lets no notice to {whose} pass there{also}"
            )
    if not any(each.dispatchers for each in seen):
        lines.append("no dispatcher says anything: tocsin run dispatch")
    return lines


@circuits.command("open")
@click.argument("provider")
@reason_option
@token_option
@click.pass_obj
def open_(parts: Parts, provider: str, reason: str | None, token_file: Path | None) -> None:
    """Take PROVIDER out of service: within two seconds nothing goes there until somebody closes its circuit."""
    _order(parts, provider, CircuitState.OPEN, reason, token_file)
    click.echo(f"{provider} gets no messages; back with: tocsin delivery circuits close {provider} --reason TEXT")


@circuits.command()
@click.argument("provider")
@reason_option
@token_option
@click.pass_obj
def close(parts: Parts, provider: str, reason: str | None, token_file: Path | None) -> None:
    """Close PROVIDER's circuit: it gets messages at once, and opens by itself if the provider is still ill."""
    _order(parts, provider, CircuitState.CLOSED, reason, token_file)
    click.echo(f"{provider} gets messages again; see: tocsin delivery circuits")


def _order(parts: Parts, provider: str, wanted: CircuitState, reason: str | None, token_file: Path | None) -> None:
    actor = authenticated(parts, token_file)
    known = list(known_providers(parts.get(Settings)))
    order_circuit(parts.get(CaseStore), provider, wanted, known, actor, parts.get(Clock).now(), reason)


COMMANDS: list[click.Command] = []
"""None of its own: `consumers.stages.delivery_commands` puts `circuits` under `tocsin delivery`."""
