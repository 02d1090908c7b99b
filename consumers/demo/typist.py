"""Types `tocsin` commands, each in a process of its own that is forked from one which has imported nearly everything.

People type some twenty commands in the demo, a dozen stages are started, and a Python that starts for each spends a second
or more on imports alone. What runs is the program as it is: its own arguments, environment, folder, output, signals and exit
code. What declares metrics is not imported beforehand: a process shows those of its own rooms.
"""

import atexit
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from types import FrameType
from typing import IO, Any

from bridge.runtime.supervisor import die_with_parent

_OURS = ("bridge", "consumers")
# Migrations are no modules to import; the demo and its sandbox are not what people type.
_NOT_OURS_TO_IMPORT = {"migrations", "demo", "sandbox", "__main__"}


class Typed:
    """A process that the typist has started; what `subprocess.Popen` says of one. For any thread."""

    def __init__(self, command: Sequence[str], pid: int, status: int) -> None:
        self.args = list(command)
        self.pid = pid
        self.returncode: int | None = None
        self._status = status
        self._lock = threading.Lock()
        # not sooner: another thread may wait for it
        weakref.finalize(self, os.close, status)

    def poll(self) -> int | None:
        """Return its exit code, negative for a signal; None while it runs."""
        with self._lock:
            if self.returncode is None and select.select([self._status], [], [], 0)[0]:
                code = _number(self._status)
                # the typist is gone, and every process of its with it
                self.returncode = -signal.SIGKILL if code is None else code
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; return its exit code. Raises subprocess.TimeoutExpired after `timeout` seconds."""
        if self.poll() is None:
            select.select([self._status], [], [], timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def send_signal(self, sig: int) -> None:
        """Send it a signal; nothing if it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, sig)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


class Typist:
    """Types any number of commands, for any thread. All of them are killed when it or this process is gone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asking, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603  this module
                [sys.executable, "-m", "consumers.demo.typist", str(theirs.fileno())],
                stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], preexec_fn=die_with_parent(),
                start_new_session=True,
            )  # fmt: skip

    def start(
        self,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        output: IO[Any] | None = None,
        *,
        errors: IO[Any] | None = None,
        folder: Path | None = None,
    ) -> Typed:
        """Start `python -m MODULE ...`, of this Python, in a session of its own, without input. It writes to `output` and
        `errors`, by default the same, and that ours. Raises RuntimeError if the typist is gone.
        """
        if list(command[:2]) != [sys.executable, "-m"]:
            raise ValueError(f"not a module of this Python: {command[:2]}")
        asked = {
            "module": command[2],
            "words": list(command[3:]),
            "environment": dict(os.environ if environment is None else environment),
            "folder": str(folder if folder is not None else Path.cwd()),
        }
        out, err = (1, 2) if output is None else (output.fileno(), output.fileno())
        if errors is not None:
            err = errors.fileno()
        status, theirs = os.pipe()
        # one at a time: what is asked next must not be read with this
        with self._lock:
            try:
                socket.send_fds(self._asking, [b"!"], [out, err, theirs])
                self._asking.sendall(json.dumps(asked).encode() + b"\n")
            except OSError:
                pass  # and nothing will be read
            finally:
                os.close(theirs)
            pid = _number(status)
        if pid is None:
            os.close(status)
            raise RuntimeError(f"the typist ended with {self._process.wait(10)}")
        return Typed(command, pid, status)

    @property
    def pid(self) -> int:
        """The process of which every command is a child."""
        return self._process.pid

    def type(
        self,
        words: Sequence[str],
        *,
        environment: Mapping[str, str],
        folder: Path | None = None,
        seconds: float = 300,
    ) -> "subprocess.CompletedProcess[str]":
        """Run `tocsin` with `words` to its end, with exactly this environment. Raises subprocess.TimeoutExpired, and
        RuntimeError if the typist is gone.
        """
        command = [sys.executable, "-m", "consumers.cli", *words]
        with TemporaryFile() as out, TemporaryFile() as err:
            process = self.start(command, environment, out, errors=err, folder=folder)
            try:
                code: int | None = process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                code = None
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode(errors="replace"))
        if code is None:
            raise subprocess.TimeoutExpired(["tocsin", *words], seconds, texts[0], texts[1])
        return subprocess.CompletedProcess(["tocsin", *words], code, texts[0], texts[1])

    def close(self) -> None:
        """Type no more."""
        self._asking.close()
        self._process.wait(30)


def _number(status: int) -> int | None:
    """Read one number from a status pipe; None at its end."""
    text = b""
    while not text.endswith(b"\n"):
        more = os.read(status, 1)
        if not more:
            return None
        text += more
    return int(text)


def _serve(asking: socket.socket) -> None:
    """Start what `asking` asks for; write a process's id, and later its exit code, to the status pipe that came with it."""
    _import_beforehand()
    gc.collect()
    gc.freeze()  # or a child's first collection would copy the memory that it shares with us
    arm = die_with_parent()
    woken, waking = os.pipe()
    for end in (woken, waking):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, _heard)
    running: dict[int, int] = {}
    while True:
        ready = select.select([asking.fileno(), woken], [], [])[0]
        if woken in ready:
            with suppress(BlockingIOError):
                os.read(woken, 4096)
            for pid, code in _ended(running):
                _say(running.pop(pid), code)
        if asking.fileno() not in ready:
            continue
        _, descriptors, _, _ = socket.recv_fds(asking, 1, 3)
        if not descriptors:
            # at once: libraries' complaints about the order of an interpreter's end would be read as the demo's
            os._exit(0)
        asked = json.loads(_line(asking))
        out, err, status = descriptors
        child = os.fork()
        if child == 0:
            arm()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for not_ours in (asking.fileno(), woken, waking, status, *running.values()):
                os.close(not_ours)
            os._exit(_program(asked, out, err))
        os.close(out)
        os.close(err)
        running[child] = status
        _say(status, child, last=False)


