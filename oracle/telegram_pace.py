"""How often the bot may send, and how often a user may ask: token buckets in bounded memory."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable

Clock = Callable[[], float]
REMEMBERED = 10_000  # chats or users; of more, those not heard of for longest start afresh


class Bucket:
    """`per_second` on average, `burst` at once."""

    def __init__(self, per_second: float, burst: float, clock: Clock = time.monotonic) -> None:
        self.per_second, self.burst, self._clock = per_second, burst, clock
        self._left, self._then = burst, clock()

    def wait(self, cost: float = 1) -> float:
        """Seconds until `cost` may be taken; 0 if now. What costs more than a burst waits for a full bucket."""
        now = self._clock()
        if now > self._then:
            self._left, self._then = min(self.burst, self._left + (now - self._then) * self.per_second), now
        missing = min(cost, self.burst) - self._left
        # Rounding must not leave a wait too short to be waited.
        return max(self._then - now, 0) + (missing / self.per_second if missing > 1e-9 else 0)

    def take(self, cost: float = 1) -> None:
        """Take it, even if that leaves a debt: what an answer cost is known only afterwards."""
        self.wait(0)
        self._left -= cost

    def pause(self, seconds: float) -> None:
        """Nothing before `seconds` have passed."""
        self._then = max(self._then, self._clock() + seconds)
        self._left = min(self._left, 1)


class Buckets:
    """A bucket for each key."""

    def __init__(self, per_second: float, burst: float, clock: Clock = time.monotonic) -> None:
        self._make = lambda: Bucket(per_second, burst, clock)
        self._known: OrderedDict[int, Bucket] = OrderedDict()

    def __getitem__(self, key: int) -> Bucket:
        bucket = self._known.pop(key, None) or self._make()
        self._known[key] = bucket
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return bucket


class Pace:
    """Telegram's limits for a bot: one message a second in a chat, 20 a minute in a group, 30 a second in all.

    Short bursts are allowed in a chat ("My bot is hitting limits" in Telegram's bot FAQ): two, so that an answer that
    is there at once need not wait. Edits count as messages.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._all = Bucket(25, 25, clock)
        self._chats = Buckets(1, 2, clock)
        self._groups = Buckets(20 / 60, 10, clock)

    def _buckets(self, chat: int) -> list[Bucket]:
        own = self._groups[chat] if chat < 0 else self._chats[chat]  # groups have negative ids
        return [self._all, own]

    async def turn(self, chat: int) -> None:
        """Wait until the chat may get a message, and count it."""
        while (seconds := max(bucket.wait() for bucket in self._buckets(chat))) > 0:
            await asyncio.sleep(seconds)
        self.count(chat)

    def spare(self, chat: int) -> bool:
        """Whether a message may be sent now and one more right after: for what can be left out."""
        return all(bucket.wait(min(2, bucket.burst)) == 0 for bucket in self._buckets(chat))

    def count(self, chat: int) -> None:
        for bucket in self._buckets(chat):
            bucket.take()

    def pause(self, chat: int, seconds: float) -> None:
        """Telegram asked for a rest in this chat (429)."""
        self._buckets(chat)[1].pause(seconds)
