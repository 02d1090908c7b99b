"""Addresses and numbers that AWS keeps for trying things out: what is sent there reaches nobody, and is reported like mail.

The one place where they stand. For exercises, canary messages and checks; never for deciding who is told. The AWS
sandbox plays them from a table of its own, as AWS would.

https://docs.aws.amazon.com/ses/latest/dg/send-an-email-from-console.html#send-email-simulator
https://docs.aws.amazon.com/sms-voice/latest/userguide/test-phone-numbers.html
"""

from enum import StrEnum

SES_SIMULATOR_DOMAIN = "simulator.amazonses.com"


class MailboxScenario(StrEnum):
    """What SES's mailbox simulator plays; the value is the local part of its address."""

    SUCCESS = "success"
    """Delivered."""
    BOUNCE = "bounce"
    """A hard bounce (550 5.1.1); the address is not put on the suppression list."""
    OUT_OF_OFFICE = "ooto"
    """Delivered; an automatic response follows, which SES reports as a transient bounce."""
    COMPLAINT = "complaint"
    """Delivered, then marked as spam."""
    SUPPRESSED = "suppressionlist"
    """A hard bounce, as though the address were on SES's global suppression list."""


def simulated_email(scenario: MailboxScenario = MailboxScenario.SUCCESS, label: str | None = None) -> str:
    """Return the simulator's address of `scenario`. `label` tells messages apart (`bounce+label@...`), as SES allows.

    SES counts such mail against the rate, not against the 24-hour quota nor an account's bounces and complaints, and takes
    it from accounts without production access, too.
    """
    local = scenario.value if label is None else f"{scenario.value}+{label}"
    return f"{local}@{SES_SIMULATOR_DOMAIN}"


def is_simulated_email(address: str) -> bool:
    """Say whether `address` is one of SES's mailbox simulator."""
    return address.strip().lower().endswith(f"@{SES_SIMULATOR_DOMAIN}")


SIMULATED_PHONE = "+14254147755"
"""AWS's simulated destination in the United States whose SMS succeed."""

SIMULATED_PHONE_FAILING = "+14254147167"
"""The same whose SMS fail."""

SIMULATED_PHONES = frozenset({SIMULATED_PHONE, SIMULATED_PHONE_FAILING})
