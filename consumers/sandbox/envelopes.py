"""SNS notifications: the envelope, its signature, and the certificate that proves it.

Format and string to sign: https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html
"""

import base64
import hashlib
import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

KEY_BITS = 1024
"""A third of the cost of 2048 bits at thousands of events a second; the key vouches for nothing but sandbox events."""

SIGNATURE_HASHES: dict[str, hashes.HashAlgorithm] = {"1": hashes.SHA1(), "2": hashes.SHA256()}  # noqa: S303  SNS's version 1
SIGNED_FIELDS = ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type")


@dataclass(frozen=True, slots=True)
class Notification:
    """One message published to a topic."""

    message_id: str
    topic_arn: str
    subscription_arn: str
    subject: str | None
    message: str
    published_at: datetime


class Signer:
    """Holds the signing key and its self-signed certificate."""

    def __init__(self, key: rsa.RSAPrivateKey, certificate: x509.Certificate) -> None:
        self._key = key
        self.certificate_pem = certificate.public_bytes(serialization.Encoding.PEM)
        name = hashlib.sha256(self.certificate_pem).hexdigest()[:32]
        self.certificate_path = f"/SimpleNotificationService-{name}.pem"

    @classmethod
    def load(cls, folder: Path | None, now: datetime) -> "Signer":
        """Return the signer kept in `folder`, or a new one, kept there so that what it signed verifies after a restart."""
        kept = folder / "signing.pem" if folder is not None else None
        if kept is not None and kept.exists():
            pem = kept.read_bytes()
            key = serialization.load_pem_private_key(pem, password=None)
            assert isinstance(key, rsa.RSAPrivateKey)
            return cls(key, x509.load_pem_x509_certificate(pem))
        key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Tocsin AWS sandbox")])
        certificate = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=3650))
            .sign(key, hashes.SHA256())
        )
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            draft = kept.with_suffix(".new")
            draft.touch(mode=0o600)
            draft.write_bytes(
                key.private_bytes(
                    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
                )
                + certificate.public_bytes(serialization.Encoding.PEM)
            )
            draft.replace(kept)  # a crash before this leaves no key, and the next start makes another
        return cls(key, certificate)

    def envelope(self, notification: Notification, signature_version: str, base_url: str) -> str:
        """Return the notification as SNS hands it to a queue, signed."""
        fields = {
            "Type": "Notification",
            "MessageId": notification.message_id,
            "TopicArn": notification.topic_arn,
            **({"Subject": notification.subject} if notification.subject is not None else {}),
            "Message": notification.message,
            "Timestamp": iso_millis(notification.published_at),
        }
        signed = "".join(f"{name}\n{fields[name]}\n" for name in SIGNED_FIELDS if name in fields)
        signature = self._key.sign(signed.encode(), padding.PKCS1v15(), SIGNATURE_HASHES[signature_version])
        return json.dumps(
            fields
            | {
                "SignatureVersion": signature_version,
                "Signature": base64.b64encode(signature).decode(),
                "SigningCertURL": base_url + self.certificate_path,
                "UnsubscribeURL": f"{base_url}/?Action=Unsubscribe&SubscriptionArn={notification.subscription_arn}",
            }
        )


def iso_millis(at: datetime) -> str:
    """Return an instant as AWS writes it: `2026-01-31T09:00:00.000Z`."""
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
