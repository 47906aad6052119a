"""A BLIP checkpoint that captions. Imports torch, and is itself imported when first needed.

Loading, prompts and texts are here; the arithmetic and the search are in ``engine``.
"""

from __future__ import annotations

import copy
import logging
import pickle
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoProcessor,
    BlipForConditionalGeneration,
    GenerationConfig,
)
from transformers.utils import logging as transformers_logging

from captionapp.captioning.alternatives import BEAMS, distinct
from captionapp.captioning.captioner import Caption, DecodeOptions, Looks, Word
from captionapp.captioning.engine import check, precision
from captionapp.captioning.engine.decode import Decoded, search
from captionapp.captioning.engine.look import looks
from captionapp.captioning.engine.torch_backend import TorchBackend
from captionapp.captioning.words import spans, words_of
from captionapp.errors import CaptionFailed, InvalidOptions, ModelUnavailable
from captionapp.sentences import Sentence

logger = logging.getLogger(__name__)

#: A short caption: longer ones count less in a search wide enough to hold some that are short.
#: A limit would cut sentences off, and making [SEP] likelier ends them behind "in a".
_SHORT_BEAMS, _SHORT_PENALTY = 8, -1.0
#: Words that its alternatives may have more.
_SHORT_ROOM = 2
#: Tokens that a caption of some length has at least.
_AT_LEAST = {"short": 4, "medium": 12}


@dataclass(frozen=True)
class EngineOptions:
    """How a checkpoint is computed.

    ``threads`` is what torch may use in this process; 0 leaves its own choice. ``precision`` is one
    of ``engine.precision``, or ``auto``: what the processor is fastest at. Anything but fp32 serves
    only after a self-check, whose verdict is kept in ``folder``, as is what was measured of the
    processor; without a folder both are made anew.
    """

    threads: int = 0
    precision: str = "fp32"
    folder: Path | None = None


