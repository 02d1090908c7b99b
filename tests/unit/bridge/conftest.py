"""A shop in the demo's SQLite store."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from bridge.magento.demo_store import create_demo_store, demo_engine
from bridge.runtime.settings import Store
from tests.store_rows import StoreRows


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    path = tmp_path / "store.db"
    create_demo_store(path)
    return path


@pytest.fixture
def shop(store_path: Path) -> Iterator[StoreRows]:
    engine = demo_engine(sa.URL.create("sqlite", database=str(store_path)), autocommit=False)
    rows = StoreRows(engine)
    rows.base()
    yield rows
    engine.dispose()


@pytest.fixture
def store_settings(store_path: Path) -> Store:
    return Store(url=SecretStr(f"sqlite:///{store_path}"), registered_attributes=("fraud_score", "income_band"))
