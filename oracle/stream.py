"""Tokens to text while they come: whole characters only, nothing behind a stop text, no space lost."""

import codecs
from collections.abc import Sequence

from oracle.tokenizer import Tokenizer


class TextStream:
    """The text of a growing row of tokens. Pieces handed out, joined, are the decoding up to the first stop text.

    Bytes wait until they make a character; characters wait while they may begin a stop text.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._bytes, self._stop = tokenizer.piece_bytes, tuple(stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._waiting = ""
        self.text = ""  # all that may be shown so far
        self.stopped = False

    def push(self, token: int) -> None:
        """Take the next token in; sets `stopped` when it completes a stop text."""
        self._add(self._decoder.decode(self._bytes[token]))

    def finish(self) -> None:
        """No more tokens: half a character becomes U+FFFD, what may have begun a stop text is shown."""
        self._add(self._decoder.decode(b"", final=True))
        if not self.stopped:
            self.text, self._waiting = self.text + self._waiting, ""

    def _add(self, characters: str) -> None:
        if self.stopped:
            return
        waiting = self._waiting + characters
        found = [place for place in map(waiting.find, self._stop) if place >= 0]
        if found:
            self.text, self._waiting, self.stopped = self.text + waiting[: min(found)], "", True
            return
        keep = max((_overlap(waiting, stop) for stop in self._stop), default=0)
        safe = len(waiting) - keep
        self.text, self._waiting = self.text + waiting[:safe], waiting[safe:]


def _overlap(text: str, stop: str) -> int:
    """How many of the last characters of `text` begin `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
