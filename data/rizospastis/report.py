"""What a crawl has and lacks: completeness by year and month, and parsed words against the site's count."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import date

from data.rizospastis import site
from oracle.rawstore import DISALLOWED, ERROR, QUEUED, STORED, RawStore

WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
LOW_ISSUE_SHARE = 0.5  # an issue with fewer stories than this share of its year's median is worth a look
WORD_TOLERANCE = 0.1
_WAITING = (QUEUED, STORED, ERROR, DISALLOWED)


def report(store: RawStore, first: str, last: str) -> Iterator[str]:
    """The lines of the report on the days first..last (ISO dates). Needs no network and changes nothing."""
    months: dict[str, Counter[str]] = defaultdict(Counter)
    weekdays: dict[str, Counter[int]] = defaultdict(Counter)
    per_issue: Counter[str] = Counter()
    for day in site.days_between(first, last):
        months[day[:7]]["days"] += 1
    for entry in store.entries(first, last):
        kind = entry.key.split("/")[0]
        months[entry.day[:7]][f"{kind} {entry.state}"] += 1
        if kind == "day" and entry.state in ("no_issue", "other_date"):
            weekdays[entry.day[:4]][date.fromisoformat(entry.day).weekday()] += 1
        if kind == "story" and entry.state == "ok":
            per_issue[entry.day] += 1
        if kind == "page" and entry.note.get("insert"):
            months[entry.day[:7]]["insert"] += entry.key.endswith("/001")
        if kind in ("day", "page") and entry.note.get("printing"):
            months[entry.day[:7]]["printing"] += kind == "day" or entry.key.endswith("/001")
    yield from _completeness(months)
    yield from _gaps(weekdays, per_issue)
    yield from word_count_lines(store)


def _completeness(months: dict[str, Counter[str]]) -> Iterator[str]:
    columns = ("days", "issues", "joint", "none", "other", "d-open", "pages", "empty", "absent", "p-open",
               "inserts", "printed", "stories", "gone", "promo", "s-open")  # fmt: skip
    yield f"{'':7} " + " ".join(f"{name:>7}" for name in columns)
    years: dict[str, Counter[str]] = defaultdict(Counter)
    for month, counts in sorted(months.items()):
        years[month[:4]].update(counts)
    for year, total in sorted(years.items()):
        for month in sorted(months):
            if month.startswith(year):
                yield _row(month, months[month])
        yield _row(year, total)


def _row(name: str, counts: Counter[str]) -> str:
    def of(kind: str, *states: str) -> int:
        return sum(counts[f"{kind} {state}"] for state in states)

    numbers = (
        counts["days"],
        of("day", "ok", "empty_page"),
        of("day", "joint"),
        of("day", "no_issue"),
        of("day", "other_date"),
        counts["days"] - of("day", "ok", "empty_page", "joint", "no_issue", "other_date"),
        of("page", "ok") + of("day", "ok"),
        of("page", "empty_page"),
        of("page", "no_issue", "other_date"),
        of("page", *_WAITING),
        counts["insert"],
        counts["printing"],
        of("story", "ok"),
        of("story", "gone"),
        of("story", "promo", "other_date"),
        of("story", *_WAITING),
    )
    return f"{name:7} " + " ".join(f"{number:7,}" for number in numbers)


def _gaps(weekdays: dict[str, Counter[int]], per_issue: Counter[str]) -> Iterator[str]:
    yield ""
    yield "days without an issue   " + " ".join(f"{name:>4}" for name in WEEKDAYS)
    for year, counts in sorted(weekdays.items()):
        yield f"{year:24}" + " ".join(f"{counts[weekday]:4}" for weekday in range(7))
    low = []
    for year in sorted({day[:4] for day in per_issue}):
        issues = {day: count for day, count in per_issue.items() if day.startswith(year)}
        median = statistics.median(issues.values())
        low += [f"{day} ({count})" for day, count in sorted(issues.items()) if count < LOW_ISSUE_SHARE * median]
    yield f"issues below {LOW_ISSUE_SHARE:.0%} of their year's median of stories: {', '.join(low) or 'none'}"


def compare_word_counts(store: RawStore) -> list[tuple[int, int, int]]:
    """(story id, the site's word count, the parser's) for every story that a stored list counts."""
    counts: dict[int, int] = {}
    for page in store.pages("reportage/"):
        counts |= site.parse_word_counts(page)
    compared = []
    for story_id, theirs in sorted(counts.items()):
        page_of_story = store.page(f"story/{story_id:012d}")
        story = site.parse_story(page_of_story) if page_of_story else None
        if story:
            compared.append((story_id, theirs, story.word_count))
    return compared


def word_count_lines(store: RawStore) -> Iterator[str]:
    """The parser's word counts against the site's own: how many agree, and the worst ones."""
    compared = compare_word_counts(store)
    if not compared:
        yield "the site's word counts: none fetched yet, so nothing to compare with"
        return
    shares = {story_id: ours / max(theirs, 1) - 1 for story_id, theirs, ours in compared}
    agree = sum(abs(share) <= WORD_TOLERANCE for share in shares.values())
    yield (
        f"the site's word counts: {agree} of {len(shares)} stories within {WORD_TOLERANCE:.0%}, "
        f"median difference {statistics.median(shares.values()):+.1%}"
    )
    for story_id in sorted(shares, key=lambda known: -abs(shares[known]))[:5]:
        if abs(shares[story_id]) > WORD_TOLERANCE:
            yield f"    {site.story_url(story_id)}  {shares[story_id]:+.0%}"
