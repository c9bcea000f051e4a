"""Rows that are appended article by article, and a note of each article beside them: whatever happens, whole ones stay."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from oracle.cli import UserError


class Journal:
    """The file of rows at `path`, and `<path>.done` beside it: a line for each finished task, with the rows' end in bytes.

    Opened again after a kill, rows that no line covers are cut off: their task will be done again. Raises UserError if
    the rows are fewer than the notes say.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._notes_path = path, path.with_name(f"{path.name}.done")
        self.done: set[str] = set()
        self._end = 0

    def __enter__(self) -> "Journal":
        notes, whole = self._read_notes()
        for note in notes:
            self.done.add(note["task"])
            self._end = note["end"]
        size = self.path.stat().st_size if self.path.exists() else 0
        if size and not notes:
            raise UserError(f"{self.path} exists and was not begun by this command; name another file")
        if size < self._end:
            raise UserError(
                f"{self.path} is shorter than its notes say: put it back, or delete {self._notes_path} and it to begin anew"
            )
        self._rows, self._notes = (p.open("ab") for p in (self.path, self._notes_path))
        self._rows.truncate(self._end)
        self._notes.truncate(whole)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rows.close()
        self._notes.close()

    def add(self, task: str, rows: list[dict[str, Any]]) -> None:
        """Append the rows of a finished task (there may be none), then the note that it is finished."""
        data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        self._rows.write(data)
        self._sync(self._rows)
        self._end += len(data)
        self._notes.write(json.dumps({"task": task, "end": self._end}, ensure_ascii=False).encode() + b"\n")
        self._sync(self._notes)
        self.done.add(task)

    def rows(self) -> Iterator[dict[str, Any]]:
        """All rows so far."""
        with self.path.open("rb") as file:
            yield from map(json.loads, file)

    def _sync(self, file: Any) -> None:
        file.flush()
        os.fsync(file.fileno())

    def _read_notes(self) -> tuple[list[dict[str, Any]], int]:
        """The whole notes, and where they end: the last line may be torn."""
        data = self._notes_path.read_bytes() if self._notes_path.exists() else b""
        notes, whole = [], 0
        for line in data.splitlines(keepends=True):
            try:
                note = json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n"):
                break
            notes.append(note)
            whole += len(line)
        return notes, whole
