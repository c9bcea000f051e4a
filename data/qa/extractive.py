"""Questions and answers without a model: cut out of the articles by patterns, and no more than that.

An answer is the article's own words (or its title, or its date): it teaches a model to answer in the paper's voice, and
not to reason. The wordings of the questions are in phrasings_<language>.json, for people to edit; a kind of question
that a language has no wordings for is not asked. Who said what, numbers, times and names are found in Greek only.
"""

import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from oracle.cli import UserError
from oracle.corpus import Document
from oracle.files import atomic_file
from oracle.text import fold, normalize

SOURCE = "extractive"
MIN_WORDS, MAX_WORDS = 4, 120  # of an answer, except of a title or a date
BEGINNING_WORDS = 12  # of a paragraph that is to be continued, at least
LEAD_WORDS = 70
QUOTE_WORDS = (4, 30)
FEW_KINDS = (
    2.0  # a kind may always have so many times an even share: of few kinds some are rare, and the rest must be more
)

_SENTENCE_END = re.compile(r"(?<=[.!?;…])(?<!\b[^\W\d_]\.)[»”\"]?\s+(?=[«„“\"–—-]?\s?[^\W\d_a-zα-ωά-ώа-џ]|\d)")


class Found(NamedTuple):
    """A kind of question, what its wordings have to be filled in with, and the answer."""

    kind: str
    fillings: dict[str, str]
    answer: str


class Article(NamedTuple):
    document: Document
    paragraphs: list[str]
    sentences: list[str]

    @property
    def statements(self) -> list[str]:
        """The sentences without questions and dialogue."""
        return [s for s in self.sentences if s[0] not in "—–-" and not s.endswith((";", "?"))]

    @property
    def title(self) -> str:
        return self.document.title.rstrip(".").replace("«", "“").replace("»", "”")  # it will stand in quotes


def read(document: Document) -> Article:
    """A document in its parts. Lines that end no sentence are headings and lists: nobody asks about these."""
    paragraphs = [line.strip() for line in normalize(document.text).split("\n")]
    paragraphs = [
        p for p in paragraphs if len(p.split()) >= MIN_WORDS and p.endswith((".", "!", "?", ";", "…", "»", "”", '"'))
    ]
    return Article(document, paragraphs, [s for p in paragraphs for s in sentences(p)])


def sentences(paragraph: str) -> list[str]:
    """The sentences of a paragraph; a quote is not taken apart."""
    whole: list[str] = []
    for part in _split(paragraph):
        if whole and whole[-1].count("«") > whole[-1].count("»"):
            whole[-1] = f"{whole[-1]} {part}"
        else:
            whole.append(part)
    return whole


def _split(paragraph: str) -> Iterator[str]:
    start = 0
    for match in _SENTENCE_END.finditer(paragraph):
        end = len(paragraph[: match.end()].rstrip())
        yield paragraph[start:end]
        start = match.end()
    yield paragraph[start:]


def _leading(article: Article) -> str:
    """The first sentences, up to `LEAD_WORDS` words of them."""
    taken = ""
    for sentence in sentences(article.paragraphs[0]):
        if taken and len(f"{taken} {sentence}".split()) > LEAD_WORDS:
            break
        taken = f"{taken} {sentence}".strip()
    return taken


def about_title(article: Article, chance: random.Random) -> Iterator[Found]:
    """Title and lead, either way; what the next paragraphs add."""
    if not article.paragraphs or not article.title:
        return
    lead = _leading(article)
    is_question = article.document.title.endswith((";", "?"))
    yield Found(
        "question_title" if is_question else "lead",
        {"title": article.document.title if is_question else article.title},
        lead,
    )
    yield Found("title", {"lead": lead}, article.document.title)
    for paragraph in article.paragraphs[1:]:
        yield Found("more", {"title": article.title}, paragraph)


