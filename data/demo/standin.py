"""A site on this machine: the embedded newspaper under the addresses and in the pages of rizospastis.gr.

    python -m data.demo.standin --articles data/demo/articles.jsonl --port 8000

It lets the demo begin at scraping, and tests ask for every fault a real site may have. What is served follows
what is known of the real pages: demotic months, captions printed twice, teasers on the first page, an empty
page at the end («ΚΕΝΗ»), permanent promotions, joint issues, second printings, inserts, and days without a
paper, which print no date.
"""

import argparse
import contextlib
import json
import re
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from data.demo.faults import Faults, send, send_fault
from oracle import cli

Article = Mapping[str, Any]

MONTHS = ("Γενάρη", "Φλεβάρη", "Μάρτη", "Απρίλη", "Μάη", "Ιούνη",
          "Ιούλη", "Αυγούστου", "Σεπτέμβρη", "Οχτώβρη", "Νοέμβρη", "Δεκέμβρη")  # fmt: skip
WEEKDAYS = ("Δευτέρα", "Τρίτη", "Τετάρτη", "Πέμπτη", "Παρασκευή", "Σάββατο", "Κυριακή")
ROBOTS = "User-agent: *\nDisallow: /*print$\nDisallow: /search\n"
FIRST_EDITION = 17001
PORT = 8000
STORIES_PER_PAGE = 2
REPORTAGES = ("politics", "society", "sports", "arts")
PROMO_ID = 6668139
PROMO = {
    "id": str(PROMO_ID), "date": "2012-01-26", "section": "ΜΝΗΜΕΙΑ", "kicker": "", "byline": "",
    "title": "Μνημεία & Μουσεία Αγώνων του Λαού", "text": "Οδηγός για τα μνημεία και τα μουσεία.",
}  # fmt: skip


