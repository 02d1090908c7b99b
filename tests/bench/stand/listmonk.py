"""listmonk at its fastest, to compare with: a campaign of 2 KB messages to an SMTP sink that is never the bottleneck.

The program is brought by whoever measures (`LISTMONK=path`, version 6; `LISTMONK_FILES=folder` with its queries, templates and
translations where the program does not hold them). PostgreSQL runs with a data directory of its own for
the time of the run; 20 workers, batches of 5,000, no rate limit of its own, and a template without tracking links.
"""

import base64
import json
import os
import pwd
import re
import shutil
import subprocess
import tempfile
import time
import urllib.request
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.run import PeerMissing
from tests.bench.stand import measure
from tests.bench.stand.delivery import built
from tests.servers.local import free_port

_BODY = (
    "<h1>Important notice about your personal data</h1><p>Dear {{ .Subscriber.Name }},</p>"
    "<p>Your case reference is <b>{{ .Subscriber.Attribs.ref }}</b>.</p><p>"
    + "We are writing to tell you about an incident that affects your personal data. " * 24
    + "</p>"
)
_SETUP = """
update settings set value = '20' where key = 'app.concurrency';
update settings set value = '5000' where key = 'app.batch_size';
update settings set value = '100000' where key = 'app.message_rate';
update settings set value = 'false' where key in ('app.check_updates', 'app.send_optin_confirmation');
update settings set value = jsonb_build_array(jsonb_build_object(
  'enabled', true, 'host', '127.0.0.1', 'port', :smtp_port, 'auth_protocol', 'none', 'username', '', 'password', '',
  'hello_hostname', '', 'max_conns', 20, 'idle_timeout', '15s', 'wait_timeout', '5s', 'max_msg_retries', 2,
  'tls_type', 'none', 'tls_skip_verify', false, 'email_headers', '[]'::jsonb)) where key = 'smtp';
delete from subscribers;
insert into subscribers (uuid, email, name, attribs, status)
  select gen_random_uuid(), 'person' || n || '@example' || n % 50 || '.invalid', 'Person Number ' || n,
    jsonb_build_object('ref', 'CASE-' || lpad(n::text, 9, '0')), 'enabled' from generate_series(1, :people) n;
insert into subscriber_lists (subscriber_id, list_id, status)
  select id, (select min(id) from lists), 'confirmed' from subscribers;
insert into templates (name, type, subject, body) values ('content only', 'campaign', '', '{{ template "content" . }}');
analyze;
"""


