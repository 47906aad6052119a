from __future__ import annotations

import threading
import time

import pytest

from captionapp.timing import about, collect, collected, stop_collecting, timed


def test_a_step_that_comes_twice_adds_up_also_when_it_raises() -> None:
    work = collect()
    with timed("decode"):
        time.sleep(0.01)
    with pytest.raises(ValueError), timed("decode"):
        time.sleep(0.01)
        raise ValueError
    assert work.seconds["decode"] >= 0.02
    stop_collecting()


def test_pictures_come_once_and_in_order() -> None:
    work = collect()
    for image_id in ("b", "a", "b"):
        about(image_id)
    assert work.pictures == ["b", "a"]
    stop_collecting()


def test_without_a_collection_nothing_happens() -> None:
    with timed("decode"):
        about("a")
    assert collected() is None


def test_threads_collect_apart() -> None:
    mine = collect()
    thread = threading.Thread(target=lambda: (collect(), about("theirs")))
    thread.start()
    thread.join()
    about("mine")
    assert mine.pictures == ["mine"]
    stop_collecting()
