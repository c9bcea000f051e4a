"""Which documents are newspaper prose: a few measured limits, most of them the same in every language.

The rules that English pipelines took from C4 and Gopher do harm here: they throw away short news, lists of
names and sports reports. What is left is FineWeb-2's repetition limits (arXiv:2506.20920, fitted to Greek)
and limits set beside real newspaper items: a 31-word notice and a sports report full of results must pass, a
TV listing must not. What differs between languages is one line of `LANGUAGES`.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from oracle.cli import UsageError
from oracle.text import fold, misread_share

# Words. The shortest whole items seen have 31 (a notice); headlines and captions have under 20.
MIN_WORDS = 25
# Share of words with a letter: a sports report with inline results has 0.76.
MIN_LETTER_WORDS = 0.65
# Share of letters in the language's script: foreign names and titles leave it well above.
MIN_SCRIPT_SHARE = 0.7
MIN_STOP_WORDS = 2  # different ones; a list of names and prices has none
MIN_MEAN_WORD = 3.0  # characters; below: spaced-out capitals (FineWeb-2, Greek)
MAX_MEAN_WORD = 11.0  # characters; above: glued words (FineWeb-2, Greek)

MIN_LINES_TO_JUDGE = 4  # under this many lines their punctuation says nothing about the text
PARAGRAPH = 200  # characters: a line of this length is running text, however it ends
MIN_ENDED_LINES = 0.167  # share of lines that end a sentence (FineWeb-2, Greek); a TV listing has 0.00
# Share of lines that open with a time: 0.83 in a TV listing, none in running text, less in a diary of events.
MAX_TIME_LINE_SHARE = 0.4
MIN_TIME_LINES = 3

MAX_MISREAD_SHARE = 0.05  # of the characters: 0.012 at most in real texts («ΝΕΑ ΠΝΟΗ»), over 0.5 in misread ones
MAX_LOST_SHARE = 0.001  # of the characters: U+FFFD and C1 controls, bytes that no codec could read

MAX_DUPLICATE_LINES = 0.31  # share of lines that stood before in the text (FineWeb-2, Greek)
# FineWeb-2 fitted its n-gram limits to texts of at least so many words: one name said twice fills a short
# one.
MIN_WORDS_TO_REPEAT = 50
# Share of the characters in the most frequent n-gram of words, and in all n-grams that repeat an earlier one.
MAX_TOP_NGRAM = {2: 0.194, 3: 0.175, 4: 0.156}  # FineWeb-2, Greek
MAX_REPEATED_NGRAM = {5: 0.174, 6: 0.163, 7: 0.153, 8: 0.142, 9: 0.130, 10: 0.119}  # FineWeb-2, Greek

# Sentence ends of every language here. `;` is Greek's question mark, `·` its semicolon; quotes and brackets
# close after.
_ENDS = tuple(".!?;·:…»”\"')]*")
_LETTER = re.compile(r"[^\W\d_]")
_TIME_LINE = re.compile(r"(?:[01]?\d|2[0-9])[.:][0-5]\d(?!\d)")
_LOST = re.compile("[\ufffd\x80-\x84\x86-\x9f]")


@dataclass(frozen=True)
class Language:
    """What the cleaner must know: how Unicode names the letters, the old code page, the small words."""

    script: str
    code_page: str
    stop_words: frozenset[str]

    @cached_property
    def plain_words(self) -> frozenset[str]:
        """The stop words without accents."""
        return frozenset(map(fold, self.stop_words))


def _language(script: str, code_page: str, stop_words: str) -> Language:
    return Language(script, code_page, frozenset(stop_words.split()))


# Stop words: the most frequent function words, without those that two of these languages share.
LANGUAGES: dict[str, Language] = {
    "el": _language(
        "GREEK",
        "cp1253",
        "και το να του η της με που την από για τα είναι των σε ο οι στο θα τη στην τον δεν τους",
    ),
    "en": _language("LATIN", "cp1252", "the of and that is was for with it as be by this are have from not which"),
    "pl": _language("LATIN", "cp1250", "w i z na się nie że jest o jak przez od po ale dla był jego są który"),
    "sr": _language("CYRILLIC", "cp1251", "и у је да се на за од са су не који о као али што би ће из то"),
}


def language_of(code: str) -> Language:
    """The entry of `LANGUAGES`; raises UsageError for a code that has none."""
    if code not in LANGUAGES:
        known = ", ".join(sorted(LANGUAGES))
        raise UsageError(f"language {code!r} is not known; give one of {known}, or add a line to oracle/quality.py")
    return LANGUAGES[code]


def _script_table(script: str) -> frozenset[str]:
    """All letters of the basic plane whose Unicode name opens with `script`."""
    letters = map(chr, range(0x41, 0x2E80))
    return frozenset(letter for letter in letters if unicodedata.name(letter, "").startswith(script + " "))


_SCRIPTS = {script: _script_table(script) for script in {language.script for language in LANGUAGES.values()}}


def script_share(text: str, script: str) -> float:
    """Share (0..1) of the letters of `text` that belong to `script`; 0 where there is no letter."""
    letters = {letter: count for letter, count in Counter(text).items() if letter.isalpha()}
    own = sum(count for letter, count in letters.items() if letter in _SCRIPTS[script])
    return own / max(1, sum(letters.values()))


def guess_language(text: str) -> str:
    """The code in `LANGUAGES` whose small words are most frequent in `text`, or `unknown`."""
    words = Counter(fold(text).split())
    hits = {code: sum(words[word] for word in language.plain_words) for code, language in LANGUAGES.items()}
    best = max(hits, key=lambda code: hits[code])
    return best if hits[best] >= max(MIN_STOP_WORDS, 0.05 * words.total()) else "unknown"


def is_lost(text: str) -> bool:
    """Whether too many characters stand for bytes that no codec could read: the text was decoded wrongly."""
    return len(_LOST.findall(text)) > MAX_LOST_SHARE * len(text)


def is_misread(text: str, language: str) -> bool:
    """Whether a codec broke the text beyond repair: count it before `normalize` deletes the evidence."""
    return is_lost(text) or misread_share(text, language_of(language).code_page) > MAX_MISREAD_SHARE


def is_short(text: str) -> bool:
    """Whether there are fewer than `MIN_WORDS` words."""
    return len(text.split()) < MIN_WORDS


def is_foreign(text: str, language: str) -> bool:
    """Whether script or small words say that this is another language, or no running text at all."""
    entry = language_of(language)
    if script_share(text, entry.script) < MIN_SCRIPT_SHARE:
        return True
    words = set(text.lower().split())
    if len(entry.stop_words & words) >= MIN_STOP_WORDS:
        return False
    # Polytonic Greek («καὶ», «τὸ») has the same small words under other accents.
    return len(entry.plain_words.intersection(map(fold, words))) < MIN_STOP_WORDS


def is_figures(text: str) -> bool:
    """Whether too many words have no letter, or words are too short or long on average to be words."""
    words = text.split()
    with_letter = sum(bool(_LETTER.search(word)) for word in words)
    mean = sum(map(len, words)) / max(1, len(words))
    return with_letter < MIN_LETTER_WORDS * len(words) or not MIN_MEAN_WORD <= mean <= MAX_MEAN_WORD


def is_listing(text: str) -> bool:
    """Whether `MAX_TIME_LINE_SHARE` or more of the lines open with a time: a TV or radio programme."""
    lines = [line for line in text.split("\n") if line.strip()]
    timed = sum(bool(_TIME_LINE.match(line.lstrip())) for line in lines)
    return timed >= MIN_TIME_LINES and timed >= MAX_TIME_LINE_SHARE * len(lines)


def is_list(text: str) -> bool:
    """Whether a text of `MIN_LINES_TO_JUDGE` lines or more has hardly a line that ends a sentence."""
    lines = [stripped for line in text.split("\n") if (stripped := line.strip())]
    ended = sum(line.endswith(_ENDS) or len(line) >= PARAGRAPH for line in lines)
    return len(lines) >= MIN_LINES_TO_JUDGE and ended < MIN_ENDED_LINES * len(lines)


def is_repetitive(text: str) -> bool:
    """Whether lines or runs of words repeat beyond FineWeb-2's limits."""
    lines = [stripped for line in text.split("\n") if (stripped := line.strip())]
    if len(lines) - len(set(lines)) > MAX_DUPLICATE_LINES * len(lines):
        return True
    words = text.split()
    if len(words) < MIN_WORDS_TO_REPEAT:
        return False
    characters = sum(map(len, words))
    if any(_top_ngram(words, size) > limit * characters for size, limit in MAX_TOP_NGRAM.items()):
        return True
    # A repeated n-gram holds a repeated 5-gram: a text without one needs no further look.
    if not _repeated_ngrams(words, min(MAX_REPEATED_NGRAM)):
        return False
    return any(_repeated_ngrams(words, size) > limit * characters for size, limit in MAX_REPEATED_NGRAM.items())


def _ngrams(words: Sequence[str], size: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[start:] for start in range(size)), strict=False))


def _top_ngram(words: Sequence[str], size: int) -> int:
    """Characters covered by the most frequent n-gram that occurs more than once."""
    counts = Counter(_ngrams(words, size))
    return max((count * sum(map(len, ngram)) for ngram, count in counts.items() if count > 1), default=0)


def _repeated_ngrams(words: Sequence[str], size: int) -> int:
    """Characters of the words inside an n-gram that stood before in the text, no word counted twice."""
    ngrams = _ngrams(words, size)
    if len(set(ngrams)) == len(ngrams):
        return 0
    seen: set[tuple[str, ...]] = set()
    covered: set[int] = set()
    for start, ngram in enumerate(ngrams):
        if ngram in seen:
            covered.update(range(start, start + size))
        seen.add(ngram)
    return sum(len(words[index]) for index in covered)
