"""`tocsin metrics list` knows every metric, wherever it is declared, and each says what it is for."""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
UNITS = {
    "counter": ("total",),
    "gauge": ("seconds", "count", "ratio", "bytes", "info", "size", "open", "active", "per_second"),
    "histogram": ("seconds",),
}


def test_every_metric_is_listed_with_the_question_that_it_answers() -> None:
    """In a process of its own: this one may have imported anything."""
    done = subprocess.run(
        [sys.executable, "-m", "consumers.cli", "metrics", "list", "--json"],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    rows = {row["metric"]: row for row in json.loads(done.stdout)}
    written = {
        name
        for package in ("bridge", "consumers")
        for path in (ROOT / package).rglob("*.py")
        for name in re.findall(r'(?:counter|gauge|histogram)\(\s*"(tocsin_\w+)"', path.read_text(encoding="utf-8"))
    }
    assert rows.keys() == written
    for name, row in rows.items():
        assert row["question"].endswith("?"), name
        assert name.endswith(UNITS[row["kind"]]), f"{name}: a {row['kind']} ends with its unit"
        assert (ROOT / (row["declared_in"].replace(".", "/") + ".py")).exists()
