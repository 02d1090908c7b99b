"""The log's key files: a private key that nobody else may read, and beside it the verifier key for everybody."""

import os
import stat
from pathlib import Path

from bridge.contracts.errors import BadInput, Refused
from consumers.evidence.note import SigningKey, VerifierKey


def vkey_path(key: Path) -> Path:
    """Return where the verifier key of a private key file lies: `evidence.key` -> `evidence.vkey`."""
    return key.with_suffix(".vkey")


def write_new_key(path: Path, origin: str) -> VerifierKey:
    """Make a key for the log `origin`; write the private part to `path` (mode 0600), the public one beside it.

    Raises Refused if there is a key already: a log whose key is lost cannot go on under the same name.
    """
    key = SigningKey.generate(origin)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise Refused(f"{path} exists; a log keeps its key: name another file, or move this one away first") from None
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(key.private_text() + "\n")
        file.flush()
        os.fsync(file.fileno())
    _sync_folder(path.parent)  # a key that signs today must be there tomorrow, or the log cannot go on
    vkey_path(path).write_text(f"{key.verifier}\n", encoding="utf-8")
    return key.verifier


def put_in_place(next_file: Path, path: Path) -> Path:
    """Make the key in `next_file` the one at `path`; return where the key that was there is kept now.

    Each step is one rename. A crash in between leaves no key at `path`: reading it says so, and repeating goes on.
    """
    retired = path.with_name(f"{path.stem}.retired{path.suffix}")
    if path.exists():
        number = 2
        while retired.exists():
            retired = path.with_name(f"{path.stem}.retired-{number}{path.suffix}")
            number += 1
        if vkey_path(path).exists():
            vkey_path(path).replace(vkey_path(retired))
        path.replace(retired)
    if vkey_path(next_file).exists():
        vkey_path(next_file).replace(vkey_path(path))
    next_file.replace(path)
    _sync_folder(path.parent)
    return retired


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_signing_key(path: Path, origin: str, *, text: str | None = None) -> SigningKey:
    """Return the key for the log `origin` from `text` (by environment) or else from the file at `path`.

    Raises BadInput, never showing the key: no file, readable by others, not a key, or made for another log.
    """
    if text is None:
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise BadInput(
                f"no signing key at {path}; `tocsin evidence keygen` makes one, or set TOCSIN_EVIDENCE__PRIVATE_KEY"
            ) from None
        except UnicodeDecodeError:
            raise BadInput(f"{path} holds no signing key: it is not text") from None
        if mode & 0o077:
            raise BadInput(
                f"{path} can be read by others (mode {mode:04o}); `chmod 600 {path}`, and consider a new key"
            )
    return SigningKey.parse(text, origin)


def read_vkey(given: str) -> VerifierKey:
    """Return the verifier key that `given` is, or that the file `given` holds. Raises BadInput."""
    if "+" not in given or Path(given).is_file():
        try:
            given = Path(given).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise BadInput(
                f"{given[:200]!r} is neither a verifier key (name+keyid+base64) nor a file with one"
            ) from None
    return VerifierKey.parse(given)
