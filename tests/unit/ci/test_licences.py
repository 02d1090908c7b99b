"""Which licences pass the check."""

import importlib.util
from email.message import Message
from importlib.metadata import Distribution
from pathlib import Path
from types import ModuleType
from typing import cast

import pytest

SCRIPT = Path(__file__).parents[3] / ".ci" / "licences.py"


@pytest.fixture(scope="module")
def licences() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ci_licences", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Stated:
    """A distribution of which only the metadata matters."""

    def __init__(self, *headers: tuple[str, str]) -> None:
        self.metadata = Message()
        for name, value in headers:
            self.metadata[name] = value


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("MIT", True),
        ("Apache-2.0 OR BSD-3-Clause", True),
        ("MIT AND PSF-2.0", True),
        ("GPL-3.0-or-later OR MIT", True),
        ("MIT AND (GPL-2.0-only OR BSD-2-Clause)", True),
        ("(MIT)", True),
        ("MIT AND LGPL-2.1-only", False),
        ("GPL-3.0-only", False),
        ("GNU Lesser General Public License v3 (LGPLv3)", False),
        ("AGPL-3.0-only OR SSPL-1.0", False),
        ("Other/Proprietary License", False),
        ("", False),
        ("none stated", False),
    ],
)
def test_expressions(licences: ModuleType, licence: str, allowed: bool) -> None:
    assert licences.is_allowed(licence) is allowed


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ([("License-Expression", "MIT"), ("Classifier", "License :: OSI Approved :: BSD License")], ["MIT"]),
        ([("License", "free text"), ("Classifier", "License :: OSI Approved :: BSD License")], ["BSD License"]),
        ([("License", "Apache 2.0"), ("Classifier", "License :: OSI Approved")], ["Apache 2.0"]),
        ([], ["none stated"]),
    ],
)
def test_the_most_exact_statement_counts(
    licences: ModuleType, headers: list[tuple[str, str]], found: list[str]
) -> None:
    assert licences.licences_of(cast(Distribution, Stated(*headers))) == found


def test_a_licence_by_name_is_for_that_distribution_alone(
    licences: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(licences, "distribution", lambda name: Stated(("License", "The Unlicense (Unlicense)")))
    lines = licences.refusals(["email-validator", "another"])
    assert len(lines) == 1
    assert lines[0].startswith("another: ")


def test_every_locked_name_is_read(licences: ModuleType) -> None:
    lock = 'alembic==1.18 \\\n    --hash=sha256:00\n    # via tocsin\nmoto[server]==5.1 ; sys_platform == "win32"\n'
    assert licences.locked_names(lock) == ["alembic", "moto"]