@dataclass(frozen=True)
class Edition:
    """One printed thing: the day's paper, a second printing of it, or an insert."""

    number: int
    date: str
    joint: bool
    printing: int
    insert: str
    articles: tuple[Article, ...]

    @property
    def total(self) -> int:
        """Pages: the front page, the stories, and an empty last one."""
        return 2 + -(-len(self.articles) // STORIES_PER_PAGE)

    def page_of(self, article: Article) -> int:
        return 2 + self.articles.index(article) // STORIES_PER_PAGE


def story_id(article: Article) -> int:
    """The site's number for an article: the digits of its id, 2018-03-02-01 becomes 2018030201."""
    return int(re.sub(r"\D", "", str(article["id"])))


class Newspaper:
    """The pages, as HTML text. An article may also have `insert` (a name) or `printing` (1, 2)."""

    def __init__(self, articles: Sequence[Article], joint: Sequence[str], instead: Mapping[str, str]) -> None:
        groups: dict[tuple[str, str, int], list[Article]] = defaultdict(list)
        for article in articles:
            groups[article["date"], article.get("insert", ""), article.get("printing", 0)].append(article)
        self.editions: dict[int, Edition] = {}
        self.of_day: dict[str, list[Edition]] = defaultdict(list)
        self.of_story: dict[int, tuple[Edition, Article]] = {}
        for number, ((day, insert, printing), group) in enumerate(sorted(groups.items()), FIRST_EDITION):
            edition = Edition(number, day, day in joint, printing, insert, tuple(group))
            self.editions[number] = edition
            self.of_day[day].append(edition)
            self.of_story.update((story_id(article), (edition, article)) for article in group)
        for day in joint:
            self.of_day[_after(day)] = self.of_day[day]
        for day, other in instead.items():
            self.of_day[day] = self.of_day[other]
        self.of_story[PROMO_ID] = (Edition(1, PROMO["date"], False, 0, "", (PROMO,)), PROMO)

    def page(self, day: str, number: int, edition_number: int) -> str | None:
        """page.do: the header, the stories' beginnings, links to the other pages and editions of the day."""
        editions = self.of_day.get(day, [])
        known = {edition.number: edition for edition in editions}
        if not editions or (edition_number and edition_number not in known):
            return None
        edition = known[edition_number] if edition_number else editions[0]
        if not 1 <= number <= edition.total:
            return None
        shown = edition.articles if number == 1 else [a for a in edition.articles if edition.page_of(a) == number]
        section = "ΠΡΩΤΗ ΣΕΛΙΔΑ" if number == 1 else shown[0]["section"] if shown else "ΚΕΝΗ"
        items = [_teaser(edition, article) if number == 1 else _item(article) for article in shown]
        links = [_page_link(edition, other, str(other)) for other in range(1, edition.total + 1)]
        links += [_page_link(other, 1, _edition_name(other)) for other in editions if other is not edition]
        header = f"<div class='date'>{_date_line(edition)}</div>{_MASTHEAD}Σελ. {number} /{edition.total}"
        return _html(
            f"{header}<div class='section'>{escape(section)}</div>{_insert(edition)}"
            f"{''.join(items)}<p>{' '.join(links)}</p>"
        )

    def story(self, number: int) -> str | None:
        """story.do: header, photo with its caption twice, kicker, title, text, end marker, promotions."""
        if number not in self.of_story:
            return None
        edition, article = self.of_story[number]
        caption = escape(f"Από το θέμα: {article['title']}")
        photo = f"<div class='image'><img alt='{caption}'/><br/>{caption}<br/>Eurokinissi<br/>{caption}</div>"
        kicker = f"<div align='center' class='title1'>{escape(article['kicker'])}</div>" if article["kicker"] else ""
        title = f"<div align='center' class='title2'>{escape(article['title'])}</div>" if article["title"] else ""
        paragraphs = "".join(f"<p>{escape(part)}</p>\n" for part in article["text"].split("\n\n"))
        byline = f"<div class='author'>{escape(article['byline'])}</div>" if article["byline"] else ""
        page = edition.page_of(article)
        return _html(
            f"<div class='date'>{_date_line(edition)}</div>{_MASTHEAD}"
            f"{_page_link(edition, page, f'Σελίδα {page}')}"
            f"<div class='section'>{escape(article['section'])}</div>{_insert(edition)}{kicker}{title}"
            f"<div class='story_body'>{photo}{paragraphs}{byline}</div>"
        )

    def reportage(self, edition_number: int, name: str) -> str | None:
        """reportage.do: the beginning and word count of a section's stories, here of every nth story."""
        edition = self.editions.get(edition_number)
        if not edition or name not in REPORTAGES:
            return None
        items = [
            f"<p><a href='story.do?id={story_id(article)}'>{escape(article['title'])}</a> "
            f"{escape(article['text'][:80])}..."
            f"<br/>{len(article['text'].split())} λέξεις, σελ.: {edition.page_of(article)}</p>"
            for article in edition.articles[REPORTAGES.index(name) :: len(REPORTAGES)]
        ]
        return _html(f"<div class='date'>{_date_line(edition)}</div>{_MASTHEAD}<div>{name}</div>{''.join(items)}")


_MASTHEAD = "<a name='top'></a><a href='/'><img alt='ΡΙΖΟΣΠΑΣΤΗΣ' src='logo.gif'/></a><div>ΡΙΖΟΣΠΑΣΤΗΣ</div>"


def _html(content: str) -> str:
    return (
        f"<html><head><title>ΡΙΖΟΣΠΑΣΤΗΣ</title></head><body>{content}<a href='#top'>Κορυφή σελίδας</a>"
        f"<p><a href='story.do?id={PROMO_ID}'>Μνημεία &amp; Μουσεία Αγώνων του Λαού</a></p>"
        "<p>Ο καθημερινός ΡΙΖΟΣΠΑΣΤΗΣ 1 ευρώ</p><div class='footer hidden-xs'>Επικοινωνία</div></body></html>"
    )


def _item(article: Article) -> str:
    beginning = article["text"].split("\n\n")[0]
    link = f"<a href='/story.do?id={story_id(article)}'>{escape(article['title'])}</a>"
    return f"<h3>{link}</h3><p>{escape(beginning)}</p>"


def _teaser(edition: Edition, article: Article) -> str:
    """A front-page item, with an older spelling of the address."""
    link = f"<a href='/wwwengine/story.do?id={story_id(article)}'>{escape(article['title'])}</a>"
    return f"<p>{link}<br/>ΣΕΛ.  {edition.page_of(article)}</p>"


def _insert(edition: Edition) -> str:
    return f'<div>ΕΝΘΕΤΗ ΕΚΔΟΣΗ: "{escape(edition.insert)}"</div>' if edition.insert else ""


def _page_link(edition: Edition, number: int, name: str) -> str:
    year, month, day = map(int, edition.date.split("-"))
    target = f"page.do?publDate={day}%2F{month}%2F{year}&amp;id={edition.number}&amp;pageNo={number}"
    return f"<a href='{target}'>{name}</a>"


def _edition_name(edition: Edition) -> str:
    return escape(edition.insert) or f"{edition.printing}η έκδοση"


def _date_line(edition: Edition) -> str:
    line = _demotic(edition.date)
    if edition.joint:
        line += f" - {_demotic(_after(edition.date))}"
    return line + (f" - {edition.printing}η έκδοση" if edition.printing else "")


def _demotic(day: str) -> str:
    when = date.fromisoformat(day)
    return f"{WEEKDAYS[when.weekday()]} {when.day} {MONTHS[when.month - 1]} {when.year}"


def _after(day: str) -> str:
    return (date.fromisoformat(day) + timedelta(1)).isoformat()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Readers may hang up whenever they like; anything else is our own mistake."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class StandIn:
    """The site, served from a thread at `base_url` as long as the `with` block lasts.

    `joint` names days whose issue is also the next day's, `instead` days for which another day's issue is
    served. `encoding` is the bytes' codec and `label` what the Content-Type says of it (None: nothing).
    `log` holds (monotonic time, path, fault or "") for every request, in the order of arrival.
    """

    def __init__(
        self,
        articles: Sequence[Article],
        *,
        joint: Sequence[str] = (),
        instead: Mapping[str, str] | None = None,
        encoding: str = "utf-8",
        label: str | None = None,
        robots: str | None = ROBOTS,
        faults: Faults | None = None,
        port: int = 0,
    ) -> None:
        self.newspaper = Newspaper(articles, joint, instead or {})
        self.encoding, self.label, self.robots = encoding, label, robots
        self.faults = faults or Faults()
        self.log: list[tuple[float, str, str]] = []
        self._times_asked: dict[str, int] = defaultdict(int)
        self._lock = threading.Lock()
        standin = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # header and body in one packet: two small ones wait 40 ms for each other

            def do_GET(self) -> None:
                standin._answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = _Server(("127.0.0.1", port), Handler)
        self.base_url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> "StandIn":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    def paths(self) -> list[str]:
        """The paths asked for so far, in order."""
        return [path for _, path, _ in self.log]

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        now, path = time.monotonic(), handler.path
        with self._lock:
            nth = self._times_asked[path]
            self._times_asked[path] += 1
            fault = "" if path == "/loop" else self.faults.draw(path, nth)
            self.log.append((now, path, fault))
        status, kind, text = self._find(path)
        body = text.encode(self.encoding, "xmlcharrefreplace")
        headers = {"Content-Type": kind + (f"; charset={self.label}" if self.label else "")}
        try:
            if fault:
                send_fault(handler, fault, self.faults.seconds, headers, body)
            elif path == "/loop":
                send(handler, 302, {"Location": "/loop"}, b"")
            else:
                send(handler, status, headers, body)
        except ConnectionError:
            handler.close_connection = True  # the reader hung up, as it may

    def _find(self, path: str) -> tuple[int, str, str]:
        parts = urlsplit(path)
        values = {key: value[0] for key, value in parse_qs(parts.query).items()}
        number = {key: int(values.get(key, 0)) for key in ("id", "pageNo")}
        name = parts.path.rsplit("/", 1)[-1]
        text: str | None = None
        if name == "robots.txt":
            return (404, "text/plain", "") if self.robots is None else (200, "text/plain", self.robots)
        if name == "story.do":
            text = self.newspaper.story(number["id"])
        elif name == "reportage.do":
            text = self.newspaper.reportage(number["id"], values.get("reportage", ""))
        elif name == "page.do":
            day, month, year = map(int, values["publDate"].split("/"))
            text = self.newspaper.page(date(year, month, day).isoformat(), number["pageNo"] or 1, number["id"])
        return 200, "text/html", text or "<html><body>Δε βρέθηκε σελίδα.</body></html>"


def read_articles(path: str | Path) -> list[Article]:
    """Read articles from JSON lines with the keys id, date, section, kicker, byline, title, text."""
    with Path(path).open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def main(argv: Sequence[str]) -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m data.demo.standin", description="Serve the embedded newspaper.")
    add = parser.add_argument
    add("--articles", default="data/demo/articles.jsonl", help="JSON lines (default: %(default)s)")
    add("--port", type=int, default=PORT, help="on 127.0.0.1 (default: %(default)s)")
    add("--fault_rate", type=float, default=0.0, help="share of requests that fail (default: none)")
    options = parser.parse_args(argv)
    articles = read_articles(options.articles)
    with StandIn(articles, port=options.port, faults=Faults(rate=options.fault_rate)) as standin:
        print(f"{len(standin.newspaper.editions)} issues at {standin.base_url}; stop with Ctrl-C", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    sys.exit(cli.run(main))
