"""Conduct, storage and recovery of the crawler, against loopback servers only. Run: pytest tests/test_crawl.py"""

import gzip
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path

import pytest

from data.demo.faults import KINDS, Faults
from data.demo.standin import StandIn
from oracle.crawl import FAILURES_IN_A_ROW, REFUSALS_IN_A_ROW, crawl
from oracle.fetch import (
    CrawlError,
    DisallowedError,
    FetchError,
    Fetcher,
    Pace,
    Stop,
    StopRequestedError,
    _seconds,
    stop_on_signals,
)
from oracle.rawstore import DISALLOWED, ERROR, Answer, Page, RawStore, Request

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
    assert 1.5 <= min(gaps) and max(gaps) <= 2.0 + 1e-9
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
    assert _seconds("7") == 7
    assert _seconds(None) == _seconds("soon") == 0
    later = datetime.now(timezone.utc) + timedelta(seconds=100)
    assert 95 < _seconds(format_datetime(later, usegmt=True)) <= 100
    assert _seconds(format_datetime(later - timedelta(days=1), usegmt=True)) == 0


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


def test_the_user_agent_names_us_and_a_contact_and_cookies_stay_off():
    with StandIn(ARTICLES) as site:
        fetcher = fetcher_for(site.base_url)
        assert fetcher._session.headers["User-Agent"] == "nanoOracle/0.1 (+me@example.org)"
        fetcher.get(STORY)
        assert not fetcher._session.cookies


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
        with pytest.raises(DisallowedError, match="robots.txt disallows"):
            fetcher.get("story.do?id=2018030202")
        assert site.paths() == ["/robots.txt", "/" + STORY]


def test_robots_may_name_us_and_ask_for_a_slower_pace():
    with StandIn(ARTICLES, robots="User-agent: nanoOracle\nCrawl-delay: 7\n\nUser-agent: *\nDisallow: /\n") as site:
        fetcher = fetcher_for(site.base_url)
        fetcher.get(STORY)
        before = fetcher.pace.clock()
        fetcher.get(STORY)
        assert fetcher.pace.clock() - before >= 7


def test_no_robots_file_allows_all():
    with StandIn(ARTICLES, robots=None) as site:
        assert fetcher_for(site.base_url).get(STORY).status == 200


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


# The raw store.


def request(number: int, day: str = "2018-03-02") -> Request:
    return Request(f"story/{number:03d}", f"story.do?id={number}", day, 3)


def page(number: int, body: bytes = b"") -> Page:
    body = body or f"<html>σελίδα {number}</html>".encode()
    url = f"https://www.example.org/story.do?id={number}"
    return Page(url, url, 200, {"content-type": "text/html"}, body, "2026-01-02T03:04:05Z", f"story/{number:03d}")


def fill(folder: Path, numbers: Sequence[int]) -> None:
    with RawStore(folder, write=True) as store:
        for number in numbers:
            store.add([request(number)])
            store.store(request(number), page(number))
            store.settle(request(number).key, Answer("ok"))


def test_pages_come_back_whole_and_in_the_order_of_their_keys(tmp_path: Path):
    fill(tmp_path, [3, 1, 2])
    with RawStore(tmp_path) as store:
        assert list(store.pages()) == [page(1), page(2), page(3)]
        assert list(store.pages("story/002")) == [page(2)]
        assert list(store.pages(states=["gone"])) == []
    assert gzip.decompress((tmp_path / "pages/2018-03.gz").read_bytes()).count("σελίδα".encode()) == 3


