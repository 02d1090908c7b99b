"""Signed notes of c2sp.org/signed-note with Ed25519 (signature type 0x01): parse, format, sign, verify, and their keys.

What a note's text means is no business of this module (see `checkpoint`).
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from bridge.contracts.errors import BadInput
from consumers.evidence.faults import Malformed, NotProved

_ED25519 = b"\x01"
_SIGNATURE_MARK = "— "
_PRIVATE_MARK = "PRIVATE+KEY+"
MAX_NOTE_BYTES = 1_000_000
MAX_SIGNATURES = 100
"""The specification asks for 16 at least."""


def decode_base64(text: str, what: str) -> bytes:
    """Return the bytes of canonical, padded standard base64 (RFC 4648, section 4). Raises Malformed naming `what`."""
    try:
        decoded = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise Malformed(f"{what} is not base64") from None
    if base64.b64encode(decoded).decode("ascii") != text:
        raise Malformed(f"{what} is not canonical base64")
    return decoded


def encode_base64(value: bytes) -> str:
    """Return `value` as padded standard base64."""
    return base64.b64encode(value).decode("ascii")


def _checked_name(name: str, what: str) -> str:
    if not name or "+" in name or any(c.isspace() or ord(c) < 0x20 for c in name):
        raise Malformed(f"{what}: a key name is not empty and has neither spaces nor '+' nor control characters")
    if any("\ud800" <= c <= "\udfff" for c in name):  # from an argument or a file that is not UTF-8
        raise Malformed(f"{what}: its name is not UTF-8")
    return name


@dataclass(frozen=True)
class VerifierKey:
    """A public key and its name. Its text form, the vkey, is `name+keyid+base64`."""

    name: str
    public_key: bytes

    def __post_init__(self) -> None:
        _checked_name(self.name, "verifier key")

    @cached_property
    def key_id(self) -> bytes:
        """Return the four bytes SHA-256(name, newline, 0x01, key)[:4]."""
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.public_key).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{encode_base64(_ED25519 + self.public_key)}"

    @classmethod
    def parse(cls, vkey: str) -> "VerifierKey":
        """Return the key in a vkey. Raises Malformed that says which part is wrong."""
        parts = vkey.strip().split("+", 2)
        if len(parts) != 3:
            raise Malformed("a verifier key has the form name+keyid+base64; give the content of the .vkey file")
        name, key_id, encoded = parts
        if not re.fullmatch(r"[0-9a-f]{8}", key_id):
            raise Malformed("verifier key: the key id is not 8 lower-case hexadecimal digits")
        material = decode_base64(encoded, "verifier key: the key")
        if material[:1] != _ED25519 or len(material) != 33:
            raise Malformed("verifier key: not an Ed25519 key (type 0x01 and 32 bytes)")
        key = cls(name, material[1:])
        if key.key_id.hex() != key_id:
            raise Malformed(f"verifier key: its id is {key.key_id.hex()}, but it says {key_id}; mistyped or altered")
        return key

    def accepts(self, text: str, signature: bytes) -> bool:
        """Say whether `signature` is this key's signature of `text`."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public_key).verify(signature, text.encode())
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line: who claims to have signed, with which key, and the signature's bytes."""

    name: str
    key_id: bytes
    signature: bytes

    def line(self) -> str:
        return f"{_SIGNATURE_MARK}{self.name} {encode_base64(self.key_id + self.signature)}\n"


