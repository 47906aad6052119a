from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from captionapp.captioning.service import ModelService
from captionapp.captioning.versions import ModelVersion
from captionapp.errors import ModelUnavailable
from tests.conftest import FakeCaptioner
from tests.waiting import until


class Versions:
    """One current version, named by hand."""

    def __init__(self, name: str = "v1") -> None:
        self.name = name

    def current(self) -> ModelVersion:
        return ModelVersion(self.name, Path("nowhere"), "trained", "2026-01-01T00:00:00Z")


def service(load: Callable[[ModelVersion], Any], **kwargs: Any) -> ModelService:
    return ModelService(Versions(), load, **kwargs)  # type: ignore[arg-type]


def fake(version: ModelVersion) -> FakeCaptioner:
    return FakeCaptioner(version.name)


def test_nothing_is_loaded_until_it_is_asked_for_and_then_once() -> None:
    def slow(version: ModelVersion) -> FakeCaptioner:
        time.sleep(0.05)
        return fake(version)

    lazy = service(slow)
    assert (lazy.state, lazy.load_count, lazy.ready()) == ("idle", 0, False)
    with ThreadPoolExecutor(8) as pool:
        captioners = set(pool.map(lambda _: lazy.captioner(), range(16)))
    assert len(captioners) == 1
    assert (lazy.state, lazy.load_count) == ("ready", 1)
    lazy.close()


