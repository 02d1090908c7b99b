"""The locks hold what pyproject.toml asks for, so that a dependency added without `make lock` fails here by name."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ASKED: dict[str, list[str]] = {
    "runtime": PROJECT["project"]["dependencies"],
    "dev": PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["dev"],
    "build": PROJECT["dependency-groups"]["build"],
}


def lock_text(name: str) -> str:
    return (ROOT / "requirements" / f"{name}.lock").read_text(encoding="utf-8")


def locked_versions(name: str) -> dict[str, set[str]]:
    """Versions by distribution; one may have several, for different Pythons or platforms."""
    versions: dict[str, set[str]] = {}
    for found, version in re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;\\]+)", lock_text(name), re.MULTILINE):
        versions.setdefault(canonicalize_name(found), set()).add(version)
    return versions


@pytest.mark.parametrize(("name", "requirement"), [(name, one) for name, asked in ASKED.items() for one in asked])
def test_what_is_asked_for_is_locked(name: str, requirement: str) -> None:
    wanted = Requirement(requirement)
    versions = locked_versions(name).get(canonicalize_name(wanted.name), set())
    assert any(wanted.specifier.contains(version) for version in versions), f"{requirement}: run `make lock`"


def test_development_adds_to_the_runtime_and_changes_none_of_it() -> None:
    assert locked_versions("runtime").items() <= locked_versions("dev").items()


@pytest.mark.parametrize("name", ASKED)
def test_every_version_has_hashes_and_no_index_is_named(name: str) -> None:
    text = lock_text(name)
    entries = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    assert entries
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in text
    assert "--index-url" not in text
    assert "--find-links" not in text
