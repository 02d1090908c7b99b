"""Changing the log's key: an entry by which the old key names the next one.

The entry carries the old key's signature over the change, so that whoever trusts the old key can go on to the next with
the entry alone; and the next key's, so that nobody can name a key that is not theirs. Who holds a later key needs none
of this. What it cannot do: tell a change by the key's owner from one by a thief of the key. How verifiers follow is
`key_chain`.
"""

from datetime import datetime
from typing import Annotated

from pydantic import Field

from consumers.evidence.faults import Malformed
from consumers.evidence.key_chain import statement
from consumers.evidence.leaves import At, Count, Digest, Leaf
from consumers.evidence.note import SigningKey

RawSignature = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
"""An Ed25519 signature as hexadecimal digits."""


class KeyRotation(Leaf):
    """From the entry after this one on, the log is signed by `next_key`."""

    TYPE = "tocsin.key-rotation"
    index: Count
    """Where in the log this entry stands; signed, so that it cannot be repeated elsewhere."""
    previous_key: Digest
    """The Ed25519 public key, 32 bytes as hexadecimal digits."""
    next_key: Digest
    signature: RawSignature
    """By the previous key, of `statement`."""
    next_signature: RawSignature
    """By the next key, of the same."""
    rotated_at: At

    @classmethod
    def sign(cls, previous: SigningKey, following: SigningKey, *, index: int, at: datetime) -> "KeyRotation":
        """Return the entry for place `index` of the log. Both keys bear the log's name. Raises Malformed otherwise."""
        origin = previous.verifier.name
        if following.verifier.name != origin:
            raise Malformed(f"the next key is for {following.verifier.name!r}, the log is {origin!r}")
        if following.verifier == previous.verifier:
            raise Malformed("the next key is the one that the log has already")
        text = statement(previous.verifier, following.verifier, index)
        return cls(
            index=index,
            previous_key=previous.verifier.public_key.hex(),
            next_key=following.verifier.public_key.hex(),
            signature=previous.sign(text).signature.hex(),
            next_signature=following.sign(text).signature.hex(),
            rotated_at=at,
        )
