"""Everything that can go wrong between a site and its reader, on request and by seed."""

import gzip
import socket
import struct
import time
from dataclasses import dataclass
from hashlib import blake2b
from http.server import BaseHTTPRequestHandler

KINDS = (
    "429",  # with Retry-After
    "500",
    "503",
    "reset",  # the connection breaks in mid-body
    "truncated",  # fewer bytes than Content-Length says
    "cut",  # no Content-Length, and the connection closes early: nothing tells but the text
    "oversized",  # a body that does not end
    "bomb",  # a small gzip body that unfolds to 200 MB
    "charset",  # the right bytes under a wrong label
    "loop",  # redirects for ever
    "offsite",  # a redirect to another host
    "slow",  # the answer comes in its own time
)
BOMB_BYTES = 200_000_000
OFFSITE = "http://elsewhere.invalid/"


@dataclass(frozen=True)
class Faults:
    """Which requests fail and how: a share `rate` of them, drawn by `seed` from address and count.

    The nth request of an address meets the same fault whatever else is asked in between. `slow` answers wait
    `seconds`, as many as a 429 asks for in Retry-After.
    """

    rate: float = 0.0
    seed: int = 0
    kinds: tuple[str, ...] = KINDS
    seconds: float = 1.0

    def draw(self, path: str, nth: int) -> str:
        """The fault for the nth request (from 0) of `path`, or ""."""
        digest = blake2b(f"{self.seed} {path} {nth}".encode(), digest_size=8).digest()
        chance, choice = struct.unpack(">II", digest)
        return self.kinds[choice % len(self.kinds)] if chance < self.rate * 2**32 else ""


def send(handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes) -> None:
    """Answer in full."""
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def send_fault(
    handler: BaseHTTPRequestHandler, kind: str, seconds: float, headers: dict[str, str], body: bytes
) -> None:
    """Answer as `kind` says, where `headers` and `body` would have been right."""
    if kind in ("429", "500", "503"):
        send(handler, int(kind), {"Retry-After": f"{seconds:.0f}"} if kind == "429" else {}, b"")
    elif kind == "loop":
        send(handler, 302, {"Location": "/loop"}, b"")
    elif kind == "offsite":
        send(handler, 302, {"Location": OFFSITE}, b"")
    elif kind == "charset":
        send(handler, 200, {**headers, "Content-Type": "text/html; charset=iso-8859-7"}, body)
    elif kind == "slow":
        time.sleep(seconds)
        send(handler, 200, headers, body)
    elif kind == "bomb":
        send(handler, 200, {**headers, "Content-Encoding": "gzip"}, _bomb())
    else:
        _send_broken(handler, kind, headers, body)


def _send_broken(handler: BaseHTTPRequestHandler, kind: str, headers: dict[str, str], body: bytes) -> None:
    """A body that stops early, or does not stop; the connection is of no use afterwards."""
    handler.close_connection = True
    handler.send_response(200)
    for name, value in headers.items():
        handler.send_header(name, value)
    if kind in ("truncated", "reset"):
        handler.send_header("Content-Length", str(len(body)))
    handler.send_header("Connection", "close")
    handler.end_headers()
    if kind == "oversized":
        while True:  # until the reader has had enough and hangs up
            handler.wfile.write(b" " * (1 << 16))
    handler.wfile.write(body[: len(body) // 2])
    handler.wfile.flush()
    if kind == "reset":
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.connection.close()


_BOMB: list[bytes] = []


def _bomb() -> bytes:
    if not _BOMB:
        _BOMB.append(gzip.compress(bytes(BOMB_BYTES), 9))
    return _BOMB[0]
