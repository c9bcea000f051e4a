"""Serbian errors, in Cyrillic and in Latin letters: ије, је and е; ч and ћ; case endings; не written together.

The rules are written once, in Cyrillic: Latin words go through it and back.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from data.preferences.edits import Language, Rule
from data.preferences.general import SERBIAN_KEYS, SERBIAN_LATIN_KEYS, typing_rules, word_rules
from data.preferences.polish import swaps

CYRILLIC = "а-шђјљњћџ"
LATIN = "a-zčćđšž"
_TO_LATIN = dict(
    zip(
        "абвгдђежзијклљмнњопрстћуфхцчџш",
        [
            "a",
            "b",
            "v",
            "g",
            "d",
            "đ",
            "e",
            "ž",
            "z",
            "i",
            "j",
            "k",
            "l",
            "lj",
            "m",
            "n",
            "nj",
            "o",
            "p",
            "r",
            "s",
            "t",
            "ć",
            "u",
            "f",
            "h",
            "c",
            "č",
            "dž",
            "š",
        ],
        strict=True,
    )
)
_FROM_LATIN = {latin: cyrillic for cyrillic, latin in _TO_LATIN.items()}
_LATIN_LETTER = re.compile("lj|nj|dž|.")


def to_latin(word: str) -> str:
    return "".join(_TO_LATIN.get(letter, letter) for letter in word)


def to_cyrillic(word: str) -> str:
    return "".join(_FROM_LATIN.get(letter, letter) for letter in _LATIN_LETTER.findall(word))


# Roots with the old vowel ѣ: ije in the west where it is long, је where it is short, е in the east.
_YAT = re.compile(
    "млек|детет|дет[аеу]|бел[аиоу]|леп[аиоу]|цел[аиоу]|снег|тел[оау]|лек[ао]|цвет|вест[иа]|смен|дел[аиоу]|стен|лев[аоиу]"
    "|вер[аеоу]|мест[оау]|мер[аеу]|пес[мн]|нед[ељ]|вред|човек|девој|обе[дћ]|сед[ен]|виде|желе|живе|хте[лт]|разуме|бег|сећ|светл"
)


@lru_cache(1 << 15)
def yat(word: str, _: str) -> Sequence[str]:
    """ије, је and е for each other, where the old vowel was."""
    if re.search("ије[^мх]", word):  # the end of санкције is another thing
        return [word.replace("ије", new, 1) for new in ("је", "е")]
    if match := _YAT.search(word):
        place = match.start() + match[0].index("е")
        return [word[:place] + new + word[place + 1 :] for new in ("ије", "је") if word[place - 1 : place] != "ј"]
    return ()


# Ending -> endings of another case, number or person.
_ENDINGS = {
    "ама": ("има", "е"), "има": ("ама", "и"), "ем": ("у",), "ога": ("ом",), "ог": ("ом", "и"), "ом": ("ог", "у"),
    "их": ("им", "и"), "им": ("их", "и"), "ова": ("ове",), "ове": ("ови",), "ови": ("ове",), "ости": ("ост",), "ост": ("ости",),
    "ање": ("ања",), "ања": ("ање",), "ању": ("ање",), "ао": ("ала",), "ала": ("ао", "али"), "али": ("але",), "ило": ("ила",),
    "ила": ("ио",), "ио": ("ила",), "или": ("иле",), "ују": ("ује",), "ује": ("ују",), "амо": ("ају",), "ају": ("а",),
    "у": ("и", "а"), "е": ("а", "у"), "а": ("у", "е"), "и": ("е",),
}  # fmt: skip
_LONGEST_FIRST = sorted(_ENDINGS, key=len, reverse=True)
_FIXED = frozenset(
    [
        "када",
        "онда",
        "сада",
        "тако",
        "како",
        "зато",
        "нико",
        "ништа",
        "нешто",
        "после",
        "осим",
        "поред",
        "између",
        "према",
        "преко",
        "његова",
        "само",
        "увек",
        "чак",
        "али",
        "или",
    ]
)


@lru_cache(1 << 15)
def ending(word: str, _: str) -> Sequence[str]:
    """The ending of another case, number or person."""
    if word in _FIXED or len(word) < 5:
        return ()
    for old in _LONGEST_FIRST:
        if word.endswith(old) and len(word) >= len(old) + 3:
            return [word[: -len(old)] + new for new in _ENDINGS[old]]
    return ()


def joined_not(word: str, following: str) -> Sequence[str]:
    """не знам -> незнам."""
    return [word + following] if word == "не" and following.islower() else ()


_CONDITIONAL = {"бисмо": "би смо", "бисте": "би сте", "нећу": "не ћу", "неће": "не ће", "нисам": "ни сам"}


def parted(word: str, _: str) -> Sequence[str]:
    """бисмо -> би смо."""
    return [_CONDITIONAL[word]] if word in _CONDITIONAL else ()


@lru_cache(1 << 15)
def lost_h(word: str, _: str) -> Sequence[str]:
    """х left out, as it is in speech: хтео -> тео, њих -> њи."""
    return [word[:i] + word[i + 1 :] for i, letter in enumerate(word) if letter == "х" and len(word) > 3]


_SPELLING = (
    Rule("č/ć", 0.28, swaps([("ч", "ћ")])),
    Rule("dž/đ", 0.05, swaps([("џ", "ђ")])),
    Rule("ije/je/e", 0.25, yat),
    Rule("h lost", 0.10, lost_h),
    Rule("ne joined", 0.12, joined_not, two=True),
    Rule("parted", 0.05, parted),
)


_GRAMMAR = (Rule("ending", 0.7, ending), *word_rules(0.3))


def _latin(rule: Rule) -> Rule:
    """The rule for Latin letters."""

    def forms(word: str, following: str) -> Sequence[str]:
        return [to_latin(form) for form in rule.forms(to_cyrillic(word), to_cyrillic(following))]

    return rule._replace(forms=forms)


_BARE = dict(zip("čćšž", "ccsz", strict=True)) | {"đ": "dj"}


@lru_cache(1 << 15)
def mark_lost(word: str, _: str) -> Sequence[str]:
    """Latin letters without their marks."""
    one = [f"{word[:i]}{_BARE[c]}{word[i + 1 :]}" for i, c in enumerate(word) if c in _BARE]
    return [*one, "".join(_BARE.get(c, c) for c in word)] if one else ()


IN_CYRILLIC = Language(CYRILLIC, (*_SPELLING, *typing_rules(SERBIAN_KEYS, 0.15)), _GRAMMAR)
IN_LATIN = Language(
    LATIN,
    (*map(_latin, _SPELLING), Rule("diacritic", 0.2, mark_lost), *typing_rules(SERBIAN_LATIN_KEYS, 0.15)),
    tuple(map(_latin, _GRAMMAR)),
)
