"""Commitments to persons: HMAC-SHA256 under a key of that person alone, in place of who they are.

Whoever holds the key can show that a commitment is this person's; once the key is erased, nobody can link it to anyone,
and every proof over it stays valid. Subjects are short words that name a data subject (`customer/42`) or staff member.
"""

import hmac
import secrets
from dataclasses import dataclass, field

from consumers.evidence.faults import Malformed, NotProved

KEY_BYTES = 32


def new_person_key() -> bytes:
    """Return a new key for one person. Secret; erasing it unlinks the person."""
    return secrets.token_bytes(KEY_BYTES)


def commit(person_key: bytes, subject: str) -> str:
    """Return HMAC-SHA256(person_key, UTF-8 subject) as 64 hexadecimal digits."""
    if len(person_key) != KEY_BYTES:
        raise Malformed(f"a person's key has {KEY_BYTES} bytes, not {len(person_key)}")
    return hmac.digest(person_key, subject.encode(), "sha256").hex()


@dataclass(frozen=True, slots=True)
class Opening:
    """What opens a commitment: the person's key and the subject that it was made for."""

    person_key: bytes = field(repr=False)
    subject: str = field(repr=False)

    def check(self, commitment: str) -> None:
        """Check that `commitment` is this subject's. Raises NotProved."""
        if not hmac.compare_digest(commit(self.person_key, self.subject), commitment):
            raise NotProved("the opening does not give this commitment: another person, or another key")
