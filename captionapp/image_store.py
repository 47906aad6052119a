"""The store of pictures, addressed by content, with the smaller copies that pages show."""

import errno
import io
import logging
import re
import threading
import time
from pathlib import Path

from PIL import Image

from captionapp import atomic
from captionapp.errors import InvalidImage, NotFound, StorageFull
from captionapp.images import ValidatedImage
from captionapp.sentences import Sentence

log = logging.getLogger(__name__)

MEDIA_TYPE = "image/webp"
THUMBNAIL_SIDE = 512
#: Of what a page shows large: some 150 kB of a photograph that takes 5 MB as it is stored.
VIEW_SIDE = 1280
#: Effort of WebP's encoder for the smaller copies, 0 to 6: 2 takes half of the time of 4, the
#: default, for 3 % more bytes.
_EFFORT = 2
#: Smaller copies are made so many at a time: each takes some 40 MB of a large picture, and a core.
_copying = threading.Semaphore(2)

_ID = re.compile(r"[0-9a-f]{32}")

_FULL = Sentence(
    "The disk of the server is full, so the picture could not be kept."
    " Tell whoever runs this site, and try again later."
)
_NOT_WRITABLE = Sentence(
    "The server cannot write to its disk, so the picture could not be kept."
    " Tell whoever runs this site, and try again later."
)


