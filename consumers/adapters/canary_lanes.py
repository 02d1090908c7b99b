"""How a canary message is handed to each provider: by the same adapters as notices, with a text that says what it is.

Only simulators and what the settings name as an own destination; no customer's address ever comes here.
"""

from consumers.adapters.smtp_email import SmtpEmail
from consumers.domain.canary_messages import SUBJECT, TEXT, Send
from consumers.domain.sending import BulkEmail, EmailEntry, EmailProvider, SendResult, SmsProvider

_TAG = "canary"
"""Stands where a notice carries its incident's id."""


def by_email(provider: EmailProvider, from_address: str, to_address: str) -> Send:
    """Return what sends one e-mail to `to_address` by `provider`."""

    def send(message_id: str) -> SendResult:
        (result,) = provider.send_bulk(
            BulkEmail(
                from_address=from_address,
                reply_to=None,
                subject=SUBJECT,
                html=f"<p>{TEXT}</p>",
                text=TEXT,
                incident_id=_TAG,
                entries=[EmailEntry(message_id, to_address, {})],
                exercise=False,
            )
        )
        if isinstance(provider, SmtpEmail):
            # the next one is minutes away, and servers hang up on connections that stand still
            provider.close()
        return result

    return send


def by_sms(provider: SmsProvider, number: str) -> Send:
    """Return what sends one SMS to `number` by `provider`."""
    return lambda message_id: provider.send(message_id, number, f"{SUBJECT}. {TEXT}", exercise=False)
