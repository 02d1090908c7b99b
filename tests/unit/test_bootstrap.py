"""The composition root: every part's name is that of a type, and naming parts imports nothing."""

import importlib
import subprocess
import sys

from consumers.bootstrap import parts_for


def test_every_part_is_named_by_the_type_that_askers_import() -> None:
    """A misspelt name would be found only by the one command that asks for it."""
    for name in parts_for(None).names:
        module, _, kind = name.rpartition(".")
        assert getattr(importlib.import_module(module), kind).__module__ == module, name


def test_naming_all_parts_imports_no_room() -> None:
    """Each stage and each command begins with this: what it imports, everybody waits for."""
    script = (
        "import sys; from consumers.bootstrap import parts_for; parts_for(None); "
        "print([name for name in sys.modules if name.startswith(('consumers.', 'sqlalchemy', 'boto', 'alembic'))])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "['consumers.bootstrap']\n"
