"""CIDEr-D (Vedantam et al. 2015, equations 4 to 6) over token numbers, fast enough for a reward.

Same figures as `pycocoevalcap.cider` on the same tokens, with document frequencies and reference
vectors computed once. Captions should contain their end token: a caption that breaks off then
loses the n-grams that end it, the known disease of self-critical training without it.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

ORDER = 4  # longest n-gram
SIGMA = 6.0  # tokens, of the Gaussian penalty on the difference of lengths

Gram = tuple[int, ...]


def ngrams(tokens: Sequence[int]) -> Counter[Gram]:
    """How often each n-gram of one to four tokens occurs."""
    counts: Counter[Gram] = Counter()
    for n in range(1, ORDER + 1):
        counts.update(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
    return counts


class CiderD:
    """Reward of captions for pictures whose references are given at construction."""

    def __init__(self, references: Sequence[Sequence[Sequence[int]]]) -> None:
        frequency: Counter[Gram] = Counter()
        counted = [[ngrams(tokens) for tokens in group] for group in references]
        for group in counted:
            frequency.update(set().union(*group))
        documents = math.log(len(references))
        # A gram that no reference has counts as one that a single picture has.
        self._weight: dict[Gram, float] = defaultdict(lambda: documents)
        self._weight |= {gram: documents - math.log(df) for gram, df in frequency.items()}
        self._references = [
            [self._vector(counts, len(tokens)) for counts, tokens in zip(group, texts, strict=True)]
            for group, texts in zip(counted, references, strict=True)
        ]

    def _vector(
        self, counts: Counter[Gram], length: int
    ) -> tuple[dict[Gram, float], list[float], int]:
        """Weights of the n-grams, the norm for each n, and the length in tokens."""
        weight = self._weight
        vector = {
            gram: n * weight.get(gram, weight.default_factory())  # type: ignore[attr-defined]
            for gram, n in counts.items()
        }
        squares = [0.0] * ORDER
        for gram, value in vector.items():
            squares[len(gram) - 1] += value * value
        return vector, [math.sqrt(s) for s in squares], length

    def score(self, picture: int, tokens: Sequence[int]) -> float:
        """CIDEr-D of a caption for a picture given by its index, 0 to 10."""
        vector, norms, length = self._vector(ngrams(tokens), len(tokens))
        total = 0.0
        for reference, reference_norms, reference_length in self._references[picture]:
            dots = [0.0] * ORDER
            for gram, value in vector.items():
                other = reference.get(gram)
                if other is not None:
                    dots[len(gram) - 1] += min(value, other) * other
            similarity = sum(
                dot / (a * b)
                for dot, a, b in zip(dots, norms, reference_norms, strict=True)
                if a and b
            )
            total += similarity * math.exp(-((length - reference_length) ** 2) / (2 * SIGMA**2))
        return 10 * total / (ORDER * len(self._references[picture]))
