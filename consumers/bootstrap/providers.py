"""What the settings make of AWS and the second providers: lanes, what is asked of them, and what stops them."""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from bridge.contracts.errors import BadInput
from bridge.contracts.events import Channel
from bridge.runtime.clock import Clock
from bridge.runtime.parts import Parts
from bridge.runtime.settings import Settings, SmsGateway, Smtp
from bridge.runtime.telemetry import Health
from consumers.bootstrap.common import database_of
from consumers.bootstrap.process import Process

if TYPE_CHECKING:
    from consumers.adapters.aws import AwsConfig
    from consumers.adapters.case_store.third_parties import ThirdPartyTables
    from consumers.adapters.delivery_reports import ReturnPath
    from consumers.adapters.live_guard import LiveGuard
    from consumers.adapters.provider_lanes import CircuitLane
    from consumers.adapters.provider_watch import ProviderWatch, WatchPolicy
    from consumers.adapters.sms_gateway import GatewayAccount
    from consumers.adapters.smtp_email import SmtpServer
    from consumers.adapters.suppressed_addresses import SuppressedAddresses
    from consumers.case.channel_preflight import ProviderStanding
    from consumers.case.readiness import YearRound
    from consumers.domain.canary_messages import CanaryLane, CanaryRoute, Send
    from consumers.domain.circuit import CircuitPolicy
    from consumers.domain.sending import Allowance, EmailProvider, SmsProvider


class AskedProviders:
    """What providers say of themselves, asked anew each time."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def standing(self, *, suppressed: bool = True) -> "ProviderStanding":
        """Return it; what a silent provider would have said is missing, and why is said. `suppressed`: with SES's list."""
        from bridge.contracts.errors import TocsinError
        from bridge.runtime.sealing import load_join_key
        from consumers.adapters.case_store.providers import ProviderTables
        from consumers.adapters.ses_account import SesAccount, hashed_suppressions
        from consumers.adapters.sns_account import SnsAccount
        from consumers.case.channel_preflight import ProviderStanding, SecondProvider
        from consumers.domain.accounts import month_began

        settings, clock = self._parts.get(Settings), self._parts.get(Clock)
        policy, regions = watch_policy(settings), second_regions(settings)
        said = {name for name, each in _seconds(settings).items() if each.region is not None}
        sent = (
            ProviderTables(database_of(self._parts), clock).sent_through(month_began(clock.now()))
            if policy.second
            else {}
        )
        standing = ProviderStanding(
            second={
                channel: SecondProvider(name, policy.prices[name], sent.get(name, 0), regions[name], name in said)
                for channel, name in policy.second.items()
            },
            numbers_needed=settings.delivery.sms_numbers_needed,
            live=policy.live,
        )
        try:
            config = replace(aws_config(settings), read_timeout_seconds=10)
            email = SesAccount(config, settings.delivery.configuration_set, clock)
            standing = replace(standing, email=email.read())
            if suppressed:
                listed = hashed_suppressions(email.suppressed(), load_join_key(settings.paths.join_key))
                standing = replace(standing, suppressed=listed)
            return replace(standing, sms=SnsAccount(config, clock).read(lists=True))
        except TocsinError as error:
            return replace(standing, not_asked=(str(error),))


