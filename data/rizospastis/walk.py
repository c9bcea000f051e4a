"""How the newspaper is walked: from a day to the pages of its issue, from a page to its stories.

The verdict on a page is a recorded state, a pure function of the page and of the days that link to it:

    ok          an issue, a page, an article, a list
    joint       a day whose issue is filed under an earlier day (weekend issues)
    other_date  the site served another issue than the one asked for
    no_issue    nothing with a newspaper's date on it: no paper that day, or no such page
    empty_page  a page without a story («ΚΕΝΗ»)
    gone        an article without text
    promo       an article linked from so many issues that it must be a permanent promotion
    error       not readable in any encoding; asked for again in a later run
"""

from collections.abc import Iterator, Sequence
from datetime import date

from data.rizospastis import site
from oracle import quality
from oracle.rawstore import ERROR, Answer, Page, Request

_DAY, _PAGE, _REPORTAGE, _STORY = range(4)  # the order of work within a day


def day_request(day: str) -> Request:
    """The first page of whatever the site has for that day."""
    return Request(f"day/{day}", site.page_url(day), day, _DAY)


class Walk:
    """Judges the pages of the site; on every `reportage_every`th day it asks for the word counts as well."""

    def __init__(self, reportage_every: int) -> None:
        self._reportage_every = reportage_every

    def is_complete(self, body: bytes) -> bool:
        return site.is_complete(body)

    def judge(self, key: str, page: Page, days: Sequence[str]) -> Answer:
        text, codec = site.decode(page.body, page.headers)
        if quality.is_lost(text):
            return Answer(ERROR, {"reason": f"too many characters that {codec} cannot explain"})
        kind = key.split("/")[0]
        if kind == "story":
            return _judge_story(page, days)
        if kind == "reportage":
            counts = site.parse_word_counts(page)
            links = [_story_request(story_id, days[0]) for story_id in counts]
            return Answer("ok" if counts else "empty_page", {"stories": len(counts)}, links)
        return self._judge_issue_page(key, page, days)

    def _judge_issue_page(self, key: str, page: Page, days: Sequence[str]) -> Answer:
        """A page of an issue; an edition's first one leads to all others, and to the day's other editions."""
        kind, wanted, *place = key.split("/")
        issue = site.parse_issue_page(page)
        note = {
            "dates": issue.dates,
            "edition": issue.edition,
            "pages": issue.total,
            "section": issue.section,
        }
        note |= {name: value for name, value in (("printing", issue.printing), ("insert", issue.insert)) if value}
        if not issue.dates:
            return Answer("no_issue")
        if wanted not in issue.dates:
            return Answer("other_date", note)
        day, filed = days[0], issue.dates[0]
        links = [_story_request(story_id, day) for story_id in issue.stories]
        is_first = kind == "day" or int(place[-1]) == 1
        if is_first:
            links += [_page_request(filed, issue.edition, number, day) for number in range(2, issue.total + 1)]
        if kind == "day":
            links += [_page_request(filed, edition, 1, day) for edition in issue.other_editions]
            links += self._reportages(issue.edition, filed, day)
        if filed != wanted:
            return Answer("joint", note, links)
        return Answer("ok" if issue.stories and not issue.is_blank else "empty_page", note, links)

    def _reportages(self, edition: int, filed: str, day: str) -> Iterator[Request]:
        every = self._reportage_every
        if edition and every and date.fromisoformat(filed).toordinal() % every == 0:
            for name in site.REPORTAGES:
                yield Request(f"reportage/{edition:06d}/{name}", site.reportage_url(edition, name), day, _REPORTAGE)


def _judge_story(page: Page, days: Sequence[str]) -> Answer:
    story = site.parse_story(page)
    if not story:
        return Answer("gone")
    note = {"date": story.date, "words": story.word_count}
    if len(days) > site.PROMO_DAYS:
        return Answer("promo", note)
    if not story.date or story.date in days or set(site.printed_dates(page)) & set(days):
        return Answer("ok", note)
    return Answer("other_date", note)


def _story_request(story_id: int, day: str) -> Request:
    return Request(f"story/{story_id:012d}", site.story_url(story_id), day, _STORY)


def _page_request(filed: str, edition: int, number: int, day: str) -> Request:
    return Request(f"page/{filed}/{edition:06d}/{number:03d}", site.page_url(filed, edition, number), day, _PAGE)