def test_a_crash_at_any_byte_loses_nothing_and_doubles_nothing(tmp_path: Path):
    """The last record is cut at every length, while the ledger may or may not know of the page."""
    whole = tmp_path / "whole"
    fill(whole, [1, 2])
    before = (whole / "pages/2018-03.gz").stat().st_size
    shutil.copytree(whole, tmp_path / "known")
    with RawStore(whole, write=True) as store:
        store.add([request(3)])
        store.store(request(3), page(3))
    archive = (whole / "pages/2018-03.gz").read_bytes()
    for end in range(before, len(archive) + 1):
        folder = tmp_path / f"crash-{end}"
        shutil.copytree(tmp_path / "known", folder)
        (folder / "pages/2018-03.gz").write_bytes(archive[:end])
        with RawStore(folder, write=True) as store:
            expected = [page(1), page(2)] + [page(3)] * (end == len(archive))
            assert list(store.pages()) == expected and not store.warnings
            store.store(request(4), page(4))
            assert list(store.pages()) == [*expected, page(4)]
        shutil.rmtree(folder)


def test_a_lost_ledger_is_rebuilt_from_the_archives(tmp_path: Path):
    fill(tmp_path, [1, 2, 3])
    for name in tmp_path.glob("ledger*"):
        name.unlink()
    with RawStore(tmp_path, write=True) as store:
        assert list(store.pages()) == [page(1), page(2), page(3)]
        assert store.next("", "9") == request(1)  # each awaits its verdict again, and none is fetched


def test_damage_is_set_aside_and_said(tmp_path: Path):
    fill(tmp_path, [1, 2, 3])
    archive = tmp_path / "pages/2018-03.gz"
    content = bytearray(archive.read_bytes())
    with RawStore(tmp_path) as store:
        offset = store._db.execute("SELECT offset FROM page WHERE key = 'story/002'").fetchone()[0]
    content[offset + 40] ^= 0xFF
    archive.write_bytes(content)
    with RawStore(tmp_path) as store, pytest.raises(ValueError, match="is damaged at byte"):
        list(store.pages())
    for name in tmp_path.glob("ledger*"):
        name.unlink()
    with RawStore(tmp_path, write=True) as store:
        assert list(store.pages()) == [page(1)]
        assert "fetched again" in store.warnings[0]
    assert (tmp_path / f"pages/2018-03.gz.damaged-{offset}").read_bytes() == content[offset:]


def test_a_shortened_archive_is_said_and_its_pages_are_fetched_again(tmp_path: Path):
    fill(tmp_path, [1, 2])
    archive = tmp_path / "pages/2018-03.gz"
    os.truncate(archive, archive.stat().st_size - 5)
    with RawStore(tmp_path, write=True) as store:
        assert "1 pages will be fetched again" in store.warnings[0]
        assert store.next("", "9") == request(2)
        store.store(request(2), page(2))
        assert list(store.pages()) == [page(1), page(2)]


def test_one_writer_and_any_number_of_readers(tmp_path: Path):
    fill(tmp_path, [1])
    with RawStore(tmp_path, write=True), RawStore(tmp_path) as reader:
        assert list(reader.pages()) == [page(1)]
        with pytest.raises(ValueError, match="being written by another run"):
            RawStore(tmp_path, write=True)
    with RawStore(tmp_path, write=True):
        pass


def test_an_empty_folder_is_no_store(tmp_path: Path):
    with pytest.raises(ValueError, match="holds no raw pages"):
        RawStore(tmp_path)


def test_another_day_that_links_to_a_page_asks_for_a_new_verdict(tmp_path: Path):
    fill(tmp_path, [1])
    with RawStore(tmp_path, write=True) as store:
        store.add([request(1)])
        assert store.next("", "9") is None
        store.add([request(1, "2018-03-09")])
        assert store.next("2020-01-01", "9") == request(1)
        assert store.linked_from("story/001") == ["2018-03-02", "2018-03-09"]


# The loop.


class Chain:
    """A site whose every page leads to the next, `last` pages long."""

    def __init__(self, last: int) -> None:
        self.last = last

    def is_complete(self, body: bytes) -> bool:
        return True

    def judge(self, key: str, page: Page, days: Sequence[str]) -> Answer:
        number = int(key[-3:])
        return Answer("ok", {}, [request(number + 1)] if number < self.last else [])


