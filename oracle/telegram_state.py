"""What the bot must not forget: one SQLite file, written before anything is done that depends on it.

    taken    the update is in the file, in the transaction that moves the offset on: Telegram need not send it again
    placed   the messages that will hold the reply have been sent, and are known by their ids
    written  the reply's text is fixed, and part of the history
    done     all of the reply has been put into those messages

Whatever is not done is taken up again after a restart, from the step it had reached. Putting a text into a message
that exists (an edit) may be repeated without harm. So each message gets one reply, even if the process is killed at any
moment. The one step that cannot be repeated safely is sending the empty message: when the answer to that is lost, a
second one is sent, and the first remains in the chat without ever holding a reply.
"""

import contextlib
import dataclasses
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oracle.cli import UserError
from oracle.telegram_update import Incoming

Message = dict[str, str]  # {"role": …, "content": …}, as in oracle/chat.py

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS updates (id INTEGER PRIMARY KEY, chat INTEGER NOT NULL, time INTEGER NOT NULL,
    incoming TEXT, placed TEXT NOT NULL DEFAULT '[]', reply TEXT, done INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS unfinished ON updates (done) WHERE NOT done;
CREATE TABLE IF NOT EXISTS chats (id INTEGER PRIMARY KEY, history TEXT NOT NULL DEFAULT '[]',
    choices TEXT NOT NULL DEFAULT '{}', epoch INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS rateable (id INTEGER PRIMARY KEY, chat INTEGER NOT NULL, time INTEGER NOT NULL,
    messages TEXT NOT NULL, answer TEXT NOT NULL);
"""
DAY = 86_400
# After a week without updates Telegram numbers them anew, at random: an old offset would then hide new ones.
OFFSET_HOLDS = 6 * DAY
KEPT = 2 * DAY  # numbers of finished updates; answers that may still be rated


@dataclass(frozen=True)
class Choices:
    """What a chat chose under /settings; empty or 0: the bot's default."""

    language: str = ""
    temperature: float = 0.0
    length: int = 0  # tokens
    keep: bool = False  # conversations may be kept for training


@dataclass(frozen=True)
class Chat:
    history: list[Message]
    choices: Choices
    epoch: int  # counts the resets


@dataclass(frozen=True)
class Reply:
    """A text on its way into a chat; `buttons` names what is under it."""

    text: str
    buttons: str = ""


@dataclass(frozen=True)
class Progress:
    """How far an update has come."""

    placed: list[int]
    reply: Reply | None


class State:
    """The file at `path`, private to this user and held by one process. Not thread-safe."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite gives its own files the same mode
            self._db = sqlite3.connect(path, timeout=0, isolation_level=None)
            # Exclusive: a second bot on the same file would answer everything twice.
            for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=FULL", "secure_delete=ON"):
                self._db.execute(f"PRAGMA {pragma}")
            self._db.executescript(SCHEMA)

    def close(self) -> None:
        self._db.close()

    @property
    def offset(self) -> int:
        """The first update that is not known yet; 0 for whatever Telegram has."""
        known = dict(self._read("SELECT name, value FROM meta"))
        return known.get("offset", 0) if time.time() - known.get("heard", 0) < OFFSET_HOLDS else 0

    def take(self, numbers: Iterable[int], incoming: Iterable[Incoming]) -> list[Incoming]:
        """Note that updates were delivered, and return those of `incoming` that were not known before."""
        new, now = [], int(time.time())
        numbers = list(numbers)
        with self._changing() as db:
            for one in incoming:
                values = (one.update_id, one.chat_id, now, json.dumps(dataclasses.asdict(one), ensure_ascii=False))
                if db.execute(
                    "INSERT OR IGNORE INTO updates (id, chat, time, incoming) VALUES (?, ?, ?, ?)", values
                ).rowcount:
                    new.append(one)
            if numbers:
                offset = max(numbers) + 1
                db.execute("INSERT OR REPLACE INTO meta VALUES ('offset', ?), ('heard', ?)", (offset, now))
            db.execute("DELETE FROM updates WHERE done AND time < ?", (now - KEPT,))
            db.execute("DELETE FROM rateable WHERE time < ?", (now - KEPT,))
        return new

    def unfinished(self) -> list[Incoming]:
        """What was taken and is not done, in the order of arrival."""
        rows = self._read("SELECT incoming FROM updates WHERE NOT done ORDER BY id")
        return [Incoming(**json.loads(row[0])) for row in rows]

    def progress(self, number: int) -> Progress:
        placed, reply = self._read("SELECT placed, reply FROM updates WHERE id = ?", number)[0]
        return Progress(json.loads(placed), Reply(**json.loads(reply)) if reply else None)

    def place(self, number: int, message_ids: list[int]) -> None:
        """The messages that the reply will be put into exist."""
        with self._changing() as db:
            db.execute("UPDATE updates SET placed = ? WHERE id = ?", (json.dumps(message_ids), number))

    def write(self, number: int, reply: Reply) -> None:
        """Fix the reply."""
        with self._changing() as db:
            _write(db, number, reply)

    def write_answer(self, incoming: Incoming, reply: Reply, asked: list[Message], epoch: int, rateable: bool) -> None:
        """Fix the model's answer to the conversation `asked`, and remember both, unless /reset came since `epoch`.

        `rateable`: remember them for being rated and kept, too.
        """
        history = [*asked, {"role": "assistant", "content": reply.text}]
        with self._changing() as db:
            _write(db, incoming.update_id, reply)
            values: tuple[Any, ...] = (json.dumps(history, ensure_ascii=False), incoming.chat_id, epoch)
            current = db.execute("UPDATE chats SET history = ? WHERE id = ? AND epoch = ?", values).rowcount
            if rateable and current:
                messages = json.dumps(asked, ensure_ascii=False)
                values = (incoming.update_id, incoming.chat_id, int(time.time()), messages, reply.text)
                db.execute("INSERT OR REPLACE INTO rateable VALUES (?, ?, ?, ?, ?)", values)

    def done(self, number: int) -> None:
        """All of the reply is in the chat; its text is not kept."""
        with self._changing() as db:
            db.execute("UPDATE updates SET done = 1, incoming = NULL, reply = NULL WHERE id = ?", (number,))

    def chat(self, number: int) -> Chat:
        with self._changing() as db:
            db.execute("INSERT OR IGNORE INTO chats (id) VALUES (?)", (number,))
        history, choices, epoch = self._read("SELECT history, choices, epoch FROM chats WHERE id = ?", number)[0]
        return Chat(json.loads(history), Choices(**json.loads(choices)), epoch)

    def choose(self, number: int, choices: Choices) -> None:
        with self._changing() as db:
            db.execute("UPDATE chats SET choices = ? WHERE id = ?", (json.dumps(dataclasses.asdict(choices)), number))
            if not choices.keep:
                db.execute("DELETE FROM rateable WHERE chat = ?", (number,))

    def reset(self, number: int) -> None:
        """Forget a chat's history, and what of it might still have been rated."""
        with self._changing() as db:
            db.execute("UPDATE chats SET history = '[]', epoch = epoch + 1 WHERE id = ?", (number,))
            db.execute("DELETE FROM rateable WHERE chat = ?", (number,))

    def drop_chat(self, number: int) -> None:
        """Forget all of a chat: its user blocked the bot."""
        with self._changing() as db:
            db.execute("UPDATE updates SET done = 1, incoming = NULL, reply = NULL WHERE chat = ?", (number,))
            db.execute("DELETE FROM chats WHERE id = ?", (number,))
            db.execute("DELETE FROM rateable WHERE chat = ?", (number,))

    def rateable(self, number: int, chat: int) -> tuple[list[Message], str] | None:
        """(messages, answer) of the answer to an update in that chat, if it may be rated."""
        rows = self._read("SELECT messages, answer FROM rateable WHERE id = ? AND chat = ?", number, chat)
        return (json.loads(rows[0][0]), rows[0][1]) if rows else None

    def rated(self, number: int) -> None:
        with self._changing() as db:
            db.execute("DELETE FROM rateable WHERE id = ?", (number,))

    def _read(self, query: str, *values: int) -> list[Any]:
        with self._explained():
            return self._db.execute(query, values).fetchall()

    @contextlib.contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: on the disk when the block ends, or not begun."""
        with self._explained():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise UserError(
                    f"{self.path}: another bot is running on it; stop that one or name another file"
                ) from None
            raise UserError(f"{self.path}: {error}; make room, or name a file that this user may write") from None
        except sqlite3.DatabaseError:
            raise UserError(f"{self.path}: damaged, or no state of a bot; move it away and start again") from None
        except OSError as error:
            raise UserError(f"{self.path}: {error.strerror}; name a file that this user may write") from None


def _write(db: sqlite3.Connection, number: int, reply: Reply) -> None:
    text = json.dumps(dataclasses.asdict(reply), ensure_ascii=False)
    db.execute("UPDATE updates SET reply = ? WHERE id = ? AND NOT done", (text, number))