def continuations(article: Article, chance: random.Random) -> Iterator[Found]:
    """A paragraph's first sentences, and the rest."""
    for paragraph in article.paragraphs:
        parts = sentences(paragraph)
        for cut in range(1, len(parts)):
            beginning, rest = " ".join(parts[:cut]), " ".join(parts[cut:])
            if len(beginning.split()) >= BEGINNING_WORDS:
                if beginning.count("«") == beginning.count("»"):
                    yield Found("continue", {"beginning": beginning}, rest)
                break


_LONG_WORD = re.compile(r"(?<![\w’'])[^\W\d_]{6,}(?![\w’'])")


def cloze(article: Article, chance: random.Random) -> Iterator[Found]:
    """A sentence with a word left out, and three words to choose from; the answer is the sentence."""
    words = sorted({w for s in article.sentences for w in _LONG_WORD.findall(s) if w.islower()})
    for sentence in article.statements:
        inside = [m for m in _LONG_WORD.finditer(sentence) if m[0].islower() and sentence.count(m[0]) == 1]
        if not inside or len(sentence.split()) < 9:
            continue
        gap = chance.choice(inside)
        # Words of another ending would not fit the sentence, and the question would be none.
        others = [
            w
            for w in words
            if fold(w)[-2:] == fold(gap[0])[-2:] and fold(w)[:5] != fold(gap[0])[:5] and w not in sentence
        ]
        if len(others) < 2:
            continue
        choices = [gap[0], *chance.sample(others, 2)]
        chance.shuffle(choices)
        gapped = f"{sentence[: gap.start()]}____{sentence[gap.end() :]}"
        yield Found("cloze", {"gapped": gapped, "choices": ", ".join(choices)}, sentence)


_NAME = r"[Α-ΩΆΈΉΊΌΎΏ][α-ωά-ώ]+"
_SPEECH = "είπε|λέει|δήλωσε|απάντησε|απαντά|τόνισε|σημείωσε|εξήγησε|εξηγεί|πρόσθεσε|μας είπε|μας λέει|σημειώνει|θυμάται|υποστήριξε|ανέφερε|παραδέχτηκε|φώναξε"
# «…», είπε [στη «Φωνή»] ο αντιδήμαρχος Μανώλης Ραυτογιάννης
_QUOTED = re.compile(
    rf"«([^«»]+)»\s*,?\s*(?:μου |μας |του |της |τους )?(?:{_SPEECH})(?: [^.,«»]{{0,30}}?| στη[ν]? «[^»]+»)?"
    rf" ([οη](?: [α-ωά-ώ]+){{0,4}}?(?: {_NAME}){{2,4}})(?![α-ωά-ώ])"
)


def quotes(article: Article, chance: random.Random) -> Iterator[Found]:
    """Who said a thing, and what somebody said."""
    for sentence in article.sentences:
        for match in _QUOTED.finditer(sentence):
            quote, speaker = match[1].strip(" .,"), match[2]
            if QUOTE_WORDS[0] <= len(quote.split()) <= QUOTE_WORDS[1]:
                yield Found("who_said", {"quote": quote}, sentence)
                yield Found("said_what", {"speaker": speaker}, sentence)


_COUNTED = re.compile(
    r"(?<![\d.,:/])(\d{1,3}(?:\.\d{3})*(?:,\d+)?) ([α-ωά-ώ]{3,})(?![\w’'])(?! [α-ωά-ώ]{3,}[αά]\b)"
)  # no adjective
# By the unit's ending, the longest that fits; but for endings that men and women share.
_HOW = (
    ("στες", ""), ("ίτες", ""), ("ότες", ""), ("τές", ""), ("ίες", ""), ("εις", "Πόσες"), ("ους", "Πόσους"), ("ούς", "Πόσους"),
    ("ές", "Πόσες"), ("ες", "Πόσες"), ("ά", "Πόσα"), ("α", "Πόσα"), ("ευρώ", "Πόσα"),
)  # fmt: skip
_NO_UNITS = frozenset(
    [
        "για",
        "και",
        "ακόμα",
        "τώρα",
        "μετά",
        "πάνω",
        "που",
        "από",
        "ως",
        "με",
        "στα",
        "στις",
        "στους",
        "τα",
        "χθες",
        "τις",
        "ετών",
        "όλα",
        "μέχρι",
        "αλλά",
        "έως",
        "έχουν",
    ]
)


