"""What somebody got wrong: the words in which two texts differ, and by which kind of error."""

import difflib
import re
from collections.abc import Callable

from data.preferences import greek
from data.preferences.edits import Edit

_TOKEN = re.compile(r"\w+|[^\w\s]+|\s+")
_ALIKE = 0.5  # of the letters: two words that have less in common are another word and no misspelling


def differences(right: str, wrong: str, language: str) -> list[Edit]:
    """Edits that make `wrong` of `right`, word by word; kinds are the corruptor's, or "other word", "punctuation" …"""
    a, b = _TOKEN.findall(right), _TOKEN.findall(wrong)
    places = [0]
    for token in a:
        places.append(places[-1] + len(token))
    edits = []
    for tag, i, j, k, m in difflib.SequenceMatcher(a=a, b=b, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        if j - i == m - k:  # word for word
            spans = [(i + n, i + n + 1, k + n, k + n + 1) for n in range(j - i)]
        else:
            spans = [(i, j, k, m)]
        for p, q, r, s in spans:
            was, now = "".join(a[p:q]), "".join(b[r:s])
            if was != now:
                edits.append(Edit(kind_of(was, now, language), places[p], places[q], was, now))
    return edits


def kind_of(was: str, now: str, language: str) -> str:
    """The kind of error that `now` for `was` is."""
    right, wrong = was.strip(), now.strip()
    if not any(map(str.isalnum, right + wrong)):
        return "punctuation"
    if not wrong:
        return "word lost"
    if not right:
        return "word too many"
    if right.lower() == wrong.lower():
        return "capital"
    if right.replace(" ", "") == wrong.replace(" ", ""):
        return "words joined or parted"
    if " " in right + wrong:
        return "several words"
    right, wrong = right.lower(), wrong.lower()
    for kind, is_it in _TESTS.get(language, ()):
        if is_it(right, wrong):
            return kind
    alike = difflib.SequenceMatcher(a=right, b=wrong, autojunk=False).ratio()
    stem = len(_common_head(right, wrong))
    if stem >= 3 and stem >= 0.5 * len(right) and max(len(right), len(wrong)) - stem <= 4:
        return "ending"
    return "other misspelling" if alike >= _ALIKE else "other word"


def _common_head(a: str, b: str) -> str:
    return a[: next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))]


def _sound(word: str) -> str:
    """A Greek word as it is heard, without its accent: one letter for all spellings of a vowel."""
    word = greek.unaccented(word).replace("ϊ", "ι").replace("ϋ", "υ")
    word = re.sub("([αε])υ(?=[θκξπστφχψς])", r"\1φ", word)
    word = re.sub("([αε])υ", r"\1β", word)
    word = re.sub("ου", "u", word)
    word = re.sub("ει|οι|υι|η|υ", "ι", word)
    return word.replace("αι", "ε").replace("ω", "ο").replace("ς", "σ")


def _undoubled(word: str) -> str:
    return re.sub(r"(\w)\1", r"\1", word)


def _bare_polish(word: str) -> str:
    return word.translate(str.maketrans("ąćęłńóśźż", "acelnoszz"))


_Test = tuple[str, Callable[[str, str], bool]]
_TESTS: dict[str, tuple[_Test, ...]] = {
    "el": (
        ("accent", lambda a, b: greek.unaccented(a) == greek.unaccented(b)),
        ("final nu", lambda a, b: greek.unaccented(a).removesuffix("ν") == greek.unaccented(b).removesuffix("ν")),
        ("homophone", lambda a, b: _sound(a) == _sound(b)),
        ("double consonant", lambda a, b: _undoubled(_sound(a)) == _undoubled(_sound(b))),
        ("article", lambda a, b: a in greek.ARTICLES and b in greek.ARTICLES),
    ),
    "pl": (
        ("rz/ż", lambda a, b: a.replace("rz", "ż") == b.replace("rz", "ż")),
        ("ó/u", lambda a, b: a.replace("ó", "u") == b.replace("ó", "u")),
        ("ch/h", lambda a, b: a.replace("ch", "h") == b.replace("ch", "h")),
        ("diacritic", lambda a, b: _bare_polish(a) == _bare_polish(b)),
    ),
}  # fmt: skip
