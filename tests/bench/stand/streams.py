"""The references that read the topic as we do, tuned for loading: Kafka Streams 4.1.1 (KTable in RocksDB), Quix Streams 3.28.

Each runs as a process of its own that says in lines of JSON what it took and what it found.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench.run import PeerMissing
from tests.bench.stand import measure
from tests.bench.stand.provenance import FROM, MODEL, TO, VERSIONS, Provenance, digest, sensitivity

_HERE = Path(__file__).parent
_CACHE = Path(__file__).parents[3] / ".cache"
_QUIX = "quixstreams==3.28.0"
_SECONDS = 600

Taken = dict[str, Any]
"""What one run came to: `seconds` and `disk_mb` of the load, `rss_mb`, `queries` in seconds, `answer` if one was asked for."""


def kafka_streams(bootstrap_servers: str, topic: str, provenance: Provenance, *, queries: int) -> Taken:
    """Load `topic` into a KTable and ask the question `queries` times. Raises PeerMissing."""
    with tempfile.TemporaryDirectory(prefix="tocsin-bench-") as folder:
        command = [
            "java", "-Xms2g", "-Xmx2g", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", _built(), "ProvenanceTable",
            bootstrap_servers, topic, provenance.messages, f"{folder}/state", _SECONDS, MODEL, ",".join(VERSIONS),
            *_window(), queries,
        ]  # fmt: skip
        seconds, (load, *answers), rss_mb = _run(command, Path(folder), 1 + queries)
    taken = _taken(seconds, load, answers, rss_mb)
    if answers:
        taken["answer"] = (answers[-1]["customers"], answers[-1]["md5"])
    return taken


def quix_streams(bootstrap_servers: str, topic: str, provenance: Provenance, *, queries: int = 1) -> Taken:
    """Load `topic` into one state entry for each key and ask the question. Raises PeerMissing."""
    python = _quix_environment()
    with tempfile.TemporaryDirectory(prefix="tocsin-bench-") as folder:
        state = Path(folder) / "state"
        state.mkdir()
        command = [
            python, _HERE / "quix_application.py", bootstrap_servers, topic, provenance.messages, state, 60, MODEL,
            ",".join(VERSIONS), *_window(), queries,
        ]  # fmt: skip
        seconds, (load, *answers), rss_mb = _run(command, Path(folder), 1 + queries)
        found = json.loads((state / "answer.json").read_text(encoding="utf-8"))
        (state / "answer.json").unlink()
        load["disk_mb"] = sum(file.stat().st_size for file in state.rglob("*") if file.is_file()) / 1e6
    people = ((customer, categories, sensitivity(rank), kinds) for customer, categories, rank, kinds in found)
    return _taken(seconds, load, answers, rss_mb) | {"answer": digest(people)}


def _taken(seconds: float, load: dict[str, Any], answers: Sequence[dict[str, Any]], rss_mb: int) -> Taken:
    return {
        "seconds": seconds,
        "from_first_seconds": load["load_from_first_s"],
        "cpu_seconds": load["load_cpu_s"],
        "rss_mb": rss_mb,
        "disk_mb": load["disk_mb"],
        "queries": [answer["query_s"] for answer in answers],
    }


def _window() -> tuple[str, str]:
    return f"{FROM:%Y-%m-%dT%H:%M:%S.000Z}", f"{TO:%Y-%m-%dT%H:%M:%S.000Z}"


def _run(command: Sequence[object], folder: Path, lines: int) -> tuple[float, list[dict[str, Any]], int]:
    """Return the seconds from the start of the process to its first line, all lines, and the most memory it held."""
    said, complained = folder / "said.jsonl", folder / "complained.log"
    rss_mb, began, seconds = 0, time.monotonic(), 0.0
    with said.open("wb") as out, complained.open("wb") as err:
        process = subprocess.Popen([str(part) for part in command], stdout=out, stderr=err, cwd=folder)
    give_up_at = time.monotonic() + 2 * _SECONDS
    try:
        while process.poll() is None:
            rss_mb = max(rss_mb, measure.rss_mb(process.pid))
            if not seconds and said.stat().st_size:
                seconds = time.monotonic() - began
            if time.monotonic() > give_up_at:
                raise TimeoutError(f"no end after {2 * _SECONDS} s: {command[0]}")
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    found = [json.loads(line) for line in said.read_text(encoding="utf-8").splitlines() if line.startswith("{")]
    if process.returncode or len(found) != lines:
        end = complained.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise RuntimeError(f"{command[0]} ended with {process.returncode} after {len(found)} of {lines} answers: {end}")
    return seconds or time.monotonic() - began, found, rss_mb


def _built() -> str:
    """Return the class path of the application; Maven brings and builds it the first time. Raises PeerMissing."""
    for program in ("java", "javac", "mvn"):
        if not shutil.which(program):
            raise PeerMissing(f"{program} is not installed (Debian: openjdk-17-jdk-headless, maven)")
    sources = {"pom.xml": _HERE / "streams.xml", "src/main/java/ProvenanceTable.java": _HERE / "ProvenanceTable.java"}
    target = _CACHE / "kafka-streams-4.1.1"
    built = target / "built"
    if not built.exists() or built.stat().st_mtime < max(file.stat().st_mtime for file in sources.values()):
        for name, file in sources.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target / name)
        done = subprocess.run(["mvn", "-q", "-B", "package"], cwd=target, capture_output=True, text=True, check=False)
        if done.returncode:
            raise PeerMissing(f"Maven could not build the application of Kafka Streams: {done.stdout[-1000:]}")
        built.touch()
    return f"{target}/target/*:{target}/target/libs/*"


def _quix_environment() -> Path:
    """Return the Python of Quix Streams' own virtual environment, made the first time. Raises PeerMissing."""
    folder = _CACHE / _QUIX.replace("==", "-")
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        for command in (
            [sys.executable, "-m", "venv", str(folder)],
            [str(python), "-m", "pip", "install", "-q", _QUIX],
        ):
            environment = {name: value for name, value in os.environ.items() if name != "PIP_REQUIRE_HASHES"}
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
            if done.returncode:
                raise PeerMissing(f"Quix Streams could not be installed: {done.stderr[-1000:]}")
        (folder / "installed").touch()
    return python
