"""The loop that works a queue of pages off. Run: pytest tests/test_crawl.py"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from oracle.crawl import FAILURES_IN_A_ROW, REFUSALS_IN_A_ROW, crawl
from oracle.fetch import CrawlError, DisallowedError, Fetcher, FetchError
from oracle.rawstore import DISALLOWED, ERROR, Answer, Page, RawStore
from tests.crawling import page, request


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
    assert walk(store, fetcher, Chain(0))  # the next run asks the rules again
    assert store.count("") == {"ok": 29}


def test_failures_that_are_not_in_a_row_do_not_trip_the_breaker(store: RawStore):
    store.add([request(number) for number in range(1, 30)])
    failing = [number for number in range(1, 30) if number % FAILURES_IN_A_ROW]
    fetcher = FakeFetcher({request(number).url: [FetchError("answer 500")] for number in failing})
    assert walk(store, fetcher, Chain(0))
    assert store.count("") == {"ok": 29}


@pytest.mark.parametrize(
    ("problem", "count", "message"),
    [
        (
            FetchError("answer 500", status=500),
            FAILURES_IN_A_ROW,
            "pages in a row failed.*same command again",
        ),
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
