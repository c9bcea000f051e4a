"""Raw pages, each kept once: append-only archives by month, and a ledger of what is still to be fetched.

A folder holds `pages/2018-03.gz` and so on, and `ledger.sqlite`. An archive is a row of gzip members (`zcat`
opens it); each member is one line of JSON (key, address, status, headers, time) followed by the body as the
site sent it. The ledger only points into the archives: a record is on the disk before the ledger names it, so
a crash at any byte leaves either a whole record to adopt or an unfinished tail to cut off, and a lost ledger
is rebuilt from the archives alone.
"""

import contextlib
import gzip
import hashlib
import json
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from oracle.cli import UserError
from oracle.files import take_lock

QUEUED, STORED, ERROR, DISALLOWED = "todo", "stored", "error", "disallowed"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS page(
    key TEXT PRIMARY KEY, url TEXT NOT NULL, day TEXT NOT NULL, rank INTEGER NOT NULL,
    state TEXT NOT NULL DEFAULT 'todo', note TEXT NOT NULL DEFAULT '{}', tries INTEGER NOT NULL DEFAULT 0,
    pack TEXT, offset INTEGER, length INTEGER, bytes INTEGER, sha256 TEXT) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS queue ON page(state, day, rank, key);
CREATE TABLE IF NOT EXISTS link(key TEXT, day TEXT, PRIMARY KEY(key, day)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pack(name TEXT PRIMARY KEY, end INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS attempt(
    at TEXT, url TEXT, status INTEGER, seconds REAL, bytes INTEGER, error TEXT);
CREATE TABLE IF NOT EXISTS meta(name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
"""
_INSERT = "INSERT OR IGNORE INTO page(key, url, day, rank) VALUES (?, ?, ?, ?)"
_PLACE = "SELECT key, pack, offset, length FROM page WHERE pack IS NOT NULL"
_LAST = "\U0010ffff"  # sorts behind every character, so prefix + _LAST ends a range of keys


@dataclass(frozen=True)
class Page:
    """One answer of the site. `headers` have lower-case names, `fetched_at` is ISO 8601 in UTC."""

    url: str
    final_url: str
    status: int
    headers: dict[str, str]
    body: bytes
    fetched_at: str
    key: str = ""


@dataclass(frozen=True)
class Request:
    """One page to fetch, its address relative to the site: it is the same page wherever the site moves.

    `day` (ISO date) picks the archive and, before `rank` and `key`, the order.
    """

    key: str
    url: str
    day: str
    rank: int = 0


@dataclass(frozen=True)
class Answer:
    """What a fetched page turned out to be: its state, facts worth keeping, and the requests it leads to."""

    state: str
    note: dict[str, Any] = field(default_factory=dict)
    links: Sequence[Request] = ()


@dataclass(frozen=True)
class Entry:
    """One row of the ledger, for reports."""

    key: str
    day: str
    state: str
    note: dict[str, Any]


class RawStore:
    """The raw pages in folder `path`. Any number may read; one may write (`write=True`).

    Raises UserError if there is nothing to read, or if another process is writing.
    """

    def __init__(self, path: str | Path, write: bool = False) -> None:
        self.path = Path(path)
        self.warnings: list[str] = []
        self._lock: sqlite3.Connection | None = None
        ledger = self.path / "ledger.sqlite"
        if write:
            (self.path / "pages").mkdir(parents=True, exist_ok=True)
            self._lock = take_lock(self.path)
        elif not ledger.is_file():
            raise UserError(f"{self.path} holds no raw pages (no ledger.sqlite); fetch some, or name the right folder")
        self._db = sqlite3.connect(ledger, timeout=60, isolation_level=None)
        if write:
            self._db.execute("PRAGMA journal_mode=WAL")
            # Commits need not reach the disk one by one: a power cut that undoes some leaves their records
            # behind the ends of the archives that the ledger knows, where `_recover` finds them.
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_SCHEMA)
            self._recover()
        else:
            self._db.execute("PRAGMA query_only=1")

    def __enter__(self) -> "RawStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()
        if self._lock:
            self._lock.close()

    # Reading.

    def pages(self, prefix: str = "", states: Sequence[str] = ()) -> Iterator[Page]:
        """Every stored page whose key starts with `prefix` (and whose state is one of `states`), by key.

        Raises UserError naming the record if an archive was damaged.
        """
        wanted = f" AND state IN ({','.join('?' * len(states))})" if states else ""
        query = f"{_PLACE} AND key >= ? AND key < ?{wanted} ORDER BY key"
        for row in self._db.execute(query, (prefix, prefix + _LAST, *states)):
            yield self._read(*row)

    def page(self, key: str) -> Page | None:
        """The stored page with this key, or None if it is not stored."""
        row = self._db.execute(f"{_PLACE} AND key = ?", (key,)).fetchone()
        return self._read(*row) if row else None

    def entries(self, first: str = "", last: str = "9") -> Iterator[Entry]:
        """The ledger's rows for the days first..last (ISO dates), by day and key."""
        query = "SELECT key, day, state, note FROM page WHERE day BETWEEN ? AND ? ORDER BY day, key"
        for key, day, state, note in self._db.execute(query, (first, last)):
            yield Entry(key, day, state, json.loads(note))

    def linked_from(self, key: str) -> list[str]:
        """The days whose pages link to `key`."""
        return [day for (day,) in self._db.execute("SELECT day FROM link WHERE key = ? ORDER BY day", (key,))]

    def count(self, prefix: str, first: str = "", last: str = "9") -> dict[str, int]:
        """How many pages of a kind (key prefix) are in each state, over the days first..last."""
        where = "key >= ? AND key < ? AND day BETWEEN ? AND ?"
        query = f"SELECT state, count(*) FROM page WHERE {where} GROUP BY state"
        return dict(self._db.execute(query, (prefix, prefix + _LAST, first, last)))

    # Writing: every method is one transaction.

    def add(self, requests: Iterable[Request]) -> None:
        """Put requests into the queue; those already known stay as they are."""
        with self._transaction():
            self._enqueue(requests)

    def next(self, first: str, last: str) -> Request | None:
        """What to do now: a stored page that awaits its verdict, else the first request of the days."""
        columns = "SELECT key, url, day, rank FROM page WHERE state = ?"
        order = " ORDER BY day, rank, key LIMIT 1"
        row = self._db.execute(columns + order, (STORED,)).fetchone()
        if not row:
            row = self._db.execute(columns + " AND day BETWEEN ? AND ?" + order, (QUEUED, first, last)).fetchone()
        return Request(*row) if row else None

    def store(self, request: Request, page: Page) -> None:
        """Append the page to its month's archive, on the disk before the ledger knows of it."""
        about = {name: value for name, value in asdict(page).items() if name != "body"}
        about |= {"key": request.key, "request": request.url, "day": request.day, "rank": request.rank}
        record = gzip.compress(json.dumps(about, ensure_ascii=False).encode() + b"\n" + page.body, 6, mtime=0)
        pack = request.day[:7]
        is_new = not self._archive(pack).exists()
        with self._archive(pack).open("ab") as file:
            offset = file.tell()
            file.write(record)
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            _sync_folder(self.path / "pages")
        with self._transaction():
            self._point(request, pack, offset, len(record), page.body)

    def settle(self, key: str, answer: Answer) -> None:
        """Record what the page was, and queue what it links to."""
        with self._transaction():
            note = json.dumps(answer.note, ensure_ascii=False)
            self._db.execute("UPDATE page SET state = ?, note = ? WHERE key = ?", (answer.state, note, key))
            self._enqueue(answer.links)

    def fail(self, key: str, state: str, reason: str) -> None:
        """Record that the page could not be had in this pass, and why."""
        with self._transaction():
            note = json.dumps({"reason": reason}, ensure_ascii=False)
            change = "UPDATE page SET state = ?, note = ?, tries = tries + 1 WHERE key = ?"
            self._db.execute(change, (state, note, key))

    def reopen(self, states: Sequence[str], first: str = "", last: str = "9", refetch: bool = False) -> int:
        """Take pages in these states up again, stored ones without fetching unless asked; return how many."""
        with self._transaction():
            where = f"state IN ({','.join('?' * len(states))}) AND day BETWEEN ? AND ?"
            forget = ", pack = NULL" if refetch else ""
            state = f"'{QUEUED}'" if refetch else f"CASE WHEN pack IS NULL THEN '{QUEUED}' ELSE '{STORED}' END"
            change = f"UPDATE page SET state = {state}{forget} WHERE {where}"
            return self._db.execute(change, (*states, first, last)).rowcount

    def judge_again(self, version: str) -> int:
        """Reopen every stored page, without fetching, if it was judged by another version of the parser."""
        row = self._db.execute("SELECT value FROM meta WHERE name = 'parser'").fetchone()
        if row and row[0] == version:
            return 0
        with self._transaction():
            self._db.execute("INSERT OR REPLACE INTO meta VALUES ('parser', ?)", (version,))
            return self._db.execute("UPDATE page SET state = ? WHERE pack IS NOT NULL", (STORED,)).rowcount

    def log_attempt(self, at: str, url: str, status: int, seconds: float, size: int, error: str) -> None:
        """Note one request in the diary; `status` is 0 if there was no answer, `seconds` the time it took."""
        row = (at, url, status, round(seconds, 3), size, error)
        self._db.execute("INSERT INTO attempt VALUES (?, ?, ?, ?, ?, ?)", row)

    def _enqueue(self, requests: Iterable[Request]) -> None:
        for request in requests:
            self._db.execute(_INSERT, (request.key, request.url, request.day, request.rank))
            new = self._db.execute("INSERT OR IGNORE INTO link VALUES (?, ?)", (request.key, request.day)).rowcount
            if new:  # A verdict may depend on which days link to the page, so a new one asks for it again.
                again = "UPDATE page SET state = ? WHERE key = ? AND pack IS NOT NULL"
                self._db.execute(again, (STORED, request.key))

    def _point(self, request: Request, pack: str, offset: int, length: int, body: bytes) -> None:
        self._db.execute(_INSERT, (request.key, request.url, request.day, request.rank))
        change = "UPDATE page SET state = ?, pack = ?, offset = ?, length = ?, bytes = ?, sha256 = ? WHERE key = ?"
        digest = hashlib.sha256(body).hexdigest()
        self._db.execute(change, (STORED, pack, offset, length, len(body), digest, request.key))
        self._db.execute("INSERT OR REPLACE INTO pack VALUES (?, ?)", (pack, offset + length))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    # Archives.

    def _archive(self, pack: str) -> Path:
        return self.path / "pages" / f"{pack}.gz"

    def _read(self, key: str, pack: str, offset: int, length: int) -> Page:
        with self._archive(pack).open("rb") as file:
            file.seek(offset)
            record = file.read(length)
        try:
            about, body = _unpack(gzip.decompress(record))
        except (OSError, EOFError, ValueError, zlib.error) as problem:
            raise UserError(
                f"{self._archive(pack)} is damaged at byte {offset} ({key}: {problem}); bring back a copy"
            ) from problem
        return Page(
            about["url"],
            about["final_url"],
            about["status"],
            about["headers"],
            body,
            about["fetched_at"],
            key,
        )

    def _recover(self) -> None:
        """Make the ledger and the archives agree again after a crash."""
        for archive in sorted((self.path / "pages").glob("*.gz")):
            pack, size = archive.stem, archive.stat().st_size
            row = self._db.execute("SELECT end FROM pack WHERE name = ?", (pack,)).fetchone()
            known = row[0] if row else 0
            if size < known:
                lost = "UPDATE page SET state = ?, pack = NULL WHERE pack = ? AND offset + length > ?"
                count = self._db.execute(lost, (QUEUED, pack, size)).rowcount
                self._db.execute("UPDATE pack SET end = ? WHERE name = ?", (size, pack))
                self.warnings.append(
                    f"{archive} is {known - size} bytes shorter than the ledger says; "
                    f"{count} pages will be fetched again"
                )
            elif size > known:
                self._adopt(archive, known)

    def _adopt(self, archive: Path, start: int) -> None:
        """Take whole records behind byte `start` into the ledger and cut off an unfinished last one."""
        end, damaged = start, False
        with archive.open("rb") as file, self._transaction():
            file.seek(start)
            try:
                for length, content in _members(file):
                    about, body = _unpack(content)
                    request = Request(about["key"], about["request"], about["day"], about["rank"])
                    self._point(request, archive.stem, end, length, body)
                    end += length
            except (zlib.error, ValueError, KeyError):
                damaged = True
            file.seek(end)
            tail = file.read()
        if damaged:  # Not a record that a crash cut short: these bytes are kept for a person to look at.
            aside = archive.with_name(f"{archive.name}.damaged-{end}")
            aside.write_bytes(tail)
            self.warnings.append(
                f"{archive} is damaged behind byte {end}; its last {len(tail)} bytes are now in "
                f"{aside.name}, and the pages in them will be fetched again"
            )
        os.truncate(archive, end)


def _unpack(content: bytes) -> tuple[dict[str, Any], bytes]:
    line, _, body = content.partition(b"\n")
    return json.loads(line), body


def _members(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield (compressed length, content) of each whole gzip member from here on, but no unfinished one."""
    rest = b""
    while True:
        inflate = zlib.decompressobj(wbits=31)
        content, length = b"", 0
        while not inflate.eof:
            chunk = rest or file.read(1 << 16)
            if not chunk:
                return
            content += inflate.decompress(chunk)
            rest = inflate.unused_data
            length += len(chunk) - len(rest)
        yield length, content


def _sync_folder(folder: Path) -> None:
    """Make a new file's name durable; Windows does that by itself and refuses to open a folder."""
    with contextlib.suppress(PermissionError):
        handle = os.open(folder, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
