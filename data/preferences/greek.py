"""Greek errors: six spellings of one sound, accents, double consonants, final ν, endings, articles.

Weights: the mean of what native writers and learners do wrong (Korre, Chatzipanagiotou and Pavlopoulos, LREC 2021):
accents 21 % and 40 %, homophones with double consonants 43 % and 31 %, final ν 20 % and 4 %, endings 6 % and 4 %.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from data.preferences.edits import Language, Rule
from data.preferences.general import GREEK_KEYS, typing_rules, word_rules

LETTERS = "α-ωάέήίόύώϊϋΐΰ"
_ACCENT = dict(zip("αεηιουωϊϋ", "άέήίόύώΐΰ", strict=True))
_PLAIN = {accented: plain for plain, accented in _ACCENT.items()}
_UNIT = re.compile("[αεο][ιίυύ]|υ[ιί]|ηύ|.")  # a vowel of one or two letters, or any other letter
_SOUNDS = (("ι", "η", "υ", "ει", "οι"), ("ο", "ω"), ("ε", "αι"))
_SOUND_OF = {spelling: sound for sound in _SOUNDS for spelling in sound} | {"υι": _SOUNDS[0]}
_EAGER = {"ι": 4, "η": 3, "ο": 2, "ε": 2, "ω": 2}  # how often a spelling is put for another, beside 1
_VOICELESS = "θκξπστφχψ"
_VOWELS = frozenset("αεηιουωϊϋ")

# Spellings that are both in use: one for the other is no error.
_BOTH_RIGHT = (
    ("αυγ", "αβγ"), ("αυτί", "αφτί"), ("κτίρι", "κτήρι"), ("κτιρί", "κτηρί"), ("τρέν", "τραίν"), ("ορθοπεδ", "ορθοπαιδ"),
    ("κολλά", "κολά"), ("βρόμ", "βρώμ"), ("ρόδι", "ρόιδι"), ("εφτά", "επτά"), ("αλλιώς", "αλλοιώς"),
)  # fmt: skip


def unaccented(word: str) -> str:
    """`word` without its accents; the two dots stay."""
    return "".join(_PLAIN.get(letter, letter) for letter in word)


def _accented(unit: str) -> str:
    return unit[:-1] + _ACCENT[unit[-1]]


def _units(word: str) -> list[str]:
    return _UNIT.findall(word)


def is_variant(a: str, b: str) -> bool:
    """Whether the words differ only where both spellings are right."""
    return any(a.replace(one, other) == b.replace(one, other) for one, other in _BOTH_RIGHT)


@lru_cache(1 << 16)
def homophone(word: str, _: str = "") -> Sequence[str]:
    """One vowel spelt otherwise, or αυ, ευ written as they sound."""
    units = _units(word)
    if len(word) < 4:  # nobody misspells και or σε; the small words that are confused have a rule of their own
        return ()
    forms = []
    for i, unit in enumerate(units):
        plain = unaccented(unit)
        if plain in _SOUND_OF:
            others = _likely(plain, is_last=i == len(units) - 1)
        elif plain in ("αυ", "ευ") and i + 1 < len(units):
            forms.append("".join([*units[:i], *_as_spoken(unit, units[i + 1]), *units[i + 1 :]]))
            continue
        else:
            continue
        forms += ["".join([*units[:i], o if unit == plain else _accented(o), *units[i + 1 :]]) for o in others]
    return [form for form in forms if not is_variant(word, form)]


def _likely(plain: str, is_last: bool) -> list[str]:
    """Other spellings of the vowel; the plain letters are written for the rare ones rather than the reverse."""
    others = [other for other in _SOUND_OF[plain] if other != plain and (other != "αι" or is_last)]
    return [other for other in others for _ in range(_EAGER.get(other, 1))]


def _as_spoken(unit: str, following: str) -> tuple[str, str]:
    """αυ before a voiceless sound is said αφ, elsewhere αβ; the accent goes to the vowel."""
    vowel = unit[0] if unit[1] == "υ" else _ACCENT[unit[0]]
    return vowel, "φ" if following in _VOICELESS or following == "ς" else "β"


@lru_cache(1 << 16)
def accent(word: str, _: str = "") -> Sequence[str]:
    """The accent lost (the usual case), or on another of the last three syllables."""
    units = _units(word)
    vowels = [i for i, unit in enumerate(units) if set(unaccented(unit)) & _VOWELS]
    marked = [i for i in vowels if unaccented(units[i]) != units[i]]
    if len(vowels) < 2 or len(marked) != 1:
        return ()
    bare = unaccented(word)
    plain = [unaccented(unit) for unit in units]
    moved = ["".join([*plain[:i], _accented(plain[i]), *plain[i + 1 :]]) for i in vowels[-3:] if i not in marked]
    return [bare] * (2 * len(moved) + 1) + moved


_DOUBLE = re.compile(r"([βκλμνπρστ])\1")
_SINGLE = re.compile(f"(?<=[{LETTERS}][αεηιουωάέήίόύώ])([λμνρσπτκ])(?=[αεηιουωάέήίόύώ])")


@lru_cache(1 << 16)
def double_consonant(word: str, _: str = "") -> Sequence[str]:
    """A double consonant written once; in a word without any, a single one doubled."""
    forms = [word[: m.start()] + word[m.end() - 1 :] for m in _DOUBLE.finditer(word)]
    forms = forms or [word[: m.end()] + word[m.start() :] for m in _SINGLE.finditer(word)]
    return [form for form in forms if not is_variant(word, form)]


# The articles and particles that keep their ν before a vowel or one of these sounds, and lose it elsewhere.
_WITH_NU = {"τη": "την", "στη": "στην", "δε": "δεν", "μη": "μην"}
_KEEPS_NU = re.compile("[αεηιουωάέήίόύώκπτξψ]|γκ|μπ|ντ|τσ|τζ")


def final_nu(word: str, following: str) -> Sequence[str]:
    """ν left out where the next sound keeps it, or written where it falls."""
    if word in ("τον", "στον", "έναν"):
        return [word[:-1]] if following else ()
    keeps = bool(_KEEPS_NU.match(following.lower())) if following else None
    if keeps and word in _WITH_NU.values():
        return [word[:-1]]
    return [_WITH_NU[word]] if keeps is False and word in _WITH_NU else ()


_CONFUSED = {
    "που": "πού", "πού": "που", "πως": "πώς", "πώς": "πως", "ή": "η", "ό,τι": "ότι", "ότι": "ό,τι", "μέσω": "μέσο", "μέσο": "μέσω",
    "καλώς": "καλός", "πια": "ποια", "ποια": "πια", "ποιο": "πιο", "πιο": "ποιο", "ίσως": "ίσος", "τις": "της", "της": "τις",
}  # fmt: skip


def confused(word: str, _: str = "") -> Sequence[str]:
    """Small words that sound alike: που and πού, ό,τι and ότι, πιο and ποιο."""
    return [_CONFUSED[word]] if word in _CONFUSED else ()


# Ending -> endings of another case, number or person. Accents are passed over and put back.
_ENDINGS = {
    "ος": ("ου", "ο"), "ου": ("ος",), "ους": ("οι", "ος"), "οι": ("ους", "ος"), "ες": ("ων", "α"), "ας": ("α",), "ης": ("η",),
    "ων": ("ους", "ες"), "εων": ("εις",), "εις": ("ης", "ων"), "ματα": ("μα",), "ματος": ("μα",), "ουν": ("ει",), "ει": ("ουν",), "ουμε": ("ουν",),
    "εται": ("ονται",), "ονται": ("εται",), "ηκε": ("ηκαν",), "ηκαν": ("ηκε",), "ισε": ("ισαν",), "ισαν": ("ισε",),
    "αμε": ("αν",), "ουσε": ("ουσαν",), "ουσαν": ("ουσε",), "ιες": ("ια",), "ικη": ("ικος",), "ικο": ("ικα",), "ικα": ("ικο",),
}  # fmt: skip
_LONGEST_FIRST = sorted(_ENDINGS, key=len, reverse=True)
# Not inflected, whatever they end in.
_FIXED = frozenset(
    [
        "καθόλου",
        "μεταξύ",
        "χθες",
        "όμως",
        "αλλού",
        "παντού",
        "κάπου",
        "πουθενά",
        "επίσης",
        "βέβαια",
        "ώστε",
        "όταν",
        "επειδή",
        "εκτός",
        "εντός",
        "εμπρός",
        "μέχρις",
        "ολόκληρους",
        "τίποτα",
        "πάνω",
        "κάτω",
        "τώρα",
        "σήμερα",
        "αύριο",
        "πάντα",
        "ύστερα",
        "ίσως",
        "ήδη",
        "ακόμα",
        "ακόμη",
        "έτσι",
        "μόλις",
        "πόσες",
        "άλλες",
        "τόσο",
        "απέναντι",
        "ανάμεσα",
    ]
)


@lru_cache(1 << 16)
def ending(word: str, _: str = "") -> Sequence[str]:
    """The ending of another case, number or person, the stem and the place of the accent being kept."""
    bare = unaccented(word)
    if word in _FIXED or len(word) < 5:
        return ()
    for old in _LONGEST_FIRST:
        if bare.endswith(old) and len(bare) >= len(old) + 3:
            return [word[: -len(old)] + _as_accented(word[-len(old) :], old, new) for new in _ENDINGS[old]]
    return ()


def _as_accented(shown: str, old: str, new: str) -> str:
    """The ending `new`, accented on its first or last vowel as `shown`, the ending `old`, was."""
    if shown == old:
        return new
    units, marked = _units(new), [unaccented(unit) != unit for unit in _units(shown)]
    vowels = [i for i, unit in enumerate(units) if set(unit) & _VOWELS]
    place = vowels[0] if any(marked[: len(marked) // 2]) or len(vowels) == 1 else vowels[-1]
    return "".join([*units[:place], _accented(units[place]), *units[place + 1 :]])


def final_sigma(word: str, following: str) -> Sequence[str]:
    """The ς of a noun or adjective is missing."""
    return [word[:-1]] if len(word) >= 5 and following and re.search("[οόηήαά]ς$", word) and word not in _FIXED else ()


# Article -> (ending of the next word that makes it an article and no pronoun, articles that do not agree with it).
ARTICLES = {
    "ο": ("[οό]ς|[ηή]ς|[αά]ς", ("η", "το")), "η": ("[ηή]|[αά]", ("ο", "το")), "του": ("[οό]υ|ματος", ("της", "των")),
    "της": ("[ηή]ς|[αά]ς", ("του",)), "τον": ("[οό]", ("την", "το")), "την": ("[ηή]", ("τον", "το")), "οι": ("[οό]ι|[εέ]ς|εις", ("τα",)),
    "τους": ("[οό]υς|εις", ("τις", "τα")), "τις": ("[εέ]ς|εις", ("τους", "τα")), "το": ("μα|ιο", ("τη", "τον")), "των": ("[ωώ]ν", ("του", "της")),
    "στον": (".", ("στην",)), "στην": (".", ("στον",)), "στη": (".", ("στο",)), "στο": (".", ("στη",)), "στους": (".", ("στις",)),
    "στις": (".", ("στους",)), "στα": (".", ("στις",)), "στης": (".", ("στου",)),
}  # fmt: skip


def article(word: str, following: str) -> Sequence[str]:
    """The article of another gender or number than its noun."""
    if word not in ARTICLES or not following:
        return ()
    noun, others = ARTICLES[word]
    return others if re.search(f"(?:{noun})$", following) else ()


LANGUAGE = Language(
    LETTERS,
    spelling=(
        Rule("accent", 0.30, accent),
        Rule("homophone", 0.31, homophone),
        Rule("double consonant", 0.07, double_consonant),
        Rule("final nu", 0.12, final_nu),
        Rule("confused words", 0.06, confused),
        *typing_rules(GREEK_KEYS, 0.08),
    ),
    grammar=(
        Rule("ending", 0.40, ending),
        Rule("article", 0.25, article),
        Rule("final sigma", 0.10, final_sigma),
        *word_rules(0.25),
    ),
)
