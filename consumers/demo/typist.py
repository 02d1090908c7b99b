"""Types `tocsin` commands, each in a process of its own that is forked from one which has imported everything already.

People type some twenty commands in the demo, and a Python that starts for each spends a second or more on imports alone.
What runs is the command line as it is: its own arguments, environment, folder, output and exit code. Not for stages, which
live long.
"""

import atexit
import gc
import importlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from types import ModuleType
from typing import Any

from bridge.runtime.supervisor import die_with_parent


class Typist:
    """Types one command after the other, for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "consumers.demo.typist"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=die_with_parent(), start_new_session=True,
        )  # fmt: skip

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
        asked = {"words": list(words), "environment": dict(environment), "seconds": seconds}
        asked["folder"] = str(folder if folder is not None else Path.cwd())
        with self._lock:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(asked).encode() + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the typist ended with {self._process.wait(10)}")
        done = json.loads(line)
        if done["code"] is None:
            raise subprocess.TimeoutExpired(["tocsin", *words], seconds, done["out"], done["err"])
        return subprocess.CompletedProcess(["tocsin", *words], done["code"], done["out"], done["err"])

    def close(self) -> None:
        """Type no more."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


def _serve() -> None:
    """Read commands from standard input, a JSON object a line, and answer each on standard output."""
    _import_all()
    gc.collect()
    gc.freeze()  # or a child's first collection would copy the memory that it shares with us
    for line in sys.stdin.buffer:
        sys.stdout.write(json.dumps(_typed(json.loads(line))) + "\n")
        sys.stdout.flush()
    # at once: libraries' complaints about the order of an interpreter's end would be read as the demo's
    os._exit(0)


def _import_all() -> None:
    import bridge
    import consumers

    packages: list[ModuleType] = [bridge, consumers]
    for package in packages:
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            # migrations are no modules to import; the demo and its sandbox are not what people type
            if not {"migrations", "demo", "sandbox", "__main__"} & set(module.name.split(".")):
                with suppress(ImportError):  # of an extra that is not installed
                    importlib.import_module(module.name)


def _typed(asked: Mapping[str, Any]) -> dict[str, Any]:
    with TemporaryFile() as out, TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            os._exit(_command(asked, out.fileno(), err.fileno()))
        code = _end_of(child, asked["seconds"])
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    return {"code": code, "out": texts[0], "err": texts[1]}


def _end_of(child: int, seconds: float) -> int | None:
    """Return the exit code of `child`; None if it took too long and was killed."""
    in_time = True
    give_up_at = time.monotonic() + seconds
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status) if in_time else None
        if in_time and time.monotonic() > give_up_at:
            in_time = False
            os.kill(child, signal.SIGKILL)
        time.sleep(0.01)


def _command(asked: Mapping[str, Any], out: int, err: int) -> int:
    """In the child: be the command line; return its exit code."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    for ours, standard in ((nothing, 0), (out, 1), (err, 2)):
        os.dup2(ours, standard)
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    sys.argv = ["tocsin", *asked["words"]]
    code = 0
    try:
        from consumers.cli import main

        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    _serve()
