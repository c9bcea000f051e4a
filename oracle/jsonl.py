"""Files of one JSON object a line, as people make them: with byte order marks, cut ends, lines of a hundred megabytes."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

from oracle.cli import UserError
from oracle.corpus import COMPRESSION_ERRORS, OPENERS

LONGEST = 10 << 20  # bytes of a line; no conversation is longer, and a file without line ends would fill the memory
MOST_SKIPPED = 0.01  # share of the lines: beyond that the file is wrong and not the line

T = TypeVar("T")


class BadLineError(ValueError):
    """What is wrong with a line, and what to do about it."""


def read_lines(path: Path, parse: Callable[[dict[str, Any]], T], skip: bool) -> tuple[list[T], list[str]]:
    """`parse` of the object in every line that is not blank, and the complaints about the lines left out.

    A line is bad if it holds no JSON object or `parse` raises BadLineError. Raises UserError with file and line at the first
    bad line, or, with `skip`, when more than one in a hundred is bad.
    """
    good, complaints = [], []
    for number, line in _lines(path):
        try:
            good.append(parse(_object(line)))
        except BadLineError as problem:
            complaint = f"{path} line {number:,}: {problem}"
            if not skip:
                raise UserError(f"{complaint}; mend it, or leave such lines out with --on_bad_line=skip") from None
            complaints.append(complaint)
    if len(complaints) > max(1, MOST_SKIPPED * (len(good) + len(complaints))):
        raise UserError(
            f"{path}: {len(complaints):,} of {len(good) + len(complaints):,} lines are bad, more than"
            f" {MOST_SKIPPED:.0%} may be skipped; the first: {complaints[0]}"
        )
    if not good:
        raise UserError(f"{path}: holds nothing; write one JSON object a line")
    return good, complaints


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers; of one that is too long only the beginning."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a .jsonl file, plain or with .gz, .bz2 or .xz")
    opener = OPENERS.get(path.suffix, open)
    try:
        with opener(path, "rb") as file:
            number = 0
            while line := file.readline(LONGEST + 1):
                number += 1
                if len(line) > LONGEST:
                    _skip_line(file, line)
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if line.strip():
                    yield number, line
    except COMPRESSION_ERRORS as error:
        raise UserError(f"{path}: damaged or cut off ({error}); get it again") from None


def _skip_line(file: IO[bytes], line: bytes) -> None:
    while line and not line.endswith(b"\n"):
        line = file.readline(LONGEST)


def _object(line: bytes) -> dict[str, Any]:
    if len(line) > LONGEST:
        raise BadLineError(f"longer than {LONGEST >> 20} MB; write one JSON object a line")
    try:
        value = json.loads(line, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise BadLineError(f"invalid UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise BadLineError(f"no JSON, or cut off: {error.msg} at character {error.pos + 1}") from None
    except RecursionError:
        raise BadLineError("nested too deeply") from None
    if not isinstance(value, dict):
        raise BadLineError("not a JSON object; write {…}")
    return value


def _no_constant(name: str) -> None:
    raise BadLineError(f"{name} is no JSON")
