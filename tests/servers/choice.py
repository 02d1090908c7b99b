"""Decides where a server comes from: a container, a local process, or nowhere. Pure but for `look_around`."""

import os
import shutil
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

import docker
from docker.errors import DockerException

SEARCH_PATH = os.pathsep.join(("/usr/sbin", "/sbin"))
"""Where Debian keeps servers, which is not on everybody's PATH."""

DOCKER_HOST = "unix:///var/run/docker.sock"


class Way(StrEnum):
    """How a server is started."""

    DOCKER = "docker"
    LOCAL = "local"


@dataclass(frozen=True, slots=True)
class Missing:
    """A server that cannot be had here, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What this machine has to offer."""

    docker_answers: bool
    programs: frozenset[str]
    """Names of the programs asked for that are installed."""
    wanted: str = ""
    """`TOCSIN_TEST_SERVERS`: "docker" or "local" leaves no choice; empty means the best there is."""
    must_have: bool = False
    """In CI a part that is missing fails; elsewhere its tests are skipped by name."""


def way_to(server: str, needs: Sequence[str], here: Surroundings) -> Way | Missing:
    """Return how to start `server`, which as a local process needs the programs `needs`.

    Raises ValueError for a `wanted` that is no way.
    """
    if here.wanted and here.wanted not in set(Way):
        raise ValueError(f"TOCSIN_TEST_SERVERS={here.wanted!r}: say docker or local, or leave it empty")
    absent = [program for program in needs if program not in here.programs]
    if here.wanted != Way.LOCAL and here.docker_answers:
        return Way.DOCKER
    if here.wanted != Way.DOCKER and not absent:
        return Way.LOCAL
    reasons = []
    if here.wanted != Way.LOCAL:
        reasons.append("no Docker daemon answers")
    if here.wanted != Way.DOCKER:
        reasons.append(f"not installed: {', '.join(absent)} (`make test` installs or names them)")
    return Missing(f"{server} cannot be had: {'; '.join(reasons)}")


def look_around(programs: Sequence[str], environment: Mapping[str, str]) -> Surroundings:
    """Ask the machine. Takes at most about two seconds, where a Docker socket exists and nobody answers on it."""
    wanted = environment.get("TOCSIN_TEST_SERVERS", "")
    return Surroundings(
        docker_answers=wanted != Way.LOCAL and _docker_answers(environment.get("DOCKER_HOST") or DOCKER_HOST),
        programs=frozenset(name for name in programs if find_program(name)),
        wanted=wanted,
        must_have=environment.get("CI", "").lower() in {"1", "true", "yes"},
    )


def find_program(name: str) -> str | None:
    """Return the path of an installed program, administrators' folders included."""
    return shutil.which(name) or shutil.which(name, path=SEARCH_PATH)


def _docker_answers(host: str) -> bool:
    # Its client leaves a socket open where nobody listens, and warnings are errors here: so look first, then ask.
    address = urlsplit(host)
    try:
        if address.scheme == "unix":
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(address.path)
        else:
            socket.create_connection((address.hostname or "127.0.0.1", address.port or 2375), timeout=2).close()
    except OSError:
        return False
    try:
        client = docker.from_env(timeout=2)
    except DockerException:
        return False
    try:
        return bool(client.ping())
    except DockerException:
        return False
    finally:
        client.close()
