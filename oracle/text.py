"""Text as the model will see it: one canonical Unicode form, and nothing invisible.

`normalize` is the floor every document stands on, in any language: `prepare.py` applies it to whatever it
reads, so that bytes are counted and shards are written from the same form. The other functions are the
cleaner's rules that any language shares (`oracle/greek.py` has those of Greek). Each takes a text and returns
a text, changes one thing, and is idempotent.
"""

import codecs
import re
import unicodedata
from functools import cache

# Deleted: soft hyphen, zero-width space, direction marks, word joiner, byte order mark, and control characters
# other than newline and tab. None of them is visible, each of them splits a word in two for a tokenizer. The
# zero-width joiners U+200C and U+200D stay: Persian and Indic spelling and emoji are written with them.
_INVISIBLE = re.compile(
    "[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
)
# Typographic blanks become a plain blank. U+2581 stands for a blank inside SentencePiece and would come back
# as one.
_BLANKS = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000\u2581]")
_LINE_ENDS = re.compile("\r\n?|\u2028|\u2029|\x85")

_BLANK_RUNS = re.compile("[ \t]{2,}|\t")
_LINE_EDGES = re.compile(" ?\n ?")
_EMPTY_LINES = re.compile("\n{3,}")
_SOFT_DASHES = re.compile("(?<= )\u00ad(?=\\w)([^\n\u00ad]*)(?<=\\w)\u00ad(?=[ ,.;:!?])")
_DOTS = re.compile(r"[.…]*…[.…]*|\.{4,}")
# One or two hyphens opening a line of words. A minus before a digit and a dialogue dash (– —) are something
# else.
_BULLET = re.compile(r'(?m)^[ \t]*-{1,2}[ \t]*(?=[^\W\d_]|[«"“(])')

# Digits that no table row consists of: the date under a letter, a year as a heading.
_DATE = re.compile(r"\d{1,2}[-./]\d{1,2}[-./](?:\d{4}|\d\d)(?!\d)|(?<!\d)(?:1[89]|20)\d\d(?!\d)")
_DIGIT = re.compile("[0-9]")
# A line with more digits than this (of its non-blank characters) is a row of results, standings or prices.
MAX_DIGIT_SHARE = 0.35

# Whole-text decoding errors. A text is put back only when at least this many characters bear witness.
_MIN_WITNESSES = 3
# Share of accented Latin letters among all letters that no language written in Latin letters comes near.
_MAX_ACCENTED_SHARE = 0.6
_ACCENTED = re.compile("[À-ÿ]")
_HEAD = 200  # characters that are enough to see that a text is not UTF-8 read as something else


def normalize(text: str) -> str:
    """Return `text` in NFC, with `\\n` line ends, plain blanks and no invisible characters.

    NFC and never NFKC: NFKC would rewrite ½, ﬁ, … and superscripts, which are text. Idempotent.
    """
    text = _LINE_ENDS.sub("\n", text)
    text = _INVISIBLE.sub("", text)
    text = _BLANKS.sub(" ", text)
    return unicodedata.normalize("NFC", text)


def fold(text: str) -> str:
    """`text` in small letters and without accents, for comparing names and words; never for the corpus."""
    decomposed = unicodedata.normalize("NFD", text.lower())
    return "".join(character for character in decomposed if not unicodedata.combining(character))


def tidy_blanks(text: str) -> str:
    """One blank between words, none at the edges of a line, at most one empty line between paragraphs."""
    text = _LINE_EDGES.sub("\n", _BLANK_RUNS.sub(" ", text))
    return _EMPTY_LINES.sub("\n\n", text).strip()


def unify_dots(text: str) -> str:
    """The ellipsis sign, and four dots or more, become three dots; one and two dots stay."""
    return _DOTS.sub("...", text)


def repair_soft_dashes(text: str) -> str:
    """Soft hyphens around a parenthesis, on a line, are dashes: some editors wrote byte 0xAD for them.

    Call it before `normalize`, which deletes soft hyphens.
    """
    return _SOFT_DASHES.sub(r"-\1-", text)


def unify_bullets(text: str) -> str:
    """A list item opens with `- `, however it was typed (`-`, `--`, with or without a blank)."""
    return _BULLET.sub("- ", text)


def drop_lost_bytes(text: str) -> str:
    """Delete U+FFFD: in a text that is otherwise whole it stands for a byte that meant nothing."""
    return text.replace("\ufffd", "")


