"""Text as the model will see it: one canonical Unicode form, and nothing invisible.

`normalize` is the floor every document stands on, in any language: `prepare.py` applies it to whatever it
reads, so that bytes are counted and shards are written from the same form.
"""

import re
import unicodedata

# Deleted: soft hyphen, zero-width space/joiners, direction marks, word joiner, byte order mark, and control
# characters other than newline and tab. None of them is visible, each of them splits a word in two for a tokenizer.
_INVISIBLE = re.compile(
    "[\u00ad\u200b-\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
)
# Typographic blanks become a plain blank. U+2581 stands for a blank inside SentencePiece and would come back as one.
_BLANKS = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000\u2581]")
_LINE_ENDS = re.compile("\r\n?|\u2028|\u2029|\x85")


def normalize(text: str) -> str:
    """Return `text` in NFC, with `\\n` line ends, plain blanks and no invisible characters.

    NFC and never NFKC: NFKC would rewrite ½, ﬁ, … and superscripts, which are text. Idempotent.
    """
    text = _LINE_ENDS.sub("\n", text)
    text = _INVISIBLE.sub("", text)
    text = _BLANKS.sub(" ", text)
    return unicodedata.normalize("NFC", text)
