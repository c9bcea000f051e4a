"""Polish errors: letters without their marks, ó and u, rz and ż, ch and h, endings, nie written together."""

from collections.abc import Callable, Sequence
from functools import lru_cache

from data.preferences.edits import Language, Rule
from data.preferences.general import QWERTY, typing_rules, word_rules

LETTERS = "a-ząćęłńóśźż"
_BARE = dict(zip("ąćęłńóśźż", "acelnoszz", strict=True))


def swaps(pairs: Sequence[tuple[str, str]]) -> Callable[[str, str], Sequence[str]]:
    """A rule that puts one spelling for the other, in either direction."""

    @lru_cache(1 << 15)
    def forms(word: str, _: str) -> Sequence[str]:
        return [
            word[:i] + new + word[i + len(old) :]
            for one, other in pairs
            for old, new in ((one, other), (other, one))
            for i in range(len(word))
            if word.startswith(old, i) and not (old == "h" and word[i - 1 : i] == "c")
        ]

    return forms


@lru_cache(1 << 15)
def mark_lost(word: str, _: str) -> Sequence[str]:
    """One letter without its mark, or all of them, as on a foreign keyboard."""
    one = [f"{word[:i]}{_BARE[c]}{word[i + 1 :]}" for i, c in enumerate(word) if c in _BARE]
    return [*one, "".join(_BARE.get(c, c) for c in word)] if one else ()


def _rz(word: str, following: str) -> Sequence[str]:
    # rz and ż: but r and z are two sounds in marznąć and its kin.
    return () if "marz" in word else _rz_swapped(word, following)


_rz_swapped, _u_swapped = swaps([("rz", "ż")]), swaps([("ó", "u")])


def _u(word: str, following: str) -> Sequence[str]:
    # An ending -u is never taken for -ó.
    return [form for form in _u_swapped(word, following) if not form.endswith("ó")]


_NASAL = {"ą": ("om", "on", "o"), "ę": ("em", "en", "e")}


@lru_cache(1 << 15)
def nasal(word: str, _: str) -> Sequence[str]:
    """ą and ę written as they are heard: robiom, bende."""
    return [word[:i] + new + word[i + 1 :] for i, c in enumerate(word) if len(word) > 2 for new in _NASAL.get(c, ())]


def joined_not(word: str, following: str) -> Sequence[str]:
    """nie wiem -> niewiem."""
    return [word + following] if word == "nie" and following.islower() else ()


# Ending -> endings of another case, number, gender or person.
_ENDINGS = {
    "ów": ("y", "ami"), "ami": ("ach", "y"), "ach": ("ami", "y"), "om": ("ach",), "ego": ("emu", "ym"), "emu": ("ego",), "ych": ("ymi", "e"),
    "ymi": ("ych",), "iem": ("a",), "owi": ("a",), "ości": ("ość",), "ość": ("ości",), "ą": ("ę", "a"), "ę": ("ą", "a"),
    "ej": ("ą", "a"), "łem": ("ła",), "łam": ("ł",), "ła": ("ł", "ły"), "ło": ("ła",), "li": ("ły",), "ły": ("li",), "ją": ("je",),
    "uje": ("ują",), "ują": ("uje",), "ymy": ("y",), "amy": ("a",), "nia": ("nie",), "nie": ("nia",), "iego": ("im",),
}  # fmt: skip
_LONGEST_FIRST = sorted(_ENDINGS, key=len, reverse=True)
_FIXED = frozenset(
    [
        "tylko",
        "także",
        "również",
        "jednak",
        "czyli",
        "jeśli",
        "jeżeli",
        "kiedy",
        "teraz",
        "właśnie",
        "dzięki",
        "prawie",
        "chociaż",
        "natomiast",
    ]
)


@lru_cache(1 << 15)
def ending(word: str, _: str) -> Sequence[str]:
    """The ending of another case, number, gender or person."""
    if word in _FIXED:
        return ()
    for old in _LONGEST_FIRST:
        if word.endswith(old) and len(word) >= len(old) + 3:
            return [word[: -len(old)] + new for new in _ENDINGS[old]]
    return ()


LANGUAGE = Language(
    LETTERS,
    spelling=(
        Rule("diacritic", 0.36, mark_lost),
        Rule("ó/u", 0.14, _u),
        Rule("rz/ż", 0.14, _rz),
        Rule("ch/h", 0.08, swaps([("ch", "h")])),
        Rule("nasal vowel", 0.12, nasal),
        Rule("nie joined", 0.06, joined_not, two=True),
        *typing_rules(QWERTY, 0.10),
    ),
    grammar=(Rule("ending", 0.7, ending), *word_rules(0.3)),
)
