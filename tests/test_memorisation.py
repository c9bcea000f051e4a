"""Verbatim copies: equal to trying everything, on sequences made to repeat themselves."""

import random

import numpy as np
import pytest

from oracle import memorisation
from oracle.memorisation import SEED, Run, longest_runs


def by_force(text: list[int], corpus: list[int]) -> int:
    """The longest common run by the textbook's table."""
    longest, previous = 0, [0] * (len(corpus) + 1)
    for token in text:
        row = [0] * (len(corpus) + 1)
        for place, other in enumerate(corpus, start=1):
            if token == other:
                row[place] = previous[place - 1] + 1
        longest, previous = max(longest, *row), row
    return longest if longest >= SEED else 0


def pieces(rng: random.Random, source: list[int], letters: int) -> list[int]:
    """A text of random tokens and of pieces of `source`."""
    text: list[int] = []
    while len(text) < 80:
        if rng.random() < 0.5:
            start = rng.randrange(len(source))
            text += source[start : start + rng.randrange(1, 30)]
        else:
            text += rng.choices(range(letters), k=rng.randrange(1, 12))
    return text


@pytest.mark.parametrize("letters", [2, 3, 50])
@pytest.mark.parametrize("seed", range(4))
def test_it_equals_trying_everything(letters, seed, monkeypatch):
    monkeypatch.setattr(memorisation, "CHUNK", 64)  # runs cross many borders
    monkeypatch.setattr(memorisation, "PAIRS", 100)
    rng = random.Random(seed)
    corpus = rng.choices(range(letters), k=400)
    texts = [pieces(rng, corpus, letters) for _ in range(5)]
    runs = longest_runs(texts, np.array(corpus, dtype="<u2"))
    assert [run.tokens for run in runs] == [by_force(text, corpus) for text in texts]
    for text, run in zip(texts, runs, strict=True):
        assert text[run.text_start :][: run.tokens] == corpus[run.corpus_start :][: run.tokens]


def test_the_whole_corpus_its_edges_and_what_is_too_short():
    corpus = np.arange(100, dtype="<u2")
    everything = list(range(100))
    texts = [everything, everything[:SEED], everything[-SEED:], everything[: SEED - 1], [], [7] * 50]
    lengths = [run.tokens for run in longest_runs(texts, corpus)]
    assert lengths == [100, SEED, SEED, 0, 0, 0]
    assert longest_runs([everything], corpus[: SEED - 1]) == [Run(0, 0, 0)]
    assert longest_runs([], corpus) == []


def test_texts_do_not_run_into_each_other():
    corpus = np.arange(20, dtype="<u2")
    runs = longest_runs([list(range(10)), list(range(10, 20))], corpus)
    assert runs == [Run(10, 0, 0), Run(10, 0, 10)]


def test_a_loop_in_both_takes_no_time_to_speak_of():
    """Every place fits every other: only the beginnings of runs may be followed."""
    corpus = np.full(20_000, 7, dtype="<u2")
    assert longest_runs([[7] * 300], corpus)[0].tokens == 300


def test_equal_hashes_are_not_equal_runs(monkeypatch):
    monkeypatch.setattr(memorisation, "_hashes", lambda tokens: np.zeros(len(tokens) - SEED + 1, dtype=np.uint64))
    corpus = np.array([*range(30), *range(50, 80)], dtype="<u2")
    assert longest_runs([[9, *range(12, 25), 9]], corpus) == [Run(13, 1, 12)]
