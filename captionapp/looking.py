"""Where the model looked: asked of it on demand, kept for a while, and drawn over the picture."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np
from PIL import Image

from captionapp.caption_records import CaptionRecord
from captionapp.captioning.batching import CaptionQueue
from captionapp.captioning.captioner import Captioner, Looks
from captionapp.errors import CaptionFailed
from captionapp.image_store import ImageStore
from captionapp.jobs import CaptionJobs
from captionapp.sentences import Sentence

#: Captions whose looks a process keeps: some ten kilobytes each.
KEPT = 256
#: A word that the model wrote with less than this was one of several it might have written. Of the
#: shipped model's content words it is every fifth; people who described the same photographs used
#: the stem of 22 % of those below and of 39 % of those above (400 photographs of Flickr8k).
UNSURE = 0.15
#: The share of what all words of the caption look at alike that is taken off each of them. Most
#: decoders look at the most striking place all the time; what a word looks at beside that tells.
COMMON = 0.8
#: How much of the picture is left where the model did not look.
_DIM = 0.78
#: Longest side of the drawing, in pixels; the page stretches it over the picture.
_SIDE = 480
#: On pictures darker than this, of 255, the veil is light.
_DARK = 60


class Looking:
    """The looks at the captions of this process, each asked for once, through the queue."""

    def __init__(self, jobs: CaptionJobs, queue: CaptionQueue, store: ImageStore) -> None:
        self._jobs = jobs
        self._queue = queue
        self._store = store
        self._kept: OrderedDict[str, Future[Looks]] = OrderedDict()
        self._lock = threading.Lock()

    def at(self, caption: CaptionRecord) -> Looks:
        """Where the model looked when it wrote this caption; waits as long as an upload may.

        Raises:
            CaptionFailed: if it was not this model that wrote it.
            ModelUnavailable, QueueFull: not now.
        """
        return self._jobs.result(self._future(caption))

    def veil(self, caption: CaptionRecord, word: int) -> bytes:
        """A PNG to lay over the picture, clear where the model looked at this word of the text.

        Raises: as ``at``.
        """
        looks = self.at(caption)
        with Image.open(self._store.thumbnail_path(caption.image_id)) as picture:
            return drawn(looks, word, picture)

    def _future(self, caption: CaptionRecord) -> Future[Looks]:
        self._jobs.have_model()
        with self._lock:
            known = self._kept.get(caption.id)
            if known is not None:
                self._kept.move_to_end(caption.id)
                return known
            with self._queue.reserve(1) as reservation:
                asked = reservation.call(
                    lambda: self._store.load(caption.image_id),
                    lambda captioner, image: _looks(captioner, image, caption),
                )
            self._kept[caption.id] = asked
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        asked.add_done_callback(lambda done: self._forget_failure(caption.id, done))
        return asked

    def _forget_failure(self, caption_id: str, done: Future[Looks]) -> None:
        if done.cancelled() or done.exception() is not None:
            with self._lock:
                self._kept.pop(caption_id, None)


def _looks(captioner: Captioner, image: Image.Image, caption: CaptionRecord) -> Looks:
    if captioner.model_version != caption.model_version:
        raise CaptionFailed(
            Sentence("Another version of the model wrote this. Have the picture described again.")
        )
    return captioner.look(image, caption.text)


def drawn(looks: Looks, word: int, picture: Image.Image) -> bytes:
    """A PNG in the shape of the picture: a veil that is thin where the model looked at this word,
    compared with the other words of the caption. It shows by brightness alone, in any colours."""
    shares = np.array(looks.words)
    own = np.clip(shares[word] - COMMON * shares.mean(0), 0, None)
    if own.max() <= 0:  # it looked where all words look, and nowhere more
        own = shares[word]
    veil = _DIM * (1 - own / own.max())
    fields = Image.fromarray((255 * veil).astype(np.uint8).reshape(looks.rows, looks.columns))
    scale = _SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    is_dark = np.asarray(picture.convert("L").resize((32, 32))).mean() < _DARK
    drawing = Image.new("LA", size, 210 if is_dark else 0)
    drawing.putalpha(fields.resize(size, Image.Resampling.BICUBIC))
    stream = io.BytesIO()
    drawing.save(stream, "PNG")
    return stream.getvalue()


def unsure(probability: float | None) -> bool:
    """Whether a word with this probability is to be marked; None is one that a person gave."""
    return probability is not None and probability < UNSURE


def most_unsure(probabilities: Sequence[float | None]) -> int:
    """The word to begin with."""
    known = [(p, i) for i, p in enumerate(probabilities) if p is not None]
    return min(known)[1] if known else 0
