"""Files of JSON lines that come in several shapes: which one a file has, what of it is used, one shape a file."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from oracle.cli import UserError
from oracle.files import sha256
from oracle.jsonl import read_lines

T = TypeVar("T")


@dataclass(frozen=True)
class Rows(Generic[T]):
    """A file of them."""

    path: Path
    what: str  # "conversations", "pairs"
    shape: str
    items: list[T]
    skipped: list[str]  # complaints about lines that were left out
    unused: dict[str, int]  # key -> lines that have it

    @property
    def sha256(self) -> str:
        return sha256(self.path)

    def __str__(self) -> str:
        said = f"{self.path}: {len(self.items):,} {self.what} in the shape of {self.shape}"
        if self.skipped:
            said += f"; {len(self.skipped):,} bad lines left out, the first: {self.skipped[0]}"
        if self.unused:
            said += "; keys not used: " + ", ".join(f"{k} ({n:,} lines)" for k, n in sorted(self.unused.items()))
        return said


def read_rows(
    path: str | Path,
    what: str,
    shape_of: Callable[[dict[str, Any]], str],
    read: Callable[[dict[str, Any], str, str], tuple[set[str], T]],
    skip: bool,
) -> Rows[T]:
    """Read a .jsonl file, plain or compressed.

    `read` turns a record, its shape and the name it goes by without an id into the keys it used, and the item.
    Raises UserError naming file and line; `skip` leaves single bad lines out.
    """
    shapes: dict[str, int] = {}
    unused: Counter[str] = Counter()
    count = 0

    def parse(record: dict[str, Any]) -> T:
        nonlocal count
        count += 1
        shape = shape_of(record)
        shapes.setdefault(shape, count)
        if len(shapes) > 1:
            first, *_ = shapes
            raise UserError(
                f"{path}: entry 1 has the shape of {first}, entry {count:,} that of {shape}: keep one shape in a file"
            )
        used, item = read(record, shape, f"entry {count}")
        unused.update(record.keys() - used)
        return item

    items, skipped = read_lines(Path(path), parse, skip)
    return Rows(Path(path), what, next(iter(shapes)), items, skipped, dict(unused))
