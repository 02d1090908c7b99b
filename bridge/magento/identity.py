"""Which store this is: its own base URL, as its configuration says. A copied database keeps it, a moved shop changes it."""

import sqlalchemy as sa

from bridge.contracts.errors import Refused, Unreachable
from bridge.magento.session import store_engine, translated
from bridge.magento.statements import checked_prefix
from bridge.runtime.settings import Store

_PATHS = ("web/secure/base_url", "web/unsecure/base_url")


def base_url_of(settings: Store) -> str:
    """Return the default scope's base URL, the secure one first. Raises Refused if none is set, Unreachable."""
    table = f"{checked_prefix(settings.table_prefix)}core_config_data"
    engine = store_engine(settings)
    try:
        with translated(settings, Unreachable), engine.connect() as connection:
            found = {
                row.path: row.value
                for row in connection.execute(
                    sa.text(f"SELECT path, value FROM {table} WHERE scope = 'default' AND scope_id = 0")  # noqa: S608
                )
                # Magento's own default of the secure one is a placeholder for the other
                if row.path in _PATHS and row.value and "{{" not in row.value
            }
    finally:
        engine.dispose()
    for path in _PATHS:
        if path in found:
            return str(found[path])
    raise Refused(f"the store's {table} holds no base URL ({' or '.join(_PATHS)}); set it in Magento first")
