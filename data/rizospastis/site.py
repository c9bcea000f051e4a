"""What is known of rizospastis.gr: addresses, page anatomy, encodings, and every guess by name.

No request is made here. Where a constant is marked "guess", no live page has confirmed it yet: the first run
against the site may correct it, and nothing outside this file needs to change then. Raise PARSER_VERSION with
every such change: the next run then judges all stored pages again, without fetching them.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date, timedelta
from urllib.parse import parse_qs, urlsplit

from bs4 import BeautifulSoup
from bs4.element import NavigableString, Tag

from oracle import html
from oracle.rawstore import Page, RawStore
from oracle.text import fold

PARSER_VERSION = "1"
BASE_URL = "https://www.rizospastis.gr"
HOSTS = ("rizospastis.gr",)  # with all subdomains: www, www2 and none were seen

REPORTAGES = ("politics", "society", "sports", "arts")  # section lists seen
ISSUES_PER_DAY, PAGES_PER_ISSUE, STORIES_PER_ISSUE = 0.79, 34, 105  # for estimates only

PROMO_DAYS = 5  # an article linked from more issues than this is a permanent promotion (guess)
LONGEST_ISSUE_DAYS = 4  # a header naming a longer span of days is misread (guess)
CENTURY_PIVOT = 50  # two-digit years: 02 is 2002, 96 is 1996

STORY_BODY = "story_body"  # class of the article's text
TITLE_CLASS = re.compile(r"^title")  # classes of title, kicker, subtitle
KICKER_CAPITALS = 0.8  # share of capitals among its letters: «1ο ΔΗΜΟΤΙΚΟ» is one (guess)
IMAGE_CLASS = "image"  # class of a photo with its credit and caption
AUTHOR_CLASS = re.compile(r"^author")  # guess
MASTHEAD = "ΡΙΖΟΣΠΑΣΤΗΣ"
END_MARKER = "Κορυφή σελίδας"  # behind every article; only promotions follow
BLANK_PAGE = re.compile(r"^\W*ΚΕΝΗ\W*$", re.MULTILINE)
INSERT = re.compile(r"ΕΝΘΕΤΗ ΕΚΔΟΣΗ:\s*[\"«“]?([^\"»”\n]+)")
PAGE_LABEL = re.compile(r"Σελ(?:ίδα|\.)\s*(\d+)?[\d\s]*(?:/\s*(\d+))?")
WORD_COUNT = re.compile(r"(\d+)\s+λέξεις")
HEADER_CHARACTERS = 1500  # the date stands within the first so many characters of visible text (guess)

# Months by their first letters without accents: demotic as the paper prints them, and the formal forms.
MONTHS = {
    **dict.fromkeys(("γεν", "ιαν"), 1), **dict.fromkeys(("φλε", "φεβ"), 2), "μαρ": 3, "απρ": 4,
    **dict.fromkeys(("μαη", "μαι"), 5), "ιουν": 6, "ιουλ": 7, "αυγ": 8, "σεπ": 9,
    **dict.fromkeys(("οχτ", "οκτ"), 10), **dict.fromkeys(("νοε", "νοβ"), 11), "δεκ": 12,
}  # fmt: skip
_WORD = r"[^\W\d_]{3,12}"
HEADER_DATE = re.compile(
    rf"(?:(?P<d1>\d{{1,2}})(?:\s+(?P<m1>{_WORD}))?(?:\s+(?P<y1>\d{{4}}))?\s*[-–]\s*(?:{_WORD}\s+)?)?"
    rf"\b(?P<d2>\d{{1,2}})\s+(?P<m2>{_WORD})\s+(?P<y2>\d{{4}})(?:\s*[-–]\s*(?P<printing>\d)η\s+έκδοση)?"
)
CODE_PAGE = "cp1253"  # of pages that are not UTF-8


@dataclass(frozen=True)
class Address:
    """A canonical address: `kind` is story, page, or reportage; `date` is ISO; 0 means "not said"."""

    kind: str
    story_id: int = 0
    date: str = ""
    edition: int = 0
    number: int = 0


@dataclass(frozen=True)
class IssuePage:
    """One page of an issue as its own header describes it; `total` is 0 where the page does not print it."""

    dates: tuple[str, ...]
    printing: int
    insert: str
    edition: int
    total: int
    section: str
    stories: tuple[int, ...]
    other_editions: tuple[int, ...]
    is_blank: bool


@dataclass(frozen=True)
class Story:
    """One article. `text` holds its paragraphs, one per line.

    `date` is the printed one, the first of a joint issue's, or "" if none is printed.
    """

    story_id: int
    date: str
    edition: str
    page: int
    section: str
    kicker: str
    title: str
    subtitle: str
    author: str
    text: str
    word_count: int


# Addresses, relative to BASE_URL.


def story_url(story_id: int) -> str:
    return f"story.do?id={story_id}"


def page_url(day: str, edition: int = 0, number: int = 1) -> str:
    """A page of the issue of `day` (ISO); without `edition` the site picks the day's main one."""
    year, month, day_of_month = map(int, day.split("-"))
    url = f"page.do?publDate={day_of_month}/{month}/{year}"
    url += f"&id={edition}" if edition else ""
    return url + (f"&pageNo={number}" if number > 1 or edition else "")