class FakeFetcher(Fetcher):
    """Answers without a network; `fails` maps an address to how many times it fails, and how."""

    def __init__(self, fails: dict[str, list[Exception]]) -> None:
        super().__init__("http://127.0.0.1:1", "me@example.org", delay=0.0)
        self.fails, self.asked = fails, list[str]()

    def get(self, url: str) -> Page:
        self.asked.append(url)
        if self.fails.get(url):
            raise self.fails[url].pop(0)
        return page(int(url.partition("=")[2]))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RawStore]:
    with RawStore(tmp_path, write=True) as store:
        yield store


def walk(store: RawStore, fetcher: Fetcher, site: Chain, limit: int = 0) -> bool:
    return crawl(store, fetcher, site, "2018-01-01", "2018-12-31", limit)


def test_a_limit_pauses_the_crawl_and_the_next_call_goes_on(store: RawStore):
    store.add([request(1)])
    fetcher = FakeFetcher({})
    assert not walk(store, fetcher, Chain(5), limit=3)
    assert walk(store, fetcher, Chain(5))
    assert fetcher.asked == [request(number).url for number in range(1, 6)]


def test_a_failed_page_is_asked_for_once_more_at_the_end(store: RawStore):
    store.add([request(1), request(9)])
    fetcher = FakeFetcher({request(9).url: [FetchError("answer 500")] * 3})
    assert walk(store, fetcher, Chain(3))
    assert fetcher.asked.count(request(9).url) == 2 and fetcher.asked[-1] == request(9).url
    assert store.count("") == {"ok": 3, ERROR: 1}
    assert walk(store, fetcher, Chain(3)) and walk(store, fetcher, Chain(9))
    assert store.count("") == {"ok": 4}


def test_a_disallowed_page_is_a_state_and_not_a_failure(store: RawStore):
    store.add([request(number) for number in range(1, 30)])
    fetcher = FakeFetcher({request(number).url: [DisallowedError("no")] for number in range(1, 30)})
    assert walk(store, fetcher, Chain(0))
    assert store.count("") == {DISALLOWED: 29}


@pytest.mark.parametrize(
    ("problem", "count", "message"),
    [
        (FetchError("answer 500", status=500), FAILURES_IN_A_ROW, "pages in a row failed.*same command again"),
        (FetchError("answer 403", status=403), REFUSALS_IN_A_ROW, "refused 5 pages in a row"),
    ],
)
def test_the_breaker_ends_a_crawl_that_only_does_harm(store: RawStore, problem: FetchError, count: int, message: str):
    store.add([request(number) for number in range(1, 30)])
    fetcher = FakeFetcher({request(number).url: [problem] for number in range(1, 30)})
    with pytest.raises(CrawlError, match=message):
        walk(store, fetcher, Chain(0))
    assert len(fetcher.asked) == count
    # The next run does not run into the same pages first.
    with pytest.raises(CrawlError):
        walk(store, fetcher, Chain(0))
    assert fetcher.asked[count] == request(count + 1).url


def test_a_parser_that_fails_on_one_page_does_not_end_the_crawl(store: RawStore):
    class Odd(Chain):
        def judge(self, key: str, page: Page, days: Sequence[str]) -> Answer:
            if key.endswith("2"):
                raise RecursionError("too deep")
            return super().judge(key, page, days)

    store.add([request(1), request(2), request(3)])
    assert walk(store, FakeFetcher({}), Odd(1))
    assert store.count("") == {"ok": 2, ERROR: 1}
    assert [entry.note["reason"] for entry in store.entries() if entry.state == ERROR] == [
        "the parser failed: RecursionError('too deep')"
    ]


def test_a_stop_ends_the_loop_with_the_page_still_queued(store: RawStore):
    store.add([request(1)])
    fetcher = FakeFetcher({})
    fetcher.pace.stop.asked = True
    assert not walk(store, fetcher, Chain(1))
    assert fetcher.asked == [] and store.next("", "9") == request(1)
