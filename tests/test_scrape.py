"""The walk through the newspaper and its command line, on loopback only. Run: pytest tests/test_scrape.py"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import date, timedelta
from pathlib import Path
from unittest.mock import patch

import pytest

from data.demo.faults import Faults
from data.demo.standin import StandIn, story_id
from data.rizospastis import report, site
from data.rizospastis.scrape import main
from oracle import cli
from oracle.rawstore import RawStore
from tests.newspaper import ARTICLES, SITE, article

FIRST, LAST = "2018-03-01", "2018-03-11"


def exit_code(*arguments: str) -> int:
    """What the shell sees of the command."""
    with patch.object(sys, "argv", ["scrape", *arguments]):
        return cli.run(main)


def run(standin: StandIn, out: Path, *more: str, first: str = FIRST, last: str = LAST) -> int:
    base = ["--from", first, "--to", last, "--out", str(out), "--base_url", standin.base_url]
    return exit_code(*base, "--delay", "0", "--contact", "me@example.org", "--reportage_every", "1", *more)


def stored(out: Path) -> list[tuple[str, int, bytes]]:
    """What a crawl gathered, without what may differ between two runs: ports, times, ways."""
    with RawStore(out) as store:
        return [(page.key, page.status, page.body) for page in store.pages()]


def states(out: Path) -> dict[str, str]:
    with RawStore(out) as store:
        return {entry.key: entry.state for entry in store.entries()}


@pytest.fixture(scope="module")
def crawled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in's whole newspaper."""
    out = tmp_path_factory.mktemp("crawled")
    with StandIn(ARTICLES, **SITE) as standin:  # type: ignore[arg-type]
        assert run(standin, out) == 0
    return out


# The walk.


def test_a_full_walk_yields_every_story_exactly_once(crawled: Path):
    with RawStore(crawled) as store:
        found = [story.story_id for story in site.stories(store)]
    assert found == sorted(story_id(wanted) for wanted in ARTICLES)


def test_every_day_and_page_has_a_recorded_state(crawled: Path):
    found = states(crawled)
    assert {key[-2:]: state for key, state in found.items() if key.startswith("day/")} == {
        "01": "no_issue", "02": "ok", "03": "ok", "04": "joint", "05": "other_date", "06": "ok",
        "07": "no_issue", "08": "no_issue", "09": "ok", "10": "no_issue", "11": "no_issue",
    }  # fmt: skip
    assert found["page/2018-03-02/017001/002"] == "ok"
    assert found["page/2018-03-02/017001/004"] == "empty_page"
    assert not any(key.startswith("page/2018-03-04") for key in found)
    assert set(found.values()) == {"ok", "no_issue", "joint", "other_date", "empty_page"}
    with RawStore(crawled) as store:
        notes = {entry.key: entry.note for entry in store.entries()}
    assert notes["day/2018-03-06"]["printing"] == 1
    assert {note["insert"] for key, note in notes.items() if "insert" in note} == {"ΠΑΙΔΕΙΑ"}
    assert notes["page/2018-03-06/017004/001"]["printing"] == 2


def test_no_page_is_asked_for_twice(tmp_path: Path):
    with StandIn(ARTICLES, **SITE) as standin:  # type: ignore[arg-type]
        run(standin, tmp_path)
        asked = len(standin.log)
        assert max(Counter(standin.paths()).values()) == 1
        assert run(standin, tmp_path) == 0
        assert len(standin.log) == asked


def test_one_request_in_ten_failing_gives_the_same_bytes(crawled: Path, tmp_path: Path):
    kinds = tuple(kind for kind in Faults().kinds if kind not in ("bomb", "oversized"))
    faults = Faults(rate=0.1, seed=3, kinds=kinds, seconds=0.0)
    with StandIn(ARTICLES, faults=faults, **SITE) as standin:  # type: ignore[arg-type]
        assert run(standin, tmp_path) == 0
        assert sum(bool(fault) for _, _, fault in standin.log) >= 4
    assert stored(tmp_path) == stored(crawled)
    assert states(tmp_path) == states(crawled)


def test_a_site_in_the_old_code_page_under_a_lying_label(crawled: Path, tmp_path: Path):
    with StandIn(ARTICLES, encoding="cp1253", label="iso-8859-7", **SITE) as standin:  # type: ignore[arg-type]
        assert run(standin, tmp_path) == 0
    with RawStore(tmp_path) as old, RawStore(crawled) as new:
        assert list(site.stories(old)) == list(site.stories(new))


def test_starting_on_the_sunday_of_a_joint_issue_still_finds_it(tmp_path: Path):
    with StandIn(ARTICLES, **SITE) as standin:  # type: ignore[arg-type]
        assert run(standin, tmp_path, first="2018-03-04", last="2018-03-04") == 0
    with RawStore(tmp_path) as store:
        assert [story.story_id for story in site.stories(store)] == [2018030301, 2018030302]


def test_a_promotion_on_every_page_is_found_out(tmp_path: Path):
    days = [(date(2018, 1, 5) + timedelta(7 * week)).isoformat() for week in range(site.PROMO_DAYS + 1)]
    with StandIn([article(day, 1) for day in days]) as standin:
        assert run(standin, tmp_path, first=days[0], last=days[1]) == 0
        assert states(tmp_path)["story/000006668139"] == "other_date"
        assert run(standin, tmp_path, first=days[2], last=days[-1]) == 0
        assert standin.paths().count("/story.do?id=6668139") == 1
    assert states(tmp_path)["story/000006668139"] == "promo"
    with RawStore(tmp_path) as store:
        assert len(list(site.stories(store))) == len(days)