@pytest.mark.parametrize("error", [ModelUnavailable("no weights"), RuntimeError("secret detail")])
def test_a_failed_load_is_remembered_for_a_while_and_then_tried_again(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    tries: list[str] = []

    def fail(version: ModelVersion) -> FakeCaptioner:
        tries.append(version.name)
        if len(tries) > 1:
            return fake(version)
        raise error

    broken = service(fail, retry_seconds=60)
    for _ in range(3):
        with pytest.raises(ModelUnavailable) as caught:
            broken.captioner()
        assert "secret" not in str(caught.value)
    assert 0 < caught.value.retry_after <= 60
    assert (tries, broken.state) == (["v1"], "failed")
    assert "cannot be loaded" in caplog.text and "Traceback" in caplog.text
    broken._retry_at = time.monotonic()
    assert broken.captioner().model_version == "v1"
    assert broken.state == "ready"
    broken.close()


def test_loading_in_the_background_ends_ready_and_starts_once() -> None:
    gate = threading.Event()

    def slow(version: ModelVersion) -> FakeCaptioner:
        assert gate.wait(10)
        return fake(version)

    lazy = service(slow)
    for _ in range(3):
        lazy.start_loading()
    until(lambda: lazy.state == "loading")
    assert not lazy.ready()
    gate.set()
    until(lazy.ready)
    assert lazy.load_count == 1
    lazy.close()


def test_warm_up_makes_a_real_caption() -> None:
    captioner = FakeCaptioner("v1")
    warm = service(lambda _: captioner).warm_up()
    assert (warm.version, warm.caption) == ("v1", "a red ball")
    assert warm.load_seconds >= 0 and warm.caption_seconds >= 0
    assert len(captioner.calls) == 1


def test_a_model_that_loads_but_makes_no_caption_is_not_ready() -> None:
    mute = service(lambda _: FakeCaptioner("v1", [RuntimeError("shapes")]))
    with pytest.raises(ModelUnavailable, match="makes no caption"):
        mute.warm_up()
    assert not mute.ready()
    assert mute.state == "failed"
    assert mute.failure and 0 < mute.failure.retry_after <= mute.retry_seconds
    mute.close()


def test_following_swaps_to_the_new_version_and_drops_the_old() -> None:
    loaded = service(fake)
    assert not loaded.follow()  # nothing is loaded: nothing to follow
    old = loaded.captioner()
    assert not loaded.follow()
    loaded.versions.name = "v2"  # type: ignore[attr-defined]
    assert loaded.captioner() is old
    assert loaded.follow()
    assert loaded.captioner().model_version == "v2"
    assert loaded.load_count == 2
    loaded.close()


@pytest.mark.parametrize("replies", [[RuntimeError("shapes")], None])
def test_a_new_version_that_fails_leaves_the_old_one_serving(
    replies: list[Any] | None, caplog: pytest.LogCaptureFixture
) -> None:
    def load(version: ModelVersion) -> FakeCaptioner:
        if version.name == "v1":
            return fake(version)
        if replies is None:
            raise ModelUnavailable("half a file")
        return FakeCaptioner(version.name, replies)

    loaded = service(load)
    loaded.captioner()
    loaded.versions.name = "v2"  # type: ignore[attr-defined]
    assert not loaded.follow()
    assert loaded.captioner().model_version == "v1"
    assert "still serving v1" in caplog.text
    loaded.close()


def test_a_loaded_service_follows_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("captionapp.captioning.service.FOLLOW_SECONDS", 0.02)
    loaded = service(fake)
    loaded.captioner()
    loaded.versions.name = "v2"  # type: ignore[attr-defined]
    until(lambda: loaded.captioner().model_version == "v2")
    loaded.close()
    until(lambda: loaded._follower is not None and not loaded._follower.is_alive())


def test_the_next_version_is_tried_at_once_after_one_that_fails() -> None:
    def load(version: ModelVersion) -> FakeCaptioner:
        if version.name == "v2":
            raise ModelUnavailable("half a file")
        return fake(version)

    loaded = service(load, retry_seconds=60)
    loaded.captioner()
    loaded.versions.name = "v2"  # type: ignore[attr-defined]
    assert not loaded.follow()
    loaded.versions.name = "v3"  # type: ignore[attr-defined]
    assert loaded.follow()
    assert loaded.captioner().model_version == "v3"
    loaded.close()


def test_a_process_without_a_model_takes_the_next_version_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("captionapp.captioning.service.FOLLOW_SECONDS", 0.02)

    def load(version: ModelVersion) -> FakeCaptioner:
        if version.name == "v1":
            raise ModelUnavailable("half a file")
        return fake(version)

    broken = service(load, retry_seconds=60)
    with pytest.raises(ModelUnavailable):
        broken.captioner()
    assert not broken.ready()
    broken.versions.name = "v2"  # type: ignore[attr-defined]
    until(broken.ready)
    assert (broken.state, broken.captioner().model_version) == ("ready", "v2")
    broken.close()


def test_a_version_that_makes_no_caption_is_forgotten_with_the_swap() -> None:
    loaded = service(lambda v: FakeCaptioner(v.name, ["a dog" if v.name == "v2" else KeyError()]))
    with pytest.raises(ModelUnavailable):
        loaded.warm_up()
    loaded.versions.name = "v2"  # type: ignore[attr-defined]
    assert loaded.follow()
    assert (loaded.state, loaded.failure, loaded.ready()) == ("ready", None, True)
    loaded.close()


def test_the_old_model_is_gone_and_its_memory_returned_once_nobody_uses_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    returned: list[int] = []
    monkeypatch.setattr(
        "captionapp.captioning.service._return_memory", lambda: returned.append(len(returned))
    )
    loaded = service(fake)
    batch_under_way = loaded.captioner()
    assert returned == [0]  # what loading took
    returned.clear()
    old = weakref.ref(batch_under_way)
    loaded.versions.name = "v2"  # type: ignore[attr-defined]
    assert loaded.follow()
    loaded.follow()
    assert old() is batch_under_way and not returned
    del batch_under_way
    assert old() is None
    loaded.follow()
    loaded.follow()
    assert returned == [0]
    loaded.close()


def test_a_version_that_is_not_served_can_be_loaded_beside() -> None:
    loaded = service(fake)
    other = ModelVersion("other", Path("nowhere"), "trained", "2026-01-01T00:00:00Z")
    assert loaded.load_version(other).model_version == "other"
    assert (loaded.load_count, loaded.state) == (0, "idle")
    loaded.close()


@pytest.mark.parametrize("error", [ModelUnavailable("it cannot be read"), RuntimeError("a bug")])
def test_a_pointer_that_cannot_be_read_leaves_the_old_one_serving(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    loaded = service(fake)
    loaded.captioner()

    def fail() -> ModelVersion:
        raise error

    monkeypatch.setattr(loaded.versions, "current", fail)
    assert not loaded.follow()
    assert not loaded.follow()
    assert loaded.captioner().model_version == "v1"
    assert len(caplog.records) == 1
    monkeypatch.undo()
    loaded.versions.name = "v2"  # type: ignore[attr-defined]
    assert loaded.follow()
    loaded.close()


def test_whether_a_load_is_still_under_way_is_told_to_whoever_ends_the_process() -> None:
    gate = threading.Event()

    def slow(version: ModelVersion) -> FakeCaptioner:
        gate.wait(10)
        return fake(version)

    loading = service(slow)
    loading.start_loading()
    assert not loading.close(0.05)
    gate.set()
    assert loading.close(10)
