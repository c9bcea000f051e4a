"""What Greek newspaper text needs before it is fit to learn from: look-alike letters, traces of wrong codecs.

Each rule is a function from text to text, changes one thing, and is idempotent. House style is not an error
and stays: capitals without accents («Ολοι», «'Αποψη»), titles in capitals, demotic months, « » beside “ ”,
the old spelling («δουλιά»). There is no lower-casing, no accent stripping and no uncurling of quotes here.
"""

import re

from oracle.alphabets import TWINS

GREEK = TWINS["GREEK"].letters
_LOWER = "ά-ώϊϋΐΰα-ω\u1f00-\u1fff"

_JOINERS = re.compile("(?<![\u2600-\u27bf\ufe0f\U0001f000-\U0001faff])[\u200c\u200d]+")  # but those of emoji

# «H Λα Κορούνια»: a Latin H or O that opens a sentence before a Greek word is the article.
_LATIN_ARTICLE = re.compile(f'(?m)(^|[.!;…»:]\\s|[«"“(])([HO])(?=[ \\t][«"“]?[{GREEK}])')
_TECHNICAL = re.compile(f"(?<=[{GREEK}])[µ∆]+|[µ∆]+(?=[{GREEK}])")

# U+00A0 « » · ° ± § take two bytes in UTF-8, the first of them 0xC2: Β in windows-1253.
_C2_SIGNS = "\u00a0«»·°±§"
_STRAY_BETA = re.compile(f"Β(?=[{_C2_SIGNS}])")
# What real text never has: Β glued to an opening quote, or a Β hanging on a small letter before such a sign.
_BETA_WITNESS = re.compile(f"Β«|(?<=[{_LOWER}.,!;])Β(?=[{_C2_SIGNS}])")
# 0xD5 is the apostrophe of the old Macintosh and Υ in windows-1253: «νΥ αντιμετωπιστεί».
_MAC_APOSTROPHE = re.compile(f"\\b([{_LOWER}]{{1,4}})Υ(?= ?[{_LOWER}])")

# Photo agencies whose name alone fills a line. Add those that a list of the corpus's short lines brings up.
PHOTO_CREDITS = (
    "Eurokinissi",
    "Associated Press",
    "Sportidea",
    "Reuters",
    "AP",
    "AFP",
    "ΑΠΕ-ΜΠΕ",
    "InTime",
    "Motion Team",
)
_CREDIT = re.compile(
    r"[\W_]*(?:" + "|".join(map(re.escape, PHOTO_CREDITS)) + r")(?:\s+(?:photos?|images?))?[\W_]*", re.I
)

_TEASER = re.compile(r"ΣΕΛ\.?\s*[\d,\s\-–]+\.?", re.I)


def repair_stray_beta(text: str) -> str:
    """`Β«πόνεσεΒ»` -> `«πόνεσε»`: UTF-8 quotes, blanks and signs that were once read as windows-1253.

    Works on the whole text or not at all, so that «Ομάδα Β» and an ordinal Β before a no-break space survive
    in texts without other evidence. Call it before `normalize`, which folds the no-break space.
    """
    return _STRAY_BETA.sub("", text) if _BETA_WITNESS.search(text) else text


def repair_pilcrow(text: str) -> str:
    """`¶ρης` -> `Άρης`: ISO-8859-7 read as windows-1253.

    The reverse, `’ρης`, is not touched: «θα ’ρθει» is correct Greek. Decoding as windows-1253 avoids it.
    """
    return re.sub(f"¶(?=[{_LOWER}])", "Ά", text)


def repair_apostrophe(text: str) -> str:
    """`νΥ ακούσει` -> `ν’ ακούσει`: a Macintosh apostrophe read as windows-1253."""
    return _MAC_APOSTROPHE.sub(r"\1’", text)


def unify_technical_signs(text: str) -> str:
    """Micro sign µ and increment ∆ beside a Greek letter become μ and Δ; in `5 µm` and `∆x` they stay."""
    return _TECHNICAL.sub(lambda match: match[0].translate({0xB5: "μ", 0x2206: "Δ"}), text)


def drop_joiners(text: str) -> str:
    """Delete the zero-width joiners U+200C and U+200D, except in emoji: Greek is not written with them.

    Call it before `normalize`, which may then join an accent to its letter.
    """
    return _JOINERS.sub("", text)


def repair_articles(text: str) -> str:
    """A Latin `H` or `O` opening a sentence before a Greek word is the article Η or Ο."""
    return _LATIN_ARTICLE.sub(lambda match: match[1] + match[2].translate(TWINS["GREEK"].to_own), text)


def drop_photo_credits(text: str) -> str:
    """Drop lines that are the name of a photo agency and nothing else."""
    return "\n".join(line for line in text.split("\n") if not _CREDIT.fullmatch(line))


def is_teaser(text: str) -> bool:
    """Whether the last line sends the reader to a page («ΣΕΛ.  16 - 17»): a teaser, not a story."""
    return bool(_TEASER.fullmatch(text.rstrip().rpartition("\n")[2].strip()))