class AllYear:
    """What readiness looks at: counts of the index, providers' accounts, and what earlier incidents taught."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def look(self, *, lists: bool = True) -> "YearRound":
        """Return it. Raises Unreachable when no index worker answers, or the case store does not."""
        from consumers.adapters.case_store.hard_bounces import counted
        from consumers.adapters.index_client import IndexClient
        from consumers.case.readiness import YearRound

        settings, clock = self._parts.get(Settings), self._parts.get(Clock)
        delivery = settings.delivery
        index = IndexClient(settings.paths.run)
        reach = index.reach()
        standing = AskedProviders(self._parts).standing(suppressed=lists)
        suppressed = None
        if lists and standing.email is not None:
            found = index.match(list(standing.suppressed), []).by_email_hmac if standing.suppressed else {}
            suppressed = sum(len(roots) for roots in found.values())
        with database_of(self._parts).read() as connection:
            hard_bounced = counted(connection)
        return YearRound(
            reach=reach,
            standing=standing,
            now=clock.now(),
            bound=timedelta(hours=delivery.readiness.bound_hours),
            per_second={Channel.EMAIL: delivery.email_per_second, Channel.SMS: delivery.sms_per_second},
            sms_part_price=delivery.sms_price_per_part,
            currency=delivery.price_currency,
            mode=delivery.mode,
            hard_bounced=hard_bounced,
            suppressed=suppressed,
            not_live=self._not_live(),
        )

    def _not_live(self) -> str:
        settings = self._parts.get(Settings)
        if settings.delivery.mode != "live":
            return ""
        process = Process("readiness", Health(), self._parts.get(Clock))
        guard = live_guard(self._parts, process, aws_config(settings), pages=False)
        assert guard is not None
        guard.look()
        return guard.difference()


def second_regions(settings: Settings) -> Mapping[str, str]:
    """Return where the second providers of the settings are, by name."""
    return {name: settings.delivery.region_of(each) for name, each in _seconds(settings).items()}


def _seconds(settings: Settings) -> Mapping[str, Smtp | SmsGateway]:
    seconds = {"smtp": settings.delivery.smtp, "sms_gateway": settings.delivery.sms_gateway}
    return {name: each for name, each in seconds.items() if each is not None}


def aws_config(settings: Settings) -> "AwsConfig":
    """Return where AWS is. Raises BadInput in sandbox mode without the sandbox's address: AWS itself is never meant."""
    from consumers.adapters.aws import AwsConfig

    if settings.delivery.mode == "sandbox" and settings.delivery.endpoint_url is None:
        raise BadInput(
            'delivery.mode = "sandbox" needs delivery.endpoint_url, the address of the AWS sandbox; start one with '
            "`python -m consumers.sandbox`"
        )
    return AwsConfig(
        region=settings.delivery.aws_region,
        endpoint_url=settings.delivery.endpoint_url,
        read_timeout_seconds=settings.delivery.aws_timeout_seconds,
    )


def live_bound(guard: "LiveGuard", watch: "ProviderWatch") -> "Callable[[str], Allowance]":
    """Return what a provider's account allows, and nothing of any while account or store differs: also in the middle of
    a batch.
    """
    from consumers.domain.sending import Allowance

    nothing = Allowance(at_most=0)
    return lambda provider: nothing if guard.differs() else watch.bound(provider)


def third_parties_of(parts: Parts, clock: Clock) -> "ThirdPartyTables":
    """Return who else is told, and what became of it."""
    from consumers.adapters.case_store.third_parties import ThirdPartyTables
    from consumers.domain.third_parties import ThirdParty

    delivery = parts.get(Settings).delivery
    parties = [
        ThirdParty(name, each.topic_arn, each.role, frozenset(each.models))
        for name, each in sorted(delivery.third_parties.items())
    ]
    return ThirdPartyTables(database_of(parts), clock, parties, tells_of_exercises=delivery.mode == "sandbox")


def provider_watch_of(parts: Parts, process: Process, config: "AwsConfig", *, announces: bool) -> "ProviderWatch":
    """Return what watches accounts and circuits, and tells of them if it `announces`."""
    from consumers.adapters.case_store.providers import ProviderTables
    from consumers.adapters.provider_watch import ProviderWatch
    from consumers.adapters.ses_account import SesAccount
    from consumers.adapters.sns_account import SnsAccount
    from consumers.domain.duties import LawInForce

    settings, law = parts.get(Settings), parts.get(LawInForce)
    regions = second_regions(settings)
    config = replace(config, read_timeout_seconds=10, retries=2)
    return ProviderWatch(
        SesAccount(config, settings.delivery.configuration_set, process.clock),
        SnsAccount(config, process.clock),
        ProviderTables(database_of(parts), process.clock),
        process.clock,
        watch_policy(settings),
        announces=announces,
        closed_to=lambda name: law().regions.closed_to(regions[name]),
    )


