"""Commands that are typed are processes like any other: what they are given, say and end with is their own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from consumers.demo.typist import Typed, Typist

PROGRAM = [sys.executable, "-m", "tests.unit.demo.typed_program"]


@pytest.fixture(scope="module")
def typist() -> Iterator[Typist]:
    made = Typist()
    yield made
    made.close()


def typed(typist: Typist, how: str, out: Path, **environment: str) -> Typed:
    with out.open("wb") as output, out.with_suffix(".errors").open("wb") as errors:
        return typist.start(
            [*PROGRAM, how], {"PATH": os.environ["PATH"], **environment}, output, errors=errors, folder=out.parent
        )


def test_a_program_has_environment_folder_output_and_exit_code_of_its_own(typist: Typist, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert typed(typist, "show", out, SAID="this").wait(60) == 3
    said = out.read_text(encoding="utf-8")
    # the last: the metrics of rooms that it has asked for itself, no others
    assert said.startswith(f"this\n{tmp_path}\n['tocsin_build_info']\n")
    assert "\ntocsin_" not in said
    assert out.with_suffix(".errors").read_text(encoding="utf-8") == "an error\n"


def test_it_ends_when_its_threads_have_and_falls_aloud(typist: Typist, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as threads:
        asked = [
            threads.submit(typed, typist, *each)
            for each in (("end late", tmp_path / "late"), ("fall", tmp_path / "fallen"))
        ]
        late, fallen = (each.result(60) for each in asked)
    assert (late.wait(60), fallen.wait(60)) == (0, 1)
    assert (tmp_path / "late").read_text(encoding="utf-8") == "late\n"
    assert "ValueError: fall" in (tmp_path / "fallen.errors").read_text(encoding="utf-8")


def test_it_is_signalled_by_itself(typist: Typist, tmp_path: Path) -> None:
    asked, killed = typed(typist, "wait", tmp_path / "asked"), typed(typist, "wait", tmp_path / "killed")
    assert asked.pid != killed.pid
    killed.kill()
    assert killed.wait(60) == -signal.SIGKILL
    killed.kill()
    with pytest.raises(subprocess.TimeoutExpired):
        asked.wait(0.01)
    give_up_at = time.monotonic() + 60
    while (tmp_path / "asked").read_text(encoding="utf-8") != "listens\n":
        assert time.monotonic() < give_up_at
        time.sleep(0.01)
    asked.terminate()
    assert asked.wait(60) == 0
    assert (tmp_path / "asked").read_text(encoding="utf-8") == "listens\nasked to end\n"


def test_all_end_with_the_typist(tmp_path: Path) -> None:
    own = Typist()
    waiting = typed(own, "wait", tmp_path / "out")
    own.close()
    assert waiting.wait(60) == -signal.SIGKILL
    with pytest.raises(RuntimeError, match="typist"):
        typed(own, "wait", tmp_path / "more")


def test_what_is_no_module_of_this_python_is_refused(typist: Typist) -> None:
    with pytest.raises(ValueError, match="not a module"):
        typist.start(["sh", "-c", "true"])
