"""MLflow's model registry, read through its own client (`pip install tocsin[mlflow]`).

Versions, their tags and the present aliases; of aliases MLflow keeps no history. Credentials are the client's business:
MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN.
"""

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from bridge.contracts.errors import BadInput, Unreachable
from consumers.domain.registry import (
    DERIVED_FROM,
    RegisteredVersion,
    RegistrySnapshot,
    UnreadableParents,
    parse_parents,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

_PAGE = 1000
_MOST = 1_000_000
"""Versions; more is a server that turns its pages in a circle."""
_PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""The client's own defaults keep trying for minutes; we look again anyway, and tell nobody else."""


class MlflowRegistry:
    """Implements `consumers.case.registry.ModelRegistry`."""

    kind = "mlflow"

    def __init__(self, uri: str) -> None:
        """Raises BadInput for an address that is none, or that holds a password."""
        parsed = urlsplit(uri)
        if parsed.scheme not in ("http", "https") or not parsed.hostname:
            raise BadInput(
                f"registry.uri: {parsed.scheme or 'nothing'!r} is no scheme that MLflow's server has; write http(s)://"
            )
        if parsed.password is not None or parsed.username is not None:
            raise BadInput(
                "registry.uri holds credentials; give them as MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )
        self._uri = uri
        self._client: MlflowClient | None = None

    def _opened(self) -> "MlflowClient":
        if self._client is None:
            for name, value in _PATIENCE.items():
                os.environ.setdefault(name, value)
            try:
                from mlflow import MlflowClient
            except ImportError:
                raise BadInput(
                    'registry.kind = "mlflow" needs MLflow\'s client: pip install "tocsin[mlflow]"'
                ) from None
            self._client = MlflowClient(self._uri, self._uri)
        return self._client

    def read(self) -> RegistrySnapshot:
        """Return every version and alias. Raises Unreachable, or BadInput without the client's package."""
        client = self._opened()
        # imported with the client: it takes a second
        from mlflow.exceptions import MlflowException

        try:
            models = _pages(client.search_registered_models)
            versions = _pages(client.search_model_versions)
        except MlflowException as error:
            # its text can be a whole page, or repeat what was sent
            raise Unreachable(f"MLflow at registry.uri does not answer as it should ({error.error_code})") from None
        aliases = {
            (str(model.name), str(alias)): str(version)
            for model in models
            for alias, version in (model.aliases or {}).items()
        }
        return RegistrySnapshot(tuple(_version(each) for each in versions), aliases)


def _version(found: Any) -> RegisteredVersion:
    parents: tuple[tuple[str, str | None], ...] = ()
    fault = None
    try:
        parents = parse_parents(str((found.tags or {}).get(DERIVED_FROM, "")))
    except UnreadableParents as error:
        fault = f"tag {DERIVED_FROM}: {error}"[:300]
    created_at = None
    if found.creation_timestamp:
        created_at = datetime.fromtimestamp(found.creation_timestamp / 1000, UTC)
    return RegisteredVersion(str(found.name), str(found.version), parents, created_at, fault)


def _pages(search: Any) -> list[Any]:
    found: list[Any] = []
    token = None
    while len(found) < _MOST:
        page = search(max_results=_PAGE, page_token=token)
        found.extend(page)
        token = page.token
        if not token:
            return found
    raise Unreachable("MLflow at registry.uri lists versions without end")