def watch_policy(settings: Settings) -> "WatchPolicy":
    """Return what the settings say of providers, their prices and budgets."""
    from consumers.adapters.provider_watch import WatchPolicy
    from consumers.domain.accounts import Price, ReputationBounds

    delivery = settings.delivery
    second: dict[Channel, str] = {}
    prices: dict[str, Price] = {}
    if delivery.smtp is not None:
        thousand = delivery.smtp.price_per_thousand
        second[Channel.EMAIL] = "smtp"
        prices["smtp"] = Price(None if thousand is None else thousand / 1000, delivery.smtp.budget_per_month)
    if delivery.sms_gateway is not None:
        gateway = delivery.sms_gateway
        second[Channel.SMS] = "sms_gateway"
        prices["sms_gateway"] = Price(gateway.price_per_message, gateway.budget_per_month)
    return WatchPolicy(
        live=delivery.mode == "live",
        second=second,
        prices=prices,
        stop_over_budget=delivery.over_budget == "stop",
        reputation=ReputationBounds(**delivery.reputation.model_dump()),
        belt=timedelta(seconds=delivery.belt_seconds),
    )


def email_lane_of(
    settings: Settings,
    config: "AwsConfig",
    clock: Clock,
    bound: "Callable[[str], Allowance]",
    suppressed: "Container[str]" = frozenset(),
) -> "CircuitLane[EmailProvider]":
    """Return e-mail's providers in their order. `bound`: what a provider's account allows now; `suppressed`: addresses that SES
    does not write to as they bounced.
    """
    from consumers.adapters.provider_lanes import CircuitLane
    from consumers.adapters.ses import SesEmail
    from consumers.adapters.smtp_email import SmtpEmail

    providers: list[EmailProvider] = [SesEmail(config, settings.delivery.configuration_set)]
    if (server := _smtp_server(settings)) is not None:
        providers.append(SmtpEmail(server, clock, return_path_of(settings), suppressed))
    return CircuitLane(Channel.EMAIL, providers, _circuit_policy(settings), clock, bound=bound)


def suppressed_addresses_of(settings: Settings, config: "AwsConfig", clock: Clock) -> "SuppressedAddresses":
    """Return what knows which addresses SES does not write to."""
    from consumers.adapters.ses_account import SesAccount
    from consumers.adapters.suppressed_addresses import SuppressedAddresses

    return SuppressedAddresses(SesAccount(config, settings.delivery.configuration_set, clock).suppressed)


def canary_routes(settings: Settings) -> "Sequence[CanaryRoute]":
    """Return the routes that are tried all year: those that the settings name a destination for.

    In simulator mode nothing but simulators is written to.
    """
    from consumers.domain.canary_messages import CanaryRoute
    from consumers.domain.simulators import SIMULATED_PHONES

    delivery, chosen = settings.delivery, settings.delivery.canary_messages
    if not chosen.every_minutes:
        return ()
    people, regions = delivery.mode != "simulator", second_regions(settings)
    named = {
        CanaryRoute(Channel.EMAIL, "ses", delivery.aws_region): True,
        CanaryRoute(Channel.EMAIL, "smtp", regions.get("smtp", "")): chosen.email_to is not None and people,
        CanaryRoute(Channel.SMS, "sns", delivery.aws_region): chosen.sms_to in SIMULATED_PHONES
        or (chosen.sms_to is not None and people),
        CanaryRoute(Channel.SMS, "sms_gateway", regions.get("sms_gateway", "")): chosen.sms_gateway_to is not None
        and people,
    }
    return [route for route, is_tried in named.items() if is_tried]


def canary_lanes_of(settings: Settings, clock: Clock) -> "Sequence[CanaryLane]":
    """Return how often each provider is tried, by what, and how long its receipt may take."""
    from consumers.domain.canary_messages import CanaryLane

    chosen = settings.delivery.canary_messages
    patience = timedelta(seconds=chosen.wait_seconds)
    minutes = {Channel.EMAIL: chosen.every_minutes, Channel.SMS: chosen.sms_every_minutes}
    return [
        CanaryLane(
            route, timedelta(minutes=minutes[route.channel]), patience, _canary_sender(settings, clock, route.provider)
        )
        for route in canary_routes(settings)
    ]


