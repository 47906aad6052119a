from __future__ import annotations

import sqlite3
from pathlib import Path

from captionapp.job_records import JobRecords
from captionapp.records import Records


def test_a_database_of_an_older_release_gets_the_columns_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "captionapp.db"
    Records(path).close()
    with sqlite3.connect(path) as older:
        columns = "(image_id, width, height, created_at)"
        older.execute(f"INSERT INTO pictures {columns} VALUES ('one', 4, 3, 0)")
        older.execute("ALTER TABLE jobs DROP COLUMN begun_at")
        older.execute("DROP TABLE arrivals")
        older.execute("INSERT INTO jobs VALUES (1, 'one', '{}', 'me', 9e9, '')")
    older.close()
    records = Records(path)
    assert JobRecords(records).of(["one"])["one", "{}"].ahead == 0
    records.close()
