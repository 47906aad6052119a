"""The search for a caption: greedy and beams, token for token what ``generate()`` finds.

The rules (how candidates are ranked, when a beam is finished, when a picture is) are those of
``GenerationMixin._sample`` and ``._beam_search`` in transformers 5, and the penalties and forbidden
words are its own classes, all but one. What differs is the cost: beams share the keys and values
of their picture, a finished picture leaves the batch, and the model's plain log-probabilities are
added up on the way, so that no second pass is needed for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
)

#: What takes a candidate out of a ranking without making it infinite, as in transformers.
_OUT = -1.0e9
#: Said wherever a tensor is made: the default is the process's, and transformers changes it in the
#: thread that loads the next version.
_LOG_P = torch.float32


class Decoding(Protocol):
    """Captions being written: a row for each beam of each picture, a picture's beams together."""

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Append tokens (rows, t) to the rows; the logits (rows, vocabulary), float32, of what
        comes after the last of them."""

    def select(self, rows: torch.Tensor, pictures: torch.Tensor) -> None:
        """Go on with these rows, in this order, some perhaps several times; they belong to these
        pictures of those there are now, equally many rows to each."""


@dataclass(frozen=True)
class Decoded:
    """The tokens of a caption, without the prefix, with [SEP] if it came to an end.

    ``log_probabilities`` are the tokens' under the plain model.
    """

    tokens: tuple[int, ...]
    log_probabilities: tuple[float, ...]

    @property
    def log_probability(self) -> float:
        """Of the whole caption."""
        return sum(self.log_probabilities)


def search(
    decoding: Decoding, prefix: Sequence[int], pictures: int, config: GenerationConfig
) -> list[Decoded]:
    """``num_return_sequences`` captions, the best first, for each picture that ``decoding`` was
    begun with, in order.

    ``config`` is read as ``generate()`` reads it: ``num_beams``, ``num_return_sequences``,
    ``max_new_tokens``, ``length_penalty``, ``early_stopping``, and what ``_processors`` lists.
    """
    processors = _processors(config, len(prefix))
    given = torch.tensor(prefix).expand(pictures, -1)
    if config.num_beams > 1:
        return _beams(decoding, given, config, processors)
    return _greedy(decoding, given, config, processors)


def _processors(config: GenerationConfig, prefix_length: int) -> list[LogitsProcessor]:
    """What changes the scores of a step, in the order in which ``generate()`` does it."""
    found: list[LogitsProcessor] = []
    if config.sequence_bias:
        found.append(SequenceBiasLogitsProcessor(config.sequence_bias))
    if config.repetition_penalty and config.repetition_penalty != 1:
        found.append(RepetitionPenaltyLogitsProcessor(config.repetition_penalty))
    if config.no_repeat_ngram_size:
        found.append(NoRepeatNGramLogitsProcessor(config.no_repeat_ngram_size))
    if config.bad_words_ids:
        found.append(NoBadWordsLogitsProcessor(config.bad_words_ids, config.eos_token_id))
    if config.min_new_tokens:
        end = config.eos_token_id
        found.append(MinNewTokensLengthLogitsProcessor(prefix_length, config.min_new_tokens, end))
    if config.suppress_tokens:
        found.append(_Suppressed(config.suppress_tokens))
    if config.begin_suppress_tokens:
        found.append(
            SuppressTokensAtBeginLogitsProcessor(config.begin_suppress_tokens, prefix_length)
        )
    return found


def _changed(
    processors: Sequence[LogitsProcessor], rows: torch.Tensor, scores: torch.Tensor
) -> torch.Tensor:
    """As ``LogitsProcessorList``, which looks up the parameters of each processor in every step:
    0.1 ms of 3 for a single row."""
    for process in processors:
        scores = process(rows, scores)
    return scores


class _Suppressed(LogitsProcessor):
    """``SuppressTokensLogitsProcessor``, which goes through the whole vocabulary in every step: for
    the shipped checkpoint 0.5 ms of a step of 8."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = torch.tensor(tokens)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores.index_fill(-1, self._tokens, -torch.inf)


