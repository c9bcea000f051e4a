"""Does a model go round in circles? Measures of texts by their words, none of which needs a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

LOOP_COPIES, LOOP_WORDS = 3, 6  # a text that ends in so many copies of the same words, so many words in all, loops


@dataclass(frozen=True)
class Repetition:
    """Of some texts. Comparable between texts of about the same number and length only."""

    distinct_2: float  # different pairs of neighbouring words over all pairs, of all texts together (Li et al. 2016)
    repeated_4grams: float  # share of a text's runs of four words that stood in it before (Welleck et al. 2020), mean
    loops: float  # share of the texts that end in a loop


def repetition(texts: Sequence[str]) -> Repetition:
    """Texts too short for a measure count as free of repetition; none at all raises ValueError."""
    if not texts:
        raise ValueError("no texts to measure")
    words = [text.split() for text in texts]
    pairs = [pair for text in words for pair in pairwise(text)]
    distinct = len(set(pairs)) / len(pairs) if pairs else 1.0
    repeated = [_repeated(text, 4) for text in words]
    return Repetition(distinct, sum(repeated) / len(texts), sum(map(ends_in_a_loop, words)) / len(texts))


def _repeated(words: Sequence[str], size: int) -> float:
    runs = list(zip(*(words[start:] for start in range(size)), strict=False))
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def ends_in_a_loop(words: Sequence[str]) -> bool:
    """Whether the last words are `LOOP_COPIES` copies of one run, or more of them so as to make `LOOP_WORDS` words."""
    for period in range(1, len(words) // LOOP_COPIES + 1):
        span = max(LOOP_COPIES, -(-LOOP_WORDS // period)) * period
        tail = words[-span:]
        if len(tail) == span and tail[period:] == tail[:-period]:
            return True
    return False