class BlipCaptioner:
    """A loaded BLIP checkpoint. Safe to call from many threads; one of them generates at a time.

    ``engine`` says how it computes, "torch bf16" for one.
    """

    def __init__(
        self, backend: TorchBackend, model: Any, processor: Any, model_version: str, engine: str
    ) -> None:
        self.processor = processor
        self.model_version = model_version
        self.engine = engine
        self._backend = backend
        self._text_config: Any = model.config.text_config
        self._own_config: GenerationConfig = model.generation_config
        # Fast tokenizers under threads say "Already borrowed" (transformers#47085), and two
        # generations at once on the same cores are slower than one after the other.
        self._lock = threading.Lock()

    @classmethod
    def load(
        cls, folder: str | Path, model_version: str, options: EngineOptions | None = None
    ) -> BlipCaptioner:
        """Load a complete stock checkpoint without asking any network, by default for float32.

        Raises:
            ModelUnavailable: if the folder holds no complete BLIP captioning checkpoint.
        """
        options = options or EngineOptions()
        if options.threads:
            torch.set_num_threads(options.threads)
        model, processor = _stock(folder, model_version)
        form = _format(model, processor, Path(folder), model_version, options)
        backend = TorchBackend(model, form)
        return cls(backend, model, processor, model_version, f"torch {form.name}")

    def prepare(self, image: Image.Image) -> Image.Image:
        """The RGB picture in the size in which the model sees it; other sizes cost time later."""
        processor = self.processor.image_processor
        height, width = processor.size.get("height"), processor.size.get("width")
        if not processor.do_resize or not height or not width:
            return image
        return image.resize((width, height), processor.resample)

    def caption(self, images: Sequence[Image.Image], options: DecodeOptions) -> list[Caption]:
        """One caption for each RGB picture, in order.

        Raises:
            InvalidOptions: if the prompt leaves no room for a caption in this model, or has
                characters that it does not know.
            CaptionFailed: if the model had no word for a picture, the prompt not counted.
        """
        if not images:
            return []
        started = time.perf_counter()
        pixels = _pixels(self.processor, images)
        with self._lock, torch.inference_mode():
            prefix = self._prefix(options.prompt)
            config = self._generation_config(len(prefix), options)
            decoding = self._backend.begin(self._backend.encode(pixels))
            decoded = search(decoding, prefix, len(images), config)
            texts = self._texts([[*prefix, *one.tokens] for one in decoded])
            own_words = self._texts([list(one.tokens) for one in decoded])
            words = [
                self._words(text, prefix, one) for text, one in zip(texts, decoded, strict=True)
            ]
        seconds = time.perf_counter() - started
        made = [
            Caption(text, _probability(one), self.model_version, options, seconds, known)
            for text, one, known in zip(texts, decoded, words, strict=True)
        ]
        each = len(made) // len(images)  # hypotheses of a picture, one after the other
        return [
            _chosen(made[i : i + each], own_words[i : i + each], options)
            for i in range(0, len(made), each)
        ]

    def look(self, image: Image.Image, text: str) -> Looks:
        """Where in the RGB picture the model looks when it writes this caption, by one pass.

        Raises:
            CaptionFailed: if they are not words of this model.
        """
        pixels = _pixels(self.processor, [image])
        with self._lock, torch.inference_mode():
            tokens = self._tokens(text)
            pieces = self.processor.tokenizer.convert_ids_to_tokens(tokens)
            found = spans(text.lower(), pieces)
            if not found or len(tokens) > self._text_config.max_position_embeddings:
                raise CaptionFailed(Sentence("The model in use now would not write these words."))
            given = [self._text_config.bos_token_id, *tokens[:-1]]
            return looks(self._backend, pixels, given, found)

    def _words(self, text: str, prefix: list[int], decoded: Decoded) -> tuple[Word, ...]:
        tokenizer = self.processor.tokenizer
        tokens = [*prefix[1:], *decoded.tokens]
        log_p = [*[None] * len(prefix[1:]), *decoded.log_probabilities]
        kept = [i for i, token in enumerate(tokens) if token not in tokenizer.all_special_ids]
        pieces = tokenizer.convert_ids_to_tokens([tokens[i] for i in kept])
        return words_of(text, pieces, [log_p[i] for i in kept])

    def _texts(self, sequences: list[list[int]]) -> list[str]:
        return [_tidy(x) for x in self.processor.batch_decode(sequences, skip_special_tokens=True)]

    def _prefix(self, prompt: str) -> list[int]:
        """[DEC] and the prompt's tokens. ``BlipForConditionalGeneration.generate`` would need a
        [SEP] behind them to drop, and drops a word of the prompt where there is none."""
        tokens = self._tokens(prompt) if prompt else []
        if self.processor.tokenizer.unk_token_id in tokens:  # it would be lost from the caption
            raise InvalidOptions(
                "prompt",
                Sentence("The beginning has characters that this model does not know."),
            )
        return [self._text_config.bos_token_id, *tokens]

    def _tokens(self, text: str) -> list[int]:
        """A person who writes "[SEP]" means the letters, and not the end of the caption."""
        tokenizer = self.processor.tokenizer
        return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids)

    def _generation_config(self, prefix_length: int, options: DecodeOptions) -> GenerationConfig:
        """The checkpoint's own configuration, with our options over it."""
        text = self._text_config
        room = text.max_position_embeddings - prefix_length
        if room < 1:
            raise InvalidOptions("prompt", Sentence("The beginning is too long for this model."))
        config: GenerationConfig = copy.deepcopy(self._own_config)
        several = options.alternatives > 1
        beams = max(options.num_beams, BEAMS) if several else options.num_beams
        config.update(
            do_sample=False,
            num_beams=beams,
            num_beam_groups=None,
            num_return_sequences=beams if several else 1,
            return_dict_in_generate=False,
            min_length=None,
            min_new_tokens=None,
            max_length=None,
            max_new_tokens=min(options.max_new_tokens, room),
            length_penalty=options.length_penalty,
            repetition_penalty=options.repetition_penalty,
            no_repeat_ngram_size=options.no_repeat_ngram_size,
            early_stopping=beams > 1,
            bad_words_ids=[*(config.bad_words_ids or []), *self._bad_words(options)] or None,
            bos_token_id=text.bos_token_id,
            eos_token_id=text.sep_token_id,
            pad_token_id=text.pad_token_id,
        )
        if options.length == "short":
            shorter = max(_SHORT_BEAMS, config.num_beams)
            config.update(num_beams=shorter, length_penalty=_SHORT_PENALTY, early_stopping=True)
        if options.length:
            config.update(min_new_tokens=min(_AT_LEAST[options.length], config.max_new_tokens))
        return config

    def _bad_words(self, options: DecodeOptions) -> list[list[int]]:
        unknown = self.processor.tokenizer.unk_token_id
        words = [self._tokens(word) for word in options.forbidden]
        return [tokens for tokens in words if tokens and unknown not in tokens]


@dataclass(frozen=True)
class LoadAs:
    """Loads a checkpoint in a number format, in this process or, pickled, in another."""

    folder: Path
    model_version: str
    engine_folder: Path

    def __call__(self, precision: str, threads: int) -> BlipCaptioner | None:
        """None if the format may not serve, or torch does not have it."""
        options = EngineOptions(threads, precision, self.engine_folder)
        captioner = BlipCaptioner.load(self.folder, self.model_version, options)
        return captioner if captioner.engine == f"torch {precision}" else None


