"""How often the bot may send: Telegram's limits, kept before Telegram has to remind us of them."""

import asyncio
import time

from oracle.ratelimit import Bucket, Buckets, Clock


class Turns(Bucket):
    """A bucket before which people stand in line: who came first takes first."""

    def __init__(self, per_second: float, burst: float, clock: Clock) -> None:
        super().__init__(per_second, burst, clock)
        self._line = asyncio.Lock()

    async def turn(self) -> None:
        """Wait until one may be taken, and take it."""
        async with self._line:
            while (seconds := self.wait()) > 0:  # again after each sleep: a pause may have begun meanwhile
                await asyncio.sleep(seconds)
            self.take()


class Pace:
    """Telegram's limits for a bot: one message a second in a chat, 20 a minute in a group, 30 a second in all.

    A bucket lets through its burst and its rate in the first second or minute: together they must not exceed the
    limit. Short bursts are allowed in a chat ("My bot is hitting limits" in Telegram's bot FAQ): two, so that an
    answer that is there at once need not wait. Edits count as messages.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._all = Turns(25, 5, clock)
        self._chats = Buckets(lambda: Turns(1, 2, clock))
        self._groups = Buckets(lambda: Turns(15 / 60, 5, clock))

    def _buckets(self, chat: int) -> list[Turns]:
        own = self._groups[chat] if chat < 0 else self._chats[chat]  # groups have negative ids
        return [own, self._all]

    async def turn(self, chat: int) -> None:
        """Wait until the chat may get a message, and count it. In a chat, in the order of asking."""
        for bucket in self._buckets(chat):
            await bucket.turn()

    def spare(self, chat: int) -> bool:
        """Whether a message may be sent now and one more right after: for what can be left out."""
        return all(bucket.wait(2) == 0 for bucket in self._buckets(chat))

    def count(self, chat: int) -> None:
        for bucket in self._buckets(chat):
            bucket.take()

    def pause(self, chat: int, seconds: float) -> None:
        """Telegram asked for a rest in this chat (429)."""
        self._buckets(chat)[0].pause(seconds)
