"""The end of the file, after a crash or an editor, and rows that are damaged."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from captionapp.errors import FeedbackStoreError
from captionapp.feedback.repository import CsvFeedbackRepository
from tests.answered import HEADER, append_bytes, line_of, make_row, torn_files

HAMMER = Path(__file__).parents[1] / "benchmarks" / "feedback_hammer.py"


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