def messages_per_second(people: int) -> float:
    """Return how fast a campaign to so many leaves, from its first message to its last. Raises PeerMissing."""
    given = os.environ.get("LISTMONK")
    if given is None or not os.access(given, os.X_OK):
        raise PeerMissing("LISTMONK=path names no listmonk to compare with (version 6, built or released)")
    with ExitStack() as kept:
        folder = Path(kept.enter_context(tempfile.TemporaryDirectory(prefix="bench-listmonk-")))
        sink = kept.enter_context(subprocess.Popen([built("smtpsink")], stdout=subprocess.PIPE, text=True))
        kept.callback(sink.kill)
        assert sink.stdout is not None
        smtp, stats = sink.stdout.readline().split()
        postgres = _Postgres(kept, folder)
        postgres.sql("-c", "create database listmonk")
        port = free_port()
        config = folder / "config.toml"
        config.write_text(
            f'[app]\naddress = "127.0.0.1:{port}"\n[db]\nhost = "127.0.0.1"\nport = {postgres.port}\nuser = "postgres"\n'
            'password = "x"\ndatabase = "listmonk"\nssl_mode = "disable"\nmax_open = 25\nmax_idle = 25\nmax_lifetime = "300s"\n',
            encoding="utf-8",
        )
        files = Path(os.environ.get("LISTMONK_FILES", folder))
        api = _Api(f"http://127.0.0.1:{port}", _installed(Path(given), config, files))
        setup = folder / "setup.sql"
        setup.write_text(_SETUP, encoding="utf-8")
        values = ("-v", f"smtp_port={smtp.rpartition(':')[2]}", "-v", f"people={people}")
        postgres.sql("-d", "listmonk", *values, "-f", str(setup))
        template = int(postgres.sql("-d", "listmonk", "-c", "select id from templates where name = 'content only'"))
        listmonk = kept.enter_context(
            subprocess.Popen(
                [given, "--config", config], cwd=files, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        )
        kept.callback(listmonk.kill)
        measure.wait_until("listmonk answers", api.answers, 60)
        return _campaign(api, f"http://{stats}", template, people)


def _campaign(api: "_Api", stats: str, template: int, people: int) -> float:
    made = api.ask(
        "POST",
        "/api/campaigns",
        {
            "name": f"run {time.time_ns()}", "subject": "Notice {{ .Subscriber.Attribs.ref }}", "lists": [1],
            "from_email": "Notice <n@example.test>", "type": "regular", "content_type": "html", "messenger": "email",
            "body": _BODY, "template_id": template,
        },
    )  # fmt: skip
    api.ask("PUT", f"/api/campaigns/{made['data']['id']}/status", {"status": "running"})
    seen: dict[str, int] = {}

    def done() -> bool:
        with urllib.request.urlopen(f"{stats}/stats", timeout=30) as answer:
            seen.update(json.load(answer))
        return seen["messages"] >= people

    measure.wait_until(f"listmonk sends {people} messages", done, 600, every=0.1)
    # it looks for new campaigns every five seconds: what it waited before the first is not its speed
    return (people - 1) / ((seen["last"] - seen["first"]) / 1e9)


def _installed(binary: Path, config: Path, files: Path) -> str:
    environment = os.environ | {
        "LISTMONK_ADMIN_USER": "bench-admin", "LISTMONK_ADMIN_PASSWORD": "bench-admin-1", "LISTMONK_ADMIN_API_USER": "bench",
    }  # fmt: skip
    command = [str(binary), "--config", str(config), "--install", "--yes"]
    done = subprocess.run(command, cwd=files, env=environment, capture_output=True, text=True)
    token = re.search(r'LISTMONK_ADMIN_API_TOKEN="([^"]+)"', done.stdout + done.stderr)
    if done.returncode or token is None:
        raise PeerMissing(f"listmonk --install ended with {done.returncode}: {(done.stdout + done.stderr)[-800:]}")
    return token[1]


@dataclass(frozen=True, slots=True)
class _Api:
    url: str
    token: str

    def ask(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send a request as the API's user and return the answer."""
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), method=method)
        request.add_header("Content-Type", "application/json")
        request.add_header("Authorization", "Basic " + base64.b64encode(f"bench:{self.token}".encode()).decode())
        with urllib.request.urlopen(request, timeout=60) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def answers(self) -> bool:
        """Return whether it is up."""
        with suppress(OSError), urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
        return False


class _Postgres:
    """A server with its own data directory; as root it runs as the system's user postgres, since it refuses root."""

    def __init__(self, kept: ExitStack, folder: Path) -> None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        if not found or shutil.which("psql") is None:
            raise PeerMissing("PostgreSQL is not installed (Debian: postgresql); listmonk keeps everything there")
        self._tools, self.port = found[-1].parent, free_port()
        self._user = "postgres" if os.getuid() == 0 else None
        data = folder / "postgres"
        data.mkdir()
        if self._user is not None:
            owner = pwd.getpwnam(self._user)
            os.chown(data, owner.pw_uid, owner.pw_gid)
            folder.chmod(0o755)
        self._run(
            str(self._tools / "initdb"),
            "-D",
            str(data),
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
        )
        settings = (
            f"port={self.port}",
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "shared_buffers=512MB",
        )
        flags = [part for setting in settings for part in ("-c", setting)]
        process = kept.enter_context(
            subprocess.Popen(
                [str(self._tools / "postgres"), "-D", str(data), *flags],
                cwd="/", user=self._user, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )
        )  # fmt: skip
        kept.callback(process.kill)
        ready = [str(self._tools / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        measure.wait_until("PostgreSQL answers", lambda: subprocess.run(ready).returncode == 0, 60, every=0.2)

    def _run(self, *command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, user=self._user, cwd="/")
        if done.returncode:
            raise PeerMissing(f"{Path(command[0]).name}: {done.stderr[-1500:]}")
        return done.stdout

    def sql(self, *arguments: str) -> str:
        """Run psql and return what it prints."""
        where = ("-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-qAt")
        return self._run(str(self._tools / "psql"), *where, *arguments)
