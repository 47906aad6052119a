from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import event, select, update
from sqlalchemy.orm import Session

from captionapp.caption_records import CaptionRecords
from captionapp.captioning.captioner import Caption, DecodeOptions
from captionapp.feedback.memory import CorrectionMemory
from captionapp.feedback.repository import CsvFeedbackRepository, FeedbackRow, Verdict
from captionapp.gallery import Gallery, Sort, State, Wanted
from captionapp.records import Held, Records
from captionapp.tables import GalleryPosition, Holding

OPTIONS = DecodeOptions()
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Wall:
    """A gallery with ways to hang pictures on it."""

    def __init__(self, folder: Path, memory: str = "everyone") -> None:
        self.records = Records(folder / "captionapp.db")
        self.feedback = CsvFeedbackRepository(folder / "feedback.csv")
        self.captions = CaptionRecords(self.records)
        self.gallery = Gallery(self.records, self.captions, CorrectionMemory(self.feedback, memory))

    def hang(
        self,
        number: int,
        text: str = "",
        *,
        name: str = "",
        minutes: int = 0,
        probability: float = 0.5,
        contributor: str = "anna",
    ) -> str:
        image_id = f"{number:032x}"
        moment = NOW + timedelta(minutes=minutes)
        held = Held(image_id, name or f"{number}.jpg", 4, 3, OPTIONS.key(), moment)
        with self.records.write() as session:
            self.records.hold(session, held, contributor)
        if text:
            self.describe(image_id, text, probability)
        return image_id

    def describe(self, image_id: str, text: str, probability: float = 0.5) -> None:
        self.captions.add(image_id, Caption(text, probability, "v1", OPTIONS, 0.1))

    def answer(self, image_id: str, said: str = "", contributor: str = "anna") -> None:
        ((caption, *_),) = self.captions.of([image_id]).values()
        self.feedback.append(
            FeedbackRow(
                id=uuid.uuid4().hex,
                created_at="2026-01-02T03:04:05.000Z",
                image_id=image_id,
                image_name="x",
                caption=caption.text,
                feedback=said or caption.text,
                verdict=Verdict.CORRECTED if said else Verdict.ACCEPTED,
                reasons=(),
                model_version=caption.model_version,
                contributor=contributor,
            )
        )

    def found(self, *, contributor: str = "anna", **wanted: object) -> list[int]:
        self.gallery.refresh(contributor)
        page = self.gallery.page(contributor, Wanted(**wanted), limit=100)  # type: ignore[arg-type]
        assert page.total == len(page.image_ids)
        return [int(image_id, 16) for image_id in page.image_ids]


@pytest.fixture
def wall(tmp_path: Path) -> Iterator[Wall]:
    wall = Wall(tmp_path)
    yield wall
    wall.records.close()


def pages(wall: Wall, wanted: Wanted, limit: int, backwards: bool = False) -> list[list[int]]:
    """All pages from one end to the other, in the order in which they are walked."""
    found = []
    cursor = ""
    while True:
        page = (
            wall.gallery.page("anna", wanted, before=cursor, limit=limit)
            if backwards
            else wall.gallery.page("anna", wanted, after=cursor, limit=limit)
        )
        found.append([int(image_id, 16) for image_id in page.image_ids])
        cursor = page.newer if backwards else page.older
        if not cursor:
            return found


