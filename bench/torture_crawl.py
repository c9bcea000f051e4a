"""The crawler under torture, against the stand-in site on this machine. Run: python -m bench.torture_crawl

Four claims, each with its figures: a full walk yields every story exactly once; one request in ten failing,
in any of twelve ways, ends in the same bytes; so does `kill -9` at random moments, with no page fetched twice
but the one in flight; and the site never sees more requests per second than configured.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path

from data.demo.faults import Faults
from data.demo.standin import Article, StandIn, story_id
from data.rizospastis import site
from oracle.rawstore import RawStore

FIRST = date(2018, 1, 5)
WORDS = ("η", "εργασία", "των", "ανθρώπων", "στο", "λιμάνι", "και", "τα", "σωματεία", "ζητούν", "μέτρα")


def articles(issues: int, per_issue: int, seed: int) -> list[Article]:
    """Weekly issues of made-up articles."""
    chance = random.Random(seed)
    found: list[Article] = []
    for issue in range(issues):
        day = (FIRST + timedelta(7 * issue)).isoformat()
        for number in range(1, per_issue + 1):
            text = "\n\n".join(" ".join(chance.choices(WORDS, k=60)) + "." for _ in range(4))
            about = {
                "id": f"{day}-{number:02d}",
                "date": day,
                "title": f"Τίτλος {issue} {number}",
                "text": text,
            }
            found.append({**about, "section": "ΠΟΛΙΤΙΚΗ", "kicker": "", "byline": ""})
    return found


def start(standin: StandIn, out: Path, issues: int, delay: float) -> subprocess.Popen[bytes]:
    """The command line of a user, in a process of its own."""
    last = FIRST + timedelta(7 * issues - 7)
    command = [
        sys.executable,
        "-m",
        "data.rizospastis.scrape",
        "--base_url",
        standin.base_url,
        "--out",
        str(out),
    ]
    command += ["--from", FIRST.isoformat(), "--to", last.isoformat(), "--contact", "bench@example.org"]
    command += ["--delay", str(delay), "--reportage_every", "1"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def stored(out: Path) -> dict[str, tuple[int, bytes]]:
    with RawStore(out) as store:
        return {page.key: (page.status, page.body) for page in store.pages()}


def shortest_gap(standin: StandIn) -> float:
    """Seconds between the two requests that came closest together."""
    times = [at for at, _, _ in standin.log]
    return min(after - before for before, after in pairwise(times))


def busiest_second(standin: StandIn) -> int:
    """The most requests in any window of one second."""
    times = [at for at, _, _ in standin.log]
    return max(sum(at <= other < at + 1 for other in times) for at in times)


def kill_and_resume(standin: StandIn, out: Path, issues: int, kills: int, seed: int) -> dict[str, int]:
    """Kill the crawl at random moments, then let it finish; count what was asked for more than once.

    Without pauses, so that most moments are ones of reading, writing and judging.
    """
    chance = random.Random(seed)
    in_flight: Counter[str] = Counter()
    hit, before = 0, 0
    for _ in range(kills):
        process = start(standin, out, issues, delay=0.0)
        while len(standin.log) == before and process.poll() is None:
            time.sleep(0.001)  # until it is past its imports
        time.sleep(chance.uniform(0, 0.15))
        hit += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        before = len(standin.log)
        in_flight[standin.paths()[-1]] += 1
    assert start(standin, out, issues, delay=0.0).wait() == 0
    asked = Counter(path for path in standin.paths() if path != "/robots.txt")
    again = asked - Counter(asked.keys())
    return {
        "kills_at_work": hit,
        "refetched": again.total(),
        "refetched_not_in_flight": (again - in_flight).total(),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table and, as the last line, JSON; return 1 if a claim does not hold."""
    parser = argparse.ArgumentParser(prog="python -m bench.torture_crawl")
    parser.add_argument("--issues", type=int, default=12)
    parser.add_argument("--per_issue", type=int, default=8)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--delay", type=float, default=0.03)
    parser.add_argument("--seed", type=int, default=2)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        figures, claims = torture(Path(folder), options)
    for name, value in figures.items():
        print(f"{name:28} {value:12,.4g}" if isinstance(value, float) else f"{name:28} {value:12,}")
    for claim, holds in claims.items():
        print(f"{claim:44} {'yes' if holds else 'NO'}")
    print(json.dumps({**figures, "delay_s": options.delay, "holds": all(claims.values())}))
    return 0 if all(claims.values()) else 1


def torture(folder: Path, options: argparse.Namespace) -> tuple[dict[str, float], dict[str, bool]]:
    """Three crawls of the same newspaper: undisturbed, with faults, and killed again and again."""
    calm, faulty, killed = (folder / name for name in ("calm", "faulty", "killed"))
    issues, delay, seed = options.issues, options.delay, options.seed
    news = articles(issues, options.per_issue, seed)
    figures: dict[str, float] = {}
    with StandIn(news) as standin:
        assert start(standin, calm, issues, delay).wait() == 0
        with RawStore(calm) as store:
            found = [story.story_id for story in site.stories(store)]
        figures |= {"requests": len(standin.log), "stories": len(found), "stories_expected": len(news)}
        figures["fetched_twice"] = len(standin.log) - len(set(standin.paths()))
        figures["most_requests_in_a_second"] = busiest_second(standin)
        figures["shortest_gap_s"] = shortest_gap(standin)
    with StandIn(news, faults=Faults(0.1, seed)) as standin:
        assert start(standin, faulty, issues, delay).wait() == 0
        kinds = Counter(fault for _, _, fault in standin.log if fault)
        figures |= {"fault_requests": len(standin.log), "faults": kinds.total(), "kinds_of_fault": len(kinds)}
        figures["shortest_gap_with_faults_s"] = shortest_gap(standin)
    with StandIn(news) as standin:
        figures |= {"kills": options.kills, **kill_and_resume(standin, killed, issues, options.kills, seed)}
    reference = stored(calm)
    figures |= {"pages": len(reference), "bytes": sum(len(body) for _, body in reference.values())}
    figures["differ_after_faults"] = _differences(reference, stored(faulty))
    figures["differ_after_kills"] = _differences(reference, stored(killed))
    shortest = min(figures["shortest_gap_s"], figures["shortest_gap_with_faults_s"])
    return figures, {
        "every story exactly once": found == sorted(map(story_id, news)) and not figures["fetched_twice"],
        "10 % faults: the same bytes": not figures["differ_after_faults"],
        "kill -9: the same bytes": not figures["differ_after_kills"],
        "refetched at most the page in flight": not figures["refetched_not_in_flight"],
        f"never above {1 / delay:.1f} requests/s": shortest >= delay,
    }


def _differences(expected: dict[str, tuple[int, bytes]], found: dict[str, tuple[int, bytes]]) -> int:
    """Pages that only one side has, or that differ."""
    return sum(expected.get(key) != found.get(key) for key in expected.keys() | found.keys())


if __name__ == "__main__":
    sys.exit(main())
