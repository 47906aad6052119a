"""BLIP through stock transformers. Imports torch, and is itself imported when first needed."""

from __future__ import annotations

import copy
import pickle
import re
import threading
import time
from collections.abc import Sequence
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

from captionapp.captioning.captioner import Caption, DecodeOptions
from captionapp.errors import CaptionFailed, InvalidOptions, ModelUnavailable


class BlipCaptioner:
    """A loaded BLIP checkpoint. Safe to call from many threads; one of them generates at a time."""

    def __init__(self, model: Any, processor: Any, model_version: str) -> None:
        self.model = model
        self.processor = processor
        self._text_config: Any = model.config.text_config
        self.model_version = model_version
        # Fast tokenizers under threads say "Already borrowed" (transformers#47085), and two
        # generations at once on the same cores are slower than one after the other.
        self._lock = threading.Lock()

    @classmethod
    def load(cls, folder: str | Path, model_version: str, threads: int = 0) -> BlipCaptioner:
        """Load a complete stock checkpoint, in float32, without asking any network.

        ``threads`` is what torch may use in this process; 0 leaves its own choice.

        Raises:
            ModelUnavailable: if the folder holds no complete BLIP captioning checkpoint.
        """
        if threads:
            torch.set_num_threads(threads)
        # What is wrong with a checkpoint is said by the errors below, not by tables on stderr.
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        try:
            config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
            _must_caption(config, model_version)
            processor = AutoProcessor.from_pretrained(
                str(folder), backend="pil", local_files_only=True
            )
            loaded: Any = BlipForConditionalGeneration.from_pretrained(
                str(folder),
                local_files_only=True,
                dtype=torch.float32,
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
        return cls(model.eval(), processor, model_version)

    def caption(self, images: Sequence[Image.Image], options: DecodeOptions) -> list[Caption]:
        """One caption for each RGB picture, in order.

        Raises:
            InvalidOptions: if the prompt leaves no room for a caption in this model, or has
                characters that it does not know.
            CaptionFailed: if the model had no word for a picture, the prompt not counted.
        """
        if not images:
            return []
        with self._lock, torch.inference_mode():
            started = time.perf_counter()
            prefix = self._prefix(options.prompt)
            states = self._encode(images)
            sequences = self._generate(states, prefix, options)
            probabilities = self._probabilities(sequences, states, len(prefix))
            texts = self._texts(sequences)
            own_words = self._texts(sequences[:, len(prefix) :])
            seconds = time.perf_counter() - started
        captions = []
        for text, own, probability in zip(texts, own_words, probabilities, strict=True):
            if not own:
                raise CaptionFailed("The model found no words for this picture.")
            captions.append(Caption(text, probability, self.model_version, options, seconds))
        return captions

    def _texts(self, sequences: torch.Tensor) -> list[str]:
        return [_tidy(x) for x in self.processor.batch_decode(sequences, skip_special_tokens=True)]

    def _prefix(self, prompt: str) -> list[int]:
        """[DEC] and the prompt's tokens. ``BlipForConditionalGeneration.generate`` would need a
        [SEP] behind them to drop, and drops a word of the prompt where there is none."""
        tokens = self._tokens(prompt) if prompt else []
        if self.processor.tokenizer.unk_token_id in tokens:  # it would be lost from the caption
            raise InvalidOptions(
                "prompt", "The beginning has characters that this model does not know."
            )
        return [self._text_config.bos_token_id, *tokens]

    def _tokens(self, text: str) -> list[int]:
        """A person who writes "[SEP]" means the letters, and not the end of the caption."""
        tokenizer = self.processor.tokenizer
        return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids)

    def _encode(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """(n pictures) to the encoder's states (n, patches + 1, width)."""
        pixels = self.processor.image_processor(images=list(images), return_tensors="pt")
        states: torch.Tensor = self.model.vision_model(pixel_values=pixels.pixel_values)[0]
        return states

    def _generate(
        self, states: torch.Tensor, prefix: list[int], options: DecodeOptions
    ) -> torch.Tensor:
        """Token ids (n, length): the prefix, the caption, [SEP], and padding after it."""
        sequences: torch.Tensor = self.model.text_decoder.generate(
            input_ids=torch.tensor([prefix] * len(states)),
            attention_mask=torch.ones(len(states), len(prefix), dtype=torch.long),
            encoder_hidden_states=states,
            encoder_attention_mask=torch.ones(states.shape[:-1], dtype=torch.long),
            generation_config=self._generation_config(len(prefix), options),
        )
        return sequences

    def _generation_config(self, prefix_length: int, options: DecodeOptions) -> GenerationConfig:
        """The checkpoint's own configuration, with our options over it."""
        text = self._text_config
        room = text.max_position_embeddings - prefix_length
        if room < 1:
            raise InvalidOptions("prompt", "The beginning is too long for this model.")
        config: GenerationConfig = copy.deepcopy(self.model.generation_config)
        config.update(
            do_sample=False,
            num_beams=options.num_beams,
            num_beam_groups=None,
            num_return_sequences=1,
            return_dict_in_generate=False,
            min_length=None,
            min_new_tokens=None,
            max_length=None,
            max_new_tokens=min(options.max_new_tokens, room),
            length_penalty=options.length_penalty,
            repetition_penalty=options.repetition_penalty,
            no_repeat_ngram_size=options.no_repeat_ngram_size,
            early_stopping=options.num_beams > 1,
            bad_words_ids=[*(config.bad_words_ids or []), *self._bad_words(options)] or None,
            bos_token_id=text.bos_token_id,
            eos_token_id=text.sep_token_id,
            pad_token_id=text.pad_token_id,
        )
        return config

    def _bad_words(self, options: DecodeOptions) -> list[list[int]]:
        unknown = self.processor.tokenizer.unk_token_id
        words = [self._tokens(word) for word in options.bad_words]
        return [tokens for tokens in words if tokens and unknown not in tokens]

    def _probabilities(
        self, sequences: torch.Tensor, states: torch.Tensor, prefix_length: int
    ) -> list[float]:
        """exp(mean log p) of each caption's tokens, [SEP] included, the prefix not.

        Computed in one teacher-forced pass, since the scores of a beam search are those after
        penalties and forbidden words, and not the model's.
        """
        logits = self.model.text_decoder(
            input_ids=sequences[:, :-1],
            attention_mask=torch.ones_like(sequences[:, :-1]),
            encoder_hidden_states=states,
            encoder_attention_mask=torch.ones(states.shape[:-1], dtype=torch.long),
        ).logits[:, prefix_length - 1 :]
        chosen = sequences[:, prefix_length:]
        log_p = logits.log_softmax(-1).gather(-1, chosen[..., None])[..., 0]
        ended = (chosen == self._text_config.sep_token_id).cumsum(1)
        # Everything up to the first [SEP], and that one: there the count has just become one.
        own = (ended == 0) | ((ended == 1) & (chosen == self._text_config.sep_token_id))
        mean = (log_p * own).sum(1) / own.sum(1)
        probabilities: list[float] = mean.exp().tolist()
        return probabilities


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
