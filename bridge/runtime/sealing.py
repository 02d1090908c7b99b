"""Sealing: who may read a contact, and the keyed hashes by which contacts are joined without being read.

A contact is AES-256-GCM under a data key that the relay makes at start and hourly and keeps in memory only; the data key
is wrapped to dispatch's public key by HPKE (RFC 9180: X25519, HKDF-SHA256, AES-256-GCM). So whoever takes the relay's
machine opens no earlier hour. The root is authenticated with it: a sealed contact put under another root does not open.
Not here: what a contact is (`bridge.contracts.events`) and who may ask for it to be opened.
"""

import base64
import hashlib
import os
import re
import stat
import time
from binascii import a2b_base64, b2a_base64
from collections import OrderedDict
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from struct import iter_unpack

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from bridge.contracts.errors import BadInput, Refused
from bridge.contracts.events import Contact, SealedContact
from bridge.runtime.clock import Clock

DATA_KEY_LIFETIME = timedelta(hours=1)
KEY_LOOK_SECONDS = 2.0
"""How often a sealer looks whether there is a new public key, and an opener for a private key that it lacks."""
_KEY_LOOK = timedelta(seconds=KEY_LOOK_SECONDS)
KEY_BYTES = 32
_NONCE_BYTES = 12
_SIXTEEN = re.compile(".{16}").findall
_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_INFO = b"tocsin contact data key v1"
_OPENED_KEYS_KEPT = 1024
_HASH_BLOCK_BYTES = 64


Seal = Callable[[bytes, bytes], str]
"""From the JSON of a `Contact` and a root in UTF-8 to the JSON of a `SealedContact`."""


class KeyNotHeld(Refused):
    """The contact is sealed to a key that is not here: a fault of this installation, not of the contact."""


def key_id_of(public_key: bytes) -> str:
    """Return the name of a public key: the first 16 hex digits of its SHA-256."""
    return hashlib.sha256(public_key).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class _DataKey:
    cipher: AESGCM = field(repr=False)
    wrapped: str
    made_at: datetime


class Sealer:
    """Seals contacts to dispatch's `public_key` (32 bytes, X25519). Raises BadInput if it is no such key.

    `reload` returns the public key of now: a rotation takes effect within `KEY_LOOK_SECONDS`, without a restart.
    With `join_key` each seal carries a keyed hash of what it holds, by which `tocsin relay verify` compares unopened.
    """

    def __init__(
        self,
        public_key: bytes,
        clock: Clock,
        join_key: bytes | None = None,
        *,
        reload: Callable[[], bytes] | None = None,
    ) -> None:
        self._clock = clock
        self._join_key = join_key
        self._reload = reload
        self._looked_at = clock.now()
        self._take(public_key)

    def _take(self, public_key: bytes) -> None:
        try:
            self._public_key = X25519PublicKey.from_public_bytes(public_key)
        except ValueError:
            raise BadInput(
                "the sealing public key is not an X25519 key of 32 bytes; `tocsin init` writes one"
            ) from None
        self.key_id = key_id_of(public_key)
        self._data_key = self._new_data_key()

    def _new_data_key(self) -> _DataKey:
        secret = AESGCM.generate_key(256)
        wrapped = _SUITE.encrypt(secret, self._public_key, info=_INFO)
        return _DataKey(AESGCM(secret), base64.b64encode(wrapped).decode(), self._clock.now())

    def seal(self, contact: Contact, root: str) -> SealedContact:
        """Return `contact` sealed for `root`."""
        return SealedContact.model_validate_json(self.seal_json(msgspec.json.encode(contact), root))

    def seal_json(self, contact: bytes, root: str) -> str:
        """Return the JSON of a `SealedContact` for `root`; `contact` is the JSON of a `Contact`."""
        return self.seals(1)(contact, root.encode())

    def seals(self, count: int) -> Seal:
        """Return what seals up to `count` contacts of a batch, with the keys of now: for one root and contact as `seal_json`.

        What is the same for the batch is asked and written once: the keys, whether they still hold, and randomness for the
        nonces, each of which is taken once.
        """
        now = self._clock.now()
        # The clock may have been set back: then what it said before says nothing any more.
        if self._reload is not None and not timedelta(0) <= now - self._looked_at < _KEY_LOOK:
            self._looked_at = now
            public_key = self._reload()
            if key_id_of(public_key) != self.key_id:
                self._take(public_key)
        if not timedelta(0) <= now - self._data_key.made_at < DATA_KEY_LIFETIME:
            self._data_key = self._new_data_key()
        encrypt = self._data_key.cipher.encrypt
        # hex and base64: nothing of it needs an escape
        beginning = f'{{"key_id":"{self.key_id}","wrapped_key":"{self._data_key.wrapped}","nonce":"'
        # Random nonces are safe below 2^32 contacts a key; an hour of the fastest relay stays far below.
        nonces = os.urandom(_NONCE_BYTES * count)
        # 12 bytes are 16 characters of base64, in which no other's begins.
        written = b2a_base64(nonces, newline=False).decode()
        nonces_left = zip(iter_unpack(f"{_NONCE_BYTES}s", nonces), _SIXTEEN(written), strict=True)
        digest_of = None if self._join_key is None else keyed_hash(self._join_key, _CONTACT)

        def seal(contact: bytes, root: bytes) -> str:
            (nonce,), written_nonce = next(nonces_left)
            sealed = b2a_base64(encrypt(nonce, contact, root), newline=False).decode()
            digest = "null" if digest_of is None else f'"{digest_of(root + _BETWEEN + contact)}"'
            return f'{beginning}{written_nonce}","ciphertext":"{sealed}","digest":{digest}}}'

        return seal


