"""The queue before the model: bounded, first come first served, one at a time for each chat."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class LineFullError(Exception):
    """No place in the queue."""


class ChatBusyError(Exception):
    """The chat has as many questions in the queue as it may."""


class LineClosedError(Exception):
    """Nobody is called any more: the bot is stopping."""


class Ticket:
    """A place in the queue."""

    def __init__(self, chat: int) -> None:
        self.chat = chat
        self.called = asyncio.Event()


class Line:
    """`at_once` are served at the same time, `max_waiting` more may wait, `per_chat` of them for the same chat."""

    def __init__(self, at_once: int, max_waiting: int, per_chat: int) -> None:
        self.at_once, self.max_waiting, self.per_chat = at_once, max_waiting, per_chat
        self._waiting: list[Ticket] = []
        self._served: list[Ticket] = []
        self._closed = False

    def close(self) -> None:
        """Call nobody any more, and let those who wait know."""
        self._closed = True
        for ticket in self._waiting:
            ticket.called.set()

    @contextmanager
    def join(self, chat: int, was_here: bool = False) -> Iterator[Ticket]:
        """A place until the block ends. Who had one before a restart gets it in any case. Raises LineFullError, ChatBusyError, LineClosedError."""
        if self._closed:
            raise LineClosedError
        ticket = Ticket(chat)
        self._waiting.append(ticket)
        self._call()
        try:
            if not was_here and not ticket.called.is_set():
                if Counter(other.chat for other in self._waiting)[chat] > self.per_chat:
                    raise ChatBusyError
                if len(self._waiting) > self.max_waiting:
                    raise LineFullError
            yield ticket
        finally:
            (self._served if ticket in self._served else self._waiting).remove(ticket)
            self._call()

    def place(self, ticket: Ticket) -> int:
        """1 for who is called next; 0 for who was called. Raises LineClosedError for who will not be."""
        if ticket in self._served:
            return 0
        if self._closed:
            raise LineClosedError
        return self._waiting.index(ticket) + 1

    def _call(self) -> None:
        busy = {ticket.chat for ticket in self._served}
        for ticket in list(self._waiting):
            if not self._closed and len(self._served) < self.at_once and ticket.chat not in busy:
                busy.add(ticket.chat)
                self._waiting.remove(ticket)
                self._served.append(ticket)
                ticket.called.set()
