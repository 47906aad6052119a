"""Proof: a candidate and the current version caption the same pictures -> ``Report``."""

from __future__ import annotations

import hashlib
import json
import logging
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from captionapp.captioning.captioner import Captioner
from captionapp.captioning.pointer import now
from captionapp.captioning.versions import ModelVersion
from captionapp.errors import CaptionFailed, InvalidDataset, TooFewRows
from captionapp.settings import Settings
from captionapp.training import compare
from captionapp.training.caption_cache import CaptionCache, options_key
from captionapp.training.compare import Judged, PictureResult, Report, Retained
from captionapp.training.dataset import Example, normalise_caption, read_imagefolder
from captionapp.training.evaluate import (
    Figures,
    cider_of_each,
    normalise_text,
    open_picture,
    score_texts,
)
from captionapp.votes import Tally

if TYPE_CHECKING:
    from PIL import Image

    from captionapp.training.dataset import FeedbackDataset

logger = logging.getLogger(__name__)

#: Told of captions as they are made: by which version, how many so far, and of how many.
OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Picture:
    """A picture to judge by. ``key`` names its content, ``group`` it and its near-duplicates; the
    rest is as in ``compare.Judged``."""

    image_id: str
    key: str
    path: Path
    references: tuple[str, ...]
    verdict: str = ""
    contrast: float = 127.5
    group: str = ""


@dataclass(frozen=True)
class PictureSet:
    """Pictures with what people say of them, and a fingerprint of both; ``skipped`` are unreadable.

    ``source`` says in a few words where they are from.
    """

    source: str
    pictures: tuple[Picture, ...]
    fingerprint: str
    skipped: tuple[str, ...] = ()


def no_progress(version: str, done: int, total: int) -> None:
    """Tells nobody."""


