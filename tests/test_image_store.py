import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from captionapp.errors import InvalidImage, NotFound, StorageFull
from captionapp.image_store import MEDIA_TYPE, THUMBNAIL_SIDE, VIEW_SIDE, ImageStore
from captionapp.images import MAX_STORED_SIDE, decode
from tests.drawing import (
    LIMITS,
    corners,
    encoded,
    photo,
    swapped_profile,
)

SECRET = "taken at 47.3769N 8.5417E"


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "uploads")


def test_large_pictures_are_reduced_and_keep_their_identity(store: ImageStore) -> None:
    validated = decode(encoded(photo((4000, 1000)), "JPEG"), LIMITS)
    assert validated.image.size == (MAX_STORED_SIDE, 512)
    store.add(validated)
    again = decode(store.path(validated.image_id).read_bytes(), LIMITS)
    assert again.image_id == validated.image_id


def test_stored_picture_is_exact(store: ImageStore) -> None:
    validated = decode(encoded(photo((640, 480)), "JPEG"), LIMITS)
    store.add(validated)

    assert validated.image_id in store
    assert store.load(validated.image_id).tobytes() == validated.image.tobytes()
    path = store.path(validated.image_id)
    assert path.parent.name == validated.image_id[2:4]
    assert path.parent.parent.name == validated.image_id[:2]
    with Image.open(path) as stored, Image.open(store.thumbnail_path(validated.image_id)) as small:
        assert Image.MIME[str(stored.format)] == MEDIA_TYPE
        assert Image.MIME[str(small.format)] == MEDIA_TYPE
        assert small.size == (THUMBNAIL_SIDE, 384)


@pytest.mark.parametrize(
    ("find", "size"),
    [
        (ImageStore.view_path, (VIEW_SIDE, 960)),
        (ImageStore.thumbnail_path, (THUMBNAIL_SIDE, 384)),
    ],
)
def test_a_smaller_copy_is_made_when_it_is_asked_for_and_goes_with_the_picture(
    store: ImageStore, find: Callable[[ImageStore, str], Path], size: tuple[int, int]
) -> None:
    validated = decode(encoded(photo((1600, 1200)), "JPEG"), LIMITS)
    store.add(validated)
    alone = store.size_bytes()
    copy = find(store, validated.image_id)
    made = copy.stat().st_mtime_ns
    with Image.open(copy) as picture:
        assert picture.size == size
    assert store.size_bytes() - alone == copy.stat().st_size < alone / 2
    assert find(store, validated.image_id) == copy and copy.stat().st_mtime_ns == made
    store.delete(validated.image_id)
    assert not copy.exists()
    with pytest.raises(NotFound):
        find(store, validated.image_id)


@pytest.mark.parametrize("find", [ImageStore.view_path, ImageStore.thumbnail_path])
def test_without_room_for_a_copy_the_picture_is_shown_as_it_is_stored(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch, find: Callable[[ImageStore, str], Path]
) -> None:
    validated = decode(encoded(photo((640, 480)), "JPEG"), LIMITS)
    store.add(validated)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert find(store, validated.image_id) == store.path(validated.image_id)
    assert find(store, validated.image_id) != store.path(validated.image_id)


def test_copies_count_in_the_quota_but_are_not_refused(store: ImageStore) -> None:
    first, second = (decode(encoded(photo((64, 64), seed), "PNG"), LIMITS) for seed in (1, 2))
    store.add(first)
    full = ImageStore(store.folder, quota_bytes=store.size_bytes() + 10)
    assert full.thumbnail_path(first.image_id) != full.path(first.image_id)
    with pytest.raises(StorageFull):
        full.add(second)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF", "GIF"])
def test_metadata_is_gone_from_what_is_stored(store: ImageStore, file_format: str) -> None:
    exif = Image.Exif()
    exif[0x010E] = SECRET
    exif.get_ifd(0x8825)[29] = SECRET
    xmp = f"<x:xmpmeta xmlns:x='adobe:ns:meta/'>{SECRET}</x:xmpmeta>".encode()
    options: dict[str, object] = {"exif": exif, "icc_profile": swapped_profile(), "xmp": xmp}
    if file_format == "PNG":
        text = PngInfo()
        text.add_text("Comment", SECRET)
        options["pnginfo"] = text
    elif file_format == "JPEG":
        options["comment"] = SECRET
    elif file_format == "TIFF":
        del options["xmp"]
    elif file_format == "GIF":
        options = {"comment": SECRET}
    data = encoded(corners((96, 64)), file_format, **options)
    assert SECRET.encode() in data

    validated = decode(data, LIMITS)
    store.add(validated)
    for find in (store.path, store.thumbnail_path, store.view_path):
        path = find(validated.image_id)
        stored = path.read_bytes()
        for trace in (SECRET.encode(), b"EXIF", b"Exif", b"XMP", b"xmpmeta", b"ICCP", b"acsp"):
            assert trace not in stored
        assert stored[12:16] in (b"VP8 ", b"VP8L")  # a WebP file without room for metadata


