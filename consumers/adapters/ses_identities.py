"""Whether SES may send from an address: it, its domain or one above that must be a verified identity of the account and region.

https://docs.aws.amazon.com/ses/latest/dg/creating-identities.html: a verified domain covers its subdomains.
"""

import time
from collections.abc import Callable
from typing import Any

import structlog
from botocore.exceptions import ClientError

from bridge.contracts.errors import Unreachable
from consumers.adapters.aws import AwsConfig, client, unreachable

log = structlog.get_logger()


class SesIdentities:
    """Asks SES, and remembers for a while what it was told; a "no" only shortly, so that a cure is seen."""

    def __init__(
        self,
        config: AwsConfig,
        *,
        remember_seconds: float = 300.0,
        forget_no_seconds: float = 5.0,
        silence_seconds: float = 60.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ses = client(config, "sesv2", may_repeat=True)
        self._region = config.region
        self._remember = {True: remember_seconds, False: forget_no_seconds}
        self._monotonic = monotonic
        self._known: dict[str, tuple[float, str | None]] = {}
        self._silence_seconds = silence_seconds
        self._ask_again_at = 0.0

    def objection(self, address: str) -> str | None:
        """Return why no mail may come from `address`, and what to do; None: it may. Raises Unreachable."""
        now = self._monotonic()
        known = self._known.get(address)
        if known is None or now >= known[0]:
            answer = self._ask(address)
            known = (now + self._remember[answer is None], answer)
            self._known[address] = known
        return known[1]

    def known_objection(self, address: str) -> str | None:
        """Return the same for whoever sends: while SES is silent there is none. Whether SES takes a message it says then, and
        another provider may take it; SES is asked again only after a while, and nobody's message waits for that.
        """
        if self._monotonic() < self._ask_again_at:
            return None
        try:
            return self.objection(address)
        except Unreachable as error:
            self._ask_again_at = self._monotonic() + self._silence_seconds
            log.warning("whether SES may send from an address is not known", reason=str(error))
            return None

    def _ask(self, address: str) -> str | None:
        # SES takes an address whose own identity is verified, else one whose domain is, or the domain above it
        labels = address.rpartition("@")[2].split(".")
        for identity in (address, *(".".join(labels[n:]) for n in range(max(1, len(labels) - 1)))):
            found = self._identity(identity)
            if found is not None:
                if found.get("VerifiedForSendingStatus"):
                    return None
                return (
                    f"{identity} is an identity of SES in {self._region}, but not verified; finish its verification (DNS "
                    "records or the mail that AWS sent)"
                )
        return (
            f"neither {address} nor its domain is an identity of SES in {self._region}; verify it there, or name another "
            "from_address in senders.yaml"
        )

    def _identity(self, identity: str) -> dict[str, Any] | None:
        with unreachable("SES"):
            try:
                found: dict[str, Any] = self._ses.get_email_identity(EmailIdentity=identity)
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") == "NotFoundException":
                    return None
                raise
        return found