def _stock(folder: str | Path, model_version: str) -> tuple[Any, Any]:
    """The model as stock transformers loads it, in evaluation mode and in the number format of its
    file, and its processor.

    Raises:
        ModelUnavailable: see ``BlipCaptioner.load``.
    """
    # What is wrong with a checkpoint is said by the errors below, not by tables on stderr.
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
        _must_caption(config, model_version)
        processor = AutoProcessor.from_pretrained(str(folder), backend="pil", local_files_only=True)
        loaded: Any = BlipForConditionalGeneration.from_pretrained(
            str(folder),
            local_files_only=True,
            dtype="auto",
            ignore_mismatched_sizes=True,  # they are in the report, and refused below
            output_loading_info=True,
        )
    except ModelUnavailable:
        raise
    except pickle.UnpicklingError as error:  # its message tells how to run it all the same
        raise ModelUnavailable(
            f"The checkpoint {model_version} cannot be loaded: pytorch_model.bin is damaged or "
            "holds more than weights."
        ) from error
    except Exception as error:  # of a broken file almost anything can be raised
        raise ModelUnavailable(
            f"The checkpoint {model_version} cannot be loaded: {_first_line(error)}"
        ) from error
    model, report = loaded
    # transformers fills what a file lacks with random numbers, and captions at random.
    mismatched = {name for name, *_ in report["mismatched_keys"]}
    lacking = sorted({*report["missing_keys"], *mismatched})
    if lacking:
        raise ModelUnavailable(
            f"The checkpoint {model_version} is not a whole BLIP captioning model: "
            f"{len(lacking)} of its weights are missing or of another size, "
            f"{lacking[0]} for one."
        )
    # Without its files a tokenizer is made all the same, and knows no words.
    if len(processor.tokenizer) < model.config.text_config.vocab_size // 2:
        raise ModelUnavailable(
            f"The checkpoint {model_version} has no tokenizer that knows its words: "
            "tokenizer.json or vocab.txt is missing."
        )
    return model.eval(), processor


def _format(
    model: Any, processor: Any, folder: Path, model_version: str, options: EngineOptions
) -> precision.Format:
    """The first of the formats that are wanted in which the model says what it says in fp32."""
    wanted = [options.precision]
    if options.precision == "auto":
        wanted = precision.fastest(options.folder)
    for form in (precision.named(name, options.folder) for name in wanted):
        if form == precision.FP32:
            break
        if not precision.is_there(form):
            logger.warning("this build of torch does not compute in %s", form.name)
            continue
        verdict = check.verdict(
            options.folder,
            check.key(folder, model_version, f"torch {form}"),
            lambda form=form: _compared(model, processor, form),  # type: ignore[misc]
        )
        if verdict.passed:
            return form
        logger.warning("%s is not computed in %s: %s", model_version, form.name, verdict)
    return precision.FP32


def _compared(model: Any, processor: Any, form: precision.Format) -> check.Verdict:
    backend = TorchBackend(model, form)
    pixels = _pixels(processor, check.pictures())
    return check.compare(model.float(), pixels, lambda x: backend.begin(backend.encode(x)))


def _pixels(processor: Any, images: Sequence[Image.Image]) -> torch.Tensor:
    """(n, 3, height, width), resized and normalised as the checkpoint wants it."""
    pixels: torch.Tensor = processor.image_processor(
        images=list(images), return_tensors="pt"
    ).pixel_values
    return pixels


def _probability(decoded: Decoded) -> float:
    """exp(mean log p) of the caption's own tokens, [SEP] included, the prefix not."""
    return exp(decoded.log_probability / len(decoded.tokens))


def _chosen(hypotheses: list[Caption], own_words: list[str], options: DecodeOptions) -> Caption:
    """The best caption of a picture, with the others that were asked for, as far as there are any.

    Raises:
        CaptionFailed: if the model had no word for it.
    """
    with_words = [one for one, own in zip(hypotheses, own_words, strict=True) if own]
    if not with_words:
        raise CaptionFailed(Sentence("The model found no words for this picture."))
    if options.length == "short":
        longest = len(with_words[0].text.split()) + _SHORT_ROOM
        with_words = [one for one in with_words if len(one.text.split()) <= longest]
    first, *others = distinct(with_words, options.alternatives)
    return replace(first, others=tuple(others))


def _must_caption(config: Any, model_version: str) -> None:
    """BLIP's models for questions or retrieval have the same parts, and would write nonsense."""
    architectures = config.architectures or [BlipForConditionalGeneration.__name__]
    if config.model_type != "blip" or BlipForConditionalGeneration.__name__ not in architectures:
        raise ModelUnavailable(
            f"The checkpoint {model_version} is not a BLIP captioning model, but "
            f"{', '.join(architectures)} of type {config.model_type}."
        )


def _tidy(text: str) -> str:
    """One line, without the blanks that BERT's tokenizer leaves in "man ' s" and "t - shirt"."""
    text = re.sub(r"(?<=\w) ' (?=(?:s|t|d|m|re|ve|ll)\b)", "'", " ".join(text.split()))
    return re.sub(r"(?<=\w) - (?=\w)", "-", text)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
