"""What the outside asks of a running training: stop, save, or stop in time.

SIGTERM and Ctrl-C stop, SIGUSR1 saves and goes on, `max_minutes` stops by the clock. A handler only raises a flag;
the loop asks between two steps, and all ranks get the same answer.
"""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from oracle.dist import World

NOTHING, SAVE, STOP = 0, 1, 2
STARTED = time.monotonic()  # this module is imported when the process starts


@contextmanager
def listening(max_minutes: float, world: World) -> Iterator[Callable[[float], int]]:
    """Within, yields a function: NOTHING, SAVE (asked for once) or STOP.

    Its argument is the seconds that saving takes: a budget of `max_minutes` (0: none) of this process ends that much
    earlier. A second Ctrl-C ends the process at once, except under torchrun, which passes on the first one twice.
    """
    flags: set[int] = set()

    def note(number: int, frame: Any) -> None:
        flags.add(wanted[number])
        if number == signal.SIGINT and world.size == 1:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def asked(saving_seconds: float) -> int:
        if max_minutes and time.monotonic() - STARTED + saving_seconds >= 60 * max_minutes:
            flags.add(STOP)
        answer = int(world.largest(max(flags, default=NOTHING)))
        flags.discard(SAVE)
        return answer

    wanted: dict[int, int] = {signal.SIGTERM: STOP, signal.SIGINT: STOP}
    if hasattr(signal, "SIGUSR1"):  # Windows has none
        wanted[signal.SIGUSR1] = SAVE
    before = {number: signal.signal(number, note) for number in wanted}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
