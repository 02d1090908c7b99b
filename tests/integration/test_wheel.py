"""The wheel: holds all that an installation needs, and `tocsin init` works from it without the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bridge.runtime.settings import load_settings

ROOT = Path(__file__).parents[2]
_PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")


def _run(command: tuple[str | Path, ...], folder: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built with what requirements/build.lock has installed; no network."""
    folder = tmp_path_factory.mktemp("wheel")
    _run((*_PIP, "wheel", ROOT, "--no-deps", "--no-build-isolation", "--wheel-dir", folder), folder)
    (built,) = folder.glob("tocsin-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel unpacked by pip and nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    _run((*_PIP, "install", "--no-deps", "--no-index", "--target", folder, wheel), folder)
    return folder


def tracked(folder: str) -> set[str]:
    """Return the files of the checkout below `folder`, caches left out."""
    return {
        str(path.relative_to(ROOT))
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_it_holds_every_file_of_both_packages_and_the_templates(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert names >= {
        "bridge/py.typed", "consumers/py.typed", "bridge/contracts/asyncapi.json", "consumers/sandbox/mailbox.html.j2",
        "consumers/adapters/case_store/migrations/env.py", "consumers/adapters/case_store/migrations/script.py.mako",
        "consumers/shipped_templates/segments.yaml",
    }  # fmt: skip
    assert names >= tracked("bridge") | tracked("consumers")
    assert names >= {name.replace("templates/", "consumers/shipped_templates/", 1) for name in tracked("templates")}


def test_it_holds_nothing_else(wheel: Path) -> None:
    """No test, no key, no settings file that happened to lie in the checkout."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"bridge", "consumers", "tocsin"}
    assert not [name for name in names if name.endswith((".key", ".pyc", "tocsin.toml", "people.toml", ".secret"))]


def test_an_installation_begins_from_the_wheel_alone(installed: Path, tmp_path: Path) -> None:
    """Only what pip installed is on the path before the dependencies; the checkout is not."""
    where = "import bridge, consumers; print(bridge.__file__); print(consumers.__file__)"
    found = _run((sys.executable, "-c", where), tmp_path, PYTHONPATH=str(installed)).split()
    assert all(Path(file).is_relative_to(installed) for file in found)
    assert (installed / "bin" / "tocsin").exists()

    tocsin = (sys.executable, "-m", "consumers.cli")
    said = _run((*tocsin, "init", tmp_path / "etc", "--admin", "Adam Admin"), tmp_path, PYTHONPATH=str(installed))
    assert "tocsin_admin_" in said
    settings = load_settings(tmp_path / "etc" / "tocsin.toml")
    shipped = installed / "consumers" / "shipped_templates"
    copied = {path.relative_to(settings.paths.templates) for path in settings.paths.templates.rglob("*")}
    assert copied == {path.relative_to(shipped) for path in shipped.rglob("*")}
    config = ("--config", tmp_path / "etc" / "tocsin.toml")
    assert "all valid" in _run((*tocsin, *config, "law", "check"), tmp_path, PYTHONPATH=str(installed))
    assert "complete in" in _run((*tocsin, *config, "notices", "check"), tmp_path, PYTHONPATH=str(installed))


def test_the_case_store_migrates_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    script = (
        "from consumers.adapters.case_store.engine import CaseDatabase, migrate\n"
        "import sqlalchemy as sa\n"
        "database = CaseDatabase('sqlite:///case.db')\n"
        "migrate(database)\n"
        "print(sorted(sa.inspect(database.engine).get_table_names()))\n"
    )
    assert "'attempt'" in _run((sys.executable, "-c", script), tmp_path, PYTHONPATH=str(installed))