def reportage_url(edition: int, reportage: str) -> str:
    return f"reportage.do?id={edition}&reportage={reportage}"


def parse_address(href: str | None) -> Address | None:
    """Return what a link of the site points to, or None if it is not a story or a page of an issue.

    One address for every spelling: with or without host and /wwwengine/, padded or not, %2F, two-digit years,
    any order of parameters, ;jsessionid, the print view.
    """
    try:
        parts = urlsplit((href or "").strip())
    except ValueError:
        return None
    host = (parts.hostname or HOSTS[0]).lower()
    if not any(host == known or host.endswith(f".{known}") for known in HOSTS):
        return None
    name = re.sub(r";jsessionid=.*", "", parts.path, flags=re.IGNORECASE).rsplit("/", 1)[-1]
    values = {key: value[0].strip() for key, value in parse_qs(parts.query).items()}
    number = {key: int(values[key]) if values.get(key, "").isdecimal() else 0 for key in ("id", "pageNo")}
    if name in ("story.do", "storyPlain.do") and number["id"]:
        return Address("story", story_id=number["id"])
    if name == "page.do":
        day = _iso_day(values.get("publDate", ""))
        if day or number["id"]:
            return Address("page", date=day, edition=number["id"], number=number["pageNo"] or 1)
    return None


def _iso_day(text: str) -> str:
    """Turn D/M/YYYY or D/M/YY into an ISO date, or into "" if it is none."""
    match = re.fullmatch(r"(\d{1,2})/(\d{1,2})/(\d{4}|\d{2})", text)
    if not match:
        return ""
    day, month, year = map(int, match.groups())
    if year < 100:
        year += 1900 if year >= CENTURY_PIVOT else 2000
    return _iso(year, month, day)


def _iso(year: int, month: int, day: int) -> str:
    try:
        return date(year, month, day).isoformat()
    except ValueError:
        return ""


def days_between(first: str, last: str) -> Iterator[str]:
    """The days first..last, ISO."""
    start = date.fromisoformat(first)
    for offset in range((date.fromisoformat(last) - start).days + 1):
        yield (start + timedelta(offset)).isoformat()


# Bytes to text.


def decode(body: bytes, headers: Mapping[str, str]) -> tuple[str, str]:
    """Return (text, codec), as `oracle.html.decode` does; of labels only ISO-8859-7 is a hint worth having."""
    label = (headers.get("content-type", "") + body[:2048].decode("latin-1")).lower()
    return html.decode(body, "iso-8859-7" if "8859-7" in label else CODE_PAGE)


def is_complete(body: bytes) -> bool:
    """Whether a page came to its end: a connection closed early leaves no other trace."""
    markers = [END_MARKER.encode(codec) for codec in ("utf-8", "cp1253")]
    return b"</html>" in body[-4096:].lower() or any(marker in body for marker in markers)


# Pages of an issue.


def parse_issue_page(page: Page) -> IssuePage:
    """Read the header and the links of a page.do answer; where there is no such page, `dates` is empty."""
    soup = _soup(page)
    header = _header(soup)
    dates, printing = _header_dates(header)
    own = _own_address(page)
    stories: dict[int, None] = {}
    editions: Counter[int] = Counter()
    for link in soup.find_all("a", href=True):
        address = parse_address(str(link["href"]))
        if address and address.kind == "story":
            stories[address.story_id] = None
        elif address and address.edition and (not address.date or address.date in dates):
            editions[address.edition] += 1
    edition = (own.edition if own else 0) or next((known for known, _ in editions.most_common(1)), 0)
    label = PAGE_LABEL.search(header)
    insert = INSERT.search(header)
    return IssuePage(
        dates=dates,
        printing=printing,
        insert=insert[1].strip() if insert else "",
        edition=edition,
        total=int(label[2] or 0) if label else 0,
        section=_section(header),
        stories=tuple(stories),
        other_editions=tuple(sorted(set(editions) - {edition})),
        is_blank=bool(BLANK_PAGE.search(header)),
    )


def parse_word_counts(page: Page) -> dict[int, int]:
    """The site's own word count of each story that a reportage.do page lists."""
    counts: dict[int, int] = {}
    story_id = 0
    for node in _soup(page).descendants:
        if isinstance(node, Tag) and node.name == "a":
            address = parse_address(str(node.get("href") or ""))
            story_id = address.story_id if address and address.kind == "story" else story_id
        elif isinstance(node, NavigableString) and story_id and (match := WORD_COUNT.search(node)):
            counts.setdefault(story_id, int(match[1]))
    return counts


# Stories.


def stories(store: RawStore) -> Iterator[Story]:
    """Every article in the raw store, each once, by id; one without a printed date gets its issue's."""
    for page in store.pages("story/", states=["ok"]):
        if story := parse_story(page):
            yield story if story.date else replace(story, date=store.linked_from(page.key)[0])


