"""How often a client may ask: token buckets, one for each, in bounded memory."""

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

MAX_CLIENTS = 10_000  # remembered; of more, those that asked longest ago start afresh


class RateLimit:
    """`per_minute` requests on average, a third of them at once. 0 sets no limit."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_second, self.burst, self._clock = per_minute / 60, max(1.0, per_minute / 3), clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # client -> (tokens left, when)
        self._lock = threading.Lock()

    def wait(self, client: str) -> int:
        """0 if `client` may ask now, which is counted; otherwise the whole seconds until it may."""
        if not self.per_second:
            return 0
        now = self._clock()
        with self._lock:
            left, then = self._buckets.pop(client, (self.burst, now))
            left = min(self.burst, left + (now - then) * self.per_second)
            allowed = left >= 1
            self._buckets[client] = (left - allowed, now)
            if len(self._buckets) > MAX_CLIENTS:
                self._buckets.popitem(last=False)
        return 0 if allowed else math.ceil((1 - left) / self.per_second)
