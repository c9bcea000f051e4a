"""Which pairs are worth learning: grounded in their article, in its language, said once, and no excuses."""

import re
from collections import Counter
from dataclasses import dataclass, field

from oracle.quality import language_of, script_share
from oracle.text import fold

MIN_QUESTION_WORDS = 3
MIN_ANSWER_WORDS = 3
MAX_ANSWER_WORDS = 400
MIN_SCRIPT_SHARE = 0.7  # as for a corpus
MIN_OVERLAP = 0.6  # of the answer's longer words; measured on stems, for inflected languages change the rest
STEM = 5  # letters
MAX_ALIKE = 0.8  # of two questions' words, Jaccard

# A reader of the answer has no article before him; and a model that was sorry teaches to be sorry.
_ABOUT_THE_TEXT = {
    "el": r"σύμφωνα με το[ν]? (?:άρθρο|κείμενο|ρεπορτάζ|απόσπασμα)|(?:στο|το) (?:παραπάνω |παρόν |δοθέν )?(?:άρθρο|κείμενο|απόσπασμα)"
    r" (?:αναφέρ|δεν αναφέρ|λέει|γράφει)|δεν (?:αναφέρεται|προκύπτει|διευκρινίζεται) στο (?:άρθρο|κείμενο)",
    "en": r"according to the (?:article|text|passage)|the (?:article|text|passage) (?:says|states|mentions|does not)",
    "pl": r"(?:według|zgodnie z) (?:artykuł|tekst)|w (?:artykule|tekście) (?:nie )?(?:wspomniano|napisano|podano)",
    "sr": r"према (?:чланку|тексту)|у (?:чланку|тексту) (?:се )?(?:не )?(?:наводи|помиње|каже)|prema (?:članku|tekstu)|u (?:članku|tekstu) se",
}
_EXCUSES = {
    "el": r"ως (?:γλωσσικό μοντέλο|τεχνητή)|δεν μπορώ να (?:απαντήσω|βοηθήσω)|λυπάμαι, αλλά|δεν έχω (?:αρκετές )?πληροφορίες",
    "en": r"as an? (?:ai|language model)|i (?:cannot|can't|am unable to) (?:answer|help)|i'm sorry,? but|not enough information",
    "pl": r"jako (?:model językowy|sztuczna)|nie mogę (?:odpowiedzieć|pomóc)|przykro mi, ale|brak (?:wystarczających )?informacji",
    "sr": r"као (?:језички модел|вештачка)|не могу да (?:одговорим|помогнем)|жао ми је, али|немам (?:довољно )?информација",
}
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_WORD = re.compile(r"[^\W\d_]+")


def overlap(answer: str, article: str) -> float:
    """Share of the answer's words of four letters or more whose stem is in the article; 1 if there is none."""
    known = {word[:STEM] for word in _WORD.findall(fold(article))}
    words = [word for word in _WORD.findall(fold(answer)) if len(word) >= 4]
    return sum(word[:STEM] in known for word in words) / len(words) if words else 1.0


def copied(answer: str, article: str) -> float:
    """Share of the answer's runs of four words that stand in the article."""
    there, here = (fold(text).split() for text in (article, answer))
    runs = list(zip(*(here[i:] for i in range(4)), strict=False))
    known = set(zip(*(there[i:] for i in range(4)), strict=False))
    return sum(run in known for run in runs) / len(runs) if runs else 1.0


def invented_numbers(answer: str, question: str, article: str) -> set[str]:
    """Numbers in the answer that neither the article nor the question has."""
    return set(_NUMBER.findall(answer)) - set(_NUMBER.findall(article)) - set(_NUMBER.findall(question))


@dataclass
class Filter:
    """Says why a pair is refused, and remembers the questions it let through."""

    language: str
    min_overlap: float = MIN_OVERLAP
    refused: Counter[str] = field(default_factory=Counter)
    _asked: set[str] = field(default_factory=set)
    _of_article: dict[str, list[frozenset[str]]] = field(default_factory=dict)

    def admits(self, question: str, answer: str, article: str, name: str) -> bool:
        """Whether the pair about the article `name` is to be kept; if so, its question is remembered."""
        reason = self._fault(question, answer, article) or self._repeats(question, name)
        if reason:
            self.refused[reason] += 1
            return False
        self.remember(question, name)
        return True

    def remember(self, question: str, name: str) -> None:
        """Refuse this question from now on."""
        self._asked.add(_normal(question))
        self._of_article.setdefault(name, []).append(frozenset(_normal(question).split()))

    def _fault(self, question: str, answer: str, article: str) -> str:
        size = len(answer.split())
        if len(question.split()) < MIN_QUESTION_WORDS or size < MIN_ANSWER_WORDS:
            return "too short"
        if size > MAX_ANSWER_WORDS:
            return "too long"
        if script_share(question + answer, language_of(self.language).script) < MIN_SCRIPT_SHARE:
            return "another alphabet"
        if re.search(_EXCUSES[self.language], answer, re.I):
            return "an excuse"
        if re.search(_ABOUT_THE_TEXT[self.language], f"{question} {answer}", re.I):
            return "speaks of the article"
        if overlap(answer, article) < self.min_overlap:
            return "not in the article"
        if invented_numbers(answer, question, article):
            return "a number that is not in the article"
        return ""

    def _repeats(self, question: str, name: str) -> str:
        if _normal(question) in self._asked:
            return "asked before"
        words = frozenset(_normal(question).split())
        alike = any(len(words & other) >= MAX_ALIKE * len(words | other) for other in self._of_article.get(name, ()))
        return "nearly asked before" if alike else ""


def _normal(question: str) -> str:
    return " ".join(re.findall(r"\w+", fold(question)))
