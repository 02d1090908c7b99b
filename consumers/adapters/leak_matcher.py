"""Compares leaked keys with everybody whom the index knows: by join keys, so that no address leaves this process."""

from collections import defaultdict
from collections.abc import Sequence

from bridge.runtime.sealing import email_hmac, hashed_email_hmac
from consumers.adapters.index_client import IndexClient
from consumers.case.verification import KeyKind, LeakedKey, Matched
from consumers.domain.contacts import spellings


class IndexMatcher:
    """Implements `consumers.case.verification.LeakMatcher`."""

    def __init__(self, client: IndexClient, join_key: bytes) -> None:
        self._client = client
        self._join_key = join_key

    def match(self, keys: Sequence[LeakedKey]) -> Matched:
        """Return who is behind `keys`. Raises Unreachable if no partition answers."""
        by_hmac: dict[str, list[LeakedKey]] = defaultdict(list)
        by_root: dict[str, list[LeakedKey]] = defaultdict(list)
        for key in keys:
            if key.kind is KeyKind.EMAIL:
                for written in spellings(key.value):
                    by_hmac[email_hmac(self._join_key, written)].append(key)
            elif key.kind is KeyKind.HASH:
                by_hmac[hashed_email_hmac(self._join_key, key.value)].append(key)
            else:
                by_root[f"{key.kind}/{key.value}"].append(key)
        answer = self._client.match(sorted(by_hmac), sorted(by_root))
        found: dict[LeakedKey, frozenset[str]] = {}
        for hmac, roots in answer.by_email_hmac.items():
            for key in by_hmac.get(hmac, ()):
                found[key] = found.get(key, frozenset()) | frozenset(roots)
        for root in answer.roots:
            found.update(dict.fromkeys(by_root.get(root, ()), frozenset({root})))
        return Matched(found, answer.partition_count, answer.silent_partitions)