class _Seal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A `SealedContact` as it is read where there are thousands."""

    key_id: str
    wrapped_key: str
    nonce: str
    ciphertext: str
    digest: str | None = None
    mailbox: str | None = None


_seal_of = msgspec.json.Decoder(_Seal).decode
_contact_of = msgspec.json.Decoder(Contact).decode


class Opener:
    """Opens what was sealed to any of `private_keys` (32 bytes each): the present one, and old ones until all is resealed.

    `reload` returns the private keys of now; it is asked for a key that is not here.
    Keeps unwrapped data keys in memory, because thousands of contacts share one.
    """

    def __init__(self, private_keys: Iterable[bytes], *, reload: Callable[[], Iterable[bytes]] | None = None) -> None:
        self._private_keys: dict[str, X25519PrivateKey] = {}
        self._reload = reload
        self._looked_at = time.monotonic()
        self._add(private_keys)
        self._data_keys: OrderedDict[tuple[str, str], AESGCM] = OrderedDict()

    def _add(self, private_keys: Iterable[bytes]) -> None:
        for secret in private_keys:
            try:
                key = X25519PrivateKey.from_private_bytes(secret)
            except ValueError:
                raise BadInput("a sealing private key is not an X25519 key of 32 bytes") from None
            self._private_keys[key_id_of(key.public_key().public_bytes_raw())] = key

    def open(self, sealed: SealedContact, root: str) -> Contact:
        """Return the contact sealed for `root`.

        Raises KeyNotHeld when no private key fits, Refused when the seal is not whole (changed, or sealed for another root).
        """
        return self._open(sealed, root)

    def open_json(self, sealed: str, root: str) -> Contact:
        """Return the same of a `SealedContact` in JSON. Raises also Refused when it is none."""
        try:
            seal = _seal_of(sealed)
        except (msgspec.DecodeError, ValueError):
            raise Refused(f"the contact of {root} is stored as something that this version cannot read") from None
        return self._open(seal, root)

    def _open(self, sealed: "SealedContact | _Seal", root: str) -> Contact:
        cipher = self._data_key(sealed)
        try:
            nonce, ciphertext = _from_base64(sealed.nonce), _from_base64(sealed.ciphertext)
            clear = cipher.decrypt(nonce, ciphertext, root.encode())
        except (InvalidTag, ValueError):
            raise Refused(
                f"the contact of {root} does not open: it was changed, or sealed for another root; publish it again with "
                "`tocsin relay backfill`"
            ) from None
        try:
            return _contact_of(clear)
        except (msgspec.DecodeError, ValueError):
            raise Refused(f"the contact of {root} opens to something that this version cannot read") from None

    def _data_key(self, sealed: "SealedContact | _Seal") -> AESGCM:
        known = (sealed.key_id, sealed.wrapped_key)
        cipher = self._data_keys.get(known)
        if cipher is not None:
            self._data_keys.move_to_end(known)
            return cipher
        private_key = self._private_keys.get(sealed.key_id)
        if private_key is None and self._reload is not None:
            # A key that came with a rotation since this process began.
            now = time.monotonic()
            if now - self._looked_at >= KEY_LOOK_SECONDS:
                self._looked_at = now
                self._add(self._reload())
                private_key = self._private_keys.get(sealed.key_id)
        if private_key is None:
            held = ", ".join(self._private_keys) or "none"
            raise KeyNotHeld(f"sealed to key {sealed.key_id}, and no such private key is here (held: {held})")
        try:
            cipher = AESGCM(_SUITE.decrypt(_from_base64(sealed.wrapped_key), private_key, info=_INFO))
        except (InvalidTag, ValueError):
            raise Refused(f"a data key wrapped to {sealed.key_id} does not open: it was changed") from None
        self._data_keys[known] = cipher
        if len(self._data_keys) > _OPENED_KEYS_KEPT:
            self._data_keys.popitem(last=False)
        return cipher


_BLOB_INFO = b"tocsin bytes v1"
_KEY_ID = re.compile(rb'"key_id"\s*:\s*"([0-9a-f]{16})"')


def seal_bytes(public_key: bytes, content: bytes) -> bytes:
    """Return `content` sealed to dispatch's public key, for bytes that may hold addresses (a receipt nobody could read)."""
    sealed = _SUITE.encrypt(content, X25519PublicKey.from_public_bytes(public_key), info=_BLOB_INFO)
    return f"tocsin-sealed {key_id_of(public_key)} ".encode() + base64.b64encode(sealed)


