"""How much is spoilt, and by which rules: errors drawn by weight, each in a word of its own."""

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

from data.preferences import general, greek, polish, serbian
from data.preferences.edits import Edit, Language, Rule, Word, words_of
from oracle.alphabets import TWINS

LANGUAGES = {"el": greek.LANGUAGE, "en": general.LANGUAGE, "pl": polish.LANGUAGE, "sr": serbian.IN_CYRILLIC}


class Dose(NamedTuple):
    """How a text is spoilt: the share of its words, the most edits in 100 words, and the shares of the three groups."""

    rate: float = 0.06
    most: float = 15.0
    spelling: float = 0.7
    grammar: float = 0.2
    degeneration: float = 0.1


def language_for(code: str, text: str) -> Language:
    """The rules for a text: Serbian is written in two alphabets."""
    if code == "sr" and not TWINS["CYRILLIC"].prevails_in(text):
        return serbian.IN_LATIN
    return LANGUAGES[code]


def spoil(text: str, code: str, rng: random.Random, dose: Dose = Dose()) -> list[Edit]:  # noqa: B008 (immutable)
    """Edits that spoil `text`, in order of place; at least one of some group, or none where no rule finds a word.

    A text is spoilt in one way: by spelling, by grammar or by degeneration, so that accuracy can be told by kind.
    """
    language = language_for(code, text)
    groups = ["spelling", "grammar", "degeneration"]
    first = rng.choices(groups, [dose.spelling, dose.grammar, dose.degeneration])[0]
    for group in [first, *(g for g in groups[:2] if g != first)]:
        if group == "degeneration":
            edits = general.degenerate(text, rng)
        else:
            edits = _misspell(text, language, getattr(language, group), rng, dose)
        if edits:
            return edits
    return []


def _misspell(text: str, language: Language, rules: Sequence[Rule], rng: random.Random, dose: Dose) -> list[Edit]:
    """As many edits as the dose says, by `rules` drawn by weight until no free word is left for any."""
    words = words_of(text, language.letters)
    count = len(text.split())
    exact = dose.rate * count
    wanted = math.floor(exact) + (rng.random() < exact % 1)
    wanted = max(1, min(wanted, math.floor(dose.most * count / 100)))
    left = list(rules)
    places: dict[str, list[int]] = {}
    taken: set[int] = set()
    edits: list[Edit] = []
    while left and len(edits) < wanted:
        rule = rng.choices(left, [r.weight for r in left])[0]
        if rule.kind not in places:
            places[rule.kind] = rng.sample(range(len(words)), len(words))
        edit = _next_edit(text, words, rule, places[rule.kind], taken, rng)
        if edit:
            edits.append(edit)
        else:
            left.remove(rule)
    return sorted(edits, key=lambda edit: edit.start)


def _next_edit(
    text: str, words: list[Word], rule: Rule, places: list[int], taken: set[int], rng: random.Random
) -> Edit | None:
    """The rule's next edit among `places`, which it uses up, as it does the words in `taken`; None: there is none."""
    while places:
        i = places.pop()
        word = words[i]
        following = _following(text, word)
        near = i + 1 < len(words) and words[i + 1].start == word.end + 1 and words[i + 1].text == following
        if i in taken or (rule.two and (not near or i + 1 in taken)):
            continue
        end = words[i + 1].end if rule.two else word.end
        was = text[word.start : end]
        forms = [form for form in rule.forms(word.text, following) if form != was]
        if forms:
            taken.update((i, i + 1) if rule.two else (i,))
            return Edit(rule.kind, word.start, end, was, rng.choice(forms))
    return None


def _following(text: str, word: Word) -> str:
    """The word after the next blank, if nothing else stands between."""
    if text[word.end : word.end + 1] != " ":
        return ""
    end = word.end + 1
    while end < len(text) and text[end].isalpha():
        end += 1
    return text[word.end + 1 : end]
