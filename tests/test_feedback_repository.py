import csv
import errno
import io
import logging
import os
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest

from captionapp.errors import FeedbackStoreError, InvalidFeedback
from captionapp.feedback import repository as module
from captionapp.feedback.repository import (
    COLUMNS,
    CsvFeedbackRepository,
    FeedbackRow,
    Reason,
    Verdict,
    clean_correction,
)

HAMMER = Path(__file__).parents[1] / "benchmarks" / "feedback_hammer.py"
HEADER = (
    "id,created_at,image_id,image_name,caption,feedback,verdict,reasons,model_version,contributor"
)


def make_row(**changes: object) -> FeedbackRow:
    values: dict[str, object] = {
        "id": uuid.uuid4().hex,
        "created_at": "2026-11-23T12:00:00.000Z",
        "image_id": "a" * 32,
        "image_name": "dog.jpg",
        "caption": "a dog",
        "feedback": "a brown dog",
        "verdict": Verdict.CORRECTED,
        "reasons": (Reason.INACCURATE, Reason.TOO_LONG),
        "model_version": "shipped-1a2b3c4d",
        "contributor": "c" * 32,
    }
    return FeedbackRow(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture
def repository(tmp_path: Path) -> CsvFeedbackRepository:
    return CsvFeedbackRepository(tmp_path / "feedback.csv")


def torn_files(repository: CsvFeedbackRepository) -> list[Path]:
    return sorted(repository.path.parent.glob("feedback.csv.torn-*"))


def append_bytes(repository: CsvFeedbackRepository, data: bytes) -> None:
    with open(repository.path, "ab") as file:
        file.write(data)


def line_of(row: FeedbackRow) -> bytes:
    """A row as the repository writes it, with its line end."""
    return module.encode([row])


# What is written


def test_file_has_the_public_columns(repository: CsvFeedbackRepository) -> None:
    row = make_row()
    repository.append(row)

    lines = repository.path.read_bytes().split(b"\r\n")
    assert lines[0].decode() == HEADER
    assert lines[1].decode() == (
        f"{row.id},2026-11-23T12:00:00.000Z,{'a' * 32},dog.jpg,a dog,a brown dog,corrected,"
        f"inaccurate;too-long,shipped-1a2b3c4d,{'c' * 32}"
    )
    assert lines[2:] == [b""]


@pytest.mark.parametrize(
    "text",
    [
        "two\nlines",
        "two\r\nlines",
        "a lone\rreturn",
        "\n",
        "\r",
        "ends with a line\n",
        "commas, and; semicolons",
        '"quoted"',
        '"',
        'a "word" in it',
        '""',
        "=1+1",
        "@SUM(A1)",
        "-2",
        "+2",
        "\ttab",
        "  spaces around  ",
        "",
        "👩‍👩‍👧 größe 犬 \U0010ffff",
        "\ufeffmark",
        "line\u2028separator\x0b\x0c\x1c\x85",
        "x" * 100_000,
    ],
)
def test_text_is_read_back_exactly(repository: CsvFeedbackRepository, text: str) -> None:
    row = make_row(feedback=text, caption=text, image_name=text)
    repository.append(row)
    repository.append(make_row(id="second"))

    assert repository.rows()[0] == row
    assert len(CsvFeedbackRepository(repository.path).rows()) == 2
    with open(repository.path, newline="", encoding="utf-8") as file:
        assert list(csv.reader(file))[1][5] == text


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "x" * 100_001])
def test_what_cannot_be_read_back_is_refused(repository: CsvFeedbackRepository, text: str) -> None:
    repository.append(make_row())
    before = repository.path.read_bytes()
    with pytest.raises(InvalidFeedback):
        repository.append(make_row(feedback=text))
    assert repository.path.read_bytes() == before


def test_a_row_that_would_not_parse_is_refused(repository: CsvFeedbackRepository) -> None:
    with pytest.raises(InvalidFeedback):
        repository.append(make_row(created_at="yesterday"))
    assert not repository.path.exists()