class Prover:
    """Captions of versions, each made once, and what follows from comparing them.

    ``load`` makes a version's captioner, ``dataset`` gives the answers of people, ``tally`` the
    votes between two versions, ``unseen`` those of examples that no training has seen.
    """

    def __init__(
        self,
        settings: Settings,
        load: Callable[[ModelVersion], Captioner],
        cache: CaptionCache,
        dataset: Callable[[], FeedbackDataset],
        tally: Callable[[str, str], Tally],
        unseen: Callable[[Sequence[Example]], Sequence[Example]] = list,
    ) -> None:
        self.settings = settings
        self.cache = cache
        self._load = load
        self._dataset = dataset
        self._tally = tally
        self.unseen = unseen

    def held_out(self) -> PictureSet:
        """The pictures with an answer that no version was or will be trained on.

        Raises:
            TooFewRows: if there are none.
            FeedbackStoreError: if feedback.csv cannot be read.
        """
        dataset = self._dataset()
        pictures = [
            Picture(
                image_id=one.image_id,
                key=one.image_id,
                path=one.path,
                references=(one.caption,),
                verdict=one.verdict.value,
                group=one.group,
            )
            for one in dataset.held_out
        ]
        if not pictures:
            raise TooFewRows(
                f"There are no held-out answers to judge a version by: {self.settings.min_held_out}"
                " held-out corrections are needed, and about "
                f"{self.settings.held_out_share:.0%} of the answered pictures are held out."
            )
        return self._readable("held-out answers", pictures, dataset.fingerprint)

    def folder(self, folder: Path, examples: Sequence[Example] | None = None) -> PictureSet:
        """The pictures of an imagefolder, or these of its examples. Those that are missing or
        cannot be read are named and left out.

        Raises:
            InvalidDataset: if it is none, or has no picture that can be read.
        """
        chosen = read_imagefolder(folder, must_exist=False) if examples is None else examples
        pictures = [
            Picture(
                image_id=example.path.relative_to(folder).as_posix(),
                key=_content(example.path),
                path=example.path,
                references=tuple(map(normalise_caption, example.captions)),
            )
            for example in chosen
        ]
        if not pictures:
            raise InvalidDataset(f"{folder} has no pictures to judge by.")
        content = json.dumps(sorted((one.key, one.references) for one in pictures))
        fingerprint = hashlib.sha256(content.encode()).hexdigest()
        return self._readable(str(folder), pictures, fingerprint)

    def figures(
        self, version: ModelVersion, given: PictureSet, on_progress: OnProgress = no_progress
    ) -> Figures:
        """How good the captions of one version are.

        Raises:
            ModelUnavailable: if captions have to be made and the version does not load.
        """
        texts = self.captions(version, given.pictures, on_progress)
        return score_texts(texts, [picture.references for picture in given.pictures])[0]

    def report(
        self,
        candidate: ModelVersion,
        current: ModelVersion,
        given: PictureSet,
        retained: PictureSet | None = None,
        on_progress: OnProgress = no_progress,
    ) -> Report:
        """Compare two versions. Document frequencies for CIDEr come from all the pictures, the
        retained ones too: a word that all corrections share would be worth nothing among them.

        Raises:
            ModelUnavailable: if captions have to be made and a version does not load.
        """
        own, more = given.pictures, retained.pictures if retained else ()
        everything = (*own, *more)
        references = [picture.references for picture in everything]
        before = self.captions(current, everything, on_progress)
        after = self.captions(candidate, everything, on_progress)
        before_each = cider_of_each(before, references)
        after_each = cider_of_each(after, references)

        def figures(texts: Sequence[str], each: Sequence[float], part: slice) -> Figures:
            return score_texts(texts[part], references[part], each[part])[0]

        first, rest = slice(0, len(own)), slice(len(own), None)
        judged = [_judged(*one) for one in zip(own, before, after, strict=False)]
        rows = compare.results(judged, before_each[first], after_each[first])
        differences = _differences(rows, own)
        enough = len(differences) >= self.settings.min_held_out
        probability = compare.probability_better(differences) if enough else None
        return Report(
            candidate=candidate.name,
            current=current.name,
            source=given.source,
            pictures=len(own),
            compared=len(differences),
            candidate_figures=figures(after, after_each, first),
            current_figures=figures(before, before_each, first),
            distinct_references=len({normalise_text(one.references[0]) for one in own}) / len(own),
            probability_better=probability,
            verdict=compare.judgement(probability, self.settings.promote_probability),
            slices=compare.slices(rows),
            results=rows,
            retained=Retained(
                source=retained.source,
                pictures=len(more),
                current_figures=figures(before, before_each, rest),
                candidate_figures=figures(after, after_each, rest),
            )
            if retained
            else None,
            votes=self._tally(candidate.name, current.name),
            data_fingerprint=given.fingerprint,
            created_at=now(),
            options=json.loads(self.settings.decode_options().key()),
            skipped=(*given.skipped, *(retained.skipped if retained else ())),
        )

    def captions(
        self,
        version: ModelVersion,
        pictures: Sequence[Picture],
        on_progress: OnProgress = no_progress,
    ) -> list[str]:
        """What a version says of pictures, in order; empty where it finds no words.

        The model is loaded only if a caption is not known yet.

        Raises:
            ModelUnavailable: if it does not load.
        """
        key = self.options_key()
        known = self.cache.captions(version.name, [one.key for one in pictures], key)
        missing = list({one.key: one for one in pictures if one.key not in known}.values())
        if missing:
            captioner = self._load(version)
            size = self.settings.batch_size
            for start in range(0, len(missing), size):
                part = missing[start : start + size]
                texts = self._say(captioner, [open_picture(one.path) for one in part])
                made = {one.key: text for one, text in zip(part, texts, strict=True)}
                self.cache.add_captions(version.name, made, key)
                known |= made
                on_progress(version.name, start + len(part), len(missing))
        return [known[one.key] for one in pictures]

    def options_key(self) -> str:
        """What captions depend on beside version and picture, as the cache knows it."""
        return options_key(self.settings.decode_options(), self.settings.precision)

    def _say(self, captioner: Captioner, images: Sequence[Image.Image]) -> list[str]:
        try:
            made = captioner.caption(images, self.settings.decode_options())
            return [caption.text for caption in made]
        except CaptionFailed:
            if len(images) == 1:
                return [""]
            return [text for image in images for text in self._say(captioner, [image])]

    def _readable(self, source: str, pictures: Sequence[Picture], fingerprint: str) -> PictureSet:
        """The pictures with their contrast; those that cannot be read are named and left out."""
        known = self.cache.contrasts([one.key for one in pictures])
        measured: dict[str, float] = {}
        skipped = []
        for one in pictures:
            if one.key in known or one.key in measured:
                continue
            try:
                measured[one.key] = contrast(open_picture(one.path))
            except InvalidDataset as error:
                logger.warning("left out: %s", error)
                skipped.append(one.image_id)
        if measured:
            self.cache.add_contrasts(measured)
        known |= measured
        chosen = [
            Picture(**{**vars(one), "contrast": known[one.key]})
            for one in pictures
            if one.key in known
        ]
        if not chosen:
            raise InvalidDataset(f"None of the pictures of {source} can be read.")
        return PictureSet(source, tuple(chosen), fingerprint, tuple(skipped))


def _differences(rows: Sequence[PictureResult], pictures: Sequence[Picture]) -> list[float]:
    """What the candidate gains on each picture that counts. Near-duplicates, which are no evidence
    of their own, count as one."""
    together: dict[str, list[float]] = {}
    for row, picture in zip(rows, pictures, strict=True):
        if picture.verdict != "accepted":
            gain = row.candidate_score - row.current_score
            together.setdefault(picture.group or picture.image_id, []).append(gain)
    return [statistics.fmean(gains) for gains in together.values()]


def contrast(image: Image.Image) -> float:
    """Standard deviation of the grey values, 0 (blank) to 127.5."""
    from PIL import ImageStat

    return float(ImageStat.Stat(image.convert("L")).stddev[0])


def _judged(picture: Picture, before: str, after: str) -> Judged:
    return Judged(
        image_id=picture.image_id,
        references=picture.references,
        current=before,
        candidate=after,
        verdict=picture.verdict,
        contrast=picture.contrast,
    )


def _content(path: Path) -> str:
    """Name of a file's content; if it cannot be read, which is said when it is opened, its path."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:32]
    except OSError:
        return str(path)
