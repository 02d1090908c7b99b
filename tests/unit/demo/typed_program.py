"""What `test_typist.py` has typed: it shows what it was given, and ends as it is told."""

import os
import sys
import threading
from pathlib import Path

from prometheus_client import generate_latest

from bridge.runtime.supervisor import stop_on_signals
from bridge.runtime.telemetry import DECLARATIONS

if __name__ == "__main__":
    how = sys.argv[1]
    if how == "show":
        sys.stdout.write(f"{os.environ['SAID']}\n{Path.cwd()}\n{sorted(DECLARATIONS)}\n{generate_latest().decode()}")
        sys.stderr.write("an error\n")
        sys.exit(3)
    if how == "end late":
        threading.Thread(target=lambda: (threading.Event().wait(0.1), sys.stdout.write("late\n"))).start()
    if how == "fall":
        raise ValueError(how)
    if how == "wait":
        stop = stop_on_signals()
        sys.stdout.write("listens\n")
        sys.stdout.flush()
        stop.wait()
        sys.stdout.write("asked to end\n")
