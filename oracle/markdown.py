"""Markdown that survives any text a model writes: tables, and text inside them."""

import re
from collections.abc import Sequence

SPECIAL = {ord(c): f"\\{c}" for c in "&<>|*_`[]~$\\"}
CONTROL = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), 127) if code not in (9, 10)}


def literal(text: str) -> str:
    """`text` as itself, on one line: nothing in it is markup, line ends are `<br>`, at most two in a row."""
    plain = text.translate(CONTROL | SPECIAL).strip().replace("\t", " ")
    return re.sub(r"\n{3,}", "\n\n", plain).replace("\n", "<br>")


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: bool = True) -> list[str]:
    """Lines of a table; the columns after the first hold numbers, or text."""
    ruler = ["---"] + ["---:" if numbers else "---"] * (len(head) - 1)
    return [f"| {' | '.join(row)} |" for row in (head, ruler, *rows)]


def shortened(text: str, length: int) -> str:
    """`text`, cut at a blank before `length` characters where it is longer."""
    if len(text) <= length:
        return text
    cut = text[:length].rsplit(maxsplit=1)[0] if " " in text[:length].strip() else text[:length]
    return f"{cut} …"
