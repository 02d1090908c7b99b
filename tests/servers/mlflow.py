"""One MLflow server on SQLite, in the environment that `.ci/mlflow` makes. Always a local process."""

import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.local import Plug, free_port, running, scratch_folder

ENVIRONMENT = Path(__file__).parents[2] / ".cache" / "mlflow-server"


def is_there() -> bool:
    """Return whether `.ci/mlflow` has made the environment."""
    return (ENVIRONMENT / "stamp").exists()


@contextmanager
def mlflow_server() -> Iterator[tuple[str, Plug]]:
    """Yield the address of a server without models, and its plug. Raises ServerDidNotStart."""
    with scratch_folder("mlflow") as scratch:
        shutil.copy(ENVIRONMENT / "fresh.db", scratch / "mlflow.db")
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        # what `mlflow server` starts, without the several processes around it
        settings = (
            f"_MLFLOW_SERVER_FILE_STORE=sqlite:///{scratch / 'mlflow.db'}",
            f"_MLFLOW_SERVER_ARTIFACT_ROOT={scratch / 'artefacts'}",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false", "MLFLOW_DISABLE_TELEMETRY=true",
        )  # fmt: skip
        command = (
            "env", *settings, ENVIRONMENT / "bin" / "python", "-m", "uvicorn", "--host", "127.0.0.1", "--port", str(port),
            "mlflow.server.fastapi_app:app",
        )  # fmt: skip
        with running("mlflow", command, scratch, lambda: _answers(url)) as plug:
            yield url, plug


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
