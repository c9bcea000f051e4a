"""A server in this process whose model says what a test wants, when the test wants it."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager

import torch

from model import GPTConfig
from oracle.chat import Template
from oracle.engine import Span
from oracle.generate import Engine
from oracle.settings import Config
from serve import Running

Script = Callable[[list[int]], Sequence[int]]  # a prompt's ids -> what the model says to it


class Scripted:
    """A network (`oracle.engine.Network`) that says `script(prompt)` to each prompt, and then ends the text.

    It answers while `gate` is set, `delay` seconds a step.
    """

    bytes_per_token = 0

    def __init__(self, tokenizer, script: Script, slots=1, block_size=256, delay=0.0) -> None:
        self.config = GPTConfig(block_size, tokenizer.vocab_size, n_layer=1, n_head=1, n_embd=4)
        self.slots, self.delay, self.steps, self.widest = slots, delay, 0, 0
        self.failing = False
        self.gate = threading.Event()
        self.gate.set()
        self._script, self._eos = script, tokenizer.eos
        self._texts: list[list[int]] = [[] for _ in range(slots)]
        self._said: list[list[int]] = [[] for _ in range(slots)]
        self._expected: list[tuple[int, list[int]]] = [(0, [])] * slots  # where, and which token, a text goes on

    def copy(self, source: int, target: int, length: int) -> None:
        self._texts[target] = self._texts[source][:length]

    def forward(self, tokens: torch.Tensor, spans: Sequence[Span], every: bool = False) -> torch.Tensor:
        self.gate.wait(20)
        time.sleep(self.delay)
        self.steps += 1
        self.widest = max(self.widest, len(spans))
        if self.failing:
            raise RuntimeError("out of memory while reading ΜΥΣΤΙΚΟ")
        rows = []
        for span, new in zip(spans, tokens.split([s.count for s in spans]), strict=True):
            text = self._texts[span.slot] = self._texts[span.slot][: span.start] + new.tolist()
            if self._expected[span.slot] != (span.start, new.tolist()):  # another prompt
                self._said[span.slot] = [self._eos, *reversed(self._script(text))]
            said = self._said[span.slot]
            rows.append(said.pop() if said else self._eos)
            self._expected[span.slot] = len(text), rows[-1:]
        return torch.nn.functional.one_hot(torch.tensor(rows), self.config.vocab_size).float() * 50


def engine_saying(tokenizer, script: Script | str, chat=True, **options) -> Engine:
    """An engine over a scripted network; the network is `engine.network`."""
    say = script if callable(script) else lambda prompt: tokenizer.encode(script)
    template = Template(tokenizer) if chat else None
    return Engine(Scripted(tokenizer, say, **options), tokenizer, "tiny", template)


@contextmanager
def serving(engine: Engine, keys=(), **settings):
    """The server over `engine` at a free port of this machine, without a rate limit unless one is set."""
    config = Config(**{"port": 0, "rate_per_minute": 0, "temperature": 0.0, **settings})
    with Running(config, engine, frozenset(keys)) as running:
        yield running


def call(running: Running, method: str, path: str, value=None, headers=()) -> tuple[int, dict, bytes]:
    """One request: status, headers (names in small letters), body."""
    connection = http.client.HTTPConnection(*running.server.address, timeout=20)
    try:
        body = None if value is None else value if isinstance(value, bytes) else json.dumps(value).encode()
        fields = {"Content-Type": "application/json", **dict(headers)}
        connection.request(method, path, body, fields)
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def chat(running: Running, text: str, **more) -> tuple[int, dict]:
    status, _, body = call(
        running, "POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": text}], **more}
    )
    return status, json.loads(body)


def connect(running: Running) -> socket.socket:
    return socket.create_connection(running.server.address, timeout=20)


def raw(running: Running, data: bytes) -> bytes:
    """What the server says to these bytes, until it closes the connection."""
    with connect(running) as sock:
        sock.sendall(data)
        return read_all(sock)


def read_all(sock: socket.socket) -> bytes:
    got = b""
    try:
        while data := sock.recv(65536):
            got += data
    except ConnectionError:
        pass
    return got


def post(path: str, body: bytes, *more: str) -> bytes:
    """A request as bytes, after which the connection is to be closed."""
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {len(body)}",
             "Connection: close", *more, "", ""]  # fmt: skip
    return "\r\n".join(lines).encode() + body


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for another thread to get there."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)
