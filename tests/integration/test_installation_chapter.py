"""README's installation chapter, run as it is written, from nothing to `relay verify`: README and product cannot drift apart.

Only what the chapter tells its reader to replace is replaced. Magento itself is not here: its tables and triggers are the
tests', and what is typed at Magento's prompt is compared with the module.
"""

import os
import re
import signal
import site
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote
from xml.etree import ElementTree

import pymysql
import pytest
import sqlalchemy as sa

from tests.servers.kafka import KafkaServer
from tests.servers.mariadb import StoreDatabase
from tests.store_rows import StoreRows

ROOT = Path(__file__).parents[2]
MODULE = ROOT / "magento_module"
PASSWORD = "pass-word/7?@"


def chapter() -> str:
    """Return the chapter's text."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"^### From nothing to `relay verify`$(.*?)^What each person", readme, re.MULTILINE | re.DOTALL)
    assert found is not None, "the chapter is gone from README.md"
    return found[1]


def blocks(text: str) -> list[str]:
    """Return the commands of each fenced block."""
    return re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def written(text: str, pattern: str) -> str:
    """Return what the chapter's prose tells its reader to write into a file."""
    (found,) = re.findall(rf"`({pattern})`", text)
    return str(found)


def replaced(text: str, replacements: Mapping[str, str]) -> str:
    for old, new in replacements.items():
        assert old in text, f"the chapter no longer has {old}"
        text = text.replace(old, new)
    return text


def test_magento_knows_what_is_typed_at_its_prompt() -> None:
    typed = [line.split()[1:] for block in blocks(chapter()) for line in block.splitlines() if "bin/magento" in line]
    assert [words[0] for words in typed] == ["module:enable", "setup:upgrade", "tocsin:capture:status"]
    module = ElementTree.parse(MODULE / "etc" / "module.xml").find("module")
    assert module is not None
    assert typed[0][1] == module.get("name")
    commands = "".join(file.read_text(encoding="utf-8") for file in (MODULE / "Console").rglob("*.php"))
    assert f"'{typed[2][0]}'" in commands


@pytest.fixture
def shop(mariadb_database: StoreDatabase) -> StoreDatabase:
    """A shop that was there before Tocsin: nobody has told the changelogs of anything."""
    engine = sa.create_engine(mariadb_database.url)
    rows = StoreRows(engine)
    rows.base()
    for number in range(1, 6):
        rows.customer(number)
        rows.provenance(f"r-{number}", f"customer/{number}", confidence=0.25)
    rows.order(7)
    rows.provenance("o-7", "order/7")
    for view in ("tocsin_customer", "tocsin_customer_address", "tocsin_order", "tocsin_provenance"):
        rows.run(f"DELETE FROM {view}_cl")
    engine.dispose()
    return mariadb_database


def test_the_installation_chapter_runs_as_written(
    kafka_server: KafkaServer, topic_prefix: str, shop: StoreDatabase, tmp_path: Path
) -> None:
    server, text = shop.server, chapter()
    magento, etc = tmp_path / "magento", tmp_path / "etc"
    magento.mkdir()
    admin = tmp_path / "admin.cnf"
    admin.write_text(
        f'[client]\nhost={server.host}\nport={server.port}\nprotocol=tcp\nuser={server.user}\npassword="{server.password}"\n'
        f"default-character-set=utf8mb4\n"
    )
    url = replaced(
        written(text, r"mysql\+pymysql:[^`]*"),
        {
            "PASSWORD": quote(PASSWORD, safe=""),
            "HOST:3306": f"{server.host}:{server.port}",
            "MAGENTO": shop.name,
        },
    )
    user = replaced(written(text, "CREATE USER [^`]*"), {"PASSWORD": PASSWORD})
    of_magento, *ours = blocks(text)
    script = replaced(
        "\n".join(
            [
                f"cd {magento}",
                *(line for line in of_magento.splitlines() if not line.startswith("bin/magento")),
                f"cd {ROOT}",
                ours[0],
                f"cp {tmp_path}/written-url keys/store.url",
                ours[1],
                f"cp {tmp_path}/written-user account.sql",
                *ours[2:],
            ]
        ),
        {
            "/path/to/tocsin": str(ROOT),
            "/opt/tocsin": str(tmp_path / "opt"),
            "/etc/tocsin": str(etc),
            "KAFKA_HOST:9092": kafka_server.bootstrap_servers,
            "ADMIN.cnf": str(admin),
        },
    )
    (tmp_path / "written-url").write_text(url + "\n", encoding="utf-8")
    (tmp_path / "written-user").write_text(user + "\n", encoding="utf-8")
    said, log = tmp_path / "said", tmp_path / "log"
    with said.open("wb") as out, log.open("wb") as errors:
        shell = subprocess.Popen(
            ["bash", "-euxo", "pipefail", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=errors,
            start_new_session=True,
            env=_environment(topic_prefix),
        )
        try:
            code = shell.wait(180)
        finally:
            _end(shell.pid)
            with server.connect() as connection, connection.cursor() as cursor, suppress(pymysql.err.OperationalError):
                cursor.execute("DROP USER tocsin@'%'")
    assert code == 0, log.read_text(encoding="utf-8", errors="replace")[-4000:]
    answers = said.read_text(encoding="utf-8")
    assert "tocsin_admin_" in answers
    assert "the account has what the bridge needs and no more" in answers
    assert "store and index agree: 5 customers, 6 records, 1 orders" in answers, answers
    # the module lies where Magento looks for it, and neither settings nor what was printed hold the password
    assert (magento / "app/code/Tocsin/BreachNotification/registration.php").is_file()
    for place in (etc / "tocsin.toml", etc / "run.log", said, log):
        assert PASSWORD not in place.read_text(encoding="utf-8", errors="replace"), place
    assert (etc / "keys" / "store.url").stat().st_mode & 0o077 == 0


def _environment(topic_prefix: str) -> dict[str, str]:
    """Return where pip finds what it would download: what the tests themselves run on. And what keeps tests apart."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("TOCSIN_", "AWS_", "PYTHON"))}
    (packages,) = (path for path in site.getsitepackages() if path.endswith("site-packages"))
    return ours | {
        "PYTHONPATH": packages,
        "PIP_NO_DEPS": "1",
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip's own way to say yes here
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "TOCSIN_KAFKA__TOPIC_PREFIX": topic_prefix,
        "TOCSIN_METRICS__PORT_BASE": "0",
    }


def _end(group: int) -> None:
    """End what the chapter started and leaves running."""
    give_up_at = time.monotonic() + 45
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGTERM)
        while time.monotonic() < give_up_at:
            os.killpg(group, 0)
            time.sleep(0.05)
        os.killpg(group, signal.SIGKILL)
