"""The shipped configuration of Prometheus. What a real one says of the real processes: `tests/e2e/test_demo.py`."""

from pathlib import Path

import pytest
import yaml

from bridge.runtime.settings import Metrics
from consumers.bootstrap.stages import STAGES
from tests.servers.prometheus import check_config

CONFIG = Path(__file__).parents[2] / "deploy" / "prometheus" / "prometheus.yaml"


def test_the_shipped_configuration_scrapes_every_stage_where_it_listens() -> None:
    (job,) = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["scrape_configs"]
    found = {each["labels"]["stage"]: each["targets"] for each in job["static_configs"]}
    base = Metrics().port_base
    assert found == {stage: [f"127.0.0.1:{base + number}"] for number, stage in enumerate(STAGES)}
    assert list(found) == list(STAGES)


@pytest.mark.usefixtures("prometheus_programs")
def test_promtool_accepts_the_shipped_configuration(tmp_path: Path) -> None:
    check_config(CONFIG, tmp_path)
