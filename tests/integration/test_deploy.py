"""What is under deploy/ is accepted by the programs that will read it, agrees with the code, and its scripts do what they say."""

import json
import os
import re
import subprocess
import sys
import threading
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

from tests.servers.choice import find_program

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
ADAPTERS = ROOT / "consumers" / "adapters"
SERVICES = {
    "ses": ("sesv2", "ses"),
    "sns": ("sns", "sns"),
    "sqs": ("sqs", "sqs"),
    "logs": ("logs", "logs"),
    "cloudwatch": ("cloudwatch", "cloudwatch"),
}


def program(name: str, package: str) -> str:
    found = find_program(name)
    if found is None:
        pytest.skip(f"{name} is not here: install {package}")
    return found


def accepted(*command: str, cwd: Path = DEPLOY) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_compose_is_accepted_and_starts_things_in_order() -> None:
    merged = yaml.safe_load(accepted(program("docker-compose", "docker-compose"), "-f", "compose.yaml", "config"))
    services: dict[str, Any] = merged["services"]
    for name, service in services.items():
        assert ":" in service["image"] or service["image"] == "tocsin", f"{name} is not pinned"
        for port in service.get("ports", ()):
            assert str(port).startswith("127.0.0.1:") or port["host_ip"] == "127.0.0.1", f"{name} is open to others"
    once = {"secrets", "set-up"}
    for name in services.keys() - once:
        assert services[name]["healthcheck"]["test"], name
        assert services[name]["restart"] == "unless-stopped"
    assert services["tocsin"]["depends_on"]["set-up"]["condition"] == "service_completed_successfully"
    assert {services["set-up"]["depends_on"][name]["condition"] for name in ("kafka", "mariadb")} == {"service_healthy"}


def test_alertmanager_and_units_are_accepted(tmp_path: Path) -> None:
    accepted(program("amtool", "prometheus-alertmanager"), "check-config", "alertmanager/alertmanager.yaml")
    analyze = program("systemd-analyze", "systemd")
    for unit in ("tocsin.service", "tocsin@.service"):
        text = (DEPLOY / "systemd" / unit).read_text(encoding="utf-8")
        # the program is not installed here; all else is as it stands
        name = unit.replace("@.", "@dispatch.")
        (tmp_path / name).write_text(text.replace("/opt/tocsin/bin/tocsin", "/bin/true"), encoding="utf-8")
        accepted(analyze, "verify", str(tmp_path / name))
        said = accepted(analyze, "security", "--offline=true", "--threshold=20", str(tmp_path / name))
        assert "Overall exposure level" in said


def test_the_cloudformation_template_has_no_fault() -> None:
    accepted(
        str(Path(sys.executable).with_name("cfn-lint")),
        "--regions",
        "eu-central-1",
        "us-east-1",
        "--",
        "aws/tocsin.yaml",
    )


def _called() -> set[str]:
    """Return the IAM actions behind every call of AWS that an adapter makes."""
    actions = set()
    for service, (model, prefix) in SERVICES.items():
        client = boto3.client(model, region_name="eu-central-1", aws_access_key_id="none", aws_secret_access_key="none")
        apis = client.meta.method_to_api_mapping
        client.close()
        for path in ADAPTERS.glob("*.py"):
            text = path.read_text(encoding="utf-8")
            methods = set(re.findall(rf"\b_{service}\.(\w+)\(", text))
            if re.search(rf"\b_{service}\b", text):
                methods |= set(re.findall(r'_pages\("(\w+)"', text))
            actions |= {f"{prefix}:{apis[method]}" for method in methods if method in apis}
    # one permission for both
    return {action.replace("DeleteMessageBatch", "DeleteMessage") for action in actions}


def _resources() -> Any:
    class _Loader(yaml.SafeLoader):
        """CloudFormation's short forms are kept as what they stand for."""

    _Loader.add_multi_constructor("!", lambda loader, _suffix, node: str(getattr(node, "value", node)))
    return yaml.load((DEPLOY / "aws" / "tocsin.yaml").read_text(encoding="utf-8"), _Loader)["Resources"]


def test_no_receipt_leaves_its_queue_while_the_case_store_takes_nothing_for_a_night() -> None:
    """The stage reads, fails, and is started again; SQS lends the same out when its time is over."""
    queue = _resources()["Receipts"]["Properties"]
    seconds = queue["VisibilityTimeout"] * queue["RedrivePolicy"]["maxReceiveCount"]
    assert timedelta(hours=12) <= timedelta(seconds=seconds) < timedelta(seconds=queue["MessageRetentionPeriod"])


def test_the_policy_allows_exactly_what_adapters_call() -> None:
    statements = _resources()["Access"]["Properties"]["PolicyDocument"]["Statement"]
    allowed = {
        action
        for statement in statements
        for action in ([statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"])
    }
    # the older name of SendBulkEmail, under which SES checks it, too
    assert allowed - {"ses:SendBulkTemplatedEmail"} == _called()


def test_set_up_makes_an_installation_once_and_keeps_the_token_out_of_the_log(tmp_path: Path) -> None:
    """The script as it stands, but for the folder that it works in and its last line, which needs a broker."""
    folder = tmp_path / "etc"
    folder.mkdir()
    text = (DEPLOY / "docker" / "set-up").read_text(encoding="utf-8").replace("/etc/tocsin", str(folder))
    assert text.endswith("\nexec tocsin topics apply\n")
    text = text.replace("exec tocsin topics apply", "exec tocsin topics --help")
    (tmp_path / "set-up").write_text(text, encoding="utf-8")
    environment = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "TOCSIN_CONFIG": str(folder / "tocsin.toml"),
    }
    first = subprocess.run(
        ["sh", str(tmp_path / "set-up")], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert first.returncode == 0, first.stderr
    token = (folder / "admin.token").read_text(encoding="utf-8").strip()
    assert re.fullmatch(r"tocsin_admin_\S{20,}", token)
    assert token not in first.stdout + first.stderr
    assert (folder / "admin.token").stat().st_mode & 0o077 == 0
    assert not list(folder.glob("*.part"))
    settings = (folder / "tocsin.toml").read_bytes()
    subprocess.run(["sh", str(tmp_path / "set-up")], env=environment, capture_output=True, check=False, timeout=120)
    assert (folder / "tocsin.toml").read_bytes() == settings


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_ready_asks_every_stage(status: int, code: int, tmp_path: Path) -> None:
    class _Stage(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()
            self.wfile.write(b'{"ready": false, "missing": ["SES does not answer"]}')

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with HTTPServer(("127.0.0.1", 0), _Stage) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (tmp_path / "run").mkdir()
        address = f"http://127.0.0.1:{server.server_address[1]}/metrics"
        (tmp_path / "run" / "dispatch.metrics.json").write_text(json.dumps({"metrics": address}), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, str(DEPLOY / "docker" / "ready")],
            env={"TOCSIN_PATHS__DATA": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        server.shutdown()
    assert done.returncode == code
    assert done.stdout.strip() == "ready" if status == 200 else "dispatch: " in done.stdout
    assert ("SES does not answer" in done.stdout) is (status != 200)


def test_the_image_copies_only_what_exists() -> None:
    text = (DEPLOY / "docker" / "Dockerfile").read_text(encoding="utf-8")
    for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
    assert "\nUSER tocsin\n" in text
