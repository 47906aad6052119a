from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from captionapp.captioning.captioner import Caption, DecodeOptions
from captionapp.errors import NotFound
from captionapp.records import Held, Records

OPTIONS = DecodeOptions()
KEY = OPTIONS.key()
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    records = Records(tmp_path / "captionapp.db")
    yield records
    records.close()


def hold(records: Records, image_id: str, contributor: str, minutes: int = 0) -> None:
    moment = NOW + timedelta(minutes=minutes)
    with records.write() as session:
        held = Held(image_id, f"{image_id}.jpg", 4, 3, KEY, moment)
        records.hold(session, held, contributor)


def caption(text: str = "a dog", version: str = "v1") -> Caption:
    return Caption(text, 0.25, version, OPTIONS, 0.5)


def test_the_database_is_in_wal_mode_and_keeps_foreign_keys(records: Records) -> None:
    with records._engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


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


def test_a_caption_is_read_back_as_it_was_made(records: Records) -> None:
    hold(records, "p1", "anna")
    caption_id = records.add_caption("p1", caption())
    assert caption_id
    kept = records.caption("p1", caption_id)
    assert (kept.text, kept.probability, kept.model_version, kept.seconds) == (
        "a dog",
        0.25,
        "v1",
        0.5,
    )
    assert DecodeOptions.from_key(KEY) == OPTIONS
    assert kept.options["num_beams"] == OPTIONS.num_beams
    hold(records, "p2", "anna")
    with pytest.raises(NotFound):
        records.caption("p2", caption_id)


def test_captions_of_several_pictures_newest_first(records: Records) -> None:
    hold(records, "p1", "anna")
    hold(records, "p2", "anna")
    records.add_caption("p1", caption("old", "v1"))
    records.add_caption("p1", caption("new", "v2"))
    records.add_caption("p2", caption("other"))
    found = records.captions(["p1", "p2"])
    assert [one.text for one in found["p1", KEY]] == ["new", "old"]
    assert [one.text for one in found["p2", KEY]] == ["other"]


def test_a_caption_of_a_picture_that_is_gone_is_dropped(records: Records) -> None:
    assert records.add_caption("p1", caption()) is None


def test_a_job_is_one_process_s_until_its_lease_is_over(records: Records, tmp_path: Path) -> None:
    other = Records(tmp_path / "captionapp.db")
    hold(records, "p1", "anna")
    assert records.begin_job("p1", KEY, 60)
    assert not other.begin_job("p1", KEY, 60)
    assert not records.begin_job("p1", KEY, 60)
    records.extend_leases(-1)
    assert records.jobs(["p1"])["p1", KEY].abandoned
    assert other.begin_job("p1", KEY, 60)
    records.extend_leases(-1)  # it is no longer the owner
    assert not other.jobs(["p1"])["p1", KEY].abandoned
    other.close()


def test_a_job_ends_with_its_caption_or_its_problem(records: Records) -> None:
    hold(records, "p1", "anna")
    records.begin_job("p1", KEY, 60)
    records.fail_job("p1", KEY, "no luck")
    assert records.jobs(["p1"])["p1", KEY].problem == "no luck"
    assert records.begin_job("p1", KEY, 60)
    assert records.jobs(["p1"])["p1", KEY].problem == ""
    records.add_caption("p1", caption())
    assert records.jobs(["p1"]) == {}


def test_no_job_for_a_picture_that_is_gone(records: Records) -> None:
    assert not records.begin_job("p1", KEY, 60)


def test_letting_go_and_forgetting(records: Records) -> None:
    hold(records, "p1", "anna")
    hold(records, "p1", "ben")
    records.add_caption("p1", caption())
    with records.write() as session:
        assert records.release(session, "p1", "anna")
        assert not records.release(session, "p1", "ben")
        records.forget(session, "p1")
    with pytest.raises(NotFound):
        records.held("p1", None)
    assert records.captions(["p1"]) == {}


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