def _heard(_number: int, _frame: FrameType | None) -> None:
    """Be woken; the loop does the rest."""


def _line(asking: socket.socket) -> bytes:
    text = b""
    while not text.endswith(b"\n"):
        more = asking.recv(65536)
        if not more:
            os._exit(0)
        text += more
    return text


def _ended(running: Mapping[int, int]) -> Iterator[tuple[int, int]]:
    for pid in list(running):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            yield pid, os.waitstatus_to_exitcode(status)


def _say(status: int, number: int, *, last: bool = True) -> None:
    with suppress(BrokenPipeError):  # nobody wants to know any more
        os.write(status, f"{number}\n".encode())
    if last:
        os.close(status)


def _import_beforehand() -> None:
    """Import what every process may need but what declares metrics, and what imports such."""
    for name in _OURS:
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            if not _NOT_OURS_TO_IMPORT & set(module.name.split(".")):
                _import_unless_it_declares(module.name)


def _import_unless_it_declares(name: str) -> None:
    from prometheus_client import REGISTRY

    from bridge.runtime.telemetry import DECLARATIONS

    before, declared, registered = set(sys.modules), set(DECLARATIONS), set(REGISTRY._collector_to_names)
    with suppress(ImportError):  # of an extra that is not installed
        importlib.import_module(name)
    new = DECLARATIONS.keys() - declared
    if not new:
        return
    for metric in new:
        del DECLARATIONS[metric]
    for collector in set(REGISTRY._collector_to_names) - registered:
        REGISTRY.unregister(collector)
    for module in set(sys.modules) - before:
        if module.partition(".")[0] in _OURS:
            _forget(module)


def _forget(name: str) -> None:
    del sys.modules[name]
    package, _, last = name.rpartition(".")
    if package in sys.modules:
        with suppress(AttributeError):
            delattr(sys.modules[package], last)


def _program(asked: Mapping[str, Any], out: int, err: int) -> int:
    """In the child: be the program; return its exit code."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    for ours, standard in ((nothing, 0), (out, 1), (err, 2)):
        os.dup2(ours, standard)
        os.close(ours)
    words = asked["words"]
    with suppress(OSError):  # for `ps`; Linux alone has it
        Path("/proc/self/comm").write_text(f"tocsin {words[-1] if words else ''}", encoding="utf-8")
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    tempfile.tempdir = None  # to be found in this environment
    sys.argv = [asked["module"], *words]
    code = 0
    try:
        # as `python -m` has it: a module that is run is not the one that others import
        if asked["module"] in sys.modules:
            _forget(asked["module"])
        runpy.run_module(asked["module"], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
    except BaseException:
        traceback.print_exc()
        code = 1
    # what an interpreter does at its end, but for taking itself apart
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    return code


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
