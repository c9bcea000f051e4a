"""Working a queue of pages off: fetch, store, judge, queue what is linked; at any moment to be stopped.

How to ask a site is in `fetch.py`, where pages are kept in `rawstore.py`; what a page is, each site's own
file knows.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from oracle.fetch import CrawlError, DisallowedError, Fetcher, FetchError, StopRequestedError
from oracle.rawstore import DISALLOWED, ERROR, Answer, Page, RawStore, Request

FAILURES_IN_A_ROW = 10
REFUSALS_IN_A_ROW = 5  # answers 403


class Site(Protocol):
    """What `crawl` needs to know of a site."""

    def is_complete(self, body: bytes) -> bool:
        """Whether a body is whole: a connection closed early can look like a short page."""

    def judge(self, key: str, page: Page, days: Sequence[str]) -> Answer:
        """What a page is and leads to: a pure function of the page and of the days that link to it.

        A page that cannot be read has the state ERROR and a `reason` in its note.
        """


def crawl(
    store: RawStore,
    fetcher: Fetcher,
    site: Site,
    first: str,
    last: str,
    limit: int = 0,
    on_done: Callable[[Request, str], None] = lambda request, state: None,
) -> bool:
    """Work the queue of the days first..last off until nothing is left.

    Pages that fail are asked for once more at the end. `limit` bounds the fetches of this call (0: no bound),
    `on_done` hears of every verdict. Returns whether the queue is empty. Raises CrawlError when the site
    keeps failing or refusing; the ledger then knows where to go on.
    """
    store.reopen([DISALLOWED], first, last)  # the rules may have changed, and asking them costs nothing
    breaker, fetched, is_last_pass = _Breaker(), 0, False
    while not fetcher.pace.stop.asked:
        request = store.next(first, last)
        if not request:
            if is_last_pass or not store.reopen([ERROR], first, last):
                return True
            is_last_pass = True
            continue
        page = store.page(request.key)
        if not page:
            if limit and fetched == limit:
                return False
            fetched += 1
            try:
                page = fetcher.get(request.url)
            except StopRequestedError:
                return False
            except DisallowedError as problem:
                store.fail(request.key, DISALLOWED, str(problem))
                on_done(request, DISALLOWED)
                continue
            except FetchError as problem:
                store.fail(request.key, ERROR, str(problem))
                on_done(request, ERROR)
                breaker.failed(problem)
                continue
            store.store(request, page)
        answer = _judge(site, request, page, store)
        store.settle(request.key, answer)
        on_done(request, answer.state)
        if answer.state == ERROR:
            breaker.failed(FetchError(answer.note["reason"]))
        else:
            breaker.succeeded()
    return False


def _judge(site: Site, request: Request, page: Page, store: RawStore) -> Answer:
    try:
        return site.judge(request.key, page, store.linked_from(request.key))
    except Exception as problem:  # whatever a parser trips over, one odd page must not end a crawl of days
        return Answer(ERROR, {"reason": f"the parser failed: {problem!r}"})


class _Breaker:
    """Ends a crawl that only does harm."""

    def __init__(self) -> None:
        self.succeeded()

    def succeeded(self) -> None:
        self.failures = self.refusals = 0

    def failed(self, problem: FetchError) -> None:
        self.failures += 1
        self.refusals = self.refusals + 1 if problem.status == 403 else 0
        if self.refusals == REFUSALS_IN_A_ROW:
            raise CrawlError(
                f"the site refused {REFUSALS_IN_A_ROW} pages in a row (403): write to its owners before you try again"
            )
        if self.failures == FAILURES_IN_A_ROW:
            raise CrawlError(
                f"{FAILURES_IN_A_ROW} pages in a row failed, the last one with: {problem}; "
                "what was fetched is safe, run the same command again later"
            )
