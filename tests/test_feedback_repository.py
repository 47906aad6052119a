import csv
import errno
import io
import os
import threading
from pathlib import Path

import pytest

from captionapp.errors import FeedbackStoreError, InvalidFeedback
from captionapp.feedback import repository as module
from captionapp.feedback.repository import COLUMNS, CsvFeedbackRepository, Reason, Verdict
from tests.answered import HEADER, line_of, make_row, torn_files

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
