"""Asking one site for one page, the way a good guest does.

robots.txt first; one connection; a pause with jitter between requests, longer while the site struggles;
redirects only within the site; sizes and times bounded; a name and a contact in every request.
"""

import email.utils
import ipaddress
import random
import signal
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from http.cookiejar import DefaultCookiePolicy
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from protego import Protego

from oracle.cli import UsageError, UserError
from oracle.rawstore import Page

AGENT = "nanoOracle"  # the name that robots.txt rules may be written for
VERSION = "0.1"

DELAY = 1.5  # seconds between requests, before jitter
DELAY_FLOOR = 1.0  # nobody is asked faster than this, except a server on this very machine
DELAY_CEILING = 60.0
JITTER = 1 / 3  # pauses are spread over delay .. delay * (1 + JITTER), so 1.5-2 s
TRIES = 6  # per page and pass; pauses between them are delay * 2, 4, 8, 16, 32
RETRY_STATUS = (408, 429, 500, 502, 503, 504)
LONGEST_RETRY_AFTER = 3600.0  # a site that wants longer gets a rest, not a sleeping process
MAX_REDIRECTS = 5
MAX_BYTES = 10_000_000  # per body, both as sent and as inflated
TIMEOUT = (10.0, 30.0)  # seconds to connect, and of silence
LONGEST_ANSWER = 120.0  # seconds for a whole body, however steadily it drips
ROBOTS_LIFETIME = 24 * 3600.0


class FetchError(Exception):
    """One page could not be had. `retry`: it may help to ask again, after at least `wait` seconds."""

    def __init__(self, reason: str, retry: bool = True, wait: float = 0.0, status: int = 0) -> None:
        super().__init__(reason)
        self.retry, self.wait, self.status = retry, wait, status


class DisallowedError(Exception):
    """robots.txt asks not to fetch this page."""


class StopRequestedError(Exception):
    """The person asked to stop; what is underway stays in the queue."""


class CrawlError(UserError):
    """The crawl cannot go on now; the message says why and what to do. Everything fetched is safe."""