def numbers(article: Article, chance: random.Random) -> Iterator[Found]:
    """How many of something, where only one number of it is in the article."""
    if not article.title:
        return
    units = Counter(match[2] for s in article.sentences for match in _COUNTED.finditer(s))
    for sentence in article.statements:
        for number, unit in _COUNTED.findall(sentence):
            how = next((how for end, how in _HOW if unit.endswith(end)), "")
            if how and units[unit] == 1 and unit not in _NO_UNITS and number != "1":
                yield Found(
                    "number", {"how": how, "how_small": how.lower(), "unit": unit, "title": article.title}, sentence
                )


_DAY = "Δευτέρα|Τρίτη|Τετάρτη|Πέμπτη|Παρασκευή|Σάββατο|Κυριακή"
_TIME = re.compile(
    rf"(?:Τη[ν]?|Το) (?:προπερασμένη |περασμένη |επόμενη |περασμένο |επόμενο )?(?:{_DAY})(?: (?:το (?:πρωί|μεσημέρι|απόγευμα|βράδυ)|τα ξημερώματα|\d+ {_NAME}))*"
    rf"|Στις (?:{_NAME}|\d+)(?: {_NAME})?(?: [\d:.]+\d)?(?: το (?:πρωί|μεσημέρι|απόγευμα|βράδυ))?"
)


def times(article: Article, chance: random.Random) -> Iterator[Found]:
    """What happened at the time that a sentence opens with."""
    for sentence in article.statements:
        match = _TIME.match(sentence)
        if (
            match
            and article.title
            and " θα " not in sentence
            and len(match[0].split()) > 1
            and sentence[match.end() : match.end() + 1] in (" ", ",")
        ):
            yield Found("when", {"time": match[0][0].lower() + match[0][1:], "title": article.title}, sentence)


_PERSON = re.compile(
    rf"\b[οηΟΗ] ({_NAME}(?: {_NAME}){{1,2}})(?![\w-]| [Α-ΩΆ-Ώ])"
)  # after ο or η a name stands in its own form


def names(article: Article, chance: random.Random) -> Iterator[Found]:
    """The sentence that a person appears in."""
    seen = set()
    for sentence in article.statements:
        for name in _PERSON.findall(sentence):
            if name not in seen and len(sentence.split()) >= 7:
                seen.add(name)
                yield Found("name", {"name": name}, sentence)


KINDS: dict[str, tuple[Callable[[Article, random.Random], Iterator[Found]], ...]] = {
    "el": (about_title, continuations, cloze, quotes, numbers, times, names),
}
ANYWHERE = (about_title, continuations, cloze)


def published(article: Article, wording: dict[str, Any]) -> Iterator[Found]:
    """When the article appeared, and in which section."""
    if article.title and article.document.date:
        day = date.fromisoformat(article.document.date)
        parts = {"day": str(day.day), "month": wording["months"][day.month - 1], "year": str(day.year)}
        shown = _filled(wording["first_day" if day.day == 1 else "day"], parts)
        fillings = {"title": article.title, "date": shown, "section": article.document.section}
        answer = wording["dated_section" if fillings["section"] else "dated"]
        yield Found("date", fillings, _filled(answer, fillings))


def pairs_of(document: Document, language: str, wording: dict[str, Any], seed: int, most: int) -> list[dict[str, Any]]:
    """Up to `most` rows about one article, kinds taken in turn so that each is there; the same for the same seed."""
    chance = random.Random(f"{seed}:{document.id}")
    article = read(document)
    by_kind: dict[str, list[Found]] = defaultdict(list)
    finders = KINDS.get(language, ANYWHERE)
    for found in (f for find in finders for f in find(article, chance)):
        size = len(found.answer.split())
        if found.kind in wording and (MIN_WORDS <= size <= MAX_WORDS or found.kind == "title"):
            by_kind[found.kind].append(found)
    by_kind["date"] += published(article, wording)
    chosen: list[Found] = []
    for alike in by_kind.values():
        chance.shuffle(alike)
    kinds = list(by_kind)
    chance.shuffle(kinds)
    while len(chosen) < most and any(by_kind.values()):
        chosen += [by_kind[kind].pop() for kind in kinds if by_kind[kind]]
    rows = [_row(document, number, found, chance, wording) for number, found in enumerate(chosen[:most])]
    once = {row["messages"][0]["content"]: row for row in reversed(rows)}
    return list(reversed(once.values()))