def test_adding_twice_writes_once(store: ImageStore) -> None:
    validated = decode(encoded(corners(), "PNG"), LIMITS)
    store.add(validated)
    before = store.path(validated.image_id).stat()
    store.add(validated)
    after = store.path(validated.image_id).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert len([path for path in store.folder.rglob("*") if path.is_file()]) == 1


def test_many_threads_add_the_same(store: ImageStore) -> None:
    validated = decode(encoded(corners(), "PNG"), LIMITS)
    threads = [
        threading.Thread(target=ImageStore(store.folder).add, args=(validated,)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([path for path in store.folder.rglob("*") if path.is_file()]) == 1
    assert store.load(validated.image_id).tobytes() == validated.image.tobytes()


@pytest.mark.parametrize(
    "image_id", ["", "a" * 31, "A" * 32, "../" * 10 + "aa", "a" * 32 + "\n", "g" * 32, "/etc"]
)
def test_ids_from_outside_make_no_path(store: ImageStore, image_id: str) -> None:
    assert image_id not in store
    for action in (
        store.path,
        store.thumbnail_path,
        store.view_path,
        store.load,
        store.delete,
    ):
        with pytest.raises(NotFound):
            action(image_id)


def test_delete(store: ImageStore) -> None:
    validated = decode(encoded(corners(), "PNG"), LIMITS)
    store.add(validated)
    assert store.size_bytes() > 0
    store.delete(validated.image_id)
    store.delete(validated.image_id)

    assert validated.image_id not in store
    assert store.size_bytes() == 0
    for action in (store.path, store.thumbnail_path, store.load):
        with pytest.raises(NotFound):
            action(validated.image_id)


def test_quota(tmp_path: Path) -> None:
    first, second = (decode(encoded(photo((64, 64), seed), "PNG"), LIMITS) for seed in (1, 2))
    ImageStore(tmp_path).add(first)
    store = ImageStore(tmp_path, quota_bytes=ImageStore(tmp_path).size_bytes() + 10)
    store.add(first)
    with pytest.raises(StorageFull, match="no room"):
        store.add(second)
    assert second.image_id not in store
    ImageStore(tmp_path).delete(first.image_id)  # by another process
    store.add(second)
    assert second.image_id in store


def test_full_disk_keeps_nothing(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    validated = decode(encoded(corners(), "PNG"), LIMITS)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageFull, match="disk"):
            store.add(validated)
    assert [path for path in store.folder.rglob("*") if path.is_file()] == []
    store.add(validated)
    assert validated.image_id in store


def test_leftovers_of_killed_processes_go(store: ImageStore) -> None:
    validated = decode(encoded(corners(), "PNG"), LIMITS)
    store.add(validated)
    size = store.size_bytes()
    old, new = (store.path(validated.image_id).with_name(f"{age}.tmp") for age in ("old", "new"))
    for file in (old, new):
        file.write_bytes(b"12345")
    os.utime(old, (0, 0))
    assert store.size_bytes() == size + 5
    assert not old.exists()
    assert new.exists()


def test_damaged_stored_file_is_reported(
    store: ImageStore, caplog: pytest.LogCaptureFixture
) -> None:
    validated = decode(encoded(photo((64, 64)), "PNG"), LIMITS)
    store.add(validated)
    path = store.path(validated.image_id)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InvalidImage, match="Send the picture again"):
        store.load(validated.image_id)
    assert validated.image_id in caplog.text


@pytest.mark.parametrize("length", [0, 11, 100, -1])
def test_a_stored_file_cut_short_is_not_whole(store: ImageStore, length: int) -> None:
    validated = decode(encoded(photo((64, 64)), "PNG"), LIMITS)
    with pytest.raises(NotFound):
        store.is_whole(validated.image_id)
    store.add(validated)
    assert store.is_whole(validated.image_id)
    path = store.path(validated.image_id)
    path.write_bytes(path.read_bytes()[:length])
    assert not store.is_whole(validated.image_id)
