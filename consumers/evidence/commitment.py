"""Commitments to persons: HMAC-SHA256 under a key of that person alone, in place of who they are.

Whoever holds the key can show that a commitment is this person's; once the key is erased, nobody can link it to anyone,
and every proof over it stays valid. Subjects are short words that name a data subject (`customer/42`) or staff member.
"""

import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field

from consumers.evidence.faults import Malformed, NotProved

KEY_BYTES = 32


def new_person_key() -> bytes:
    """Return a new key for one person. Secret; erasing it unlinks the person."""
    return secrets.token_bytes(KEY_BYTES)


def incident_key(person_key: bytes, incident_id: str) -> bytes:
    """Return the key of one person within one incident: what a proof or a package shows of them.

    So the leaves of two incidents cannot be told to be about one person, and who was given a package cannot open more
    than its incident. Erasing the person's key takes all of them with it.
    """
    return _hmac(person_key, f"tocsin incident key v1/{incident_id}")


def roots_text(roots: Iterable[str]) -> str:
    """Return what a person's final leaf commits to about whom they were: all roots that were merged into them."""
    return f"roots/{' '.join(sorted(roots))}"


def erasure_marker(person_key: bytes, root: str) -> str:
    """Return what the log says of a key that was erased. Only who still holds the key, as a restored backup does, can tell
    whose it was: it equals no commitment and leads to none.
    """
    return commit(person_key, f"tocsin erasure v1/{root}")


def body_text(body_sha256: str) -> str:
    """Return what an outcome's leaf commits to about the text: its SHA-256 alone could be guessed where it has a name."""
    return f"body/{body_sha256}"


def commit(person_key: bytes, subject: str) -> str:
    """Return HMAC-SHA256(person_key, UTF-8 subject) as 64 hexadecimal digits."""
    return _hmac(person_key, subject).hex()


def _hmac(person_key: bytes, subject: str) -> bytes:
    if len(person_key) != KEY_BYTES:
        raise Malformed(f"a person's key has {KEY_BYTES} bytes, not {len(person_key)}")
    return hmac.digest(person_key, subject.encode(), "sha256")


@dataclass(frozen=True, slots=True)
class Opening:
    """What opens a commitment: the person's key and the subject that it was made for."""

    person_key: bytes = field(repr=False)
    subject: str = field(repr=False)

    def check(self, commitment: str) -> None:
        """Check that `commitment` is this subject's. Raises NotProved."""
        if not hmac.compare_digest(commit(self.person_key, self.subject), commitment):
            raise NotProved("the opening does not give this commitment: another person, or another key")