def _row(
    document: Document, number: int, found: Found, chance: random.Random, wording: dict[str, Any]
) -> dict[str, Any]:
    question = _filled(chance.choice(wording[found.kind]), found.fillings)
    return {
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": found.answer}],
        "id": f"{document.id}/{SOURCE}/{number}",
        "source": SOURCE,
        "article": document.id,
        "kind": found.kind,
    }


def _filled(wording: str, fillings: dict[str, str]) -> str:
    """`wording` with {name} filled in; braces that the fillings bring along stay."""
    return re.sub(r"\{(\w+)\}", lambda match: fillings[match[1]], wording)


def allowed_share(share: float, kinds: int) -> float:
    """The share that one of so many kinds may have: `share`, or twice an even one where that is more."""
    return max(share, FEW_KINDS / kinds)


def capped(rows: list[dict[str, Any]], share: float, seed: int) -> list[dict[str, Any]]:
    """The rows without as many of the commonest kinds as make more than `share` of what is left; order is kept."""
    left = Counter(row["kind"] for row in rows)
    share = allowed_share(share, len(left))
    limit = max(left.values())
    while limit > 1 and limit > share * sum(min(count, limit) for count in left.values()) + 1e-9:
        limit -= 1
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    kept: Counter[str] = Counter()
    chosen = []
    for i in order:
        kind = rows[i]["kind"]
        if kept[kind] < limit:
            kept[kind] += 1
            chosen.append(i)
    return [rows[i] for i in sorted(chosen)]


def _one_line(text: str) -> str:
    return " ".join(normalize(text).split())


def read_wording(language: str) -> dict[str, Any]:
    path = Path(__file__).parent / f"phrasings_{language}.json"
    try:
        wording = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); mend it or put the original back") from None
    return dict(wording)


def write(
    corpus: Iterable[Document], out: Path, language: str, seed: int, per_article: int, share: float, limit: int
) -> str:
    """Write the pairs of a corpus, all or none, and return a summary. Raises UserError where there is none."""
    wording = read_wording(language)
    rows: list[dict[str, Any]] = []
    articles = told = in_article = 0
    for document in corpus:
        if limit and articles == limit:
            break
        articles += 1
        made = pairs_of(document, language, wording, seed, per_article)
        told += bool(made)
        rows += made
        own = _one_line(f"{document.title} {document.text}")
        in_article += sum(_one_line(row["messages"][1]["content"]) in own for row in made if row["kind"] != "date")
    if not rows:
        raise UserError(
            f"no question could be cut out of {articles:,} articles; is the language right, and do the articles have titles?"
        )
    verbatim = in_article / max(1, sum(row["kind"] != "date" for row in rows))
    kept = capped(rows, share, seed)
    with atomic_file(out) as file:
        for row in kept:
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    kinds = Counter(row["kind"] for row in kept)
    return (
        f"{out}: extractive pairs, made without a model: answers are the articles' own words\n"
        f"{articles:,} articles, {told:,} with questions; {len(kept):,} pairs, {len(kept) / articles:.1f} an article"
        f" ({len(rows) - len(kept):,} left out so that no kind is more than {allowed_share(share, len(kinds)):.0%})\n"
        f"{verbatim:.1%} of the answers stand word for word in their article (dates apart)\n"
        "kinds: " + ", ".join(f"{kind} {count:,} ({count / len(kept):.0%})" for kind, count in kinds.most_common())
    )
