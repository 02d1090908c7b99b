"""Sends provenance history to the store through the module's REST service, so that it is recorded where all the rest is.

The store keeps a record id once: whatever is sent again changes nothing, so a run that was cut off is simply run again. How
far it came lies in a small file, after each call: nothing is skipped that the store has not acknowledged. The token is an
integration's, from the environment or a file.
"""

import hashlib
import http.client
import json
import os
import ssl
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

from bridge.contracts.errors import BadInput, Refused, Unreachable
from consumers.adapters.history_files import HistoryRow

MOST_RECORDS = 1000
"""The module takes no more in one call."""
_TIMEOUT_SECONDS = 60.0
_TRIES = 4
_ROOM = "Tocsin_BreachNotification::provenance_record_bulk"


class ProvenanceService(Protocol):
    """The store's service for provenance."""

    def record(self, records: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Record up to 1,000 records; return the module's receipt."""
        ...

    def record_one(self, record: Mapping[str, Any]) -> str:
        """Record one and return its id. Raises Refused."""
        ...

    def retire(self, record_id: str, deleted_at: str) -> None:
        """Mark a record's value as removed. Raises Refused."""
        ...


class RestProvenance:
    """The module's REST service at a store's base URL. Every method raises Unreachable, and BadInput for a wrong token."""

    def __init__(self, base_url: str, token: str, *, wait: Callable[[float], None] = time.sleep) -> None:
        self._url = urlsplit(base_url.rstrip("/") + "/rest/V1/tocsin/provenance")
        local = self._url.hostname in ("127.0.0.1", "localhost", "::1")
        if self._url.scheme != "https" and not local:
            raise BadInput(f"{base_url}: the token would travel in clear; give the store's https:// address (--url)")
        self._token = token
        self._wait = wait

    def record(self, records: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        receipt = self._call("/bulk", {"records": list(records)})
        if not isinstance(receipt, dict) or "recorded_count" not in receipt:
            raise Unreachable(f"{self._url.hostname} answers as no store with the Tocsin module does; check --url")
        return receipt

    def record_one(self, record: Mapping[str, Any]) -> str:
        receipt = self._call("", {"record": dict(record)})
        return str(receipt["record_id"])

    def retire(self, record_id: str, deleted_at: str) -> None:
        self._call(f"/{quote(record_id, safe='')}/retire", {"deletedAt": deleted_at})

    def _call(self, path: str, body: Mapping[str, Any]) -> Any:
        for tried in range(1, _TRIES + 1):
            try:
                status, content, after = self._post(path, json.dumps(body).encode())
            except (OSError, http.client.HTTPException) as error:
                status, content, after = 0, type(error).__name__.encode(), None
            if status not in (0, 429, 500, 502, 503, 504):
                break
            if tried == _TRIES:
                shown = content.decode() if status == 0 else f"HTTP {status}"
                raise Unreachable(f"the store at {self._url.hostname} does not answer ({shown}) after {_TRIES} tries")
            # The same records again change nothing: the store may have stored them before it fell silent.
            self._wait(after if after is not None else 2.0 ** (tried - 1))
        if status in (401, 403):
            raise BadInput(
                f"the store refuses the token (HTTP {status}); it must be an integration's with {_ROOM}"
                + ("" if path == "/bulk" else " and Tocsin_BreachNotification::provenance_retire")
            )
        if status == 404 and path in ("/bulk", ""):
            raise BadInput(
                f"{self._url.geturl()} is not there (HTTP 404); install the module, or give the store's address by --url"
            )
        try:
            answer = json.loads(content)
        except ValueError:
            raise Unreachable(
                f"the store at {self._url.hostname} answers HTTP {status} with no JSON; check --url"
            ) from None
        if status != 200:
            said = answer.get("message", "") if isinstance(answer, dict) else ""
            raise Refused(f"the store answers HTTP {status}: {str(said)[:300]}")
        return answer

    def _post(self, path: str, body: bytes) -> tuple[int, bytes, float | None]:
        host, port = self._url.hostname or "", self._url.port
        connection: http.client.HTTPConnection
        if self._url.scheme == "https":
            context = ssl.create_default_context()
            connection = http.client.HTTPSConnection(host, port, timeout=_TIMEOUT_SECONDS, context=context)
        else:
            connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_SECONDS)
        try:
            headers = {
                "Authorization": f"Bearer {self._token}",
                "Content-Type": "application/json",
                "Accept": "application/json",
            }
            connection.request("POST", self._url.path + path, body, headers)
            response = connection.getresponse()
            after = response.getheader("Retry-After")
            return response.status, response.read(), float(after) if after and after.isdecimal() else None
        finally:
            connection.close()


def read_store_token(environment: Mapping[str, str], file: Path | None) -> str:
    """Return the store's token from `file`, TOCSIN_STORE_TOKEN_FILE or TOCSIN_STORE_TOKEN. Raises BadInput."""
    path = file or (Path(name) if (name := environment.get("TOCSIN_STORE_TOKEN_FILE")) else None)
    if path is not None:
        try:
            token = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"{path}: the store's token cannot be read ({type(error).__name__})") from None
    else:
        token = environment.get("TOCSIN_STORE_TOKEN", "").strip()
    if not token or not token.isascii() or any(each.isspace() for each in token):
        raise BadInput(
            "no token for the store: make an integration in Magento's admin with the right to record provenance in bulk, and "
            "give its access token by --store-token-file, TOCSIN_STORE_TOKEN_FILE or TOCSIN_STORE_TOKEN"
        )
    return token