def test_extend_keeps_the_order_and_syncs_once(
    repository: CsvFeedbackRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.append(make_row())
    synced: list[int] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(fd), fsync(fd)) and None)
    added = [make_row(id=f"row{i}") for i in range(50)]
    repository.extend(added)

    assert repository.rows()[1:] == added
    assert len(synced) == 1


def test_append_returns_after_fsync(
    repository: CsvFeedbackRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.append(make_row())
    sizes: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd: sizes.append(os.fstat(fd).st_size))
    repository.append(make_row())
    assert sizes == [repository.path.stat().st_size]


def test_full_disk_leaves_the_file_as_it_was(
    repository: CsvFeedbackRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.append(make_row())
    before = repository.path.read_bytes()

    def half_then_full(file: io.FileIO, data: bytes) -> None:
        file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(module, "_write_all", half_then_full)
        with pytest.raises(FeedbackStoreError, match="No space left"):
            repository.append(make_row())
    assert repository.path.read_bytes() == before
    repository.append(make_row())
    assert len(repository.rows()) == 2
    assert torn_files(repository) == []


def test_folder_that_cannot_be_written_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FeedbackStoreError, match="could not be kept"):
        CsvFeedbackRepository(tmp_path / "file" / "feedback.csv").append(make_row())


# What is found


def test_nothing_there_yet(repository: CsvFeedbackRepository) -> None:
    assert repository.rows() == []
    assert repository.latest("a" * 32) is None
    assert repository.image_ids() == set()
    assert repository.stats().acceptance_rate is None
    assert not repository.path.exists()


def test_empty_file_gets_its_header(repository: CsvFeedbackRepository) -> None:
    repository.path.touch()
    assert repository.rows() == []
    repository.append(make_row())
    assert repository.path.read_bytes().startswith(HEADER.encode() + b"\r\n")


@pytest.mark.parametrize(
    "content",
    [b"image,caption\r\n1,2\r\n", HEADER.replace(",", ";").encode() + b"\r\n", b"id,creat", b"\0"]
    + [b"\xef\xbb\xbf", HEADER.encode() + b",more\r\n"],
)
def test_foreign_header_is_named_and_left_alone(
    repository: CsvFeedbackRepository, content: bytes
) -> None:
    repository.path.write_bytes(content)
    for action in (lambda: repository.append(make_row()), repository.rows, repository.image_ids):
        with pytest.raises(FeedbackStoreError, match="columns"):
            action()
    assert repository.path.read_bytes() == content
    assert torn_files(repository) == []


def test_byte_order_mark_is_tolerated(repository: CsvFeedbackRepository) -> None:
    row = make_row()
    repository.path.write_bytes(b"\xef\xbb\xbf" + HEADER.encode() + b"\n" + line_of(row))
    assert repository.rows() == [row]
    second = make_row()
    repository.append(second)
    assert CsvFeedbackRepository(repository.path).rows() == [row, second]


def test_damaged_rows_are_left_out_with_a_warning(
    repository: CsvFeedbackRepository, caplog: pytest.LogCaptureFixture
) -> None:
    good = [make_row(), make_row()]
    repository.append(good[0])
    append_bytes(repository, b"too,few\r\n\r\n" + line_of(make_row()).replace(b"brown", b"\xff"))
    append_bytes(repository, line_of(make_row()).replace(b"corrected", b"perhaps"))
    append_bytes(repository, b'x,"y"z\rw\r\n')
    repository.append(good[1])

    assert repository.rows() == good
    assert caplog.text.count("left out") == 4
    assert torn_files(repository) == []


# The end of the file


@pytest.mark.parametrize("line_end", [b"", b"\r"])
def test_missing_line_end_is_completed(repository: CsvFeedbackRepository, line_end: bytes) -> None:
    repository.append(make_row())
    by_hand = make_row(feedback='edited,\r\n"by hand"')
    append_bytes(repository, line_of(by_hand)[:-2] + line_end)

    assert repository.rows()[1:] == [by_hand]
    last = make_row()
    CsvFeedbackRepository(repository.path).append(last)
    assert repository.rows()[1:] == [by_hand, last]
    assert torn_files(repository) == []


