"""Connections to MariaDB and MySQL."""

import ssl
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from pymysql.connections import Connection as _Connection
from pymysql.cursors import Cursor

if TYPE_CHECKING:
    _Base = _Connection[Cursor]
else:
    _Base = _Connection


class Connection(_Base):
    """PyMySQL's, which speaks TLS where the server does and checks certificates where an authority is named.

    Where none is, PyMySQL reads all that the system trusts, for every connection, and then checks none: tens of milliseconds
    of CPU, and with every try while a server is away. Here nothing is read for that.
    """

    def _create_ssl_ctx(self, sslp: Mapping[str, Any] | ssl.SSLContext) -> ssl.SSLContext:
        if sslp:
            given: ssl.SSLContext = super()._create_ssl_ctx(sslp)  # type: ignore[misc]  # not in the stubs
            return given
        return _unchecked()


@lru_cache(maxsize=1)
def _unchecked() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def connects_so(engine: sa.Engine) -> None:
    """Let an engine of MariaDB or MySQL make such connections."""
    sa.event.listen(engine, "do_connect", _connected)


def _connected(_dialect: object, _record: object, arguments: tuple[Any, ...], options: Mapping[str, Any]) -> Connection:
    return Connection(*arguments, **options)
