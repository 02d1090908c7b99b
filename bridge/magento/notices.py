"""The store's account notices: what a customer's account page shows. Written here, read back through the changelog."""

from collections.abc import Collection, Sequence
from datetime import datetime

import sqlalchemy as sa

from bridge.contracts.errors import BadInput, Unreachable
from bridge.contracts.events import AccountNotice
from bridge.magento import statements
from bridge.magento.servers import prepare_session
from bridge.magento.session import store_engine, translated
from bridge.magento.statements import checked_prefix
from bridge.runtime.settings import Store

_LARGEST_ID = 4_294_967_295
_LIMITS = {"notice_id": 64, "incident_id": 32, "title": 255, "locale": 16}


class AccountNoticeTable:
    """Idempotent writes: the same notice twice, or a replay of all of them, changes nothing."""

    def __init__(self, settings: Store) -> None:
        self._settings = settings
        self._prefix = checked_prefix(settings.table_prefix)
        self._engine = store_engine(settings)

    @staticmethod
    def check(notice: AccountNotice) -> None:
        """Raise BadInput, naming the field, if `notice` does not fit the table: nothing is ever cut.

        What the server would refuse looks like a store that does not answer, and would be tried for ever.
        """
        for name, limit in _LIMITS.items():
            if len(getattr(notice, name)) > limit:
                raise BadInput(f"account notice: {name} is longer than {limit} characters")
        if not 0 < notice.customer_id <= _LARGEST_ID:
            raise BadInput(f"account notice: no customer has the id {notice.customer_id}")

    def write(self, notices: Sequence[AccountNotice], withdrawn: Sequence[tuple[str, datetime]] = ()) -> None:
        """Write `notices`, and take back those of `withdrawn` (notice id, instant). Raises Unreachable or Refused.

        Each notice is durable by itself: a crash in between repeats the rest.
        """
        with translated(self._settings, Unreachable), self._engine.connect() as connection:
            if connection.dialect.name != "sqlite":
                prepare_session(connection)
            for notice in notices:
                self._write_one(connection, notice)
            for notice_id, at in withdrawn:
                connection.execute(
                    self._text(statements.WITHDRAW_NOTICE), {"notice_id": notice_id, "withdrawn_at": _stored(at)}
                )

    def missing(self, notice_ids: Collection[str]) -> frozenset[str]:
        """Return which of these notices the store does not hold, withdrawn or not. Raises Unreachable or Refused."""
        with translated(self._settings, Unreachable), self._engine.connect() as connection:
            if connection.dialect.name != "sqlite":
                prepare_session(connection)
            query = self._text(statements.NOTICES_THERE).bindparams(sa.bindparam("words", expanding=True))
            there = {row[0] for row in connection.execute(query, {"words": list(notice_ids)})}
        return frozenset(notice_ids) - there

    def _write_one(self, connection: sa.Connection, notice: AccountNotice) -> None:
        known = connection.execute(self._text(statements.HAS_NOTICE), {"notice_id": notice.notice_id}).first()
        at = _stored(notice.posted_at)
        text = {"notice_id": notice.notice_id, "title": notice.title, "body": notice.body, "locale": notice.locale}
        if known is None:
            values = text | {
                "customer_id": notice.customer_id,
                "incident_id": notice.incident_id,
                "created_at": at,
                "withdrawn_at": at if notice.withdrawn else None,
            }
            connection.execute(self._text(statements.ADD_NOTICE), values)
        elif notice.withdrawn:
            values = {"notice_id": notice.notice_id, "withdrawn_at": at}
            connection.execute(self._text(statements.WITHDRAW_NOTICE), values)
        else:
            connection.execute(self._text(statements.CHANGE_NOTICE), text)

    def _text(self, statement: str) -> sa.TextClause:
        return sa.text(statements.filled(statement, self._prefix))

    def close(self) -> None:
        self._engine.dispose()


def _stored(at: datetime) -> str:
    """Return an instant as both databases take it: UTC, to the second."""
    return at.strftime("%Y-%m-%d %H:%M:%S")
