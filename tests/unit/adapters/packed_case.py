"""What reading packed must do on each database: bring back what any other read does, whatever it is."""

from datetime import UTC, datetime

import sqlalchemy as sa

from consumers.adapters.case_store.engine import CaseDatabase, insert_many, update_alike
from consumers.adapters.case_store.packed import PackedRows
from consumers.adapters.case_store.tables import person_key, recipient

NOW = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
_KEYS = ("root", "key", "made_at", "erased_at")
_PERSON = ("recipient_id", "residence", "contact", "late", "customer_id", "deadline_at", "locale")


class PackedCases:
    """Rows that come back as one array."""

    def test_rows_come_back_with_their_types(self, database: CaseDatabase) -> None:
        rows = [
            {"root": f"customer/{number}", "key": bytes([number % 256, 0, 255]), "made_at": NOW, "erased_at": None}
            for number in range(1201)
        ]
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
