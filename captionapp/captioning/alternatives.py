"""Several texts for one picture that differ in what they say. Standard library only.

Of a beam search's hypotheses the likeliest are often one sentence with another preposition. Those
that are chosen here are likely and unlike each other: maximal marginal relevance (Carbonell and
Goldstein 1998), with the overlap of their content words as the likeness.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log

from captionapp.captioning.captioner import Caption

#: Hypotheses that are chosen from, at least.
BEAMS = 16
#: What a likeness of 1 costs, in nats of the mean log p of a token. With 0 "on the grass" and "in
#: the grass" are two of five; from 2 on a caption half as likely is preferred to a third of them.
LIKENESS_COST = 1.5
#: "jump", "jumps" and "jumping" begin alike.
_STEM = 4
_SAY_LITTLE = frozenset(
    "a an and are as at by for from has have he her his in into is it its near of on onto or out "
    "over she some that the their there they this through to up while with".split()
)


def distinct(captions: Sequence[Caption], count: int) -> list[Caption]:
    """Up to ``count`` of them, no text twice: the first one, then the most probable first.

    ``captions`` are of one picture, the best one first.
    """
    left = list({caption.text: caption for caption in reversed(captions)}.values())[::-1]
    chosen = [left.pop(0)]
    while left and len(chosen) < count:
        best = max(left, key=lambda one: log(one.probability) - _cost(one, chosen))
        left.remove(best)
        chosen.append(best)
    return chosen[:1] + sorted(chosen[1:], key=lambda one: -one.probability)


def _cost(caption: Caption, chosen: Sequence[Caption]) -> float:
    return LIKENESS_COST * max(likeness(caption.text, other.text) for other in chosen)


def likeness(one: str, other: str) -> float:
    """The share of their content words that they have in common: 0 to 1."""
    first, second = _content(one), _content(other)
    return len(first & second) / len(first | second) if first | second else 1.0


def _content(text: str) -> set[str]:
    words = set(text.lower().split()) - _SAY_LITTLE
    return {word.rstrip("s")[:_STEM] for word in words}
