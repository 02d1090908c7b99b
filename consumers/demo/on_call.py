"""Who is on call in the demo, and what wakes them: Tocsin's own pages and, where Prometheus and Alertmanager are installed,
alerts by the rules that are shipped. Not for deciding when to page: that is the pager's business and Alertmanager's.
"""

import json
import shutil
import subprocess
import threading
import time
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from os import urandom
from pathlib import Path
from typing import Any

import yaml

from bridge.runtime.supervisor import die_with_parent
from consumers.case.webhooks import BadSignature, Secrets, key_of

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
"""Rules and routes as they are shipped: in a checkout. A wheel has none."""
HURRY = 15
"""By how much the demo's day is shorter than that of an installation."""
_DURATIONS = frozenset({
    "scrape_interval", "evaluation_interval", "interval", "for", "keep_firing_for", "group_wait", "group_interval",
    "repeat_interval",
})  # fmt: skip
_UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


class OnCall:
    """A receiver of pages (signed as Standard Webhooks says) and of Alertmanager's notifications, on loopback.

    Everything is also written to `file`, a JSON object a line, as it comes.
    """

    def __init__(self, file: Path) -> None:
        self.secret = "whsec_" + b64encode(urandom(24)).decode()
        key = key_of(self.secret)
        assert key is not None
        self._secrets = Secrets((key,))
        self._file = file
        self._lock = threading.Lock()
        self._pages: list[Mapping[str, Any]] = []
        self._alerts: list[Mapping[str, Any]] = []
        receiver = self

        class _Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status = receiver.take(self.path, {name.lower(): text for name, text in self.headers.items()}, body)
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Say nothing: the demo tells what arrives."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, name="on-call", daemon=True).start()

    def take(self, path: str, headers: Mapping[str, str], body: bytes) -> int:
        """Take what was posted; return the status to answer: 401 for a page that our pager did not sign."""
        if path == "/page":
            try:
                self._secrets.verify(headers, body, now=datetime.now(UTC), tolerance=timedelta(minutes=5))
            except BadSignature:
                return 401
            self._keep(self._pages, [json.loads(body)], "page")
            return 204
        if path == "/alerts":
            self._keep(self._alerts, [json.loads(body)], "alerts")
            return 204
        return 404

    def _keep(self, where: list[Mapping[str, Any]], items: Sequence[Mapping[str, Any]], kind: str) -> None:
        with self._lock, self._file.open("a", encoding="utf-8") as file:
            where.extend(items)
            file.writelines(json.dumps({"kind": kind, **item}) + "\n" for item in items)

    def page(self, kind: str) -> Mapping[str, Any] | None:
        """Return the data of the first page of `kind` that has come."""
        with self._lock:
            return next((each["data"] for each in self._pages if each["data"]["kind"] == kind), None)

    def alert(self, name: str, **labels: str) -> Mapping[str, Any] | None:
        """Return the first alert `name` with `labels` that has come and fires."""
        wanted = {"alertname": name, **labels}.items()
        with self._lock:
            sent = [alert for each in self._alerts for alert in each["alerts"]]
        return next((each for each in sent if each["status"] == "firing" and wanted <= each["labels"].items()), None)

    def alert_names(self) -> list[str]:
        """Return which alerts have come at all."""
        with self._lock:
            return sorted({alert["labels"]["alertname"] for each in self._alerts for alert in each["alerts"]})

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()


def hurried(config: Any, by: int = HURRY) -> Any:
    """Return a configuration of Prometheus or Alertmanager, or a file of rules, whose intervals and patience (the keys of
    `_DURATIONS`) are divided by `by`. Expressions, bounds, labels and routes stay as they are.
    """
    if isinstance(config, dict):
        return {
            key: f"{_milliseconds(value) // by}ms"
            if key in _DURATIONS and isinstance(value, str)
            else hurried(value, by)
            for key, value in config.items()
        }
    if isinstance(config, list):
        return [hurried(each, by) for each in config]
    return config


def _milliseconds(duration: str) -> int:
    number = duration.rstrip("smhd")
    return int(number) * _UNITS[duration.removeprefix(number)]


class Monitoring:
    """The machine's own Prometheus and Alertmanager, with the shipped rules and routes, hurried."""

    def __init__(self, folder: Path, on_call: OnCall, port: Callable[[], int]) -> None:
        self._folder = folder / "monitoring"
        self._logs = folder / "logs"
        self._on_call = on_call
        self._processes: list[subprocess.Popen[bytes]] = []
        self.alertmanager_url = f"http://127.0.0.1:{port()}"
        self.prometheus_url = f"http://127.0.0.1:{port()}"

    @staticmethod
    def missing() -> str | None:
        """Return why there is none here."""
        absent = [name for name in ("prometheus", "prometheus-alertmanager") if shutil.which(name) is None]
        if absent:
            return f"not installed here: {', '.join(absent)}"
        return None if DEPLOY.is_dir() else "the rules of deploy/ are not part of this installation"

    def start_alertmanager(self) -> None:
        """Start it; whoever posts before it listens tries again."""
        routes = hurried(_read(DEPLOY / "alertmanager" / "alertmanager.yaml"))
        for receiver in routes["receivers"]:
            for hook in receiver.get("webhook_configs", ()):
                hook["url"] = f"{self._on_call.url}/alerts"
        self._start(
            "prometheus-alertmanager", f"--config.file={self._write('alertmanager.yaml', routes)}",
            f"--storage.path={self._folder / 'alertmanager'}", "--cluster.listen-address=",
            f"--web.listen-address={self.alertmanager_url.removeprefix('http://')}", "--log.format=json",
        )  # fmt: skip

    def start_prometheus(self, addresses: Mapping[str, str]) -> None:
        """Let it scrape `addresses` (of `/metrics`, by stage) in place of the shipped ports."""
        config = hurried(_read(DEPLOY / "prometheus" / "prometheus.yaml"))
        for rules in sorted((DEPLOY / "prometheus" / "rules").glob("*.yaml")):
            self._write(f"rules/{rules.name}", hurried(_read(rules)))
        config["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": [_target(self.alertmanager_url)]}]}]
        for each in config["scrape_configs"][0]["static_configs"]:
            each["targets"] = [_target(addresses[each["labels"]["stage"]])]
        self._start(
            "prometheus", f"--config.file={self._write('prometheus.yaml', config)}",
            f"--storage.tsdb.path={self._folder / 'tsdb'}", "--web.console.templates=", "--web.console.libraries=",
            f"--web.listen-address={self.prometheus_url.removeprefix('http://')}", "--log.format=json",
        )  # fmt: skip

    def answers(self) -> bool:
        """Whether both are ready."""
        try:
            for url in (self.alertmanager_url, self.prometheus_url):
                urllib.request.urlopen(f"{url}/-/ready", timeout=2).close()  # noqa: S310  loopback
        except OSError:
            return False
        return True

    def stop(self) -> None:
        """End both."""
        for process in self._processes:
            process.terminate()
        until = time.monotonic() + 15
        for process in self._processes:
            try:
                process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start(self, program: str, *arguments: str) -> None:
        self._logs.mkdir(parents=True, exist_ok=True)
        with (self._logs / f"{program}.log").open("ab") as log:
            self._processes.append(
                subprocess.Popen(  # noqa: S603  the machine's own program
                    [shutil.which(program) or program, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    preexec_fn=die_with_parent(), start_new_session=True,
                )
            )  # fmt: skip

    def _write(self, name: str, content: Any) -> Path:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        return path


def _read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _target(url: str) -> str:
    return url.removeprefix("http://").removesuffix("/metrics")
