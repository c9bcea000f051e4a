"""Raw pages of rizospastis.gr -> corpus.jsonl with its data card.

    python -m data.rizospastis.clean --raw data/rizospastis/raw --out data/rizospastis/corpus.jsonl

Pages are parsed again on every run, so that a better parser or other rules never need another request.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from data.rizospastis import site
from oracle import cleaning, cli
from oracle.cli import UsageError
from oracle.rawstore import Page, RawStore
from oracle.rules import Document, Rule, drop_lines
from oracle.text import fold

# In a cleaned text these are a fault of the parser: the data card shows whether the rule had anything to do.
FURNITURE = (
    "Κορυφή σελίδας",
    "Ο καθημερινός ΡΙΖΟΣΠΑΣΤΗΣ",
    "Μνημεία & Μουσεία Αγώνων",
    "Διαβάστε επίσης",
    "Σχετικά:",
)


def _is_front_page(document: Document) -> bool:
    return document["page"] == 1


def _is_insert(document: Document) -> bool:
    edition = document["edition"]
    return bool(edition) and not edition.isdigit() and not edition.endswith("έκδοση")


def _is_untitled(document: Document) -> bool:
    return not document["title"]


# Kinds of item that --drop_kinds can leave out. Teasers and TV programmes go in any case (`oracle.rules`).
KINDS: dict[str, Callable[[Document], bool]] = {
    "front_page": _is_front_page,
    "insert": _is_insert,
    "untitled": _is_untitled,
}


def _section_is(names: frozenset[str], wanted: bool, document: Document) -> bool:
    return (fold(document["section"] or "") in names) is wanted


def selection(sections: Iterable[str], drop_sections: Iterable[str], drop_kinds: Iterable[str]) -> list[Rule]:
    """Rules that leave out what the user does not want; sections are compared without case and accents.

    Raises UsageError for an unknown kind, and for a section that is both wanted and not.
    """
    wanted, unwanted = frozenset(map(fold, sections)), frozenset(map(fold, drop_sections))
    if both := wanted & unwanted:
        raise UsageError(f"{', '.join(sorted(both))}: in --sections and in --drop_sections; name it in one of them")
    rules = []
    if wanted:
        rules.append(Rule("sections", "Not a section asked for.", drop=partial(_section_is, wanted, False)))
    if unwanted:
        rules.append(Rule("drop_sections", "A section to leave out.", drop=partial(_section_is, unwanted, True)))
    for kind in drop_kinds:
        if kind not in KINDS:
            raise UsageError(f"--drop_kinds={kind} is unknown; the kinds are {', '.join(KINDS)}")
        rules.append(Rule(kind, "A kind of item to leave out.", drop=KINDS[kind]))
    return rules


def read_page(item: tuple[Page, str]) -> list[Document]:
    """The story on a raw page, or none; `item` is the page and the day of the issue that links to it."""
    page, day = item
    story = site.parse_story(page)
    if story is None:
        return []
    return [
        {
            "id": str(story.story_id),
            "date": story.date or day,
            "section": story.section,
            "title": story.title,
            "kicker": story.kicker,
            "text": story.text,
            "address": page.final_url,
            "subtitle": story.subtitle,
            "author": story.author,
            "edition": story.edition,
            "page": story.page,
        }
    ]


def _stored_stories(store: RawStore) -> Iterator[tuple[Page, str]]:
    for page in store.pages("story/", states=["ok"]):
        yield page, next(iter(store.linked_from(page.key)), "")


def _warn_of_unseen(sections: Iterable[str], card: dict[str, dict[str, dict[str, int]]]) -> None:
    seen = card["kept"]["sections"]
    for name in sections:
        if fold(name) not in map(fold, seen):
            print(
                f"warning: no story of section {name!r} was kept; kept were {', '.join(seen)}",
                file=sys.stderr,
            )


def main(argv: Sequence[str]) -> None:
    """Parse the command line and clean."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, required=True, help="folder that scrape.py filled")
    parser.add_argument("--sections", nargs="+", default=[], metavar="NAME", help="only these sections")
    parser.add_argument("--drop_sections", nargs="+", default=[], metavar="NAME", help="all but these sections")
    parser.add_argument("--drop_kinds", nargs="+", default=[], metavar="KIND", help=f"leave out: {', '.join(KINDS)}")
    cleaning.add_arguments(parser)
    parser.set_defaults(source=site.BASE_URL, licence="the publisher's; ask before passing the text on")
    args = parser.parse_args(argv)
    before = selection(args.sections, args.drop_sections, args.drop_kinds)
    furniture = drop_lines("furniture", "Words of the site, not of the paper: a fault of the parser.", FURNITURE)
    with RawStore(args.raw) as store:
        items = _stored_stories(store)
        card = cleaning.run(args, "Ριζοσπάστης", items, read_page, before=before, extra=[furniture])
    _warn_of_unseen(args.sections, card)


if __name__ == "__main__":
    sys.exit(cli.run(main))
