"""Whether a contact can be written to at all, asked once more before a provider is: what a shop stored may be anything.

The relay has checked it already; this is for contacts that were sealed by another version, or elsewhere. No network.
"""

import re

import phonenumbers
from email_validator import EmailNotValidError, validate_email

_PLAIN = re.compile(
    r"[A-Za-z0-9_+-]+(?:\.[A-Za-z0-9_+-]+)*@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,63}"
).fullmatch
_LONGEST_LOCAL_PART, _LONGEST = 64, 254
_E164 = re.compile(r"\+[1-9][0-9]{6,14}").fullmatch


def deliverable_email(address: str) -> str | None:
    """Return `address` as providers take it (the domain in its ASCII form, RFC 5891), or None: no provider takes it.

    SES takes no address outside ASCII before the @ (it does no SMTPUTF8); such a person is told by another channel.
    """
    if len(address) <= _LONGEST and _PLAIN(address) and address.index("@") <= _LONGEST_LOCAL_PART:
        return address
    try:
        return validate_email(address, check_deliverability=False, allow_smtputf8=False, strict=True).ascii_email
    except EmailNotValidError:
        return None


def spellings(address: str) -> tuple[str, ...]:
    """Return how a shop may have stored an address: as given, and with its domain in ASCII and as people write it (RFC 5891).

    A shop's addresses are hashed as they are stored: whoever asks with a hash of one of them asks with those of all.
    """
    if address.isascii() and "xn--" not in address.lower():
        return (address,)
    sent = deliverable_email(address.strip())
    return (address,) if sent is None else tuple(dict.fromkeys((address, sent, _as_people_write_it(sent))))


def _as_people_write_it(address: str) -> str:
    """Return an address with its domain as people write it. Python's own codec knows RFC 3490 only, which has no `ß`."""
    local, _, domain = address.lower().rpartition("@")
    labels = [
        label[4:].encode("ascii").decode("punycode") if label.startswith("xn--") else label
        for label in domain.split(".")
    ]
    return f"{local}@{'.'.join(labels)}"


def deliverable_phone(number: str) -> str | None:
    """Return `number` if it is in E.164 and as long as numbers of its country are, or None."""
    if not _E164(number):
        return None
    try:
        return number if phonenumbers.is_possible_number(phonenumbers.parse(number, None)) else None
    except phonenumbers.NumberParseException:
        return None


MAILBOXES = ("gmail", "microsoft", "yahoo", "apple", "other")
_MAILBOX_OF = {
    "gmail.com": "gmail", "googlemail.com": "gmail",
    "outlook.com": "microsoft", "hotmail.com": "microsoft", "live.com": "microsoft", "msn.com": "microsoft",
    "yahoo.com": "yahoo", "ymail.com": "yahoo", "rocketmail.com": "yahoo", "aol.com": "yahoo",
    "icloud.com": "apple", "me.com": "apple", "mac.com": "apple",
}  # fmt: skip
_NATIONAL = {"outlook": "microsoft", "hotmail": "microsoft", "live": "microsoft", "yahoo": "yahoo"}


def mailbox_provider(address: str) -> str:
    """Return who keeps the mailbox, by its public domain: one of MAILBOXES. For counting; never kept with a person."""
    domain = address.rpartition("@")[2].lower()
    known = _MAILBOX_OF.get(domain)
    if known is not None:
        return known
    # outlook.de, yahoo.co.uk
    name, _, rest = domain.partition(".")
    return _NATIONAL.get(name, "other") if 0 < len(rest) <= 6 else "other"
