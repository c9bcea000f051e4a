"""How fast tokens came, and how much of the memory's speed that took."""

import time

from oracle.engine import Network


class Speedometer:
    """Counts from its creation on; as text, what a person wants to know of the speed.

    Every step reads all weights once, however many texts it takes further: bytes of weights times steps per second is
    the memory bandwidth in use, which is what limits writing on a CPU.
    """

    def __init__(self, network: Network) -> None:
        self._bytes = network.bytes_per_token
        self._began = self._first = self._last = time.perf_counter()
        self.tokens, self._at_first, self._steps = 0, 0, 0

    def step(self, tokens: int) -> None:
        """A step is done and has written so many tokens: 0 while a prompt is read."""
        self._last = time.perf_counter()
        self._steps += bool(self.tokens)
        if tokens and not self.tokens:
            self._first, self._at_first = self._last, tokens
        self.tokens += tokens

    @property
    def tokens_per_second(self) -> float:
        """After the first; 0 when there was no more than that."""
        return (self.tokens - self._at_first) / (self._last - self._first) if self._steps else 0.0

    def __str__(self) -> str:
        said = f"{self.tokens} tokens in {self._last - self._began:.1f} s"
        if not self._steps:
            return said
        bandwidth = self._bytes * self._steps / (self._last - self._first) / 1e9
        return (
            f"{said}: the first after {(self._first - self._began) * 1000:.0f} ms, then"
            f" {self.tokens_per_second:.1f} tokens/s, reading {bandwidth:.1f} GB/s of weights"
        )