@dataclass
class Stop:
    """Set by the first Ctrl-C or SIGTERM."""

    asked: bool = False


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Within this block the first SIGINT or SIGTERM only sets `asked`; the second one acts as usual."""
    stop = Stop()
    before = {int(number): signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, _: object) -> None:
        stop.asked = True
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass
class Pace:
    """When the next request may start: `base` seconds after the last answer, later if the site is slow."""

    base: float
    stop: Stop = field(default_factory=Stop)
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    chance: Callable[[], float] = random.random

    def __post_init__(self) -> None:
        self.delay = self.base
        self._ready = self.clock()

    def wait(self) -> None:
        """Block until the next request may start; raises StopRequestedError if the person asks to stop."""
        while not self.stop.asked and (left := self._ready - self.clock()) > 0:
            self.sleep(min(left, 0.2))  # in slices, so that Ctrl-C is heard during a long pause
        if self.stop.asked:
            raise StopRequestedError

    def answered(self, latency: float) -> None:
        """An answer took `latency` seconds: drift towards that, fast upwards and slowly down to `base`."""
        target = min(max(self.base, latency), DELAY_CEILING)
        self.delay += (target - self.delay) * (0.5 if target > self.delay else 0.1)
        self._pause(self.delay)

    def failed(self, is_overload: bool) -> None:
        """No good answer came; if that is because the site is overloaded, halve the rate."""
        if is_overload:
            self.delay = max(self.base, min(2 * self.delay, DELAY_CEILING))
        self._pause(self.delay)

    def hold(self, seconds: float) -> None:
        """No request for at least so many seconds from now."""
        self._ready = max(self._ready, self.clock() + seconds)

    def _pause(self, seconds: float) -> None:
        self.hold(seconds * (1 + JITTER * self.chance()))


class Fetcher:
    """Asks one site, named by `base_url` and the further `hosts` (with their subdomains), for pages.

    `contact` (a mail or web address) goes into the User-Agent; `delay` is in seconds. `log` may be
    set to hear of every request: time, address, status, seconds, bytes, error. Raises UsageError for a
    contact or a delay that no site should have to accept.
    """

    def __init__(
        self,
        base_url: str,
        contact: str,
        hosts: Sequence[str] = (),
        delay: float = DELAY,
        is_complete: Callable[[bytes], bool] = lambda body: True,
        stop: Stop | None = None,
        timeout: tuple[float, float] = TIMEOUT,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        is_local = _is_loopback(urlsplit(base_url).hostname or "")
        check_contact(contact)
        if delay < (0 if is_local else DELAY_FLOOR):
            raise UsageError(f"a delay of {delay:g} s is too short for {base_url}; give {DELAY_FLOOR:g} s or more")
        self.pace = Pace(delay, stop or Stop())
        self._base = base_url.rstrip("/") + "/"
        self._hosts = () if is_local else tuple(hosts)  # a stand-in must not lead to the real site
        self._is_complete = is_complete
        self.requests = 0  # sent so far, robots.txt and redirects included
        self.log: Callable[[str, str, int, float, int, str], None] = lambda *_: None
        self._timeout, self._max_bytes = timeout, max_bytes
        self._rules: dict[str, tuple[float, Protego]] = {}
        self._session = requests.Session()
        self._session.trust_env = not is_local
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        identity = f"{AGENT}/{VERSION} (+{contact})"
        self._session.headers.update(
            {"User-Agent": identity, "Accept": "text/html,*/*;q=0.5", "Accept-Encoding": "gzip"}
        )

    def get(self, url: str) -> Page:
        """Return the site's final answer for `url`, relative to `base_url`: status 2xx, 404 or 410.

        Raises FetchError after the last try, DisallowedError, StopRequestedError, or CrawlError.
        """
        page = self._insist(urljoin(self._base, url), obey_robots=True)
        if not (200 <= page.status < 300 or page.status in (404, 410)):
            raise FetchError(f"answer {page.status}", retry=False, status=page.status)
        return page

    def _insist(self, url: str, obey_robots: bool) -> Page:
        """Follow `url`, again and again while that may help."""
        for attempt in range(1, TRIES + 1):
            try:
                return self._follow(url, obey_robots)
            except FetchError as problem:
                if problem.wait > LONGEST_RETRY_AFTER:
                    raise CrawlError(
                        f"the site asks for a rest of {problem.wait:.0f} s (answer {problem.status}); "
                        "run the same command again after that"
                    ) from None
                self.pace.hold(problem.wait)
                if not problem.retry or attempt == TRIES:
                    raise
                self.pace.hold(self.pace.base * 2**attempt)
        raise AssertionError("the last try returns or raises")

    def _follow(self, url: str, obey_robots: bool) -> Page:
        """One try: ask, and go where redirects lead as long as they stay within the site."""
        address = url
        for _ in range(MAX_REDIRECTS + 1):
            if obey_robots and not self._robots(address).can_fetch(address, AGENT):
                raise DisallowedError(f"robots.txt disallows {address}")
            page = self._ask(address)
            target = page.headers.get("location")
            if page.status not in (301, 302, 303, 307, 308) or not target:
                if page.status == 200 and obey_robots and not self._is_complete(page.body):
                    raise FetchError("the page is cut short")
                return Page(url, address, page.status, page.headers, page.body, page.fetched_at)
            address = urljoin(address, target)
            if not self._is_within(address):
                raise FetchError(f"redirected off the site, to {address}")
        raise FetchError(f"more than {MAX_REDIRECTS} redirects")

    def _ask(self, url: str) -> Page:
        """One request, in its turn. Raises FetchError for whatever is not a whole answer."""
        self.pace.wait()
        self.requests += 1
        start, now = self.pace.clock(), datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        status, size, error = 0, 0, ""
        try:
            with self._session.get(url, stream=True, allow_redirects=False, timeout=self._timeout) as response:
                status, latency = response.status_code, self.pace.clock() - start
                headers = {name.lower(): value for name, value in response.headers.items()}
                if status in RETRY_STATUS:
                    raise FetchError(f"answer {status}", wait=seconds_of(headers.get("retry-after")), status=status)
                body = self._read(response, start + LONGEST_ANSWER)
                size = len(body)
            self.pace.answered(latency)
            return Page(url, url, status, headers, body, now)
        except (requests.RequestException, urllib3.exceptions.HTTPError, zlib.error, OSError) as problem:
            error = f"{type(problem).__name__}: {problem}"
            self.pace.failed(is_overload=isinstance(problem, requests.Timeout | urllib3.exceptions.TimeoutError))
            raise FetchError(error) from problem
        except FetchError as problem:
            error = str(problem)
            self.pace.failed(is_overload=status in RETRY_STATUS)
            raise
        finally:
            self.log(now, url, status, self.pace.clock() - start, size, error)

    def _read(self, response: requests.Response, deadline: float) -> bytes:
        """Return the inflated body, counting bytes both as they come and as they unfold."""
        coding = response.headers.get("Content-Encoding", "identity").lower()
        if coding not in ("identity", "gzip"):
            raise FetchError(f"answer in unknown Content-Encoding {coding}")
        inflate = zlib.decompressobj(wbits=31) if coding == "gzip" else None
        received, body = 0, bytearray()
        while chunk := response.raw.read1(1 << 16, decode_content=False):
            received += len(chunk)
            body += inflate.decompress(chunk, self._max_bytes + 1 - len(body)) if inflate else chunk
            if max(received, len(body)) > self._max_bytes:
                raise FetchError(f"a body of more than {self._max_bytes:,} bytes")
            if self.pace.clock() > deadline:
                raise FetchError(f"a body that took more than {LONGEST_ANSWER:.0f} s")
        if inflate and received and not inflate.eof:
            raise FetchError("the compressed body is cut short")
        return bytes(body)

    def _robots(self, url: str) -> Protego:
        """The rules of the host of `url`, at most a day old. No file allows all; an unreadable one stops."""
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        if origin in self._rules and self.pace.clock() - self._rules[origin][0] < ROBOTS_LIFETIME:
            return self._rules[origin][1]
        try:
            page = self._insist(f"{origin}/robots.txt", obey_robots=False)
        except FetchError as problem:
            raise CrawlError(
                f"{origin}/robots.txt cannot be read ({problem}), so nothing is known to be allowed; "
                "run the same command again later"
            ) from None
        rules = Protego.parse(page.body.decode("utf-8", "replace") if page.status == 200 else "")
        self._rules[origin] = (self.pace.clock(), rules)
        rate = rules.request_rate(AGENT)
        asked = max(rules.crawl_delay(AGENT) or 0.0, rate.seconds / rate.requests if rate else 0.0)
        self.pace.base = max(self.pace.base, asked)
        self.pace.delay = max(self.pace.delay, self.pace.base)
        self.pace.hold(self.pace.base)
        return rules

    def _is_within(self, url: str) -> bool:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https"):
            return False
        if parts.netloc == urlsplit(self._base).netloc:
            return True
        host = parts.hostname or ""
        return parts.netloc == host and any(host == known or host.endswith(f".{known}") for known in self._hosts)


def check_contact(contact: str) -> None:
    """Raise UsageError unless the site's owners can reach a person at `contact`."""
    local, at, domain = contact.partition("@")
    is_mail = bool(local and at and "." in domain)
    if not (is_mail or contact.startswith(("http://", "https://"))) or not contact.isprintable() or " " in contact:
        raise UsageError(
            f"contact {contact!r} is no mail or web address; give one where the site's owners can reach you"
        )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def seconds_of(retry_after: str | None) -> float:
    """Seconds that a Retry-After header asks for: a number, or a date; 0 if absent or unreadable."""
    if not retry_after:
        return 0.0
    if retry_after.strip().isdigit():
        return float(retry_after)
    try:
        when = email.utils.parsedate_to_datetime(retry_after)
    except ValueError:
        return 0.0
    return max(0.0, (when - datetime.now(timezone.utc)).total_seconds())