def _comparable(line: str) -> str:
    return "".join(filter(str.isalnum, line.casefold()))


def drop_repeated_lines(text: str) -> str:
    """Drop a line that repeats the line before it: a caption printed twice (alternative text, caption).

    Empty lines, case and punctuation are looked through. Lines without a letter or digit are never dropped.
    """
    kept: list[str] = []
    previous = ""
    for line in text.split("\n"):
        key = _comparable(line)
        if key and key == previous:
            continue
        previous = key or previous
        kept.append(line)
    return "\n".join(kept)


def drop_number_lines(text: str) -> str:
    """Drop lines with more than `MAX_DIGIT_SHARE` digits among their non-blank characters: tables."""
    return "\n".join(line for line in text.split("\n") if not _is_numbers(line))


def _is_numbers(line: str) -> bool:
    limit = MAX_DIGIT_SHARE * len("".join(line.split()))
    return len(_DIGIT.findall(line)) > limit and len(_DIGIT.findall(_DATE.sub("", line))) > limit


@cache
def _byte_of(codec: str) -> dict[str, int]:
    """Character -> byte for a single-byte codec; an undefined byte stands for the C1 control it equals."""
    table: dict[str, int] = {chr(byte): byte for byte in range(0x80, 0xA0)}
    for byte in range(256):
        character = bytes([byte]).decode(codec, errors="ignore")
        if character:
            table[character] = byte
    return table


def _as_bytes(text: str, codec: str) -> bytes | None:
    table = _byte_of(codec)
    try:
        return bytes([table[character] for character in text])
    except KeyError:
        return None


def _undo_utf8(text: str, codec: str) -> str | None:
    """The text, if `text` is UTF-8 that was read as `codec`; None if it is not."""
    head = _as_bytes(text[:_HEAD], codec)
    if head is None:
        return None
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
        data = _as_bytes(text, codec)
        decoded = data.decode("utf-8") if data is not None else ""
    except UnicodeDecodeError:
        return None
    witnesses = sum(character > "\x7f" for character in decoded)
    return decoded if witnesses >= _MIN_WITNESSES else None


def _redecode_once(text: str, code_page: str) -> str:
    for codec in dict.fromkeys((code_page, "cp1252")):
        decoded = _undo_utf8(text, codec)
        if decoded is not None:
            return decoded
    accented = len(_ACCENTED.findall(text))
    if accented >= _MIN_WITNESSES and accented > _MAX_ACCENTED_SHARE * sum(map(str.isalpha, text)):
        data = _as_bytes(text, "cp1252")
        if data is not None:
            return data.decode(code_page, errors="replace")
    return text


def redecode(text: str, code_page: str = "cp1252") -> str:
    """Put back a whole text that was read with the wrong codec; any other text is returned as it came.

    Seen on newspaper sites: UTF-8 read as the language's `code_page` or as Latin-1 (`Ξ‘ΞΈΞ®Ξ½Ξ±`,
    `Î‘Î¸Î®Î½Î±`), and the code page read as Latin-1 (`ÁèÞíá`), even one upon the other. Only exact reversals
    are made: a text in which a byte was already lost is left alone, and `misread_share` tells it apart. Call
    it before `normalize`, which deletes C1 controls.
    """
    if text.isascii():
        return text
    again = _redecode_once(text, code_page)
    while again != text:
        text, again = again, _redecode_once(again, code_page)
    return text


@cache
def _misread_pair(code_page: str) -> re.Pattern[str]:
    """A UTF-8 lead byte and continuation byte, each as `code_page` or Latin-1 shows it."""
    pairs = []
    for codec in dict.fromkeys((code_page, "cp1252")):
        shown = {byte: character for character, byte in _byte_of(codec).items()}
        leads = "".join(re.escape(shown[byte]) for byte in range(0xC3, 0xD2) if byte in shown)
        tails = "".join(re.escape(shown[byte]) for byte in range(0x80, 0xC0) if byte in shown)
        pairs.append(f"[{leads}][{tails}\ufffd]")
    return re.compile("|".join(pairs))


def misread_share(text: str, code_page: str = "cp1252") -> float:
    """Share (0..1) of the characters that look like UTF-8 read as `code_page` or Latin-1."""
    if not text or text.isascii():
        return 0.0
    return 2 * len(_misread_pair(code_page).findall(text)) / len(text)