def sealed_bytes_key_id(sealed: bytes) -> str | None:
    """Return which key `seal_bytes` sealed these bytes to; None for any other bytes."""
    parts = sealed[:64].split(b" ")
    return parts[1].decode("ascii", "replace") if len(parts) > 2 and parts[0] == b"tocsin-sealed" else None


def key_ids_in(value: bytes) -> Set[str]:
    """Return which keys the contacts in an event's bytes are sealed to, however little of the event can be read."""
    return {found.decode() for found in _KEY_ID.findall(value)}


def open_bytes(private_keys: Iterable[bytes], sealed: bytes) -> bytes:
    """Return what `seal_bytes` sealed. Raises KeyNotHeld, or Refused when the bytes are not whole."""
    try:
        mark, key_id, content = sealed.decode("ascii").split(" ")
        blob = _from_base64(content)
    except ValueError:
        raise Refused("these bytes were not sealed by Tocsin") from None
    for secret in private_keys:
        key = X25519PrivateKey.from_private_bytes(secret)
        if mark == "tocsin-sealed" and key_id_of(key.public_key().public_bytes_raw()) == key_id:
            try:
                return _SUITE.decrypt(blob, key, info=_BLOB_INFO)
            except InvalidTag:
                raise Refused("the sealed bytes do not open: they were changed") from None
    raise KeyNotHeld(f"sealed to key {key_id[:16]}, and no such private key is here")


def _from_base64(text: str) -> bytes:
    return a2b_base64(text, strict_mode=True)


# Joining -------------------------------------------------------------------------------------------------------------


def email_sha256(email: str) -> str:
    """Return SHA-256, in hex, of the trimmed and lower-cased e-mail: the form in which address lists are often shared."""
    return hashlib.sha256(email.strip().lower().encode()).hexdigest()


def email_hmac(join_key: bytes, email: str) -> str:
    """Return the join key's hash of an e-mail, in hex."""
    return email_hmacs(join_key)(email)


def email_hmacs(join_key: bytes) -> Callable[[str], str]:
    """Return what makes the join key's hash of an e-mail, for many of them."""
    inner, outer = _keyed(join_key)
    sha256, copy_of_inner, copy_of_outer = hashlib.sha256, inner.copy, outer.copy

    def hash_of(email: str) -> str:
        # As `keyed_hash` does it: a call less for each of millions.
        within, around = copy_of_inner(), copy_of_outer()
        within.update(sha256(email.strip().lower().encode()).digest())
        around.update(within.digest())
        return around.hexdigest()

    return hash_of


def hashed_email_hmac(join_key: bytes, sha256_hex: str) -> str:
    """Return the same from an already hashed e-mail. Raises BadInput if it is not 64 hex digits."""
    try:
        digest = bytes.fromhex(sha256_hex.strip())
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise BadInput("a hashed e-mail must be 64 hex digits: SHA-256 of the trimmed, lower-cased address")
    return keyed_hash(join_key)(digest)


def phone_hmac(join_key: bytes, number: str) -> str:
    """Return the join key's hash of a telephone number in E.164, in hex."""
    return keyed_hash(join_key, b"phone\0")(number.encode())


def value_hmac(join_key: bytes, attribute: str, value: str) -> str:
    """Return the join key's hash of an attribute's value, in hex; equal values of two attributes hash differently."""
    return keyed_hash(join_key, b"attribute\0" + attribute.encode() + b"\0")(value.encode())


_CONTACT, _BETWEEN = b"contact\0", b"\0"


def contact_digest(join_key: bytes, contact: bytes, root: bytes) -> str:
    """Return the join key's hash of a contact in its JSON form, in hex; the same contact under two roots hashes differently."""
    return keyed_hash(join_key, _CONTACT)(root + _BETWEEN + contact)


