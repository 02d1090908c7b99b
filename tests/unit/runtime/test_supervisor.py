"""The supervisor with real child processes: restart, clean end, refused settings, no orphan."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bridge.runtime import supervisor as supervisor_module
from bridge.runtime.supervisor import Supervisor

SLEEPER = (
    "import signal, sys, time\n"
    "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"
    "open(sys.argv[1], 'a').write('up\\n')\n"
    "time.sleep(60)\n"
)


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for `condition`, with a bound."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.02)


def sleeper(mark: Path) -> list[str]:
    return [sys.executable, "-c", SLEEPER, str(mark)]


def test_what_dies_is_started_again_and_all_end_cleanly(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    supervisor = Supervisor({"one": sleeper(mark)})
    stop = threading.Event()
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(supervisor.run(stop)))
    thread.start()
    until(lambda: mark.exists() and mark.read_text() == "up\n")
    pid = supervisor.pid("one")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: mark.read_text() == "up\nup\n")
    stop.set()
    thread.join(60)
    assert codes == [0]
    assert supervisor.restarts == {"one": 1}


def test_refused_settings_end_everything(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    supervisor = Supervisor({"good": sleeper(mark), "bad": [sys.executable, "-c", "raise SystemExit(2)"]})
    assert supervisor.run(threading.Event()) == 2
    assert supervisor.pid("good") is None


def test_one_that_worked_by_its_settings_and_refuses_them_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "_AT_WORK_SECONDS", 0.2)
    mark, away = tmp_path / "mark", tmp_path / "away"
    refuses = "import pathlib, sys\nif pathlib.Path(sys.argv[2]).exists(): raise SystemExit(2)\n" + SLEEPER
    supervisor = Supervisor({"good": sleeper(mark), "one": [sys.executable, "-c", refuses, str(mark), str(away)]})
    stop = threading.Event()
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(supervisor.run(stop)))
    thread.start()
    until(lambda: mark.exists() and mark.read_text() == "up\n" * 2)
    until(lambda: all(child.worked for child in supervisor._children))
    away.touch()
    pid = supervisor.pid("one")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: supervisor.restarts["one"] >= 2)
    assert supervisor.pid("good") is not None, "it goes on meanwhile"
    away.unlink()
    until(lambda: mark.read_text() == "up\n" * 3)
    stop.set()
    thread.join(60)
    assert codes == [0]


def test_a_child_that_does_not_end_is_killed_and_reported(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    stubborn = (
        "import signal, sys, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "open(sys.argv[1], 'w').write('up')\ntime.sleep(60)\n"
    )
    supervisor = Supervisor({"stubborn": [sys.executable, "-c", stubborn, str(mark)]}, grace_seconds=0.3)
    supervisor.tend()
    until(mark.exists)
    assert not supervisor.stop()


def test_children_die_with_a_killed_supervisor(tmp_path: Path) -> None:
    mark, pid_file = tmp_path / "mark", tmp_path / "pid"
    program = (
        "import sys, threading, pathlib\n"
        "from bridge.runtime.supervisor import Supervisor\n"
        f"s = Supervisor({{'one': {sleeper(mark)!r}}})\n"
        "s.tend()\n"
        f"pathlib.Path({str(pid_file)!r}).write_text(str(s.pid('one')))\n"
        "threading.Event().wait()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program])
    until(lambda: mark.exists() and pid_file.exists() and pid_file.read_text() != "")
    child = int(pid_file.read_text())
    parent.kill()
    parent.wait()

    def gone() -> bool:
        stat = Path(f"/proc/{child}/stat")
        return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"

    until(gone)
