"""Reading a corpus: JSON lines or text files, plain or compressed, one document at a time."""

import bz2
import codecs
import gzip
import hashlib
import json
import lzma
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from oracle.cli import UserError

OPENERS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
READ_BYTES = 1 << 22
ISO_DAY = re.compile(r"\d{4}-\d\d-\d\d(?!\d)")
COMPRESSION_ERRORS = (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile)


@dataclass(frozen=True)
class Document:
    id: str
    text: str
    date: str = ""  # ISO day, or empty where none is known
    title: str = ""
    section: str = ""


@dataclass
class CorpusReader:
    """Iterates over the documents of a file or folder, as often as asked. Raises UserError naming file and place.

    `bad_lines` lists what was skipped in the latest pass when `skip_bad_lines` is set.
    """

    path: Path
    keep_titles: bool = True
    text_chunk_chars: int = 0
    skip_bad_lines: bool = False
    bad_lines: list[str] = field(default_factory=list)

    def files(self) -> list[Path]:
        """The corpus's files in a fixed order. Raises UserError if there is none."""
        if not str(self.path) or self.path == Path():
            raise UserError("no corpus given; set corpus to a .jsonl file or to a folder of .txt files")
        if self.path.is_dir():
            found = sorted(p for p in self.path.rglob("*") if p.is_file() and kind(p))
            if not found:
                raise UserError(f"{self.path}: no .jsonl or .txt file in this folder (plain, .gz, .bz2 or .xz)")
            return found
        if not self.path.exists():
            raise UserError(f"{self.path}: no such corpus; set corpus to a .jsonl file or to a folder of .txt files")
        if not kind(self.path):
            raise UserError(
                f"{self.path}: a corpus is .jsonl or .txt, plain or with .gz, .bz2 or .xz; convert it first"
            )
        return [self.path]

    def fingerprint(self) -> str:
        """sha256 over every file's name and bytes."""
        digest = hashlib.sha256()
        for path in self.files():
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as file:
                while chunk := file.read(1 << 22):
                    digest.update(chunk)
        return digest.hexdigest()

    def __iter__(self) -> Iterator[Document]:
        self.bad_lines = []
        for path in self.files():
            try:
                with OPENERS.get(path.suffix, Path.open)(path, "rb") as file:
                    yield from self._json_lines(path, file) if kind(path) == ".jsonl" else self._text(path, file)
            except COMPRESSION_ERRORS as error:
                raise UserError(f"{path}: damaged archive ({error}); fetch or compress it again") from None

    def _json_lines(self, path: Path, file: IO[bytes]) -> Iterator[Document]:
        offset = 0
        for number, line in enumerate(file, start=1):
            try:
                if line.strip():
                    yield self._record(path, number, line, offset)
            except UserError as error:
                if not self.skip_bad_lines:
                    raise UserError(
                        f"{error}; mend it, or pass --skip_bad_lines to count and skip such lines"
                    ) from None
                self.bad_lines.append(str(error))
            offset += len(line)

    def _record(self, path: Path, number: int, line: bytes, offset: int) -> Document:
        try:
            record = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError as error:
            raise UserError(f"{path} line {number}: invalid UTF-8 at byte {offset + error.start} of the file") from None
        except json.JSONDecodeError as error:
            raise UserError(f"{path} line {number}: not JSON ({error.msg} at column {error.colno})") from None
        text = record.get("text") if isinstance(record, dict) else None
        if not isinstance(text, str):
            raise UserError(f'{path} line {number}: no "text"; a line is an object such as {{"id": "1", "text": "…"}}')
        if not _encodable(text):
            raise UserError(f"{path} line {number}: half a surrogate pair in the text, which is no Unicode")
        title, section = (str(record.get(key) or "").strip() for key in ("title", "section"))
        if self.keep_titles and title:
            text = f"{title}\n\n{text}"
        date = ISO_DAY.match(str(record.get("date")))
        name = str(record.get("id", f"{path.name}:{number}"))
        return Document(name, text, date[0] if date else "", title, section)

    def _text(self, path: Path, file: IO[bytes]) -> Iterator[Document]:
        """A text file's documents; a file of any size passes through a few megabytes of memory if it is cut."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        number, offset, text = 0, 0, ""
        while True:
            block = file.read(READ_BYTES)
            pending = len(decoder.getstate()[0])  # bytes of a character that the last block cut in two
            try:
                text += decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path}: invalid UTF-8 at byte {offset - pending + error.start};"
                    " convert the file, for instance with iconv -f cp1253 -t utf-8"
                ) from None
            offset += len(block)
            *whole, text = chunks(text, self.text_chunk_chars)
            for chunk in whole if block else [*whole, text]:
                yield Document(f"{path.name}:{number}", chunk.removeprefix("\ufeff"))
                number += 1
            if not block:
                return


def chunks(text: str, size: int) -> Iterator[str]:
    """Cut `text` into pieces of about `size` characters: at a blank line, else a line end, else a blank, else anywhere.

    Joined, the pieces are the text. `size` 0 does not cut.
    """
    start = 0
    while size and len(text) - start > size * 1.5:  # no crumb at the end
        end = start + size
        for gap in (r"\n\s*\n", r"\n", r" "):
            if found := re.compile(gap).search(text, end, min(len(text), end + size // 2)):
                end = found.end()
                break
        yield text[start:end]
        start = end
    yield text[start:]


def kind(path: Path) -> str:
    """ ".jsonl" or ".txt", below any compression; empty for anything else."""
    inner = Path(path.stem) if path.suffix in OPENERS else path
    return inner.suffix if inner.suffix in (".jsonl", ".txt") else ""


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