def parse_story(page: Page) -> Story | None:
    """Read one article, or return None if the page has no article text."""
    soup = _soup(page)
    body = soup.find(class_=STORY_BODY)
    address = _own_address(page)
    header = _header(soup)
    dates, printing = _header_dates(header)
    if body is None or not address:
        return None
    authors = [_line(tag) for tag in body.find_all(class_=AUTHOR_CLASS)]
    for junk in body.find_all(class_=[IMAGE_CLASS, AUTHOR_CLASS]) + body.find_all(["script", "style"]):
        junk.extract()
    text = _body_text(body)
    if not text:
        return None
    kicker, title, subtitle = _titles(body)
    label = PAGE_LABEL.search(header)
    insert = INSERT.search(header)
    return Story(
        story_id=address.story_id,
        date=dates[0] if dates else "",
        edition=_edition_name(soup, insert[1].strip() if insert else "", printing),
        page=int(label[1] or 0) if label else 0,
        section=_section(header),
        kicker=kicker,
        title=title,
        subtitle=subtitle,
        author=" ".join(authors),
        text=text,
        word_count=len(text.split()),
    )


def printed_dates(page: Page) -> tuple[str, ...]:
    """The dates (ISO) in the header of any page of the site; empty if it prints none."""
    return _header_dates(_header(_soup(page)))[0]


def _own_address(page: Page) -> Address | None:
    """The address that was asked for, on whatever host the site is being served."""
    return parse_address(urlsplit(page.url)._replace(scheme="", netloc="").geturl())


def _soup(page: Page) -> BeautifulSoup:
    text, _ = decode(page.body, page.headers)
    return BeautifulSoup(text, "html.parser")


def _header(soup: BeautifulSoup) -> str:
    """The visible text in front of the article, a line per piece of text."""
    pieces: list[str] = []
    size = 0
    for node in (soup.body or soup).descendants:
        if isinstance(node, Tag):
            classes = [str(name) for name in node.get_attribute_list("class")]
            is_title = any(map(TITLE_CLASS.match, classes)) and HEADER_DATE.search("\n".join(pieces))
            if is_title or STORY_BODY in classes:
                break
        elif type(node) is NavigableString and (piece := " ".join(node.split())):
            pieces.append(piece)
            size += len(piece)
            if size > HEADER_CHARACTERS:
                break
    return "\n".join(pieces)


def _header_dates(header: str) -> tuple[tuple[str, ...], int]:
    """The days a header names (a joint issue names several), and the number of its printing or 0."""
    for match in HEADER_DATE.finditer(header):
        last_month = _month(match["m2"])
        last = _iso(int(match["y2"]), last_month, int(match["d2"])) if last_month else ""
        if not last:
            continue
        printing = int(match["printing"] or 0)
        first = last
        if match["d1"]:
            month = _month(match["m1"]) if match["m1"] else last_month
            year = int(match["y1"] or match["y2"]) - (not match["y1"] and month > last_month)
            first = _iso(year, month, int(match["d1"])) or last
        span = (date.fromisoformat(last) - date.fromisoformat(first)).days
        if not 0 <= span < LONGEST_ISSUE_DAYS:
            first = last
        return tuple(days_between(first, last)), printing
    return (), 0


def _month(word: str) -> int:
    """The number of a month's name, or 0."""
    plain = fold(word)
    return MONTHS.get(plain[:4], MONTHS.get(plain[:3], 0))


def _section(header: str) -> str:
    """The first line with letters behind the page's number."""
    label = PAGE_LABEL.search(header)
    lines = header[label.end() :].split("\n") if label else []
    return next((line for line in lines if any(map(str.isalpha, line)) and not BLANK_PAGE.search(line)), "")


def _titles(body: Tag) -> tuple[str, str, str]:
    """Kicker, title, subtitle: of several lines of the title family a first one in capitals is the kicker."""
    found = [tag for tag in body.find_all_previous(class_=TITLE_CLASS) if tag not in list(body.parents)]
    lines = [line for tag in reversed(found) if (line := _line(tag))]
    kicker = lines.pop(0) if len(lines) > 1 and _is_in_capitals(lines[0]) else ""
    return kicker, lines[0] if lines else "", " ".join(lines[1:])


def _is_in_capitals(line: str) -> bool:
    letters = [character for character in line if character.isalpha()]
    return sum(map(str.isupper, letters)) >= KICKER_CAPITALS * len(letters)


def _edition_name(soup: BeautifulSoup, insert: str, printing: int) -> str:
    """The edition's id from the link to the story's page; else what the header calls it; else nothing."""
    for link in soup.find_all("a", href=True):
        address = parse_address(str(link["href"]))
        if address and address.kind == "page" and address.edition:
            return str(address.edition)
    return insert or (f"{printing}η έκδοση" if printing else "")


def _body_text(body: Tag) -> str:
    """The paragraphs, without tables (results, prices) unless the whole article is laid out in one."""
    whole = html.block_text(body)
    for table in body.find_all("table"):
        table.extract()
    return (html.block_text(body) or whole).partition(END_MARKER)[0].strip()


def _line(tag: Tag) -> str:
    return " ".join(html.block_text(tag).split())