@pytest.mark.parametrize("sort", Sort)
def test_pages_hold_each_picture_once_with_ties_and_both_ways(wall: Wall, sort: Sort) -> None:
    for number in range(1, 12):  # three are sorted by the same value, two are not described yet
        text = "a dog" if number > 2 else ""
        wall.hang(number, text, name="same.jpg", minutes=number // 3, probability=number // 3 / 10)
    wall.gallery.refresh("anna")
    (everything,) = pages(wall, Wanted(sort=sort), 100)
    assert sorted(everything) == list(range(1, 12))
    for limit in (1, 2, 3, 4, 11):
        forwards = pages(wall, Wanted(sort=sort), limit)
        assert list(itertools.chain(*forwards)) == everything
        backwards = pages(wall, Wanted(sort=sort), limit, backwards=True)
        assert list(itertools.chain(*reversed(backwards))) == everything
        assert all(len(page) == limit for page in forwards[:-1] + backwards[:-1])


def test_orders(wall: Wall) -> None:
    wall.hang(1, "a dog", name="img 10.jpg", minutes=2, probability=0.3)
    wall.hang(2, "a cat", name="IMG 9.jpg", minutes=1, probability=0.2)
    wall.hang(3, name="a.jpg", minutes=3)
    assert wall.found() == [3, 1, 2]
    assert wall.found(sort=Sort.OLDEST) == [2, 1, 3]
    assert wall.found(sort=Sort.LEAST_SURE) == [2, 1, 3]  # not described yet: at the end
    assert wall.found(sort=Sort.NAME) == [3, 2, 1]


def test_numbers_and_cursors_of_a_page(wall: Wall) -> None:
    for number in range(1, 8):
        wall.hang(number, minutes=number)
    wall.gallery.refresh("anna")
    first = wall.gallery.page("anna", Wanted(), limit=3)
    assert (first.first, first.total, first.newer) == (1, 7, "")
    second = wall.gallery.page("anna", Wanted(), after=first.older, limit=3)
    assert (second.first, second.total) == (4, 7)
    assert wall.gallery.page("anna", Wanted(), before=second.newer, limit=3) == first
    last = wall.gallery.page("anna", Wanted(), before="", limit=3)
    assert (last.first, last.older, len(last.image_ids)) == (5, "", 3)
    assert wall.gallery.page("ben", Wanted()).image_ids == []


@pytest.mark.parametrize("cursor", ["x", "0" * 32, f"{'0' * 32}~nan", f"{'0' * 32}~x", "~1"])
def test_a_cursor_that_is_none_leads_to_the_first_page(wall: Wall, cursor: str) -> None:
    wall.hang(1)
    assert wall.gallery.page("anna", Wanted(), after=cursor).total == 1
    assert len(wall.gallery.page("anna", Wanted(), after=cursor).image_ids) == 1


def test_words_are_looked_for_in_names_descriptions_and_answers(wall: Wall) -> None:
    wall.hang(1, "a dog in the snow", name="Müller.jpg", minutes=3)
    wall.hang(2, "a cat", minutes=2)
    other = wall.hang(3, "a 100% ball", minutes=1)
    assert wall.found(text="DOG snow") == [1]
    assert wall.found(text="snow cat") == []
    assert wall.found(text="MÜLLER") == [1]
    assert wall.found(text="0%") == [3]
    assert wall.found(text="a_") == []
    wall.answer(other, "ein Ball aus Gummi")
    assert wall.found(text="gummi") == [3]
    assert wall.found(text="ball") == [3]


def test_what_is_shown_without_guesses_at_gender_is_found_and_what_the_model_wrote(
    wall: Wall,
) -> None:
    wall.hang(1, "a man and a woman walk")
    for text in ("woman", "two people", "man walk"):
        assert wall.found(text=text) == [1]
    assert wall.found(text="child") == []


def test_what_an_older_release_kept_is_brought_up_to_date(wall: Wall) -> None:
    wall.hang(1, "a man")
    assert wall.found(text="person") == [1]
    with wall.records.write() as session:
        session.execute(update(Holding).values(searched="a man"))
        session.execute(update(GalleryPosition).values(memory="everyone"))
    assert wall.found(text="person") == [1]


def test_what_others_said_is_found_where_it_is_shown(tmp_path: Path) -> None:
    wall = Wall(tmp_path)
    image_id = wall.hang(1, "a dog")
    wall.hang(1, contributor="ben")
    wall.answer(image_id, "a wolf")
    assert wall.found(text="wolf", contributor="ben") == [1]
    wall.records.close()
    changed = Wall(tmp_path, memory="own")  # the operator has changed the setting
    assert changed.found(text="wolf", contributor="ben") == []
    assert changed.found(text="wolf") == [1]
    changed.records.close()


def test_states_follow_the_answers(wall: Wall) -> None:
    first, second, third = (wall.hang(n, "a dog", minutes=-n) for n in (1, 2, 3))
    assert wall.found(state=State.UNANSWERED) == [1, 2, 3]
    wall.answer(first)
    wall.answer(second, "a wolf")
    wall.answer(third, "a wolf", contributor="ben")  # somebody else's answer is not this browser's
    assert wall.found(state=State.ACCEPTED) == [1]
    assert wall.found(state=State.CORRECTED) == [2]
    assert wall.found(state=State.UNANSWERED) == [3]
    assert wall.gallery.counts("anna") == {
        State.UNANSWERED: 1,
        State.ACCEPTED: 1,
        State.CORRECTED: 1,
    }
    wall.describe(first, "a puppy")  # nobody has said anything of that
    wall.describe(second, "a puppy")  # what the person wrote is still what is shown
    assert wall.found(state=State.UNANSWERED) == [1, 3]
    assert wall.found(state=State.CORRECTED) == [2]


def test_a_feedback_file_that_was_edited_is_followed_from_its_beginning(wall: Wall) -> None:
    for number in (1, 2, 3):
        wall.answer(wall.hang(number, "a dog"), "a wolf")
    assert len(wall.found(state=State.CORRECTED)) == 3
    lines = wall.feedback.path.read_bytes().splitlines(keepends=True)
    wall.feedback.path.write_bytes(b"".join(lines[:2]))
    assert wall.found(state=State.CORRECTED) == [1]
    wall.feedback.path.unlink()
    assert wall.found(state=State.CORRECTED) == []


def test_answers_that_came_by_another_way_are_seen(wall: Wall, tmp_path: Path) -> None:
    image_id = wall.hang(1, "a dog")
    assert wall.found(state=State.ACCEPTED) == []
    another_process = Wall(tmp_path)
    another_process.answer(image_id)
    another_process.records.close()
    assert wall.found(state=State.ACCEPTED) == [1]


def test_who_is_slow_does_not_set_back_who_was_faster(
    wall: Wall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, _ = (wall.hang(number, "a dog") for number in (1, 2, 3))
    assert len(wall.found()) == 3
    wall.answer(first)
    write = wall.records.write

    @contextmanager
    def late() -> Iterator[Session]:
        """Another process is faster by an answer."""
        monkeypatch.setattr(wall.records, "write", write)
        another_process = Wall(tmp_path)
        another_process.answer(second)
        another_process.gallery.refresh("anna")
        another_process.records.close()
        with write() as session:
            yield session

    monkeypatch.setattr(wall.records, "write", late)
    wall.gallery._follow_answers()
    with wall.records.read() as session:
        position = session.get(GalleryPosition, 1)
        assert position and position.rows == 2
        assert list(session.scalars(select(Holding.image_id).where(Holding.stale))) == []


def test_days_are_inclusive(wall: Wall) -> None:
    hours = [-4, 0, 20, 24]  # from 23:04 on the day before to 03:04 on the day after
    for number, hour in enumerate(hours, start=1):
        wall.hang(number, minutes=60 * hour)
    second = date(2026, 1, 2)
    assert wall.found(first=second, last=second) == [3, 2]
    assert wall.found(last=date(2026, 1, 1)) == [1]
    assert wall.found(first=date(2026, 1, 3)) == [4]
    assert wall.found(first=date(2026, 1, 3), last=second) == []
    assert wall.found(first=date.min, last=date.max) == [4, 3, 2, 1]


def test_the_next_one_to_answer(wall: Wall) -> None:
    first, second, third, fourth = (wall.hang(n, "a dog", minutes=-n) for n in (1, 2, 3, 4))
    waiting = wall.hang(5, minutes=-5)
    wall.answer(third)
    wall.gallery.refresh("anna")
    following = {
        image_id: wall.gallery.next_unanswered(
            "anna", Wanted(), wall.gallery.cursor("anna", image_id, Sort.NEWEST)
        )
        for image_id in (first, second, fourth)
    }
    assert following == {first: second, second: fourth, fourth: None}
    assert wall.gallery.next_unanswered("anna", Wanted(), "", besides=first) == second
    accepted = Wanted(state=State.ACCEPTED)
    assert wall.gallery.next_unanswered("anna", accepted, "") == first
    assert waiting not in following.values()
    assert wall.gallery.matching("anna", Wanted(state=State.UNANSWERED)) == [
        first,
        second,
        fourth,
        waiting,
    ]
    assert wall.gallery.cursor("ben", first, Sort.NEWEST) == ""


@pytest.mark.parametrize("state", [None, State.UNANSWERED])
@pytest.mark.parametrize("sort", Sort)
@pytest.mark.parametrize("way", ["first", "after", "before", "last"])
def test_an_index_leads_to_every_page(
    wall: Wall, sort: Sort, state: State | None, way: str
) -> None:
    """Nothing is scanned, and nothing is sorted."""
    for number in range(1, 6):
        wall.hang(number, "a dog", minutes=number)
    wall.gallery.refresh("anna")
    wanted = Wanted(state=state, sort=sort)
    middle = wall.gallery.cursor("anna", f"{3:032x}", sort)
    seen: list[str] = []

    def explain(connection, cursor, statement, parameters, *_: object) -> None:
        if statement.startswith("SELECT") and "holdings" in statement:
            plan = connection.connection.cursor()
            plan.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            seen.extend(row[3] for row in plan.fetchall())

    event.listen(wall.records._engine, "before_cursor_execute", explain)
    limits = {"first": {}, "after": {"after": middle}, "before": {"before": middle}}
    wall.gallery.page("anna", wanted, limit=2, **limits.get(way, {"before": ""}))
    assert seen
    for step in seen:
        assert step.startswith("SEARCH holdings USING") and "gallery_" in step, step


def test_what_is_stale_is_found_by_its_index(wall: Wall) -> None:
    wall.hang(1, "a dog")
    with wall.records._engine.connect() as connection:
        plan = connection.exec_driver_sql(
            "EXPLAIN QUERY PLAN SELECT image_id FROM holdings WHERE contributor = 'anna'"
            " AND stale = 1 LIMIT 200"
        )
        assert "holdings_stale" in plan.fetchall()[0][3]