class SigningKey:
    """A private key and its name. Its repr shows the public part only."""

    def __init__(self, name: str, seed: bytes) -> None:
        _checked_name(name, "signing key")
        if len(seed) != 32:
            raise Malformed(f"an Ed25519 private key has 32 bytes, not {len(seed)}")
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self.verifier = VerifierKey(name, self._private.public_key().public_bytes_raw())

    def __repr__(self) -> str:
        return f"SigningKey({self.verifier})"

    @classmethod
    def generate(cls, name: str) -> "SigningKey":
        """Return a new key from the system's random numbers."""
        return cls(name, Ed25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def parse(cls, text: str, name: str) -> "SigningKey":
        """Return the key in `text`: `PRIVATE+KEY+name+keyid+base64` (as Go's note package writes), PEM, or a base64 seed.

        Raises BadInput, never showing the key; also if the key was made for another name than `name`.
        """
        text = text.strip()
        if text.startswith("-----BEGIN"):
            return cls(name, _pem_seed(text))
        if not text.startswith(_PRIVATE_MARK):
            return cls(name, decode_base64(text, "signing key: neither PRIVATE+KEY+..., nor PEM, and the text"))
        parts = text.removeprefix(_PRIVATE_MARK).split("+", 2)
        if len(parts) != 3:
            raise Malformed("signing key: not of the form PRIVATE+KEY+name+keyid+base64")
        material = decode_base64(parts[2], "signing key: its last part")
        if material[:1] != _ED25519:
            raise Malformed("signing key: not an Ed25519 key")
        key = cls(parts[0], material[1:])
        if key.verifier.key_id.hex() != parts[1]:
            raise Malformed(f"signing key: its id is {key.verifier.key_id.hex()}, but it says {parts[1]}")
        if parts[0] != name:
            raise BadInput(
                f"the signing key was made for the log {parts[0]!r}, but evidence.origin is {name!r}; a log keeps its "
                "origin for good: correct the setting, or use that log's key"
            )
        return key

    def private_text(self) -> str:
        """Return the private form that `parse` reads. Secret."""
        seed = self._private.private_bytes_raw()
        return f"{_PRIVATE_MARK}{self.verifier.name}+{self.verifier.key_id.hex()}+{encode_base64(_ED25519 + seed)}"

    def derived_secret(self, purpose: str) -> bytes:
        """Return 32 secret bytes for another use by this key's holder; they say nothing about the key."""
        label = b"tocsin derived secret v1\x00" + purpose.encode() + b"\x00"
        return hmac.digest(self._private.private_bytes_raw(), label, "sha256")

    def sign(self, text: str) -> Signature:
        """Return the signature of `text`."""
        return Signature(self.verifier.name, self.verifier.key_id, self._private.sign(text.encode()))


def _pem_seed(text: str) -> bytes:
    try:
        private = load_pem_private_key(text.encode(), password=None)
    except (ValueError, TypeError):
        raise Malformed("signing key: the PEM text cannot be read (encrypted, or damaged)") from None
    if not isinstance(private, Ed25519PrivateKey):
        raise Malformed("signing key: the PEM text holds a key of another kind than Ed25519")
    return private.private_bytes_raw()


@dataclass(frozen=True, slots=True)
class Note:
    """A text, ending in a newline, and its signature lines, in order."""

    text: str
    signatures: tuple[Signature, ...]

    def encode(self) -> bytes:
        """Return the note's bytes: text, empty line, signature lines."""
        return (self.text + "\n" + "".join(signature.line() for signature in self.signatures)).encode()

    @classmethod
    def sign(cls, text: str, *keys: SigningKey) -> "Note":
        """Return `text` signed by `keys`."""
        return cls(_checked_text(text), tuple(key.sign(text) for key in keys))

    @classmethod
    def parse(cls, note: bytes) -> "Note":
        """Return the note in `note`, none of its signatures verified. Raises Malformed."""
        if len(note) > MAX_NOTE_BYTES:
            raise Malformed(f"a signed note of {len(note)} bytes; {MAX_NOTE_BYTES} are accepted")
        try:
            whole = note.decode("utf-8")
        except UnicodeDecodeError:
            raise Malformed("the signed note is not UTF-8") from None
        _refuse_control_characters(whole)
        head, separator, tail = whole.rpartition("\n\n")
        if not separator:
            raise Malformed("the signed note has no empty line before its signatures")
        if not tail.endswith("\n"):
            raise Malformed("the signed note does not end with a signature line and a newline")
        lines = tail.removesuffix("\n").split("\n")
        if len(lines) > MAX_SIGNATURES:
            raise Malformed(f"the signed note has {len(lines)} signature lines; {MAX_SIGNATURES} are accepted")
        return cls(head + "\n", tuple(_parse_signature(line) for line in lines))

    def verified_by(self, keys: Iterable[VerifierKey]) -> tuple[VerifierKey, ...]:
        """Return those of `keys` that signed. Lines by unknown keys are ignored, as the specification demands.

        Raises NotProved if none signed, or if the signature of a known key is wrong.
        """
        known = {(key.name, key.key_id): key for key in keys}
        signed: list[VerifierKey] = []
        for line in self.signatures:
            key = known.get((line.name, line.key_id))
            if key is None:
                continue
            if not key.accepts(self.text, line.signature):
                raise NotProved(f"the signature by {key.name} does not fit the text: one of the two was altered")
            if key not in signed:
                signed.append(key)
        if not signed:
            claimed = ", ".join(f"{line.name[:100]} (key {line.key_id.hex()})" for line in self.signatures[:4])
            more = f" and {len(self.signatures) - 4} others" if len(self.signatures) > 4 else ""
            wanted = ", ".join(f"{key.name} (key {key.key_id.hex()})" for key in known.values())
            raise NotProved(
                f"not signed by {wanted or 'any given key'}; it carries signatures by {claimed or 'nobody'}{more}"
            )
        return tuple(signed)


def _checked_text(text: str) -> str:
    if not text.endswith("\n"):
        raise Malformed("the text of a note ends in a newline")
    _refuse_control_characters(text)
    return text


def _refuse_control_characters(text: str) -> None:
    for character in text:
        if character < " " and character != "\n":
            hint = " (Windows line ends?)" if character == "\r" else ""
            raise Malformed(f"a signed note has no control character but newline, found 0x{ord(character):02x}{hint}")


def _parse_signature(line: str) -> Signature:
    if not line.startswith(_SIGNATURE_MARK):
        raise Malformed("a signature line starts with an em dash and a space")
    name, space, encoded = line.removeprefix(_SIGNATURE_MARK).partition(" ")
    if not space:
        raise Malformed("a signature line has a key name, a space and base64")
    _checked_name(name, "signature line")
    material = decode_base64(encoded, "the signature")
    if len(material) < 5:
        raise Malformed("a signature has a key id of 4 bytes and something after it")
    return Signature(name, material[:4], material[4:])
