"""The model service: one model in a process, loaded when first needed and followed on promotion."""

from __future__ import annotations

import ctypes
import logging
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageDraw

from captionapp.captioning.captioner import Captioner, DecodeOptions
from captionapp.captioning.versions import ModelVersion, ModelVersions
from captionapp.errors import CaptionAppError, ModelUnavailable
from captionapp.sentences import Sentence

logger = logging.getLogger(__name__)

#: How often a process looks whether another version has become current; together with the load it
#: has to stay within 5 seconds.
FOLLOW_SECONDS = 0.5
#: Enough to see that a version captions.
_SHORT = DecodeOptions(num_beams=1, max_new_tokens=8)
LOADING = Sentence("The model is being loaded. Try again in a moment.")
LOADING_RETRY_SECONDS = 5.0


@dataclass(frozen=True)
class WarmUp:
    """What a warm-up took, in seconds, and the caption it made."""

    version: str
    load_seconds: float
    caption_seconds: float
    caption: str


class ModelService:
    """Holds the captioner of this process. ``load`` makes one; it is called under a lock."""

    def __init__(
        self,
        versions: ModelVersions,
        load: Callable[[ModelVersion], Captioner],
        retry_seconds: float = 30.0,
    ) -> None:
        self.versions = versions
        self.retry_seconds = retry_seconds
        #: Successful loads so far.
        self.load_count = 0
        self._load = load
        self._captioner: Captioner | None = None
        self._failure: ModelUnavailable | None = None
        self._retry_at = 0.0
        #: The version that could not be loaded last; another one is tried at once.
        self._unfit = ""
        self._follow_at = 0.0
        #: The captioner that was swapped for another, while somebody still uses it.
        self._old: weakref.ref[Captioner] | None = None
        self._loading = False
        self._proven = False
        self._lock = threading.Lock()
        # Not the same: whoever starts the load must not wait for it.
        self._loader_lock = threading.Lock()
        self._loader: threading.Thread | None = None
        self._follower: threading.Thread | None = None
        self._closed = threading.Event()

    @property
    def state(self) -> str:
        """``idle``, ``loading``, ``ready`` or ``failed``."""
        if self._captioner is not None:
            return "failed" if self._failure else "ready"
        if self._loading:
            return "loading"
        return "failed" if self._failure else "idle"

    @property
    def failure(self) -> ModelUnavailable | None:
        """What the last load or warm-up failed with, and when it may be tried again; else None."""
        if self._failure is not None:
            self._failure.retry_after = max(0.0, self._retry_at - time.monotonic())
        return self._failure

    def captioner(self, timeout: float = -1) -> Captioner:
        """The captioner, loaded if it is not yet; threads that ask meanwhile wait for the one load,
        for ``timeout`` seconds at most if that is not negative.

        Raises:
            ModelUnavailable: if it cannot be loaded, or not in time. The failure is remembered for
                ``retry_seconds``, so that a broken model is not loaded on every request.
        """
        if self._captioner is not None:
            return self._captioner
        # Two requests may arrive for a model that neither has loaded.
        if not self._lock.acquire(timeout=timeout):
            raise ModelUnavailable(LOADING, LOADING_RETRY_SECONDS)
        try:
            if self._captioner is not None:
                return self._captioner
            left = self._retry_at - time.monotonic()
            if self._failure is not None and left > 0:
                raise ModelUnavailable(self._failure.message, retry_after=left) from self._failure
            self._loading = True
            try:
                self._captioner = self._loaded()
                self._failure = None
            except ModelUnavailable as error:
                self._failure = error
                self._retry_at = time.monotonic() + self.retry_seconds
                error.retry_after = self.retry_seconds
                raise
            finally:
                self._loading = False
                self._start_following()
            return self._captioner
        finally:
            self._lock.release()

    def ready(self) -> bool:
        """Whether a caption can be made: the model is loaded and has made one."""
        return self._proven and self._captioner is not None

    def warm_up(self) -> WarmUp:
        """Load the model if need be and make one real caption, of a picture drawn here.

        Raises:
            ModelUnavailable: if it does not load, or loads and does not caption.
        """
        started = time.perf_counter()
        captioner = self.captioner()
        loaded = time.perf_counter()
        try:
            (caption,) = captioner.caption([_test_picture()], DecodeOptions())
        except Exception as error:
            logger.exception("the model is loaded but makes no caption")
            self._failure = ModelUnavailable(
                f"The model is loaded but makes no caption: {error}", self.retry_seconds
            )
            self._retry_at = time.monotonic() + self.retry_seconds
            raise self._failure from error
        self._proven, self._failure = True, None
        return WarmUp(
            version=caption.model_version,
            load_seconds=loaded - started,
            caption_seconds=time.perf_counter() - loaded,
            caption=caption.text,
        )

    def start_loading(self) -> None:
        """Warm up in the background, unless that is under way, done, or failed a moment ago."""
        with self._loader_lock:
            if self.ready() or (self._loader is not None and self._loader.is_alive()):
                return
            if self._failure is not None and time.monotonic() < self._retry_at:
                return
            self._loader = threading.Thread(
                target=self._warm_up_quietly, name="model-load", daemon=True
            )
            self._loader.start()

    def follow(self) -> bool:
        """Load the version that has become current, beside the old one, and swap between two
        batches: the one under way keeps the captioner that it began with.

        Returns whether it swapped. If the new one cannot be loaded, the old one goes on serving,
        and it is tried again after ``retry_seconds``. Where nothing could be loaded yet, another
        version than the one that failed is tried at once.
        """
        self._tidy_up()
        try:
            version = self.versions.current()
        except Exception as error:  # whatever it is: a follower that ends is missed by nobody
            self._put_off("", error)
            return False
        if version.name == self._unfit and time.monotonic() < self._follow_at:
            return False
        serving = self._captioner
        if serving is None:
            if self._failure is not None and version.name != self._unfit:
                self._retry_at = 0.0
                self.start_loading()
            return False
        if version.name == serving.model_version:
            return False
        try:
            newer = self.load_version(version)
            newer.caption([_test_picture()], _SHORT)  # it takes time from the captions under way
        except Exception as error:
            self._put_off(version.name, error)
            return False
        self.load_count += 1
        with self._lock:
            self._captioner = newer
            self._proven, self._failure, self._unfit = True, None, ""
        self._old = weakref.ref(serving)
        logger.info("serving %s instead of %s", newer.model_version, serving.model_version)
        return True

    def load_version(self, version: ModelVersion) -> Captioner:
        """A captioner of its own for any version; what is served is not touched.

        Raises:
            ModelUnavailable: if it cannot be loaded.
        """
        try:
            return self._load(version)
        except ModelUnavailable:
            logger.exception("version %s cannot be loaded", version.name)
            raise
        except Exception as error:
            logger.exception("version %s cannot be loaded", version.name)
            raise ModelUnavailable(
                Sentence("The model %(name)s cannot be loaded.", name=version.name),
                self.retry_seconds,
            ) from error

    def close(self, timeout: float = 0.0) -> bool:
        """Stop following, and wait at most ``timeout`` seconds for a load under way; whether
        nothing is loading any more. The model goes with the process."""
        self._closed.set()
        end = time.monotonic() + timeout
        threads = [thread for thread in (self._loader, self._follower) if thread is not None]
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def _loaded(self) -> Captioner:
        self._unfit = ""
        version = self.versions.current()
        self._unfit = version.name
        captioner = self.load_version(version)
        self._unfit = ""
        self.load_count += 1
        _return_memory()  # loading takes more than what is loaded
        return captioner

    def _put_off(self, name: str, error: Exception) -> None:
        """Go on with what there is, and try this version again later."""
        if name == self._unfit and time.monotonic() < self._follow_at:
            return
        self._unfit, self._follow_at = name, time.monotonic() + self.retry_seconds
        known = isinstance(error, CaptionAppError)
        serving = self._captioner.model_version if self._captioner else "nothing"
        logger.error("still serving %s: %s", serving, error, exc_info=not known)

    def _tidy_up(self) -> None:
        """Give the memory of the old model back, once the last batch has let go of it."""
        if self._old is not None and self._old() is None:
            self._old = None
            _return_memory()

    def _warm_up_quietly(self) -> None:
        try:
            warm = self.warm_up()
        except ModelUnavailable as error:
            logger.error("the model is not ready: %s", error)
        else:
            logger.info("%s is ready after %.1f s", warm.version, warm.load_seconds)

    def _start_following(self) -> None:
        if self._follower is None:
            self._follower = threading.Thread(target=self._follow, name="model-follow", daemon=True)
            self._follower.start()

    def _follow(self) -> None:
        while not self._closed.wait(FOLLOW_SECONDS):
            self.follow()


def _return_memory() -> None:
    """Have the C library return what is free: glibc keeps freed weights for later otherwise."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # another C library, which does as it does
        logger.debug("memory is left to the C library")


def _test_picture() -> Image.Image:
    """A house on a meadow: something to say a word about."""
    picture = Image.new("RGB", (224, 224), "#8cf")
    pen = ImageDraw.Draw(picture)
    pen.rectangle((0, 150, 224, 224), fill="#4a4")
    pen.rectangle((70, 100, 150, 180), fill="#c84")
    pen.polygon(((60, 100), (110, 50), (160, 100)), fill="#a33")
    return picture
