"""deploy/PRIVACY.md says for how long data is kept; here it is held against what the code and the templates do."""

import re
from pathlib import Path

from bridge.contracts.topics import TOPICS
from bridge.runtime.settings import Settings
from consumers.adapters.case_store.canary_messages import KEPT

DEPLOY = Path(__file__).parents[2] / "deploy"
DAY_MS = 24 * 60 * 60 * 1000


def table() -> dict[str, str]:
    """Return "where" -> "how long" of the retention table."""
    text = (DEPLOY / "PRIVACY.md").read_text(encoding="utf-8").partition("## Where data lies")[2].partition("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    return {row[0].strip("`"): row[-1] for row in rows[2:]}


def test_every_topic_is_kept_as_long_as_it_says() -> None:
    said = table()
    assert [where for where in said if re.fullmatch(r"tocsin\.[a-z-]+", where)] == [topic.name for topic in TOPICS]
    for topic in TOPICS:
        if topic.retention_ms is not None:
            assert said[topic.name] == f"{topic.retention_ms // DAY_MS} d", topic.name
        else:
            assert "newest state" in said[topic.name] or "as above" in said[topic.name], topic.name
    changes = next(topic for topic in TOPICS if topic.name == "tocsin.store-changes")
    for setting in ("max.compaction.lag.ms", "delete.retention.ms"):
        assert f"{int(changes.settings[setting]) // DAY_MS} d" in said[changes.name], setting


def test_settings_and_queues_are_as_it_says() -> None:
    said = " ".join(table().values())
    settings = Settings()
    assert f"`relay.departed_retention_days` (default {settings.relay.departed_retention_days})" in said
    assert f"`index.retention_days` (default {settings.index.retention_days})" in said
    assert table()["case store, canary messages"] == f"{KEPT.days} d"
    template = (DEPLOY / "aws" / "tocsin.yaml").read_text(encoding="utf-8")
    periods = {int(seconds) for seconds in re.findall(r"MessageRetentionPeriod: (\d+)", template)}
    assert periods == {int(table()["SQS queue and its dead letters"].removesuffix(" d")) * 86400}
