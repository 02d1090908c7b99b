"""Run files: where a running process says under which address it can be reached (`paths.run`)."""

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_run_file(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` as JSON. Readers see the old file or the new one, never half of it, also after a crash.

    Two workers of one stage that start at once may both write: each writes a file of its own, and the later one holds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.partial")
    partial.write_text(json.dumps(content), encoding="utf-8")
    partial.replace(path)
