"""Which addresses SES keeps from being written to, as they bounced: whoever else carries our e-mail does not try them either.

Kept in memory alone, as digests under a key of this process's own. One whose reader has complained about advertising is not
among them: a notice is none.
"""

import hashlib
import os
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable
from threading import Event

import structlog

from bridge.contracts.errors import TocsinError

log = structlog.get_logger()

BOUNCED = "BOUNCE"
"""SES's word; the other reason is COMPLAINT."""
_EVERY_SECONDS = 3600.0
_AGAIN_SECONDS = 60.0


class SuppressedAddresses:
    """Reads the list in a thread of its own, at the start and once an hour. What was read last holds while SES is silent."""

    def __init__(self, listed: Callable[[], Iterable[tuple[str, str]]]) -> None:
        """`listed` yields each address that our notices cannot reach, with the reason. It may raise TocsinError."""
        self._listed = listed
        self._key = os.urandom(16)
        self._digests = array("Q")

    def run(self, stop: Event) -> None:
        """Read until `stop`."""
        while not stop.is_set():
            stop.wait(_EVERY_SECONDS if self.read() else _AGAIN_SECONDS)

    def read(self) -> bool:
        """Read the list anew; return whether all of it could be read."""
        try:
            found = {self._digest(address) for address, reason in self._listed() if reason == BOUNCED}
        except TocsinError as error:
            log.warning("the list of suppressed addresses cannot be read", reason=str(error))
            return False
        # 8 bytes an address: a list may have a million
        self._digests = array("Q", sorted(found))
        return True

    def __contains__(self, address: object) -> bool:
        digests, digest = self._digests, self._digest(str(address))
        place = bisect_left(digests, digest)
        return place < len(digests) and digests[place] == digest

    def _digest(self, address: str) -> int:
        whole = hashlib.blake2b(address.strip().lower().encode(), digest_size=8, key=self._key)
        return int.from_bytes(whole.digest(), "big")
