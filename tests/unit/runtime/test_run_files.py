"""Run files: whole at any moment, whoever writes."""

import json
import threading
from pathlib import Path

from bridge.runtime.run_files import write_run_file


def test_writers_at_once_never_fall_and_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "run" / "index.metrics.json"
    ready = threading.Barrier(8)
    fallen: list[BaseException] = []

    def write(number: int) -> None:
        ready.wait()
        try:
            for _ in range(50):
                write_run_file(path, {"metrics": f"http://127.0.0.1:{number}/metrics"})
        except OSError as error:
            fallen.append(error)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert fallen == []
    assert json.loads(path.read_text(encoding="utf-8"))["metrics"].endswith("/metrics")
    assert [each.name for each in path.parent.iterdir()] == ["index.metrics.json"]