def keyed_hash(key: bytes, beginning: bytes = b"") -> Callable[[bytes], str]:
    """Return what makes the HMAC-SHA256 with `key`, in hex, of messages that begin with `beginning`, given without it."""
    # Copies of both hashes (RFC 2104), which have taken the key already, cost a third of beginning anew.
    inner, outer = _keyed(key)
    if beginning:
        inner = inner.copy()
        inner.update(beginning)
    copy_of_inner, copy_of_outer = inner.copy, outer.copy

    def hash_of(message: bytes) -> str:
        within, around = copy_of_inner(), copy_of_outer()
        within.update(message)
        around.update(within.digest())
        return around.hexdigest()

    return hash_of


@lru_cache(maxsize=8)
def _keyed(key: bytes) -> tuple["hashlib._Hash", "hashlib._Hash"]:
    block = (key if len(key) <= _HASH_BLOCK_BYTES else hashlib.sha256(key).digest()).ljust(_HASH_BLOCK_BYTES, b"\0")
    return hashlib.sha256(bytes(byte ^ 0x36 for byte in block)), hashlib.sha256(bytes(byte ^ 0x5C for byte in block))


# Key files: one base64 key a line, the present one first; `#` starts a comment ---------------------------------------


@dataclass(frozen=True, slots=True)
class SealingKeys:
    """A fresh pair. The private half belongs to dispatch and the audited view only."""

    private: bytes = field(repr=False)
    public: bytes


def generate_sealing_keys() -> SealingKeys:
    """Make a key pair for sealing."""
    key = X25519PrivateKey.generate()
    return SealingKeys(key.private_bytes_raw(), key.public_key().public_bytes_raw())


def public_key_of(private_key: bytes) -> bytes:
    """Return the public half of a sealing key. Raises BadInput if it is none."""
    try:
        return X25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes_raw()
    except ValueError:
        raise BadInput("a sealing private key is not an X25519 key of 32 bytes") from None


def generate_join_key() -> bytes:
    """Make a join key. It does not rotate: every hash made with it would lose its partners."""
    return os.urandom(KEY_BYTES)


def write_key_file(path: Path, *keys: bytes) -> None:
    """Write `keys` to a new file that only its owner may read. Raises Refused if it exists."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise Refused(f"{path} exists; a key is never overwritten: move it away first if you mean it") from None
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.writelines(base64.b64encode(key).decode() + "\n" for key in keys)
        file.flush()
        os.fsync(file.fileno())


def replace_key_file(path: Path, *keys: bytes) -> None:
    """Write `keys` in the place of a key file: readers see the old ones or the new ones, also after a crash.

    Whoever could read the old file can read the new one. Raises Refused, and replaces nothing, if that cannot be.
    """
    before = path.stat()
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    write_key_file(partial, *keys)
    try:
        # Or what an administrator rotates is theirs alone, and the stages stand until somebody notices whose it is.
        os.chown(partial, before.st_uid, before.st_gid)
    except OSError:
        partial.unlink()
        raise Refused(
            f"{path} belongs to another account (uid {before.st_uid}, gid {before.st_gid}), which must be able to read it: run "
            "this as that one. No key was changed"
        ) from None
    partial.chmod(stat.S_IMODE(before.st_mode))
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def load_public_key(path: Path) -> bytes:
    """Read the public key that the relay seals to. Raises BadInput."""
    return _read_keys(path, secret=False)[0]


def load_private_keys(path: Path) -> list[bytes]:
    """Read dispatch's private keys, the present one first. Raises BadInput, also if others may read the file."""
    return _read_keys(path, secret=True)


def load_join_key(path: Path) -> bytes:
    """Read the join key. Raises BadInput, also if others may read the file."""
    return _read_keys(path, secret=True)[0]


def _read_keys(path: Path, *, secret: bool) -> list[bytes]:
    try:
        with path.open(encoding="ascii") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            lines = file.read().splitlines()
    except FileNotFoundError:
        raise BadInput(f"no key file at {path}; `tocsin init` writes it, or set paths.keys") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read as a key file: {type(error).__name__}") from None
    unwanted = 0o077 if secret else 0o022
    if mode & unwanted:
        raise BadInput(
            f"{path} has mode {mode:04o}: others may {'read' if secret else 'change'} it; run chmod 600 {path}"
        )
    keys = []
    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        try:
            key = _from_base64(text)
        except ValueError:
            key = b""
        if len(key) != KEY_BYTES:
            raise BadInput(f"{path}, line {number}: not {KEY_BYTES} bytes in base64")
        keys.append(key)
    if not keys:
        raise BadInput(f"{path} holds no key")
    return keys
