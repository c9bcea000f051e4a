"""Clients for a server under load: most ask and read, some vanish, some send slowly, too much, or rubbish."""

import contextlib
import http.client
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

LOST = "no answer"
KINDS = {"stream": 0.45, "whole": 0.31, "vanish": 0.10, "slow": 0.04, "oversized": 0.05, "rubbish": 0.05}
LENGTHS = (4, 16, 60, 200)  # words of the prompts
WORDS = ["βαγε", "δοζυ", "θακη", "λεμο", "νιξα", "πορυ", "σετω", "φικας", "χολη", "ψυμα"]


@dataclass
class Tally:
    """What the clients saw; all of them add to it."""

    statuses: Counter[tuple[str, str]] = field(default_factory=Counter)  # (kind, status)
    first_token: list[float] = field(default_factory=list)  # seconds, of each streamed answer
    speed: list[float] = field(default_factory=list)  # tokens per second of each streamed answer, its waiting counted
    tokens: int = 0  # of whole answers, streamed or not
    lost: list[str] = field(default_factory=list)  # how an answer failed to come
    lock: threading.Lock = field(default_factory=threading.Lock)


class Client(threading.Thread):
    """Asks one thing after another until `over` is set, or `times` times."""

    def __init__(
        self, number: int, address: tuple[str, int], over: threading.Event, tally: Tally, kinds: dict[str, float],
        lengths: Sequence[int] = LENGTHS, times: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(daemon=True)
        self.rng, self.address, self.over, self.tally, self.kinds = random.Random(number), address, over, tally, kinds
        self.lengths, self.times = lengths, times

    def run(self) -> None:
        for _ in count() if self.times is None else range(self.times):
            if self.over.is_set():
                return
            kind = self.rng.choices(list(self.kinds), list(self.kinds.values()))[0]
            try:
                status, wait = getattr(self, f"_{kind}")()
            except OSError as error:
                if self.over.is_set():
                    return
                status, wait = LOST, 0.1
                with self.tally.lock:
                    self.tally.lost.append(f"{kind}: {error!r}")
            with self.tally.lock:
                self.tally.statuses[kind, status] += 1
            self.over.wait(wait)

    def _ask(self, **more: object) -> dict[str, object]:
        prompt = " ".join(self.rng.choices(WORDS, k=self.rng.choice(self.lengths)))
        return {"prompt": prompt, "max_tokens": self.rng.choice((8, 16, 32, 64)), "temperature": 0.8, **more}

    def _post(self, body: bytes) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = http.client.HTTPConnection(*self.address, timeout=150)
        headers = {"Content-Type": "application/json", "Connection": "close"}
        connection.request("POST", "/v1/completions", body, headers)
        return connection, connection.getresponse()

    def _outcome(self, answer: http.client.HTTPResponse) -> tuple[str, float]:
        """The status, and how long to stay away: a client that is told to come again does."""
        told = float(answer.headers.get("Retry-After", 0))
        return str(answer.status), min(told, 2.0) * self.rng.random()

    def _whole(self) -> tuple[str, float]:
        connection, answer = self._post(json.dumps(self._ask()).encode())
        body = json.loads(answer.read())
        connection.close()
        if answer.status == 200:
            with self.tally.lock:
                self.tally.tokens += body["usage"]["completion_tokens"]
        return self._outcome(answer)

    def _stream(self) -> tuple[str, float]:
        began, first, tokens, done = time.monotonic(), 0.0, 0, False
        ask = self._ask(stream=True, stream_options={"include_usage": True})
        connection, answer = self._post(json.dumps(ask).encode())
        if answer.status == 200:
            for line in answer:
                first = first or time.monotonic() - began
                done = done or line == b"data: [DONE]\n"
                if b'"usage": {' in line:
                    tokens = json.loads(line[6:])["usage"]["completion_tokens"]
            if not done:
                raise ConnectionError("the stream ended early")
            with self.tally.lock:
                self.tally.first_token.append(first)
                self.tally.speed.append(tokens / (time.monotonic() - began))
                self.tally.tokens += tokens
        else:
            answer.read()
        connection.close()
        return self._outcome(answer)

    def _vanish(self) -> tuple[str, float]:
        sock = self._send(self._bytes(json.dumps(self._ask(stream=True)).encode()))
        self.over.wait(self.rng.random() * 2)
        sock.close()
        return "left", 0.0

    def _slow(self) -> tuple[str, float]:
        data = self._bytes(json.dumps(self._ask()).encode())
        sock = self._send(data[:20])
        try:
            for byte in data[20:]:
                sock.settimeout(0.1)
                sock.sendall(bytes([byte]))
                try:
                    answer = sock.recv(1000)
                except TimeoutError:
                    continue
                return answer.split(b" ")[1].decode() if answer else LOST, 0.0
        finally:
            sock.close()
        return "sent", 0.0

    def _oversized(self) -> tuple[str, float]:
        return self._raw(self._bytes(b"x" * 1_000_000))

    def _rubbish(self) -> tuple[str, float]:
        choices = (b"\x16\x03\x01\r\n\r\n", self._bytes(b"{"), b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        return self._raw(self.rng.choice(choices))

    def _raw(self, data: bytes) -> tuple[str, float]:
        with self._send(data) as sock:
            answer = sock.recv(1000)
        return answer.split(b" ")[1].decode() if answer else LOST, 0.2

    def _bytes(self, body: bytes) -> bytes:
        head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    def _send(self, data: bytes) -> socket.socket:
        sock = socket.create_connection(self.address, timeout=150)
        with contextlib.suppress(ConnectionError):  # it may say no before it has heard all: its answer can be read
            sock.sendall(data)
        return sock
