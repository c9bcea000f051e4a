"""The article on a saved newspaper page, whatever the site: title, date, text.

The page is read as a stream of blocks (a paragraph, a heading, a cell), each with the share of its letters
that are links. The element that holds most running text is the article; menus, notices and link lists inside
it are left out. Only the document's order counts, so unclosed paragraphs and tables used for layout do no
harm.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from bs4 import BeautifulSoup
from bs4.element import CData, NavigableString, Tag

# Tags that never hold the words of an article. Captions are here because a page prints them twice; a form is
# not, because some sites wrap the whole page in one.
_SKIPPED = frozenset(
    [
        "script",
        "style",
        "noscript",
        "template",
        "svg",
        "math",
        "nav",
        "footer",
        "aside",
        "figure",
        "figcaption",
        "iframe",
        "object",
        "embed",
        "audio",
        "video",
        "map",
        "button",
        "select",
        "option",
        "textarea",
        "label",
        "head",
    ]
)
_INLINE = frozenset(
    [
        "a",
        "abbr",
        "acronym",
        "b",
        "bdi",
        "bdo",
        "big",
        "cite",
        "code",
        "del",
        "dfn",
        "em",
        "font",
        "i",
        "img",
        "ins",
        "kbd",
        "mark",
        "o:p",
        "q",
        "ruby",
        "s",
        "samp",
        "small",
        "span",
        "strike",
        "strong",
        "sub",
        "sup",
        "time",
        "tt",
        "u",
        "var",
        "wbr",
    ]
)
_CONTAINERS = frozenset(["article", "body", "center", "div", "main", "section", "table", "td", "th"])
_ROOTS = frozenset(["html", "body", "main", "article"])

# Class names and ids that sites of every kind give to what is not the article.
_FURNITURE = re.compile(
    r"(?:^|[\s_-])(?:nav|navbar|navigation|menu|sidebar|footer|breadcrumbs?|share|sharing|social|comments?|respond"
    r"|related|cookies?|banner|ads?|advert\w*|promo|newsletter|popup|modal|tags?|caption|credits?|widget|pagination"
    r")(?:$|[\s_-])",
    re.I,
)
# A block with one of these in it, short as notices are, is the publisher speaking and not the paper.
_NOTICE = re.compile(
    r"©|copyright|all rights reserved|με επιφύλαξη παντός δικαιώματος"
    r"|απαγορεύεται\s+η\s+(?:αναδημοσίευση|αναπαραγωγή)",
    re.I,
)
_LONGEST_NOTICE = 500  # characters

_SPACE = re.compile("[ \t\r\n\f]+")
_SPACE_RUNS = re.compile(" {2,}")
_BREAKS = re.compile(r" ?\n[ \n]*")
_DROP_CAPITAL = re.compile(r'[«"“(]?[^\W\d_]')
_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w-]+)", re.I)
_STRAY_SHARE = 0.001  # of the characters: so many bytes may be broken in a page that is UTF-8
_ISO_DATE = re.compile(r"(?:19|20)\d\d-[01]\d-[0-3]\d")

_PARAGRAPH = 60  # characters from which a block counts as running text
_MAX_LINK_SHARE = 0.5  # a block with more of its characters in links is a list of links
# What a paragraph is worth to the elements around it, from the innermost outwards. An element that holds all
# paragraphs beats one around it that adds little; an element around many that hold one each beats each of
# them.
_WORTH = (1.0, 0.7, 0.5, 0.35)


@dataclass(frozen=True)
class Article:
    """What a page says; None where it does not say. `text` has one line a paragraph, `date` is YYYY-MM-DD."""

    title: str | None
    date: str | None
    address: str | None
    text: str


@dataclass
class _Block:
    containers: list[Tag]  # from the outermost inwards
    parts: list[str] = field(default_factory=list)
    link_characters: int = 0

    @cached_property
    def text(self) -> str:
        return _BREAKS.sub("\n", _SPACE_RUNS.sub(" ", "".join(self.parts))).strip()


def decode(data: bytes, declared: str | None = None, code_page: str = "cp1252") -> tuple[str, str]:
    """The characters of a page and the codec that was used.

    UTF-8 first, because it cannot succeed by chance, and a stray byte does not refute it; then what the
    server (`declared`) or the page says; then `code_page`, the old code page of the language. ISO-8859-7 is
    read as windows-1253, which is what pages that say so are written in, unless Ά is where only ISO-8859-7
    has it. Undefined bytes become U+FFFD.
    """
    text = data.decode("utf-8-sig", errors="replace")
    broken = text.count("\ufffd")
    if not broken or (broken <= _STRAY_SHARE * len(text) and not text.replace("\ufffd", "").isascii()):
        return text, "utf-8"
    match = _CHARSET.search(data[:4096])
    codec = (declared or (match[1].decode("ascii") if match else "") or code_page).lower()
    if codec in ("iso-8859-7", "greek"):
        codec = "iso-8859-7" if data.count(b"\xb6") > data.count(b"\xa2") else "cp1253"
    elif codec in ("iso-8859-1", "latin-1", "ascii", "us-ascii", "utf-8", "utf8"):
        codec = code_page  # labels that servers and editors give by default; UTF-8 has just been refuted
    try:
        return data.decode(codec, errors="replace"), codec
    except LookupError:
        return data.decode(code_page, errors="replace"), code_page


def _walk(root: Tag) -> Iterator[tuple[str, Tag | NavigableString]]:
    """Opens and closes of tags, and texts, in document order; no recursion, as unclosed tags nest deep."""
    stack = [(root, iter(root.contents))]
    yield "open", root
    while stack:
        tag, children = stack[-1]
        child = next(children, None)
        if child is None:
            stack.pop()
            yield "close", tag
        elif isinstance(child, Tag):
            if child.name not in _SKIPPED:
                stack.append((child, iter(child.contents)))
                yield "open", child
        elif isinstance(child, NavigableString) and type(child) in (NavigableString, CData):
            yield "text", child


def _drop_furniture(soup: BeautifulSoup) -> None:
    """Remove hidden elements, and those named as menus or comments, unless they hold half of the page."""
    half = len(soup.get_text()) / 2
    for tag in soup.find_all(True):
        if tag.name in _ROOTS or not tag.attrs:
            continue
        names = " ".join(map(str, tag.get_attribute_list("class") + tag.get_attribute_list("id")))
        hidden = tag.has_attr("hidden") or "display:none" in str(tag.get("style", "")).replace(" ", "")
        if (hidden or _FURNITURE.search(names)) and len(tag.get_text()) < half:
            tag.extract()


def _blocks(root: Tag) -> Iterator[_Block]:
    containers: list[Tag] = []
    links = 0
    block = _Block([])
    for event, node in _walk(root):
        if isinstance(node, NavigableString):
            part = _SPACE.sub(" ", node)
            block.parts.append(part)
            block.link_characters += len(part) if links else 0
            continue
        assert isinstance(node, Tag)
        step = 1 if event == "open" else -1
        links += step * (node.name == "a" and node.has_attr("href"))
        if node.name == "br":
            block.parts.append("\n" if event == "open" else "")
        if node.name in _INLINE or node.name == "br":
            continue
        if block.text:
            yield block
        if node.name in _CONTAINERS:
            containers = [*containers, node] if event == "open" else containers[:-1]
        block = _Block(containers)
    if block.text:
        yield block


def block_text(tag: Tag) -> str:
    """The text of an element: a line per block; inline tags neither split nor glue words."""
    return "\n".join(block.text for block in _blocks(tag))


def _is_prose(block: _Block) -> bool:
    return len(block.text) >= _PARAGRAPH and block.link_characters <= _MAX_LINK_SHARE * len(block.text)


def _main_container(blocks: list[_Block]) -> Tag | None:
    scores: defaultdict[int, float] = defaultdict(float)
    tags: dict[int, Tag] = {}
    for block in filter(_is_prose, blocks):
        for tag, worth in zip(reversed(block.containers), _WORTH, strict=False):
            tags[id(tag)] = tag
            scores[id(tag)] += worth * (len(block.text) - block.link_characters)
    return tags[max(scores, key=lambda key: scores[key])] if scores else None


def _is_notice(text: str) -> bool:
    return len(text) <= _LONGEST_NOTICE and bool(_NOTICE.search(text))


def _paragraphs(blocks: list[_Block], container: Tag | None, title: str | None) -> list[str]:
    """The lines of the article; a capital set apart from its word is put back."""
    lines: list[str] = []
    for block in blocks:
        if container is not None and not any(tag is container for tag in block.containers):
            continue
        if block.link_characters > _MAX_LINK_SHARE * len(block.text) or _is_notice(block.text):
            continue
        if not lines and block.text == title:
            continue
        if lines and _DROP_CAPITAL.fullmatch(lines[-1]) and block.text[0].islower():
            lines[-1] += block.text
        else:
            lines.append(block.text)
    return lines


def _meta(soup: BeautifulSoup, *names: str) -> str | None:
    for name in names:
        for key in ("property", "name", "itemprop"):
            tag = soup.find("meta", attrs={key: name})
            if tag is not None and (content := str(tag.get("content", "")).strip()):
                return content
    return None


def _title(soup: BeautifulSoup) -> str | None:
    headings = soup.find_all("h1")
    if len(headings) == 1 and (heading := headings[0].get_text(" ", strip=True)):
        return _SPACE.sub(" ", heading)
    return _meta(soup, "og:title", "title")


def _date(soup: BeautifulSoup) -> str | None:
    stated = _meta(soup, "article:published_time", "datePublished", "date", "DC.date.issued", "pubdate")
    times = [str(tag.get("datetime", "")) for tag in soup.find_all("time")]
    found = (_ISO_DATE.search(text) for text in (stated or "", *times))
    return next((match[0] for match in found if match), None)


def extract(page: str) -> Article:
    """The article on `page` (HTML, already decoded: see `decode`); its text is empty where there is none."""
    soup = BeautifulSoup(page, "html.parser")
    link = soup.find("link", rel="canonical")
    address = str(link.get("href") or "") if link is not None else ""
    title, date = _title(soup), _date(soup)
    address = address or _meta(soup, "og:url") or ""
    _drop_furniture(soup)
    blocks = list(_blocks(soup))
    lines = _paragraphs(blocks, _main_container(blocks), title)
    return Article(title, date, address or None, "\n".join(lines))