class ImageStore:
    """Normalised pictures in ``folder``, named by ``image_id``, and smaller copies of them, which
    are made when they are first asked for.

    Stored as lossless WebP: a 3-megapixel photograph takes 0.1 s to encode, less than PNG needs,
    and a quarter less room. Many processes may use one folder. ``quota_bytes`` of 0 is no quota;
    what other processes add counts within half a minute.
    """

    def __init__(self, folder: Path, quota_bytes: int = 0) -> None:
        self.folder = folder
        self.quota_bytes = quota_bytes
        self._lock = threading.Lock()
        self._measured_bytes = 0
        self._measured_at: float | None = None

    def add(self, image: ValidatedImage) -> None:
        """Store the picture; does nothing if it is there.

        Raises StorageFull when the quota or the disk has no room; then nothing is kept.
        """
        path = self._path(image.image_id)
        if path.exists():
            return
        data = _encode(image.image, lossless=True, method=0, quality=0)
        self._check_quota(len(data))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, data)
        except OSError as error:
            log.error("A picture could not be stored in %s: %s", self.folder, error)
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise StorageFull(_FULL if full else _NOT_WRITABLE) from error
        with self._lock:
            self._measured_bytes += len(data)

    def path(self, image_id: str) -> Path:
        """Where the stored picture is (``MEDIA_TYPE``); NotFound if it is not there."""
        return self._existing(self._path(image_id))

    def thumbnail_path(self, image_id: str) -> Path:
        """Where the thumbnail is (``MEDIA_TYPE``, at most ``THUMBNAIL_SIDE`` pixels a side), or the
        stored picture itself if the disk has no room for one.

        Raises: as ``load``.
        """
        return self._smaller_path(image_id, "thumbnail", THUMBNAIL_SIDE, quality=80)

    def view_path(self, image_id: str) -> Path:
        """Where the picture is for a page (``MEDIA_TYPE``, at most ``VIEW_SIDE`` pixels a side), or
        the stored picture itself if the disk has no room for one.

        Raises: as ``load``.
        """
        return self._smaller_path(image_id, "view", VIEW_SIDE, quality=85)

    def load(self, image_id: str) -> Image.Image:
        """The stored picture, RGB, decoded. NotFound; InvalidImage if its file is damaged."""
        path = self.path(image_id)
        try:
            with Image.open(path, formats=("WEBP",)) as stored:
                return stored.convert("RGB")
        except FileNotFoundError as error:
            raise NotFound("There is no such picture.") from error
        except Exception as error:
            log.error("Stored picture %s is damaged: %s", image_id, error)
            raise InvalidImage(
                Sentence("The stored file of this picture is damaged. Send the picture again.")
            ) from error

    def is_whole(self, image_id: str) -> bool:
        """Whether the stored picture has the length its header says; NotFound if it is not there.

        A file cut short is found without decoding it. Source: RIFF container, WebP specification.
        """
        path = self.path(image_id)
        with path.open("rb") as file:
            head = file.read(12)
        length = int.from_bytes(head[4:8], "little") + 8
        return head[:4] == b"RIFF" and head[8:] == b"WEBP" and length <= path.stat().st_size

    def delete(self, image_id: str) -> None:
        """Remove the picture and its smaller copies, if they are there."""
        path = self._path(image_id)
        for file in (path, *(_copy_of(path, kind) for kind in ("view", "thumbnail"))):
            file.unlink(missing_ok=True)
        with self._lock:
            self._measured_at = None

    def __contains__(self, image_id: object) -> bool:
        if not isinstance(image_id, str) or not _ID.fullmatch(image_id):
            return False
        return self._path(image_id).exists()

    def size_bytes(self) -> int:
        """Bytes that the store takes now; leftovers of killed processes are removed on the way."""
        total = 0
        for file in self.folder.glob("??/??/*"):
            try:
                status = file.stat()
                if file.suffix == ".tmp" and status.st_mtime < time.time() - 3600:
                    file.unlink()
                    continue
            except FileNotFoundError:
                continue  # deleted by another process meanwhile
            total += status.st_size
        return total

    def _check_quota(self, more: int) -> None:
        if not self.quota_bytes:
            return
        with self._lock:
            stale = self._measured_at is None or time.monotonic() - self._measured_at > 30
            if stale or self._measured_bytes + more > self.quota_bytes:
                self._measured_bytes = self.size_bytes()
                self._measured_at = time.monotonic()
            if self._measured_bytes + more > self.quota_bytes:
                log.warning("Upload quota of %d bytes is used up", self.quota_bytes)
                raise StorageFull(
                    Sentence(
                        "There is no room for more pictures on this server."
                        " Delete pictures that are no longer needed, and try again."
                    )
                )

    def _smaller_path(self, image_id: str, kind: str, side: int, quality: int) -> Path:
        path = self.path(image_id)
        copy = _copy_of(path, kind)
        if copy.exists():
            return copy
        with _copying:
            # Another thread may have made it meanwhile.
            if not copy.exists() and not self._make_copy(image_id, copy, side, quality):
                return path
        if not path.exists():  # deleted meanwhile
            copy.unlink(missing_ok=True)
        return self._existing(copy)

    def _make_copy(self, image_id: str, copy: Path, side: int, quality: int) -> bool:
        """Returns whether the disk had room for it. It counts, but a quota that is used up only
        refuses pictures."""
        picture = self.load(image_id)
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        data = _encode(picture, lossless=False, method=_EFFORT, quality=quality)
        try:
            _write(copy, data)
        except OSError as error:
            log.warning("No smaller copy of a picture could be kept at %s: %s", copy, error)
            return False
        with self._lock:
            self._measured_bytes += len(data)
        return True

    def _path(self, image_id: str) -> Path:
        # Ids come from addresses: nothing but an id may become part of a path.
        if not _ID.fullmatch(image_id):
            raise NotFound("There is no such picture.")
        return self.folder / image_id[:2] / image_id[2:4] / f"{image_id}.webp"

    @staticmethod
    def _existing(path: Path) -> Path:
        if not path.is_file():
            raise NotFound("There is no such picture.")
        return path


def _copy_of(path: Path, kind: str) -> Path:
    """Where a smaller copy of the picture stored at ``path`` is kept."""
    return path.with_suffix(f".{kind}.webp")


def _encode(image: Image.Image, *, lossless: bool, method: int, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=lossless, method=method, quality=quality)
    return buffer.getvalue()


def _write(path: Path, data: bytes) -> None:
    try:
        atomic.write(path, data)
    except PermissionError:
        # Windows: somebody reads the file that is there already, with the same content.
        if not path.exists():
            raise
