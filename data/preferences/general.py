"""What goes wrong in any language: fingers, words lost or said twice, and a model that goes round in circles."""

import random
from collections.abc import Sequence
from functools import lru_cache

from data.preferences.edits import Edit, Language, Rule

# Rows of keys as they lie below each other: neighbours are beside a key, and above and below it.
QWERTY = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
GREEK_KEYS = (" ςερτυθιοπ", "ασδφγηξκλ", "ζχψωβνμ")
SERBIAN_KEYS = ("љњертзуиопшђ", "асдфгхјклчћ", " џцвбнм")
SERBIAN_LATIN_KEYS = ("qwertzuiopšđ", "asdfghjklčć", "yxcvbnm")

MIN_LETTERS = 4  # a slip in a shorter word often makes another word
MIN_WORDS = 12  # of a text that may be cut or go round in circles
LOOP_WORDS = (3, 8)
LOOP_COPIES = (2, 4)


def neighbours(keys: Sequence[str]) -> dict[str, str]:
    """Key -> the keys that a finger hits for it."""
    near: dict[str, str] = {}
    for row, line in enumerate(keys):
        for column, key in enumerate(line):
            beside = line[max(0, column - 1) : column] + line[column + 1 : column + 2]
            across = "".join(keys[r][column : column + 1] for r in (row - 1, row + 1) if 0 <= r < len(keys))
            near[key] = (beside + across).replace(" ", "")
    return near


def typing_rules(keys: Sequence[str], weight: float) -> tuple[Rule, ...]:
    """Slips of the finger on this keyboard, `weight` in all."""
    near = neighbours(keys)

    @lru_cache(1 << 15)
    def wrong_key(word: str, _: str) -> Sequence[str]:
        if len(word) < MIN_LETTERS:
            return ()
        return [
            f"{word[:i]}{key}{word[i + 1 :]}"
            for i in range(1, len(word))
            for key in near.get(word[i], "")
            if key != "ς"
        ]

    return (
        Rule("wrong key", 0.4 * weight, wrong_key),
        Rule("letters swapped", 0.3 * weight, swapped_letters),
        Rule("letter lost or doubled", 0.3 * weight, lost_letter),
    )


@lru_cache(1 << 15)
def swapped_letters(word: str, _: str) -> Sequence[str]:
    """Two letters inside the word in the wrong order; the first letter and a final ς stay where they are."""
    if len(word) < MIN_LETTERS:
        return ()
    inner = range(1, len(word) - (2 if word.endswith("ς") else 1))
    return [f"{word[:i]}{word[i + 1]}{word[i]}{word[i + 2 :]}" for i in inner]


@lru_cache(1 << 15)
def lost_letter(word: str, _: str) -> Sequence[str]:
    """A letter inside the word left out, or typed twice."""
    if len(word) < MIN_LETTERS:
        return ()
    inner = range(1, len(word) - 1)
    return [word[:i] + word[i + 1 :] for i in inner] + [word[:i] + word[i] + word[i:] for i in inner]


def lost_word(word: str, following: str) -> Sequence[str]:
    """The first of two words is missing; a long word may be an adverb that nobody misses, so only short ones."""
    return [following] if len(word) <= MIN_LETTERS else ()


def doubled_word(word: str, _: str) -> Sequence[str]:
    """The word stands twice."""
    return [f"{word} {word}"]


def swapped_words(word: str, following: str) -> Sequence[str]:
    """A small word has changed places with the next one."""
    return [f"{following} {word}"] if len(word) < MIN_LETTERS < len(following) else ()


def word_rules(weight: float) -> tuple[Rule, ...]:
    """Words lost, doubled and swapped, `weight` in all."""
    return (
        Rule("word lost", 0.5 * weight, lost_word, two=True),
        Rule("word doubled", 0.25 * weight, doubled_word),
        Rule("words swapped", 0.25 * weight, swapped_words, two=True),
    )


# English, and whatever has no rules of its own: the general errors alone.
LANGUAGE = Language("a-z", typing_rules(QWERTY, 1), word_rules(1))


def degenerate(text: str, rng: random.Random) -> list[Edit]:
    """One edit that makes a model's bad answer of `text`: cut short, stuttering, or looping to its end; none if it is short."""
    starts = [i for i, character in enumerate(text) if not character.isspace() and (i == 0 or text[i - 1].isspace())]
    if len(starts) < MIN_WORDS:
        return []
    return [rng.choice((_cut, _stutter, _loop))(text, starts, rng)]


def _cut(text: str, starts: list[int], rng: random.Random) -> Edit:
    """The answer stops inside a sentence: the words before the end lose their full stop, too."""
    words = rng.randrange(len(starts) // 3, len(starts) - 3)
    end = len(text[: starts[words]].rstrip().rstrip('.;!…,·:»"'))
    return Edit("cut", end, len(text), text[end:], "")


def _stutter(text: str, starts: list[int], rng: random.Random) -> Edit:
    """A phrase is said several times, and then the text goes on."""
    end, phrase = _phrase(text, starts, rng)
    return Edit("phrase repeated", end, end, "", f" {phrase}" * (rng.randint(*LOOP_COPIES) - 1))


def _loop(text: str, starts: list[int], rng: random.Random) -> Edit:
    """A phrase is said to the end: as many words as the text had."""
    end, phrase = _phrase(text, starts, rng)
    left = text[end:]
    copies = max(2, round(len(left) / (len(phrase) + 1)))
    return Edit("loop", end, len(text), left, f" {phrase}" * copies)


def _phrase(text: str, starts: list[int], rng: random.Random) -> tuple[int, str]:
    """Where a phrase of a few words ends, and the phrase; neither the text's first words nor its last."""
    size = rng.randint(*LOOP_WORDS)
    first = rng.randrange(len(starts) // 4, len(starts) - size)
    begin, end = starts[first], len(text[: starts[first + size]].rstrip())
    return end, text[begin:end]
