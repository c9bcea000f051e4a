"""Collect «Ριζοσπάστης» from its publisher's site: politely, over days, and never twice.

    python -m data.rizospastis.scrape --from 2008-01-01 --to 2024-12-31 --contact you@example.org

Stop it with Ctrl-C, or let the machine crash; the same command goes on. Fetching stores raw bytes and reads
no more of them than where to go next; `--parse` and `--report` work on what is stored and ask nobody.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date, timedelta
from pathlib import Path

from tqdm import tqdm

from data.rizospastis import site
from data.rizospastis.report import report
from data.rizospastis.walk import Walk, day_request
from oracle import cli
from oracle.cli import UsageError
from oracle.crawl import crawl
from oracle.fetch import DELAY, JITTER, Fetcher, stop_on_signals
from oracle.files import atomic_file
from oracle.rawstore import DISALLOWED, ERROR, QUEUED, RawStore, Request

DEFAULT_OUT = Path("data/rizospastis/raw")
REPORTAGE_EVERY = 10  # days; coprime to 7, so that every weekday is sampled


def main(argv: Sequence[str]) -> None:
    """Fetch, or work on what was fetched. Raises UsageError, and CrawlError if the crawl had to give up."""
    options = _parser().parse_args(argv)
    _check(options)
    if options.parse or options.report:
        with RawStore(options.out) as store:
            if options.parse:
                _write_stories(store, options.out)
            else:
                print(*report(store, options.first, options.last), sep="\n")
    elif options.dry_run:
        _dry_run(options)
    else:
        _fetch(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data.rizospastis.scrape",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = parser.add_argument
    add("--from", dest="first", default="2008-01-01", metavar="DATE", help="first day (default: %(default)s)")
    add("--to", dest="last", default="2024-12-31", metavar="DATE", help="last day (default: %(default)s)")
    add(
        "--contact",
        default="",
        help="mail or web address where the site's owners can reach you; needed to fetch",
    )
    add("--out", type=Path, default=DEFAULT_OUT, help="folder of the raw pages (default: %(default)s)")
    add("--base_url", default=site.BASE_URL, help="where the site is (default: %(default)s)")
    add(
        "--delay",
        type=float,
        default=DELAY,
        help="seconds between requests, at least 1 (default: %(default)s)",
    )
    add("--limit", type=int, default=0, help="fetch at most so many pages this time (default: no limit)")
    add("--reportage_every", type=int, default=REPORTAGE_EVERY, metavar="N",
        help="fetch the site's word counts on every Nth day, 0 for none (default: %(default)s)")  # fmt: skip
    add("--recheck", action="store_true", help="ask again for days without an issue and for unreadable pages")
    add("--dry_run", action="store_true", help="count days and requests, fetch nothing")
    add("--parse", action="store_true", help="write OUT/stories.jsonl from the stored pages, fetch nothing")
    add("--report", action="store_true", help="print what is there and what is missing, fetch nothing")
    return parser


def _check(options: argparse.Namespace) -> None:
    for name in ("first", "last"):
        try:
            setattr(options, name, date.fromisoformat(getattr(options, name)).isoformat())
        except ValueError:
            given = getattr(options, name)
            raise UsageError(f"{given!r} is no day; write days as 2008-01-31") from None
    if options.first > options.last:
        raise UsageError(f"--from {options.first} is later than --to {options.last}; exchange them")
    if options.last >= date.today().isoformat():
        yesterday = date.today() - timedelta(1)
        raise UsageError(f"--to {options.last} is not over, its issue may still change; go to {yesterday} at most")
    if not options.base_url.startswith(("http://", "https://")):
        raise UsageError(f"--base_url {options.base_url!r} is no web address; write it as {site.BASE_URL}")
    if min(options.limit, options.reportage_every) < 0:
        raise UsageError("--limit and --reportage_every must be 0 or more")


def _fetch(options: argparse.Namespace) -> None:
    with stop_on_signals() as stop:
        fetcher = Fetcher(
            options.base_url,
            options.contact,
            site.HOSTS,
            options.delay,
            is_complete=site.is_complete,
            stop=stop,
        )
        with RawStore(options.out, write=True) as store:
            fetcher.log = store.log_attempt
            for warning in store.warnings:
                print(f"warning: {warning}", file=sys.stderr)
            store.judge_again(site.PARSER_VERSION)
            store.add(map(day_request, site.days_between(options.first, options.last)))
            if options.recheck:
                store.reopen(["no_issue", "other_date", ERROR], options.first, options.last, refetch=True)
            is_done = _crawl_with_progress(store, fetcher, options)
            errors = store.count("", options.first, options.last).get(ERROR, 0)
    if not is_done:
        print("stopped; everything fetched is safe, and the same command goes on from here")
    elif errors:
        print(f"{errors} pages could not be had; the same command asks for them again")
    else:
        print(f"complete: {options.first} to {options.last} is in {options.out}")


def _crawl_with_progress(store: RawStore, fetcher: Fetcher, options: argparse.Namespace) -> bool:
    days = list(site.days_between(options.first, options.last))
    shown = {"issues": 0, "stories": 0, "errors": 0}
    today = ""
    with tqdm(total=len(days), unit="day", smoothing=0.05) as bar:

        def on_done(request: Request, state: str) -> None:
            nonlocal today
            if request.day != today:  # counting half a million rows is for once a day
                today = request.day
                shown["issues"] = store.count("day/", options.first, options.last).get("ok", 0)
                shown["stories"] = store.count("story/", options.first, options.last).get("ok", 0)
            shown["errors"] += state in (ERROR, DISALLOWED)
            # The queue is worked off by day, so all days before this one are done.
            done = (date.fromisoformat(request.day) - date.fromisoformat(options.first)).days
            bar.update(max(0, min(done, len(days)) - bar.n))
            seconds = bar.format_dict["elapsed"]
            bar.set_postfix({**shown, "req/s": f"{fetcher.requests / seconds if seconds else 0:.2f}"}, refresh=False)

        walk = Walk(options.reportage_every)
        is_done = crawl(store, fetcher, walk, options.first, options.last, options.limit, on_done)
        if is_done:
            bar.update(len(days) - bar.n)
    return is_done


def _dry_run(options: argparse.Namespace) -> None:
    """Print what a run would do; what the ledger does not know yet is estimated from the paper's habits."""
    total = len(list(site.days_between(options.first, options.last)))
    asked, queued = 0, 0
    if (options.out / "ledger.sqlite").is_file():
        with RawStore(options.out) as store:
            kinds = {
                kind: store.count(f"{kind}/", options.first, options.last)
                for kind in ("day", "page", "reportage", "story")
            }
        asked = sum(kinds["day"].values()) - kinds["day"].get(QUEUED, 0)
        queued = sum(counts.get(QUEUED, 0) + counts.get(ERROR, 0) for kind, counts in kinds.items() if kind != "day")
    unknown = total - asked
    per_day = 1 + site.ISSUES_PER_DAY * (site.PAGES_PER_ISSUE - 1 + site.STORIES_PER_ISSUE)
    requests = queued + round(unknown * per_day)
    seconds = requests * options.delay * (1 + JITTER / 2)
    print(f"days      {total:10,}  of them asked for already {asked:,}")
    print(f"requests  {requests:10,}  in the queue {queued:,}, estimated for other days {requests - queued:,}")
    pause = f"{options.delay:g} to {options.delay * (1 + JITTER):g} s"
    print(f"time      {seconds / 86400:10.1f}  days, with {pause} between requests")


def _write_stories(store: RawStore, out: Path) -> None:
    """Write one JSON object per article, sorted by id, in one atomic step."""
    target, count = out / "stories.jsonl", 0
    with atomic_file(target) as file:
        for story in site.stories(store):
            url = f"{site.BASE_URL}/{site.story_url(story.story_id)}"
            about = {**asdict(story), "url": url, "parser_version": site.PARSER_VERSION}
            file.write(json.dumps(about, ensure_ascii=False).encode() + b"\n")
            count += 1
    print(f"{count:,} stories in {target}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
