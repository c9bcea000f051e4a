"""Conduct towards a site, on loopback only. Run: pytest tests/test_fetch.py"""

import gzip
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from data.demo.faults import KINDS, Faults, send
from data.demo.standin import StandIn
from oracle.fetch import (
    CrawlError,
    DisallowedError,
    Fetcher,
    FetchError,
    Pace,
    Stop,
    StopRequestedError,
    seconds_of,
    stop_on_signals,
)

ARTICLES = [
    {
        "id": f"2018-03-02-0{number}",
        "date": "2018-03-02",
        "section": "ΠΟΛΙΤΙΚΗ",
        "kicker": "",
        "byline": "",
        "title": f"Τίτλος {number}",
        "text": "Η πρώτη παράγραφος.\n\nΗ δεύτερη, με «εισαγωγικά».",
    }
    for number in (1, 2, 3)
]
STORY = "story.do?id=2018030201"


class Clock:
    """A time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Script(Faults):
    """Faults by address: the first requests of a path that ends in the key fail as listed."""

    def __init__(self, plan: dict[str, list[str]], seconds: float = 0.0) -> None:
        super().__init__(seconds=seconds)
        object.__setattr__(self, "plan", plan)

    def draw(self, path: str, nth: int) -> str:
        for ending, kinds in self.plan.items():  # type: ignore[attr-defined]
            if path.endswith(ending) and nth < len(kinds):
                return str(kinds[nth])
        return ""


def fetcher_for(base_url: str, **options: object) -> Fetcher:
    """A fetcher whose pauses cost no time."""
    settings = {"delay": 0.0, "timeout": (2.0, 0.3), "is_complete": lambda body: b"</html>" in body} | options
    fetcher = Fetcher(base_url, "me@example.org", **settings)  # type: ignore[arg-type]
    clock = Clock()
    fetcher.pace = Pace(fetcher.pace.base, fetcher.pace.stop, clock, clock.sleep)
    return fetcher


class Answers(BaseHTTPRequestHandler):
    """Answers as the server's table says: path -> (status, headers, body)."""

    def do_GET(self) -> None:
        status, headers, body = self.server.table.get(self.path, (404, {}, b""))  # type: ignore[attr-defined]
        self.server.cookies.append(self.headers.get("Cookie"))  # type: ignore[attr-defined]
        send(self, status, headers, body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(table: dict[str, tuple[int, dict[str, str], bytes]]) -> Iterator[tuple[str, list[str | None]]]:
    """Yield the address of a server with these answers, and the cookies that it is shown."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.table, server.cookies = table, []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", server.cookies  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()


# Pace.


def test_pauses_are_never_shorter_than_the_delay_and_vary():
    clock = Clock()
    pace = Pace(1.5, clock=clock, sleep=clock.sleep)
    gaps = []
    for _ in range(300):
        before = clock.now
        pace.answered(0.1)
        pace.wait()
        gaps.append(clock.now - before)
    assert min(gaps) >= 1.5 and max(gaps) <= 2.0 + 1e-9
    assert len({round(gap, 3) for gap in gaps}) > 50


def test_overload_doubles_the_delay_up_to_a_ceiling_and_calm_brings_it_back_slowly():
    pace = Pace(1.5)
    pace.failed(is_overload=False)
    assert pace.delay == 1.5
    pace.failed(is_overload=True)
    assert pace.delay == 3.0
    for _ in range(20):
        pace.failed(is_overload=True)
    assert pace.delay == 60.0
    pace.answered(0.1)
    assert 50 < pace.delay < 60
    for _ in range(100):
        pace.answered(0.1)
    assert pace.delay == pytest.approx(1.5, abs=0.01)


def test_a_slow_site_is_asked_more_slowly():
    pace = Pace(1.5)
    for _ in range(10):
        pace.answered(20.0)
    assert pace.delay == pytest.approx(20.0, abs=0.1)


def test_retry_after_is_seconds_or_a_date():
    assert seconds_of("7") == 7
    assert seconds_of(None) == seconds_of("soon") == 0
    later = datetime.now(timezone.utc) + timedelta(seconds=100)
    assert 95 < seconds_of(format_datetime(later, usegmt=True)) <= 100
    assert seconds_of(format_datetime(later - timedelta(days=1), usegmt=True)) == 0


# One page.


@pytest.mark.parametrize("kind", KINDS)
def test_one_fault_then_the_right_bytes(kind: str):
    with StandIn(ARTICLES) as site:
        expected = fetcher_for(site.base_url).get(STORY).body
    with StandIn(ARTICLES, faults=Script({STORY: [kind]}, seconds=0.0)) as site:
        fetcher = fetcher_for(site.base_url, max_bytes=1_000_000)
        assert fetcher.get(STORY).body == expected
        asked_again = sum(path.endswith(STORY) for path in site.paths())
        assert asked_again == (1 if kind in ("charset", "slow") else 2)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("500", "answer 500"),
        ("cut", "cut short"),
        ("truncated", "IncompleteRead"),
        ("reset", "Connection"),
        ("oversized", "more than 1,000,000 bytes"),
        ("bomb", "more than 1,000,000 bytes"),
        ("loop", "more than 5 redirects"),
        ("offsite", "redirected off the site, to http://elsewhere.invalid/"),
    ],
)
def test_a_lasting_fault_is_given_up_with_its_reason(kind: str, message: str):
    with StandIn(ARTICLES, faults=Script({STORY: [kind] * 9})) as site:
        with pytest.raises(FetchError, match=message):
            fetcher_for(site.base_url, max_bytes=1_000_000).get(STORY)
        assert sum(path.endswith(STORY) for path in site.paths()) == 6


def test_silence_is_a_timeout_and_slows_the_pace_down():
    with StandIn(ARTICLES, faults=Script({STORY: ["slow"]}, seconds=1.0)) as site:
        fetcher = fetcher_for(site.base_url, delay=0.01)
        assert fetcher.get(STORY).status == 200
        assert fetcher.pace.delay > 0.015


def test_retry_after_is_waited_for_twice():
    with StandIn(ARTICLES, faults=Script({STORY: ["429", "429"]}, seconds=1.0)) as site:
        fetcher = fetcher_for(site.base_url)
        start = fetcher.pace.clock()
        assert fetcher.get(STORY).status == 200
        assert fetcher.pace.clock() - start >= 2.0


def test_a_rest_of_hours_ends_the_run_with_a_sentence():
    with (
        StandIn(ARTICLES, faults=Script({STORY: ["429"]}, seconds=7200.0)) as site,
        pytest.raises(CrawlError, match="rest of 7200 s"),
    ):
        fetcher_for(site.base_url).get(STORY)


def test_the_user_agent_names_us_and_a_contact():
    fetcher = Fetcher("http://127.0.0.1:1", "me@example.org")
    assert fetcher._session.headers["User-Agent"] == "nanoOracle/0.1 (+me@example.org)"


def test_cookies_are_not_kept():
    with serving({"/a": (200, {"Set-Cookie": "id=7"}, b"</html>")}) as (url, cookies):
        fetcher = fetcher_for(url)
        assert fetcher.get("a").status == fetcher.get("a").status == 200
        assert cookies == [None] * 3


def test_a_gzip_body_is_unpacked_and_one_cut_short_is_refused():
    packed = gzip.compress(b"<html>" + bytes(range(256)) * 40 + b"</html>")
    zipped = {"Content-Encoding": "gzip"}
    table = {
        "/whole": (200, zipped, packed),
        "/cut": (200, zipped, packed[:-9]),
        "/br": (200, {"Content-Encoding": "br"}, b"x"),
    }
    with serving(table) as (url, _):
        fetcher = fetcher_for(url, is_complete=lambda body: True)
        assert fetcher.get("whole").body == gzip.decompress(packed)
        with pytest.raises(FetchError, match="compressed body is cut short"):
            fetcher.get("cut")
        with pytest.raises(FetchError, match="unknown Content-Encoding br"):
            fetcher.get("br")


def test_a_body_that_drips_for_ever_is_given_up(monkeypatch: pytest.MonkeyPatch):
    with StandIn(ARTICLES) as site:
        fetcher = fetcher_for(site.base_url)
        fetcher.get(STORY)
        monkeypatch.setattr("oracle.fetch.LONGEST_ANSWER", -1.0)
        with pytest.raises(FetchError, match="a body that took more than"):
            fetcher.get(STORY)


def test_final_answers_and_refusals() -> None:
    table: dict[str, tuple[int, dict[str, str], bytes]] = {}
    table |= {f"/{status}": (status, {}, b"") for status in (404, 410, 403, 400)}
    table["/moved"] = (301, {"Location": "/new?id=1"}, b"")
    table["/new?id=1"] = (200, {}, b"</html>")
    with serving(table) as (url, _):
        fetcher = fetcher_for(url)
        assert [fetcher.get(name).status for name in ("404", "410")] == [404, 410]
        for name in ("403", "400"):
            with pytest.raises(FetchError, match=f"answer {name}"):
                fetcher.get(name)
        page = fetcher.get("moved")
        assert (page.url, page.final_url) == (f"{url}/moved", f"{url}/new?id=1")


@pytest.mark.parametrize("contact", ["", "me", "me@home", "a b@example.org", "example.org"])
def test_a_contact_must_be_reachable(contact: str):
    with pytest.raises(ValueError, match="contact"):
        Fetcher("http://127.0.0.1:1", contact)


def test_the_delay_floor_holds_for_every_site_but_this_machine():
    with pytest.raises(ValueError, match="too short"):
        Fetcher("https://www.example.org", "me@example.org", delay=0.9)
    Fetcher("http://127.0.0.1:1", "me@example.org", delay=0.0)


def test_hosts_that_may_be_asked():
    live = Fetcher("https://www.example.org", "me@example.org", hosts=["example.org"])
    for url in ("https://www.example.org/a", "http://example.org/", "https://www2.example.org/b"):
        assert live._is_within(url)
    for url in (
        "http://127.0.0.1/",
        "http://localhost:80/",
        "https://notexample.org/",
        "https://example.org.evil.net/",
        "https://example.org:8443/",
        "ftp://example.org/",
        "http://user@elsewhere.net/",
        "file:///etc/passwd",
    ):
        assert not live._is_within(url)
    stand_in = Fetcher("http://127.0.0.1:5000", "me@example.org", hosts=["example.org"])
    assert stand_in._is_within("http://127.0.0.1:5000/x")
    assert not stand_in._is_within("http://127.0.0.1:5001/x")
    assert not stand_in._is_within("https://www.example.org/")


# robots.txt.


def test_robots_wildcards_are_obeyed_and_read_once():
    with StandIn(ARTICLES, robots="User-agent: *\nDisallow: /*id=2018030202$\nAllow: /\n") as site:
        fetcher = fetcher_for(site.base_url)
        assert fetcher.get(STORY).status == 200
        with pytest.raises(DisallowedError, match="disallows"):
            fetcher.get("story.do?id=2018030202")
        assert site.paths() == ["/robots.txt", "/" + STORY]


def test_robots_may_name_us_and_ask_for_a_slower_pace():
    with StandIn(ARTICLES, robots="User-agent: nanoOracle\nCrawl-delay: 7\n\nUser-agent: *\nDisallow: /\n") as site:
        fetcher = fetcher_for(site.base_url)
        fetcher.get(STORY)
        before = fetcher.pace.clock()
        fetcher.get(STORY)
        assert fetcher.pace.clock() - before >= 7


@pytest.mark.parametrize("status", [403, 404])
def test_no_robots_file_allows_all_whatever_the_error_page_says(status: int):
    with serving({"/robots.txt": (status, {}, b"User-agent: *\nDisallow: /"), "/a": (200, {}, b"</html>")}) as (url, _):
        assert fetcher_for(url).get("a").status == 200


def test_unreadable_robots_stop_the_crawl():
    with StandIn(ARTICLES, faults=Script({"robots.txt": ["500"] * 9})) as site:
        with pytest.raises(CrawlError, match=r"robots.txt cannot be read \(answer 500\)"):
            fetcher_for(site.base_url).get(STORY)
        assert set(site.paths()) == {"/robots.txt"}


def test_robots_are_read_again_after_a_day():
    with StandIn(ARTICLES) as site:
        fetcher = fetcher_for(site.base_url)
        fetcher.get(STORY)
        fetcher.pace.sleep(24 * 3600 + 1)
        fetcher.get(STORY)
        assert site.paths().count("/robots.txt") == 2


# Stopping.


def test_the_first_signal_asks_and_the_second_one_acts():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append("handler of before"))
    try:
        with stop_on_signals() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.asked and not seen
            os.kill(os.getpid(), signal.SIGTERM)
            assert seen
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_stop_is_heard_during_a_pause():
    stop = Stop()
    pace = Pace(60.0, stop, sleep=lambda seconds: setattr(stop, "asked", True))
    pace.answered(0.0)
    with pytest.raises(StopRequestedError):
        pace.wait()