def test_a_corrected_parser_judges_again_without_a_request(
    crawled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with StandIn(ARTICLES, **SITE) as standin:  # type: ignore[arg-type]
        monkeypatch.setattr(site, "STORY_BODY", "wrong_guess")
        run(standin, tmp_path)
        assert "gone" in states(tmp_path).values()
        asked = len(standin.log)
        monkeypatch.undo()
        monkeypatch.setattr(site, "PARSER_VERSION", "2")
        run(standin, tmp_path)
        assert len(standin.log) == asked
    assert states(tmp_path) == states(crawled)


def test_recheck_asks_again_for_days_without_an_issue(tmp_path: Path):
    with StandIn([]) as standin:
        run(standin, tmp_path, last="2018-03-02")
    with StandIn(ARTICLES, **SITE) as standin:  # type: ignore[arg-type]
        run(standin, tmp_path, last="2018-03-02")
        assert standin.log == []
        run(standin, tmp_path, "--recheck", last="2018-03-02")
    assert states(tmp_path)["day/2018-03-02"] == "ok"


# The command line.


def scrape(standin: StandIn, out: Path, delay: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "data.rizospastis.scrape", "--from", FIRST, "--to", LAST]
    command += ["--out", str(out), "--base_url", standin.base_url, "--contact", "me@example.org"]
    command += ["--delay", str(delay), "--reportage_every", "1"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_requests(standin: StandIn, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(standin.log) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(standin.log) >= count


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_well(tmp_path: Path, number: signal.Signals):
    with StandIn(ARTICLES, **SITE) as standin:  # type: ignore[arg-type]
        process = scrape(standin, tmp_path, delay=0.05)
        wait_for_requests(standin, 5)
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert "the same command goes on" in output
        answered = len([path for path in standin.paths() if path != "/robots.txt"])
    assert len(stored(tmp_path)) == answered


def test_kill_9_and_a_second_instance(crawled: Path, tmp_path: Path):
    with StandIn(ARTICLES, **SITE) as standin:  # type: ignore[arg-type]
        process = scrape(standin, tmp_path, delay=0.05)
        wait_for_requests(standin, 8)
        assert run(standin, tmp_path) == 1  # another instance is refused
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
        assert run(standin, tmp_path) == 0
        asked = Counter(path for path in standin.paths() if path != "/robots.txt")
    assert sum(count - 1 for count in asked.values()) <= 1
    assert stored(tmp_path) == stored(crawled)


def test_a_dry_run_counts_and_asks_nobody(crawled: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert exit_code("--dry_run", "--out", str(tmp_path / "none"), "--from", "2008-01-01", "--to", "2024-12-31") == 0
    output = capsys.readouterr().out
    assert "6,210" in output and "requests" in output and "1.5 to 2 s" in output
    assert not (tmp_path / "none").exists()
    assert exit_code("--dry_run", "--out", str(crawled), "--from", FIRST, "--to", LAST) == 0
    assert capsys.readouterr().out.split("\n")[1].split()[1] == "0"


def test_stories_are_written_as_json_lines(crawled: Path, capsys: pytest.CaptureFixture[str]):
    assert exit_code("--parse", "--out", str(crawled)) == 0
    lines = (crawled / "stories.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(ARTICLES)
    assert json.loads(lines[0])["url"] == "https://www.rizospastis.gr/story.do?id=2018030201"
    assert json.loads(lines[0])["parser_version"] == site.PARSER_VERSION


def test_the_report_tells_what_is_there_and_what_is_not(crawled: Path, capsys: pytest.CaptureFixture[str]):
    assert exit_code("--report", "--out", str(crawled), "--from", FIRST, "--to", LAST) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("2018-03") and lines[2].startswith("2018 ")
    numbers = dict(zip(lines[0].split(), map(int, lines[1].split()[1:]), strict=True))
    days = [numbers[name] for name in ("days", "issues", "joint", "none", "other", "d-open")]
    assert days == [11, 4, 1, 5, 1, 0]
    assert (numbers["stories"], numbers["printed"], numbers["inserts"]) == (9, 2, 1)
    assert lines[-1].endswith("stories within 10%, median difference +0.0%")
    with RawStore(crawled) as store:
        compared = report.compare_word_counts(store)
    assert compared and all(theirs == ours for _, theirs, ours in compared)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from", "1/3/2018"], "'1/3/2018' is no day; write days as 2008-01-31"),
        (["--from", "2018-03-02", "--to", "2018-03-01"], "is later than"),
        (["--to", "2999-01-01"], "is not over"),
        (["--contact", ""], "contact '' is no mail or web address"),
        (["--contact", "me@example.org", "--delay", "0.2"], "give 1 s or more"),
        (["--base_url", "rizospastis.gr"], "is no web address"),
        (["--limit", "-1"], "must be 0 or more"),
    ],
)
def test_wrong_usage_is_one_sentence(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    assert exit_code(*arguments) == 2
    errors = capsys.readouterr().err
    assert message in errors and errors.count("\n") == 1


def test_a_folder_without_pages_has_no_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert exit_code("--report", "--out", str(tmp_path)) == 1
    assert "holds no raw pages" in capsys.readouterr().err


def test_a_site_that_is_down_ends_the_run_with_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with StandIn([]) as standin:
        pass
    assert run(standin, tmp_path) == 1
    assert "robots.txt cannot be read" in capsys.readouterr().err
