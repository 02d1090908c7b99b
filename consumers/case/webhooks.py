"""Standard Webhooks signatures over bytes: sign, and verify with a tolerance and any number of secrets.

Source: Standard Webhooks specification 1.0.0. By hand because the published library reads the machine's clock, fixes
the tolerance, and cannot verify a body that is not UTF-8, which is just what an unreadable alert may be. Whether an id
was seen before is the caller's business: it needs the case store.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bridge.contracts.errors import BadInput, Refused

_PREFIX = "whsec_"
MAX_ID_LENGTH = 200


class BadSignature(Refused):
    """The signature headers are missing, too old, too new, or not made with a secret that we know."""


@dataclass(frozen=True, slots=True)
class Secrets:
    """A source's secrets; several while one is being replaced. The first one signs."""

    keys: tuple[bytes, ...] = field(repr=False)

    def sign(self, webhook_id: str, at: datetime, body: bytes) -> dict[str, str]:
        """Return the three headers for `body`."""
        timestamp = str(int(at.timestamp()))
        return {
            "webhook-id": webhook_id,
            "webhook-timestamp": timestamp,
            "webhook-signature": f"v1,{base64.b64encode(_mac(self.keys[0], webhook_id, timestamp, body)).decode()}",
        }

    def verify(self, headers: Mapping[str, str], body: bytes, *, now: datetime, tolerance: timedelta) -> str:
        """Return the webhook's id. `headers` have lower-case names. Raises BadSignature, which shows no value."""
        webhook_id = headers.get("webhook-id", "")
        timestamp = headers.get("webhook-timestamp", "")
        signatures = headers.get("webhook-signature", "")
        if not (webhook_id and timestamp and signatures):
            raise BadSignature("webhook-id, webhook-timestamp and webhook-signature are needed")
        if len(webhook_id) > MAX_ID_LENGTH or not webhook_id.isascii():
            raise BadSignature(f"webhook-id must be ASCII and at most {MAX_ID_LENGTH} long")
        if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
            raise BadSignature("webhook-timestamp must be seconds since 1970")
        at = datetime.fromtimestamp(int(timestamp), UTC)
        if abs(now - at) > tolerance:
            raise BadSignature(
                f"webhook-timestamp is {'older' if at < now else 'newer'} than {tolerance.total_seconds():.0f} s; "
                "check the sender's clock, or intake.tolerance_seconds"
            )
        expected = [_mac(key, webhook_id, timestamp, body) for key in self.keys]
        for passed in _passed(signatures):
            if any(hmac.compare_digest(passed, one) for one in expected):
                return webhook_id
        raise BadSignature("no signature was made with this source's secret")


def _passed(header: str) -> Sequence[bytes]:
    found = []
    for item in header.split(" "):
        version, _, encoded = item.partition(",")
        if version != "v1":
            continue
        try:
            found.append(base64.b64decode(encoded, validate=True))
        except (binascii.Error, ValueError):
            continue
    return found


def _mac(key: bytes, webhook_id: str, timestamp: str, body: bytes) -> bytes:
    return hmac.new(key, f"{webhook_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()


def load_token(source: str, path: Path) -> bytes:
    """Read the token of a source that sends OpenLineage events. Raises BadInput without showing it."""
    try:
        token = path.read_bytes().strip()
    except OSError as error:
        raise BadInput(f"intake.lineage_tokens.{source}: {path} cannot be read ({type(error).__name__})") from None
    if len(token) < 24 or any(byte <= 32 or byte > 126 for byte in token):
        raise BadInput(
            f"intake.lineage_tokens.{source}: {path} holds no token; write 24 or more printable ASCII characters"
        )
    return token


def key_of(secret: str) -> bytes | None:
    """Return the key in `secret` (`whsec_` and base64 of at least 24 bytes), or None if it is not one."""
    encoded = secret.removeprefix(_PREFIX)
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
    return key if secret.startswith(_PREFIX) and len(key) >= 24 else None


def load_secrets(source: str, path: Path) -> Secrets:
    """Read a source's secrets: one `whsec_<base64>` a line. Raises BadInput without showing any."""
    try:
        lines = path.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"intake.secrets.{source}: {path} cannot be read ({type(error).__name__})") from None
    keys = []
    for number, line in enumerate(lines, start=1):
        key = key_of(line)
        if key is None:
            raise BadInput(
                f"intake.secrets.{source}: {path}: secret {number} is not {_PREFIX} and base64 of at least 24 bytes"
            )
        keys.append(key)
    if not keys:
        raise BadInput(f"intake.secrets.{source}: {path} is empty; write a secret that begins with {_PREFIX}")
    return Secrets(tuple(keys))
