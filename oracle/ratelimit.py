"""Token buckets: so many at once, then so many a second, one for each client, in bounded memory."""

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Clock = Callable[[], float]
REMEMBERED = 10_000  # clients; of more, those not heard of for longest start afresh


class Bucket:
    """`per_second` on average, `burst` at once. So no more than both together in any second."""

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


AnyBucket = TypeVar("AnyBucket", bound=Bucket)


class Buckets(Generic[AnyBucket]):
    """A bucket for each key, made when it is first asked for."""

    def __init__(self, make: Callable[[], AnyBucket]) -> None:
        self._make = make
        self._known: OrderedDict[Hashable, AnyBucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def __getitem__(self, key: Hashable) -> AnyBucket:
        bucket = self._known.pop(key, None) or self._make()
        self._known[key] = bucket
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return bucket


class RateLimit:
    """`per_minute` requests on average, a third of them at once. 0 sets no limit. For several threads."""

    def __init__(self, per_minute: int, clock: Clock = time.monotonic) -> None:
        self.per_minute = per_minute
        self._buckets = Buckets(lambda: Bucket(per_minute / 60, max(1.0, per_minute / 3), clock))
        self._lock = threading.Lock()

    def wait(self, client: str) -> int:
        """0 if `client` may ask now, which is counted; otherwise the whole seconds until it may."""
        if not self.per_minute:
            return 0
        with self._lock:
            bucket = self._buckets[client]
            seconds = math.ceil(bucket.wait())
            if not seconds:
                bucket.take()
            return seconds
