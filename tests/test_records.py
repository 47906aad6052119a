from __future__ import annotations

import sqlite3
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from captionapp.caption_records import CaptionRecords
from captionapp.errors import NotFound
from captionapp.records import Held, Records
from tests.recorded import KEY, NOW, caption, hold


def test_the_database_is_in_wal_mode_and_keeps_foreign_keys(records: Records) -> None:
    with records._engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


def test_a_transaction_waits_for_the_disk_unless_it_can_be_made_again(records: Records) -> None:
    waits = {1: False, 2: True}  # what SQLite calls NORMAL and FULL
    for durable in (True, False, True):  # on the same connection
        with records.write(durable=durable) as session:
            found = session.execute(text("PRAGMA synchronous")).scalar_one()
        assert waits[found] is durable
    with records.write() as session:
        assert waits[session.execute(text("PRAGMA synchronous")).scalar_one()]


def test_a_browser_sees_what_it_holds_and_the_operator_everything(records: Records) -> None:
    hold(records, "p1", "anna")
    held = records.held("p1", "anna")
    assert (held.name, held.width, held.height, held.created_at) == ("p1.jpg", 4, 3, NOW)
    assert records.held("p1", None) == held
    for image_id, contributor in [("p1", "ben"), ("p2", "anna"), ("p2", None)]:
        with pytest.raises(NotFound):
            records.held(image_id, contributor)


def test_pictures_of_a_browser_among_others_in_the_order_asked_for(records: Records) -> None:
    for image_id in ("p1", "p2", "p3"):
        hold(records, image_id, "anna")
    hold(records, "p9", "ben")
    with records.read() as session:
        held = records.held_among(session, ["p3", "p9", "p1", "p0"], "anna")
    assert [one.image_id for one in held] == ["p3", "p1"]


def test_a_database_of_an_older_version_keeps_working(tmp_path: Path) -> None:
    """As the tables were before the gallery: its columns and indexes are added at the start."""
    path = tmp_path / "captionapp.db"
    with sqlite3.connect(path) as old:
        old.executescript(
            f"""
            CREATE TABLE pictures (image_id VARCHAR NOT NULL PRIMARY KEY, width INTEGER NOT NULL,
                height INTEGER NOT NULL, created_at FLOAT NOT NULL);
            CREATE TABLE holdings (image_id VARCHAR NOT NULL, contributor VARCHAR NOT NULL,
                name VARCHAR NOT NULL, options VARCHAR NOT NULL, created_at FLOAT NOT NULL,
                PRIMARY KEY (image_id, contributor),
                FOREIGN KEY(image_id) REFERENCES pictures (image_id));
            CREATE INDEX holdings_of_browser ON holdings (contributor, created_at);
            INSERT INTO pictures VALUES ('p1', 4, 3, 1767323045.0);
            INSERT INTO holdings VALUES ('p1', 'anna', 'p1.jpg', '{KEY}', 1767323045.0);
            """
        )
    old.close()
    for _ in range(2):  # a second start finds nothing to do
        records = Records(path)
        assert records.held("p1", "anna").created_at == NOW
        hold(records, "p2", "anna")
        records.close()
    with sqlite3.connect(path) as new:
        new.execute(  # an older version may come back to it
            "INSERT INTO pictures (image_id, width, height, created_at) VALUES ('p3', 4, 3, 1.0)"
        )
        new.execute(
            "INSERT INTO holdings (image_id, contributor, name, options, created_at)"
            f" VALUES ('p3', 'anna', 'p3.jpg', '{KEY}', 1.0)"
        )
        stale = new.execute("SELECT image_id FROM holdings WHERE stale = 1 ORDER BY image_id")
        assert [image_id for (image_id,) in stale] == ["p1", "p2", "p3"]
    new.close()


def test_letting_go_and_forgetting(records: Records) -> None:
    hold(records, "p1", "anna")
    hold(records, "p1", "ben")
    captions = CaptionRecords(records)
    captions.add("p1", caption())
    with records.write() as session:
        assert records.release(session, "p1", "anna")
        assert not records.release(session, "p1", "ben")
        records.forget(session, "p1")
    with pytest.raises(NotFound):
        records.held("p1", None)
    assert captions.of(["p1"]) == {}


def test_a_failed_transaction_leaves_nothing(records: Records) -> None:
    with pytest.raises(RuntimeError), records.write() as session:
        records.hold(session, Held("p1", "p1.jpg", 4, 3, KEY, NOW), "anna")
        raise RuntimeError
    with pytest.raises(NotFound):
        records.held("p1", None)


def test_held_before(records: Records) -> None:
    hold(records, "p1", "anna")
    hold(records, "p2", "ben", 10)
    assert records.held_before(NOW + timedelta(minutes=5)) == [("p1", "anna")]