def _canary_sender(settings: Settings, clock: Clock, provider: str) -> "Send":
    """Return what sends one message by `provider`, over a connection of its own: no notice waits for it."""
    from consumers.adapters.canary_lanes import by_email, by_sms
    from consumers.adapters.ses import SesEmail
    from consumers.adapters.sms_gateway import GatewaySms
    from consumers.adapters.smtp_email import SmtpEmail
    from consumers.adapters.sns_sms import SnsSms
    from consumers.domain.simulators import simulated_email

    delivery, chosen = settings.delivery, settings.delivery.canary_messages
    server, account = _smtp_server(settings), gateway_account_of(settings)
    if provider == "ses":
        ses = SesEmail(replace(aws_config(settings), max_connections=1), delivery.configuration_set)
        return by_email(ses, delivery.from_address, simulated_email())
    if provider == "smtp" and server is not None and chosen.email_to is not None:
        return by_email(SmtpEmail(server, clock, return_path_of(settings)), delivery.from_address, chosen.email_to)
    if provider == "sns" and chosen.sms_to is not None:
        return by_sms(SnsSms(replace(aws_config(settings), max_connections=1)), chosen.sms_to)
    if provider == "sms_gateway" and account is not None and chosen.sms_gateway_to is not None:
        return by_sms(GatewaySms(account), chosen.sms_gateway_to)
    raise BadInput(f"no destination is named for canary messages by {provider}: see delivery.canary_messages")


def _smtp_server(settings: Settings) -> "SmtpServer | None":
    from consumers.adapters.smtp_email import SmtpServer

    smtp = settings.delivery.smtp
    if smtp is None:
        return None
    password = smtp.password.get_secret_value() if smtp.password is not None else None
    return SmtpServer(smtp.host, smtp.port, smtp.encryption, smtp.username, password, smtp.timeout_seconds)


def return_path_of(settings: Settings) -> "ReturnPath | None":
    """Return where a mail server sends what became of a message; None where nobody reads it."""
    from bridge.runtime.sealing import load_join_key
    from consumers.adapters.delivery_reports import ReturnPath

    smtp = settings.delivery.smtp
    if smtp is None or smtp.return_path is None:
        return None
    return ReturnPath(smtp.return_path, load_join_key(settings.paths.report_key))


def sms_lane_of(
    settings: Settings, config: "AwsConfig", clock: Clock, bound: "Callable[[str], Allowance]"
) -> "CircuitLane[SmsProvider]":
    """Return SMS's providers in their order. `bound`: what a provider's account allows now."""
    from consumers.adapters.provider_lanes import CircuitLane
    from consumers.adapters.sms_gateway import GatewaySms
    from consumers.adapters.sns_sms import SnsSms

    providers: list[SmsProvider] = [SnsSms(config)]
    if (account := gateway_account_of(settings)) is not None:
        providers.append(GatewaySms(account))
    return CircuitLane(Channel.SMS, providers, _circuit_policy(settings), clock, bound=bound)


def gateway_account_of(settings: Settings) -> "GatewayAccount | None":
    """Return the account at the second SMS provider; None without one."""
    from consumers.adapters.sms_gateway import GatewayAccount

    gateway = settings.delivery.sms_gateway
    if gateway is None:
        return None
    return GatewayAccount(
        gateway.url,
        gateway.account_sid,
        gateway.auth_token.get_secret_value(),
        gateway.sender,
        gateway.callback_url,
        gateway.timeout_seconds,
    )


def _circuit_policy(settings: Settings) -> "CircuitPolicy":
    from consumers.domain.circuit import CircuitPolicy

    circuit = settings.delivery.circuit
    return CircuitPolicy(
        in_a_row=circuit.in_a_row,
        window=timedelta(seconds=circuit.window_seconds),
        at_least=circuit.at_least,
        error_share=circuit.error_share,
        slow_after=timedelta(seconds=circuit.slow_after_seconds),
        open_for=timedelta(seconds=circuit.open_seconds),
        probes=circuit.probes,
    )


def live_guard(parts: Parts, process: Process, config: "AwsConfig", *, pages: bool = True) -> "LiveGuard | None":
    """Return what compares AWS and the store with what `delivery.mode = "live"` names; None in every other mode."""
    from bridge.magento.identity import base_url_of
    from consumers.adapters.aws import caller_account
    from consumers.adapters.case_store.providers import ProviderTables
    from consumers.adapters.live_guard import LiveGuard, Named

    settings = parts.get(Settings)
    delivery = settings.delivery
    if delivery.mode != "live":
        return None
    patient = replace(config, read_timeout_seconds=10, retries=2)
    return LiveGuard(
        Named(str(delivery.aws_account), str(delivery.base_url)),
        lambda: caller_account(patient),
        lambda: base_url_of(settings.store),
        ProviderTables(database_of(parts), process.clock) if pages else None,
        process.clock,
        process.health,
    )