@dataclass(slots=True)
class Progress:
    """How far an import came."""

    line: int = 0
    """Everything up to here is acknowledged or refused."""
    recorded: int = 0
    repeated: int = 0
    retired: int = 0
    refused: int = 0
    finished: bool = False


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """A row of which nothing was stored."""

    line: int
    faults: tuple[str, ...]


@dataclass(slots=True)
class ProgressFile:
    """Where an import's progress lies: named by the file's content and how it is read, so that another file starts anew."""

    path: Path
    progress: Progress = field(default_factory=Progress)

    @classmethod
    def of(cls, folder: Path, file: Path, how: Mapping[str, Any]) -> "ProgressFile":
        """Return the progress of `file` read as `how` says; from the start if it was never begun."""
        digest = hashlib.sha256(json.dumps(how, sort_keys=True, default=str).encode())
        with file.open("rb") as opened:
            while chunk := opened.read(1 << 20):
                digest.update(chunk)
        path = folder / f"{digest.hexdigest()}.json"
        try:
            return cls(path, Progress(**json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError):
            return cls(path)

    def save(self) -> None:
        """Write it durably."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        with partial.open("w", encoding="utf-8") as file:
            json.dump(asdict(self.progress), file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.path)


def send_history(
    rows: Iterable[HistoryRow],
    service: ProvenanceService | None,
    progress: Progress,
    *,
    save: Callable[[], None],
    refused: Callable[[RefusedRow], None],
    moved: Callable[[int], None] = lambda _lines: None,
    at_once: int = MOST_RECORDS,
) -> None:
    """Send `rows` and keep `progress`; `service` None checks only. What is refused is handed over and does not end it.

    Raises Unreachable when the store falls silent: what was acknowledged stays, and the next run goes on behind it.
    """
    waiting: list[HistoryRow] = []

    def send() -> None:
        if not waiting:
            return
        if service is not None:
            _send(waiting, service, progress, refused)
        # A crash before the next line sends these again, which changes nothing; their count is then "repeated".
        moved(waiting[-1].line - progress.line)
        progress.line = waiting[-1].line
        save()
        waiting.clear()

    for row in rows:
        if row.faults:
            send()
            progress.refused += 1
            refused(RefusedRow(row.line, row.faults))
            moved(row.line - progress.line)
            progress.line = row.line
            continue
        waiting.append(row)
        if len(waiting) >= at_once:
            send()
    send()
    progress.finished = True
    save()


def _send(
    waiting: Sequence[HistoryRow], service: ProvenanceService, progress: Progress, refused: Callable[[RefusedRow], None]
) -> None:
    # A record without an id gets one from the store; to retire it, that must be known.
    unnamed = {row.line for row in waiting if row.deleted_at is not None and "record_id" not in (row.record or {})}
    bulk = [row for row in waiting if row.line not in unnamed]
    wrong: set[int] = set()
    if bulk:
        receipt = service.record([dict(row.record or {}) for row in bulk])
        progress.recorded += int(receipt["recorded_count"])
        progress.repeated += int(receipt["repeated_count"])
        for each in receipt.get("refused") or ():
            row = bulk[int(each["position"])]
            wrong.add(row.line)
            faults = tuple(f"{error['field']}: {error['reason']}" for error in each["errors"])
            progress.refused += 1
            refused(RefusedRow(row.line, faults))
    for row in waiting:
        if row.deleted_at is None or row.line in wrong:
            continue
        try:
            record = row.record or {}
            if row.line in unnamed:
                record_id = service.record_one(record)
                progress.recorded += 1
            else:
                record_id = str(record["record_id"])
            service.retire(record_id, row.deleted_at)
            progress.retired += 1
        except Refused as error:
            progress.refused += 1
            refused(RefusedRow(row.line, (f"deleted_at: {error}",)))
