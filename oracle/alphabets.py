"""Letters of one alphabet typed for their twins in another: `Eυρώπη` with a Latin E, `дoм` with a Latin o.

A reader sees no difference; a tokenizer sees two words. The alphabets that share letters with Latin are in
`TWINS`; another one is one line there.
"""

import re
from dataclasses import dataclass
from functools import cached_property

_TO_JUDGE = 0.5  # share of the letters: the alphabet of most of a text decides where a word alone does not


@dataclass(frozen=True)
class Twins:
    """An alphabet (`letters`, for a regular expression) and its letters that look like Latin ones."""

    letters: str
    latin: str
    own: str

    @cached_property
    def to_own(self) -> dict[int, int]:
        return str.maketrans(self.latin, self.own)

    @cached_property
    def to_latin(self) -> dict[int, int]:
        return str.maketrans(self.own, self.latin)

    @cached_property
    def border(self) -> re.Pattern[str]:
        """Where the two alphabets meet inside a word: nothing is to be done in a text without it."""
        return re.compile(f"[A-Za-z][{self.letters}]|[{self.letters}][A-Za-z]")

    @cached_property
    def mixed_word(self) -> re.Pattern[str]:
        return re.compile(f"(?=[^\\W\\d_]*[A-Za-z])(?=[^\\W\\d_]*[{self.letters}])[^\\W\\d_]+")

    @cached_property
    def only_latin(self) -> re.Pattern[str]:
        return re.compile(f"[^\\W\\d_{self.letters}{self.latin}]")

    @cached_property
    def only_own(self) -> re.Pattern[str]:
        return re.compile(f"(?![{self.own}])[{self.letters}]")

    @cached_property
    def lonely(self) -> re.Pattern[str]:
        """Words in small letters that all have twins, between words of this alphabet."""
        small = "".join(filter(str.islower, self.latin))
        return re.compile(f"(?<=[{self.letters}] )[{small}]+(?= [{self.letters}])")

    def prevails_in(self, text: str) -> bool:
        """Whether at least half of the letters of `text` are of this alphabet."""
        own, latin = re.findall(f"[{self.letters}]", text), re.findall("[A-Za-z]", text)
        return len(own) >= _TO_JUDGE * (len(own) + len(latin))


# Of the small Greek letters only ο and ν: α, ε, ι, κ, ρ, υ, χ are told apart in most typefaces.
TWINS = {
    "GREEK": Twins(
        "\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u03e1\u03f3"
        "\u1f00-\u1fbc\u1fc2-\u1fcc\u1fd0-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ffc",
        "ABEZHIKMNOPTYXov",
        "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧον",
    ),
    "CYRILLIC": Twins("\u0400-\u0481\u048a-\u052f", "ABCEHJKMOPTXYacejopxy", "АВСЕНЈКМОРТХУасејорху"),
}


def unify(text: str, script: str) -> str:
    """Give every word one alphabet: `Eυρώπη`, `ΠAΟ` get Greek letters, `ΝBC` and `Οscar` Latin ones.

    A word (a run of letters) changes if it mixes the alphabets and all its letters of the losing one have a
    twin. Where that leaves both possible (`Tον`, `NΑΤΟ`), the alphabet of most of the text decides, except
    for Roman numerals. So it does for a small `o` between Greek words. NATO, ΝΑΤΟ and words like `Ωmega`
    stay. `script` is a key of `TWINS`.
    """
    twins = TWINS[script]
    if not (twins.border.search(text) or twins.lonely.search(text)):
        return text

    def by_itself(match: re.Match[str]) -> str:
        word = match[0]
        latin, own = twins.only_latin.search(word), twins.only_own.search(word)
        if bool(latin) is bool(own):
            return word
        return word.translate(twins.to_own if own else twins.to_latin)

    def by_text(match: re.Match[str]) -> str:
        word = match[0]
        if twins.only_own.search(word):
            return word
        latin = word.translate(twins.to_latin)
        return word.translate(twins.to_own) if prevails and not set(latin) <= set("IX") else latin

    text = twins.mixed_word.sub(by_itself, text)
    prevails = twins.prevails_in(text)
    text = twins.mixed_word.sub(by_text, text)
    return twins.lonely.sub(lambda match: match[0].translate(twins.to_own), text) if prevails else text
