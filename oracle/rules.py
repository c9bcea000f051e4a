"""The rules of cleaning, by name and in order: each drops a document or changes its text, and says why.

`standard_rules` is the list that every source shares; a source adds its own with the same few constructors.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from oracle import alphabets, greek, quality, text

Document = dict[str, Any]

HEADLINE_FIELDS = ("title", "kicker", "subtitle")
_WRITTEN_FIELDS = (*HEADLINE_FIELDS, "text")


@dataclass(frozen=True)
class Rule:
    """One step of the funnel: either `change` (text to text, on `fields`) or `drop` (document to yes or no).

    Both must be picklable: functions of a module, or `functools.partial` of one.
    """

    name: str
    why: str
    change: Callable[[str], str] | None = None
    drop: Callable[[Document], bool] | None = None
    fields: tuple[str, ...] = _WRITTEN_FIELDS


def _about_text(predicate: Callable[[str], bool], document: Document) -> bool:
    return predicate(document["text"])


def drop_if(name: str, why: str, predicate: Callable[[str], bool]) -> Rule:
    """A rule that drops the documents whose text satisfies `predicate`."""
    return Rule(name, why, drop=partial(_about_text, predicate))


def _without_lines(lines: frozenset[str], body: str) -> str:
    return "\n".join(line for line in body.split("\n") if not line.strip().startswith(tuple(lines)))


def drop_lines(name: str, why: str, openings: Iterable[str]) -> Rule:
    """A rule that drops every line that begins with one of `openings`."""
    return Rule(name, why, change=partial(_without_lines, frozenset(openings)), fields=("text",))


def _nothing(_: str) -> str:
    return ""


def drop_headlines() -> Rule:
    """A rule that empties title, kicker and subtitle: some train on bodies alone."""
    return Rule("headlines", "Titles are left out, as asked.", change=_nothing, fields=HEADLINE_FIELDS)


def _repairs(language: str) -> list[Rule]:
    """What must see the text as decoded, before `normalize` folds no-break spaces and deletes controls."""
    code_page = quality.language_of(language).code_page
    rules = [
        Rule(
            "redecode",
            "The whole text was read with a wrong codec.",
            partial(text.redecode, code_page=code_page),
        )
    ]
    rules.append(Rule("soft_dashes", "Soft hyphens that stand for dashes.", text.repair_soft_dashes))
    if language == "el":
        rules += [
            Rule(
                "stray_beta",
                "Β before quotes and blanks: UTF-8 once read as windows-1253.",
                greek.repair_stray_beta,
            ),
            Rule("pilcrow", "¶ for Ά: ISO-8859-7 read as windows-1253.", greek.repair_pilcrow),
            Rule(
                "apostrophe",
                "Υ for an apostrophe: Macintosh bytes read as windows-1253.",
                greek.repair_apostrophe,
            ),
            Rule("joiners", "Zero-width joiners, which mean nothing in Greek.", greek.drop_joiners),
            Rule("technical_signs", "µ and ∆ that stand for Greek letters.", greek.unify_technical_signs),
        ]
    misread = partial(quality.is_misread, language=language)
    return [
        *rules,
        drop_if("misread", "A codec broke it beyond repair: decode or fetch the page again.", misread),
    ]


def _forms(language: str) -> list[Rule]:
    rules = [
        Rule("lost_bytes", "Signs of bytes that no codec could read.", text.drop_lost_bytes),
        Rule("normalize", "Unicode NFC, plain blanks, nothing invisible.", text.normalize),
        Rule("dots", "One form of the ellipsis: three dots.", text.unify_dots),
        Rule("bullets", "One form of the list item.", text.unify_bullets, fields=("text",)),
    ]
    script = quality.language_of(language).script
    if script in alphabets.TWINS:
        unify = partial(alphabets.unify, script=script)
        rules.append(Rule("alphabets", "Latin letters in words of another alphabet, and the reverse.", unify))
    if language == "el":
        rules += [
            Rule("articles", "A Latin H or O for the article.", greek.repair_articles),
            Rule(
                "photo_credits",
                "Lines that only name a photo agency.",
                greek.drop_photo_credits,
                fields=("text",),
            ),
        ]
    return [
        *rules,
        Rule("repeated_lines", "A caption printed twice.", text.drop_repeated_lines, fields=("text",)),
        Rule("number_lines", "Rows of results, standings, prices.", text.drop_number_lines, fields=("text",)),
        Rule("blanks", "No blanks at line edges, one empty line at most.", text.tidy_blanks),
    ]


def _filters(language: str) -> list[Rule]:
    foreign = partial(quality.is_foreign, language=language)
    teasers = [drop_if("teaser", "A front-page teaser: it ends by naming a page.", greek.is_teaser)]
    return [
        *(teasers if language == "el" else []),
        drop_if("listing", "A TV or radio programme.", quality.is_listing),
        drop_if("short", f"Fewer than {quality.MIN_WORDS} words.", quality.is_short),
        drop_if("figures", "Figures or broken words rather than prose.", quality.is_figures),
        drop_if("foreign", "Another language, or no running text.", foreign),
        drop_if("list", "Lines that end no sentence: a list or table.", quality.is_list),
        drop_if("repetitive", "Lines or phrases repeat too often.", quality.is_repetitive),
    ]


def standard_rules(language: str, extra: Iterable[Rule] = ()) -> list[Rule]:
    """The rules every source shares, in order; `extra` ones run between the changes of form and the filters.

    Raises UsageError for a language without an entry in `oracle.quality.LANGUAGES`.
    """
    quality.language_of(language)
    return [*_repairs(language), *_forms(language), *extra, *_filters(language)]
