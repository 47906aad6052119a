from __future__ import annotations

import itertools
import json

import pytest
from werkzeug.exceptions import ServiceUnavailable

from captionapp.web import events
from captionapp.web.events import Streams


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(events, "LOOK_SECONDS", 0.01)


def answer(app, streams, news, method="GET"):
    with app.test_request_context(method=method):
        return streams.answer(news)


def told(response) -> list[tuple[str, dict[str, object]]]:
    text = b"".join(response.iter_encoded()).decode()
    response.close()
    blocks = [block.split("\n") for block in text.split("\n\n") if block.startswith("event:")]
    return [(kind[7:], json.loads(data[6:])) for kind, data in blocks]


def test_only_what_is_new_is_told_and_the_last_ends_it(app):
    steps = iter([({"step": 1}, False), ({"step": 1}, False), ({"step": 2}, False)])
    response = answer(app, Streams(1), lambda: next(steps, ({"step": 3}, True)))
    assert response.mimetype == "text/event-stream"
    assert told(response) == [
        ("news", {"step": 1}),
        ("news", {"step": 2}),
        ("end", {"step": 3}),
    ]


def test_streams_are_bounded_and_their_places_come_back(app):
    streams = Streams(2)
    one = answer(app, streams, lambda: ({}, False))
    answer(app, streams, lambda: ({}, False))
    with pytest.raises(ServiceUnavailable):
        answer(app, streams, lambda: ({}, False))
    one.close()  # also one that nobody has begun to read
    answer(app, streams, lambda: ({}, False))


def test_a_head_takes_no_place(app):
    streams = Streams(1)
    for _ in range(3):
        assert answer(app, streams, lambda: ({}, True), "HEAD").mimetype == "text/event-stream"
    answer(app, streams, lambda: ({}, True))


def test_a_heartbeat_without_news(app, monkeypatch):
    monkeypatch.setattr(events, "HEARTBEAT_SECONDS", 0.0)
    response = answer(app, Streams(1), lambda: ({}, False))
    first = [part.decode() for part in itertools.islice(response.iter_encoded(), 4)]
    response.close()
    assert first[0].startswith("retry:") and first[1].startswith("event: news")
    assert first[2].startswith(":") and first[3].startswith(":")


def test_its_time_is_bounded(app, monkeypatch):
    monkeypatch.setattr(events, "STREAM_SECONDS", 0.05)
    assert told(answer(app, Streams(1), lambda: ({"step": 1}, False))) == [("news", {"step": 1})]


def test_a_worker_that_stops_is_not_held_up(app):
    streams = Streams(1)
    looked = []

    def news():
        looked.append(1)
        return {"step": len(looked)}, False

    streams.stopping = lambda: len(looked) >= 3
    assert [content["step"] for _, content in told(answer(app, streams, news))] == [1, 2, 3]
