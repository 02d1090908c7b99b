"""The Grafana dashboards are what their code writes, and ask for metrics that are declared."""

import re

import pytest

from consumers.metrics_commands import declared
from deploy.grafana.generate import DASHBOARDS, FOLDER, build


@pytest.mark.parametrize("name", DASHBOARDS)
def test_the_file_is_what_the_code_writes(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == build(*DASHBOARDS[name]), "run `make dashboards`"


def test_every_query_asks_for_metrics_that_exist() -> None:
    known = {each.name + part for each in declared() for part in ("", "_bucket", "_sum", "_count")}
    for _, _, rows in DASHBOARDS.values():
        for row in rows:
            for view in row.views:
                assert view.question.endswith("?"), view.title
                for query, _ in view.queries:
                    assert set(re.findall(r"tocsin_[a-z_]+", query)) <= known, view.title
