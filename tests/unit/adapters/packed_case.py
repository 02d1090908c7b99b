"""What reading packed must do on each database: bring back what any other read does, whatever it is."""

from datetime import UTC, datetime
from itertools import chain

import pytest
import sqlalchemy as sa

from consumers.adapters.case_store import drawing, engine
from consumers.adapters.case_store.engine import CaseDatabase, insert_many, update_alike
from consumers.adapters.case_store.packed import PackedRows
from consumers.adapters.case_store.tables import affected, person_key, recipient
from consumers.domain.planning import PlanId

NOW = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
_KEYS = ("root", "key", "made_at", "erased_at")
_PERSON = ("recipient_id", "residence", "contact", "late", "customer_id", "deadline_at", "locale")


class PackedCases:
    """Rows that come back each as one text."""

    def test_rows_come_back_with_their_types(self, database: CaseDatabase) -> None:
        rows = [
            {"root": f"customer/{number}", "key": bytes([number % 256, 0, 255]), "made_at": NOW, "erased_at": None}
            for number in range(1201)
        ]
        # what is between two columns, too
        rows[8] = {**rows[8], "root": "\x1f\x1e"}
        rows[7] = {"root": "o'clock \\ \"ü€\n", "key": None, "made_at": NOW.replace(microsecond=0), "erased_at": NOW}
        with database.write() as connection:
            insert_many(connection, person_key, rows)
            wanted = [str(row["root"]) for row in rows] + ["customer/unknown"]
            found = PackedRows(person_key, _KEYS, by="root", locked=True).of(connection, wanted)
            assert sorted(map(str, found)) == sorted(str(list(row.values())) for row in rows)

    def test_json_comes_back_as_its_text_and_null_as_nothing(self, database: CaseDatabase) -> None:
        shared = {
            "incident_id": "INC", "revision": 1, "subject_commitment": "c", "controller": "main", "website_id": 1,
            "store_id": 1, "jurisdictions": [], "standing": "recorded", "highest_sensitivity": "high", "channels": [],
            "why": [], "roots": [], "locale": "de_ÄT",
        }  # fmt: skip
        claim = [{"code": "DE", "source": 'a "quoted" \\ name'}]
        with database.write() as connection:
            connection.execute(
                sa.insert(recipient),
                [
                    {
                        **shared, "recipient_id": "full", "root": "a", "residence": claim, "contact": {"x": 1},
                        "late": True, "customer_id": 2**60, "deadline_at": NOW,
                    },
                    {
                        **shared, "recipient_id": "bare", "root": "b", "residence": [], "contact": sa.null(),
                        "late": False, "customer_id": None, "deadline_at": None,
                    },
                ],
            )  # fmt: skip
            found = {
                row[0]: row
                for row in PackedRows(recipient, _PERSON, by="recipient_id").of(connection, ["full", "bare"])
            }
            json_of = sa.JSON().result_processor(connection.dialect, None)
        assert json_of is not None
        assert [json_of(found["full"][1]), json_of(found["full"][2]), *found["full"][3:]] == [
            claim, {"x": 1}, 1, 2**60, NOW, "de_ÄT",
        ]  # fmt: skip
        assert found["bare"][2:] == [None, 0, None, None, "de_ÄT"]

    def test_rows_come_back_whole_also_where_a_server_cuts_what_it_joins(self, database: CaseDatabase) -> None:
        rows = [{"root": f"customer/{n:03}", "key": b"k", "made_at": NOW, "erased_at": None} for n in range(100)]
        with database.write() as connection:
            insert_many(connection, person_key, rows)
            wanted = [str(row["root"]) for row in rows]
            # in the middle of a row, and right after one
            for longest in (3001, 3002, 38 * 20, 16 * 1024 * 1024):
                if connection.dialect.name != "sqlite":
                    connection.exec_driver_sql(f"SET SESSION group_concat_max_len = {longest}")
                found = list(PackedRows(person_key, ("root", "key"), by="root").of(connection, wanted))
                assert found == [[root, b"k"] for root in wanted]

    def test_nobody_asked_for_is_nobody_found(self, database: CaseDatabase) -> None:
        with database.write() as connection:
            rows = PackedRows(person_key, _KEYS, by="root")
            assert list(rows.of(connection, [])) == []
            assert list(rows.of(connection, ["customer/1"])) == []

    def test_all_are_set_alike_whose_condition_holds(self, database: CaseDatabase) -> None:
        with database.write() as connection:
            insert_many(
                connection,
                person_key,
                [{"root": f"customer/{number}", "key": b"k", "made_at": NOW, "erased_at": None} for number in range(3)],
            )
            update_alike(
                connection, person_key, ["customer/0", "customer/2"], {"erased_at": NOW}, where="root <> 'customer/2'"
            )
            erased = connection.execute(
                sa.select(person_key.c.root, person_key.c.erased_at).order_by(person_key.c.root)
            )
            assert [tuple(row) for row in erased] == [("customer/0", NOW), ("customer/1", None), ("customer/2", None)]

    def test_of_what_is_there_already_only_the_named_columns_are_set(self, database: CaseDatabase) -> None:
        rows = [{"root": f"customer/{number}", "key": b"k", "made_at": NOW, "erased_at": None} for number in range(3)]
        with database.write() as connection:
            insert_many(connection, person_key, rows[:2])
            again = [row | {"key": b"n", "erased_at": NOW} for row in rows]
            insert_many(connection, person_key, again, update=("erased_at",))
            insert_many(connection, person_key, [row | {"key": b"m"} for row in rows], leave_known=True)
            found = connection.execute(
                sa.select(person_key.c.key, person_key.c.erased_at).order_by(person_key.c.root)
            ).all()
        assert [(bytes(key), at) for key, at in found] == [(b"k", NOW), (b"k", NOW), (b"n", NOW)]

    def test_everybody_affected_is_read_also_where_a_server_cuts_what_it_joins(
        self, database: CaseDatabase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(drawing, "_READ_AT_ONCE", 500)
        shared = {
            "incident_id": "INC-2026-0001", "revision": 1, "partition": 0, "standing": "recorded", "departed": False,
            "late": False, "member_leaf": "0" * 64,
        }  # fmt: skip
        person = '{"root":"%s","customer_id":null,"website_id":1,"store_id":1,"locale":"d\u00e9\\n"}'
        roots = [f"customer/{number}" for number in range(1201)]
        rows = [{**shared, "root": root, "event": person % root, "exclusion_id": None} for root in roots]
        rows[7] |= {"standing": "possible", "exclusion_id": "e" * 32}
        with database.write() as connection:
            insert_many(connection, affected, rows)
            for longest in (16 * 1024 * 1024, 1000):
                if connection.dialect.name != "sqlite":
                    connection.exec_driver_sql(f"SET SESSION group_concat_max_len = {longest}")
                found = list(chain.from_iterable(drawing.affected_pages(connection, PlanId("INC-2026-0001", 1))))
                assert sorted(each.root for each in found) == sorted({*roots} - {roots[7]})
                assert {each.locale for each in found} == {"d\u00e9\n"}
                assert list(drawing.affected_pages(connection, PlanId("INC-2026-0001", 2))) == []

    def test_rows_that_are_long_together_go_in_several_statements(
        self, database: CaseDatabase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engine, "_LONGEST_STATEMENT", 100)
        rows = [{"root": f"customer/{number}", "key": b"k", "made_at": NOW, "erased_at": None} for number in range(7)]
        with database.write() as connection:
            insert_many(connection, person_key, rows)
            assert connection.execute(sa.select(sa.func.count()).select_from(person_key)).scalar() == 7