def _greedy(
    decoding: Decoding,
    rows: torch.Tensor,
    config: GenerationConfig,
    processors: list[LogitsProcessor],
) -> list[Decoded]:
    prefix_length = rows.shape[1]
    numbers = torch.arange(len(rows))
    found: dict[int, Decoded] = {}
    log_p = torch.zeros(len(rows), 0, dtype=_LOG_P)
    logits = decoding.step(rows)
    while True:
        chosen = _changed(processors, rows, logits).argmax(-1, keepdim=True)
        log_p = torch.cat([log_p, _log_p(logits, chosen)], 1)
        rows = torch.cat([rows, chosen], 1)
        done = chosen[:, 0] == config.eos_token_id
        if rows.shape[1] - prefix_length == config.max_new_tokens:
            done[:] = True
        for i in done.nonzero()[:, 0].tolist():
            found[int(numbers[i])] = Decoded(
                tuple(rows[i, prefix_length:].tolist()), tuple(log_p[i].tolist())
            )
        if done.all():
            return [found[number] for number in sorted(found)]
        if done.any():
            left = (~done).nonzero()[:, 0]
            decoding.select(left, left)
            rows, log_p, numbers = rows[left], log_p[left], numbers[left]
        logits = decoding.step(rows[:, -1:])


def _log_p(logits: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """log p (rows, k) of the chosen tokens (rows, k)."""
    return logits.gather(-1, chosen) - logits.logsumexp(-1, keepdim=True)


@dataclass
class _Beams:
    """Hypotheses (pictures, beams): their tokens with the prefix, the score they are ranked by,
    and the plain model's log p of each token."""

    rows: torch.Tensor
    scores: torch.Tensor
    log_p: torch.Tensor

    def pick(self, which: torch.Tensor) -> _Beams:
        """Of each picture those of these indices (pictures, k)."""
        all_of_it = which[..., None].expand(-1, -1, self.rows.shape[-1])
        return _Beams(
            self.rows.gather(1, all_of_it),
            self.scores.gather(1, which),
            self.log_p.gather(1, all_of_it),
        )

    def of(self, pictures: torch.Tensor) -> _Beams:
        return _Beams(self.rows[pictures], self.scores[pictures], self.log_p[pictures])


def _beams(
    decoding: Decoding,
    given: torch.Tensor,
    config: GenerationConfig,
    processors: list[LogitsProcessor],
) -> list[Decoded]:
    pictures, prefix_length = given.shape
    beams = config.num_beams
    length = prefix_length + config.max_new_tokens
    rows = torch.full((pictures, beams, length), config.pad_token_id)
    rows[:, :, :prefix_length] = given[:, None]
    scores = torch.zeros(pictures, beams, dtype=_LOG_P)
    scores[:, 1:] = _OUT  # at first all beams are the same: only the first one counts
    running = _Beams(rows, scores, torch.zeros(rows.shape, dtype=_LOG_P))
    out = torch.full((pictures, beams), _OUT, dtype=_LOG_P)
    finished = _Beams(rows.clone(), out, running.log_p)
    is_finished = torch.zeros(pictures, beams, dtype=torch.bool)
    numbers = torch.arange(pictures)
    found: dict[int, list[Decoded]] = {}

    logits = decoding.step(given).repeat_interleave(beams, 0)
    decoding.select(numbers.repeat_interleave(beams), numbers)
    for now in range(prefix_length, length):
        candidates, origin = _candidates(running, logits, now, processors)
        ended = candidates.rows[:, :, now] == config.eos_token_id
        if now + 1 == length:
            ended[:] = True
        out = ended * _OUT
        kept = (candidates.scores + out).topk(beams)[1]
        running = candidates.pick(kept)
        running.scores = (candidates.scores + out).gather(1, kept)
        finished, is_finished = _finish(
            finished, is_finished, candidates, ended, now + 1 - prefix_length, config
        )
        done = _done(running, finished, is_finished, now + 1 - prefix_length, config)
        if now + 1 == length:
            done[:] = True
        for i in done.nonzero()[:, 0].tolist():
            found[int(numbers[i])] = [
                _hypothesis(finished, i, beam, prefix_length, config.eos_token_id)
                for beam in range(config.num_return_sequences or 1)
            ]
        if done.all():
            break
        left = (~done).nonzero()[:, 0]
        running, finished = running.of(left), finished.of(left)
        is_finished, numbers = is_finished[left], numbers[left]
        sources = (left[:, None] * beams + origin.gather(1, kept)[left]).flatten()
        decoding.select(sources, left)
        logits = decoding.step(running.rows[:, :, now].reshape(-1, 1))
    return [one for number in sorted(found) for one in found[number]]


def _candidates(
    running: _Beams, logits: torch.Tensor, now: int, processors: list[LogitsProcessor]
) -> tuple[_Beams, torch.Tensor]:
    """The 2 x beams best continuations of each picture, and the beam (pictures, 2 x beams) that
    each continues. So many, because at most one of a beam's ends it: enough are left to run on."""
    pictures, beams = running.scores.shape
    vocabulary = logits.shape[-1]
    plain = logits.log_softmax(-1)
    scores = _changed(processors, running.rows[:, :, :now].flatten(0, 1), plain)
    scores = (scores.view(pictures, beams, vocabulary) + running.scores[..., None]).flatten(1)
    best, which = scores.topk(2 * beams)
    origin = which // vocabulary
    found = running.pick(origin)
    found.rows[:, :, now] = which % vocabulary
    found.scores = best
    found.log_p[:, :, now] = plain.view(pictures, -1).gather(1, which)
    return found, origin


def _finish(
    finished: _Beams,
    is_finished: torch.Tensor,
    candidates: _Beams,
    ended: torch.Tensor,
    length: int,
    config: GenerationConfig,
) -> tuple[_Beams, torch.Tensor]:
    """The best finished hypotheses, those among the candidates that have just ended included."""
    beams = finished.scores.shape[1]
    just = ended & (torch.arange(ended.shape[1]) < beams)  # the others are only a reserve
    scores = candidates.scores / length**config.length_penalty
    scores = scores + ~just * _OUT
    merged = _Beams(
        torch.cat([finished.rows, candidates.rows], 1),
        torch.cat([finished.scores, scores], 1),
        torch.cat([finished.log_p, candidates.log_p], 1),
    )
    best = merged.scores.topk(beams)[1]
    return merged.pick(best), torch.cat([is_finished, just], 1).gather(1, best)


def _done(
    running: _Beams,
    finished: _Beams,
    is_finished: torch.Tensor,
    length: int,
    config: GenerationConfig,
) -> torch.Tensor:
    """Which pictures (n) are done: with early stopping when all their beams are finished, without
    when no running one is expected to become better than the worst finished one."""
    if config.early_stopping is True:
        return is_finished.all(1)
    possible = running.scores[:, :1] / length**config.length_penalty
    worst = torch.where(is_finished, finished.scores.min(1, keepdim=True)[0], _OUT)
    hopeless: torch.Tensor = (possible <= worst).all(1)
    return hopeless


def _hypothesis(finished: _Beams, picture: int, beam: int, prefix_length: int, end: int) -> Decoded:
    tokens = finished.rows[picture, beam, prefix_length:].tolist()
    if end in tokens:  # what is behind it is padding
        tokens = tokens[: tokens.index(end) + 1]
    log_p = finished.log_p[picture, beam, prefix_length:][: len(tokens)]
    return Decoded(tuple(tokens), tuple(log_p.tolist()))
