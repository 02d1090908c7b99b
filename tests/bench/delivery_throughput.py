"""From the release to everybody handed over: commands, intent, contact unsealed, final body hashed, provider called, outcome,
and both leaves on disk, on MariaDB and Kafka, each stage its own process.

Against listmonk (`LISTMONK=path`), which keeps no ledger row and no proof, in the same run; and once more at 40 ms latency.
`BENCH_PEOPLE` says how many, `BENCH_DISPATCHERS` how many processes send. At toy size the sandbox stands in for AWS.

A smaller release goes before, uncounted: a broker that has just started compiles what it does often, at more than the cost of
doing it, and whoever is told of a leak is told over one that has run for long.
"""

import os
from collections.abc import Sequence
from statistics import median

from tests.bench.run import PeerMissing
from tests.bench.stand import delivery, listmonk, servers
from tests.bench.stand.delivery import Aws, Watched
from tests.bench.stand.servers import Stand

_PEOPLE = {"full": 100_000, "middle": 20_000, "toy": 120}
_FASTER, _PER_SECOND, _WITH_LATENCY, _MOST_MB = 1.5, 15_000, 10_000, 500
_LATENCY_MS = 40
_BEFORE = 40_000


def main(size: str) -> dict[str, object]:
    """Return rates in recipients per second, CPU by process, and whether the goals hold. Raises PeerMissing."""
    people = int(os.environ.get("BENCH_PEOPLE", _PEOPLE[size]))
    if size == "toy":
        with servers.stand(small=True) as stand, delivery.sandbox() as aws:
            seen = _run(stand, aws, people, 1)
        return {"recipients": people, "recipients/s": round(people / seen.seconds)}
    with servers.stand(small=False, binary_log=False) as stand, delivery.go_stand_in() as aws:
        dispatchers = int(os.environ.get("BENCH_DISPATCHERS", "2"))
        _run(stand, aws, min(people, _BEFORE), dispatchers)
        seen = _run(stand, aws, people, dispatchers)
        aws.post(f"/latency?ms={_LATENCY_MS}")
        late = _run(stand, aws, people, dispatchers)
    rate, late_rate = people / seen.seconds, people / late.seconds
    found: dict[str, object] = {
        "recipients": people,
        f"recipients/s (at least {_PER_SECOND})": _judged(rate, rate >= _PER_SECOND),
        f"recipients/s at {_LATENCY_MS} ms (at least {_WITH_LATENCY})": _judged(late_rate, late_rate >= _WITH_LATENCY),
        "logged/s": round(people / seen.logged_seconds),
        "leaves behind, over the run": _sample(seen.lags),
        f"MB a process (at most {_MOST_MB})": seen.rss_mb,
        "us of CPU a recipient": {name: round(used / people * 1e6, 1) for name, used in seen.cpu.items()},
        "us of CPU a recipient, all": round(sum(seen.cpu.values()) / people * 1e6),
    }
    try:
        peer = listmonk.messages_per_second(people)
    except PeerMissing as missing:
        return found | {"listmonk": f"not compared: {missing}"}
    ratio = rate / peer
    return found | {
        "listmonk messages/s": round(peer),
        f"against listmonk (at least {_FASTER})": f"{ratio:.2f} {'holds' if ratio >= _FASTER else 'MISSED'}",
    }


def _run(stand: Stand, aws: Aws, people: int, dispatchers: int) -> Watched:
    if people > 1000:
        aws.post("/reset")
    # so fast that the belt is never what is waited for, and never so long that a command on it seems lost
    with delivery.office(stand, aws, people, email_per_second=20_000, belt_seconds=60) as office:
        office.start(
            "release", "outbox", "evidence", *(["receipts"] if people > 1000 else []), *["dispatch"] * dispatchers
        )
        office.ready()
        seen = delivery.released(office, stand.pids)
        twice = 0 if people <= 1000 else int(aws.get("/stats")["accepted"]) - people
        if twice:
            raise RuntimeError(f"{twice} messages more than recipients")
        office.stop()
    return seen


def _judged(rate: float, holds: bool) -> str:
    return f"{rate:.0f} {'holds' if holds else 'MISSED'}"


def _sample(lags: Sequence[int]) -> list[int]:
    """Return the medians of ten parts of the run."""
    size = max(1, len(lags) // 10)
    return [round(median(lags[start : start + size])) for start in range(0, len(lags), size)]
