"""Files that appear whole or not at all, and what names their content."""

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from oracle.cli import UserError


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Write `path` under a temporary name beside it; fsync and rename only when all of it was written."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, all of it or nothing."""
    with atomic_file(path) as file:
        file.write(text.encode("utf-8"))


def sync(path: Path) -> None:
    """Make a file or a directory's entries durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises UserError if the file holds anything else."""
    try:
        value = json.loads(path.read_bytes())
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{path}: damaged, it holds no JSON object; put a sound copy back, or make it anew")
    return value


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def hash_of(*values: object) -> str:
    """A SHA-256 in hexadecimal that names these values together."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def take_lock(folder: Path) -> sqlite3.Connection:
    """Hold the folder for this process; the system lets go of it however the process ends."""
    lock = sqlite3.connect(folder / "lock", timeout=0, isolation_level=None)
    try:
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError:
        lock.close()
        raise UserError(
            f"{folder} is being written by another run; stop that one, wait for it, or name another folder"
        ) from None
    return lock