def test_header_without_line_end_is_completed(repository: CsvFeedbackRepository) -> None:
    repository.path.write_bytes(HEADER.encode())
    row = make_row()
    repository.append(row)
    assert repository.rows() == [row]


def test_torn_row_is_set_aside_wherever_it_was_cut(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = make_row(feedback="kept\r\nwhole")
    torn = line_of(make_row(feedback='said "so",\r\nthen\nmore\r\n', image_name="größe.jpg"))
    for cut in range(1, len(torn) - 2):
        repository = CsvFeedbackRepository(tmp_path / str(cut) / "feedback.csv")
        repository.append(kept)
        append_bytes(repository, torn[:cut])
        caplog.clear()
        after = make_row()
        CsvFeedbackRepository(repository.path).append(after)

        assert repository.rows() == [kept, after], cut
        assert [file.read_bytes() for file in torn_files(repository)] == [torn[:cut]]
        assert "torn" in caplog.text


def test_reading_sets_a_torn_row_aside_too(repository: CsvFeedbackRepository) -> None:
    row = make_row()
    repository.append(row)
    append_bytes(repository, b'id,"torn\r\n')
    assert repository.rows() == [row]
    assert [file.read_bytes() for file in torn_files(repository)] == [b'id,"torn\r\n']


def test_quote_lost_by_hand_does_not_take_whole_rows_away(
    repository: CsvFeedbackRepository, caplog: pytest.LogCaptureFixture
) -> None:
    first = make_row()
    repository.append(first)
    append_bytes(repository, b'x,"never closed\r\n')
    append_bytes(repository, line_of(make_row()) + line_of(make_row()))
    before = repository.path.read_bytes()

    with pytest.raises(FeedbackStoreError, match="never closed"):
        CsvFeedbackRepository(repository.path).append(make_row())
    assert repository.rows() == [first]
    assert "left alone" in caplog.text
    assert repository.path.read_bytes() == before
    assert torn_files(repository) == []


# The index


def test_latest_and_correction_by_contributor(repository: CsvFeedbackRepository) -> None:
    mine, other = "1" * 32, "2" * 32
    rows = [
        make_row(feedback="first", contributor=mine),
        make_row(feedback="theirs", contributor=other),
        make_row(feedback="a dog", verdict=Verdict.ACCEPTED, contributor=mine),
        make_row(feedback="elsewhere", image_id="b" * 32, contributor=mine),
    ]
    repository.extend(rows)

    assert repository.latest("a" * 32) == rows[2]
    assert repository.latest("a" * 32, other) == rows[1]
    assert repository.latest_correction("a" * 32) == rows[1]
    assert repository.latest_correction("a" * 32, mine) == rows[0]
    assert repository.latest("a" * 32, "3" * 32) is None
    assert repository.image_ids() == {"a" * 32, "b" * 32}


def test_what_others_append_is_seen_and_only_that_is_read(
    repository: CsvFeedbackRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = CsvFeedbackRepository(repository.path)
    other.extend(make_row() for _ in range(100))
    assert len(repository.rows()) == 100

    parsed: list[object] = []
    parse = module.parse
    monkeypatch.setattr(module, "parse", lambda values: (parsed.append(values), parse(values))[1])
    other.append(make_row(feedback="new"))
    parsed.clear()
    latest = repository.latest("a" * 32)
    assert latest is not None and latest.feedback == "new"
    assert len(parsed) == 1


@pytest.mark.parametrize("how", ["replaced", "shrunk", "edited in place", "edited and longer"])
def test_changed_file_is_read_anew(repository: CsvFeedbackRepository, how: str) -> None:
    rows = [make_row(feedback=f"row {i}") for i in range(3)]
    repository.extend(rows)
    assert repository.rows() == rows
    before = repository.path.stat()
    content = repository.path.read_bytes()
    if how == "replaced":
        new = repository.path.with_name("new.csv")
        new.write_bytes(content.replace(b"row 0", b"ROW 0"))
        os.replace(new, repository.path)
    elif how == "shrunk":
        repository.path.write_bytes(content[: -len(line_of(rows[2]))])
    elif how == "edited in place":
        repository.path.write_bytes(content.replace(b"row 0", b"ROW 0"))
    else:
        repository.path.write_bytes(content.replace(b"row 0", b"row 0, longer"))
    os.utime(repository.path, ns=(before.st_atime_ns, before.st_mtime_ns + 10_000_000))

    assert repository.rows() == CsvFeedbackRepository(repository.path).rows()
    assert repository.rows() != rows


def test_threads_of_one_repository(repository: CsvFeedbackRepository) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for i in range(10):
                row = make_row(id=f"{number}-{i}", image_id=f"{number}")
                repository.append(row)
                assert repository.latest(f"{number}") == row
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len({row.id for row in repository.rows()}) == 80


def test_stats(repository: CsvFeedbackRepository) -> None:
    repository.extend(
        [
            make_row(created_at="2026-02-01T00:00:00Z"),
            make_row(verdict=Verdict.ACCEPTED, reasons=(), created_at="2026-01-01T00:00:00Z"),
            make_row(image_id="b" * 32, model_version="other", reasons=(Reason.WRONG_TONE,)),
            make_row(verdict=Verdict.ACCEPTED, reasons=()),
        ]
    )
    stats = repository.stats()
    assert (stats.rows, stats.pictures, stats.accepted, stats.corrected) == (4, 2, 2, 2)
    assert stats.acceptance_rate == 0.5
    assert stats.by_reason[Reason.INACCURATE] == 1
    assert stats.by_reason[Reason.MISSING_DETAILS] == 0
    assert stats.by_model_version == {"shipped-1a2b3c4d": 3, "other": 1}
    assert (stats.first, stats.last) == ("2026-01-01T00:00:00Z", "2026-11-23T12:00:00.000Z")


# Text


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@a", "\t=1", "\rx", "\nx", "＝1", " =1"])
def test_formulas_are_neutralised_for_spreadsheets_only(
    repository: CsvFeedbackRepository, text: str
) -> None:
    repository.append(make_row(feedback=text, image_name="plain, name"))
    stream = io.StringIO(newline="")
    repository.write_for_spreadsheets(stream)

    header, row = csv.reader(io.StringIO(stream.getvalue(), newline=""))
    assert header == list(COLUMNS)
    assert row[5] == "'" + text
    assert row[3] == "plain, name"
    assert repository.rows()[0].feedback == text


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("  a dog \n", "a dog"),
        ("Cafe\u0301", "Café"),
        ("one\r\ntwo\rthree\u2028four", "one\ntwo\nthree\nfour"),
        ("a\tdog", "a dog"),
        ("a\u202edog\u202c\u200b", "adog"),
        ("👩\u200d👧", "👩\u200d👧"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("=1+1", "=1+1"),
        ("x" * 1000, "x" * 1000),
    ],
)
def test_correction_is_cleaned(given: str, kept: str) -> None:
    assert clean_correction(given) == kept
    assert clean_correction(kept) == kept


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "Write a description"),
        (" \n\t ", "Write a description"),
        ("\u200d\u200b", "Write a description"),
        ("x" * 1001, "1001 characters"),
        ("bell\x07", r"U\+0007"),
        ("nul\0", r"U\+0000"),
        ("half \ud83d", r"U\+D83D"),
        ("c1\x9b", r"U\+009B"),
    ],
)
def test_correction_that_cannot_be_kept(given: str, message: str) -> None:
    with pytest.raises(InvalidFeedback, match=message):
        clean_correction(given)


def test_killed_writers_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    command = [sys.executable, str(HAMMER), "--rows", "200", "--processes", "8", "--kills", "5"]
    result = subprocess.run(
        [*command, "--folder", str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stdout + result.stderr
    found = dict(line.split(": ") for line in result.stdout.splitlines() if ": " in line)
    assert int(found["acknowledged"]) == 200
    assert (found["kills"], found["lost"], found["duplicates"]) == ("5", "0", "0")
    assert found["left in the file"] == "only whole rows"


@pytest.fixture(autouse=True)
def _warnings_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
