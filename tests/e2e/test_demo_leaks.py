"""After a whole demo no personal value can be read anywhere outside mailbox and store, however it is written."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_demo_leaves_nobody_outside_mailbox_and_store(tmp_path: Path) -> None:
    """Searched while all processes still run: the embedded Kafka's topics and the metrics end with them."""
    folder, temporary, answer = tmp_path / "demo", tmp_path / "tmp", tmp_path / "leaks.json"
    temporary.mkdir()
    search = [sys.executable, "-m", "tests.e2e.leak_search", str(folder), str(answer), str(temporary)]
    environment = os.environ | {"TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)}
    command = ["demo", "--exit", "--customers", "300", "--seed", "11", "--keep", str(folder)]
    demo = subprocess.run(
        [sys.executable, "-m", "consumers.cli", *command, "--before-end", shlex.join(search)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert demo.returncode == 0, demo.stdout[-4000:]
    report = json.loads(answer.read_text())
    searched = "\n".join(report["places"])
    for part in (
        "topic tocsin.store-changes", "topic tocsin.dead-letters", "metrics of dispatch", "case.db", "index/", "artefacts/",
        "logs/dispatch.log", "evidence/tile/entries/",
    ):  # fmt: skip
        assert part in searched
    assert report["in_mailbox"] == ["email", "name", "phone"]
    assert report["findings"] == []
