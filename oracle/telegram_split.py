"""Long texts cut into messages of the length Telegram takes, where a reader would pause."""

import re
import unicodedata

LIMIT = 4096  # UTF-16 code units in a message (Bot API, sendMessage)

# From the best place for a cut to the worst. The Greek question mark is `;`.
PAUSES = tuple(re.compile(pattern) for pattern in (r"\n\s*\n", r"\n", r"[.!;·…»]+\s", r"\s"))


def units(text: str) -> int:
    """Length in UTF-16 code units: characters outside the basic plane count twice."""
    return len(text) + sum(character > "\uffff" for character in text)


def split(text: str, limit: int = LIMIT) -> list[str]:
    """`text` as parts of at most `limit` UTF-16 units, without blanks at their ends and none of them empty."""
    parts = []
    rest = text.strip()
    while rest:
        head = _longest(rest, limit)
        if len(head) < len(rest):
            head = head[: _cut(rest, len(head))]
        parts.append(head.rstrip())
        rest = rest[len(head) :].lstrip()
    return parts


def _longest(text: str, limit: int) -> str:
    """The longest beginning of `text` that fits."""
    if units(text) <= limit:
        return text
    head = text[:limit]
    while (over := units(head) - limit) > 0:
        head = head[: -max(1, over // 2)]
    return head


def _cut(text: str, end: int) -> int:
    """Where to end a part of at most `end` characters: after the last pause in its second half, or between any two."""
    for pause in PAUSES:
        ends = [match.end() for match in pause.finditer(text, end // 2, end)]
        if ends:
            return ends[-1]
    while end > 1 and unicodedata.combining(text[end]):  # an accent stays with its letter
        end -= 1
    return end
