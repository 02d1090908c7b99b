"""The account-notice writer as a process of its own, to be killed: `python notices_process.py SETTINGS.json [--hold]`.

With `--hold` it says `written` once a batch is committed in the store, before Kafka hears of it, and stays there.
"""

import json
import sys
import threading
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from pydantic import SecretStr

from bridge.account_notices import AccountNoticesStage
from bridge.contracts.events import AccountNotice
from bridge.magento.notices import AccountNoticeTable
from bridge.runtime.clock import SystemClock
from bridge.runtime.dead_letters import DeadLetters
from bridge.runtime.kafka import Publisher
from bridge.runtime.settings import Kafka, Store
from bridge.runtime.supervisor import stop_on_signals
from bridge.runtime.telemetry import Health


class Held(AccountNoticeTable):
    """Stops after the first commit."""

    def write(self, notices: Sequence[AccountNotice], withdrawn: Sequence[tuple[str, datetime]] = ()) -> None:
        super().write(notices, withdrawn)
        sys.stdout.write("written\n")
        sys.stdout.flush()
        threading.Event().wait()


def main() -> None:
    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    kafka = Kafka(bootstrap_servers=given["bootstrap_servers"], topic_prefix=given["topic_prefix"])
    kind = Held if "--hold" in sys.argv else AccountNoticeTable
    table = kind(Store(url=SecretStr(given["url"])))
    letters = DeadLetters(lambda: Publisher(kafka), "account-notices", SystemClock())
    AccountNoticesStage(table, kafka, letters, Health()).run(stop_on_signals())


if __name__ == "__main__":
    main()
