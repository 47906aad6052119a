import pytest

from captionapp.errors import InvalidFeedback
from captionapp.feedback.repository import clean_correction


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
