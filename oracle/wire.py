"""One connection's bytes: every request read within an absolute time and size, every answer written within one.

A timeout of the standard library's servers begins anew with each byte, so a client that sends one byte every few
seconds keeps a thread for ever. Here the time for a request is counted from its first byte.
Request syntax: RFC 9112, read strictly; what two readers could understand differently is refused.
"""

import contextlib
import json
import re
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

REQUEST_LINE = re.compile(r"([A-Za-z]{1,16}) (/[\x21-\x7e]*) HTTP/1\.([01])")
FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
CHUNK = 1 << 16
JSON = "application/json; charset=utf-8"


class ClientGoneError(Exception):
    """The client closed the connection, said nothing for too long, or does not read what it asked for."""


class RequestError(Exception):
    """A request that is answered with an error; when its end is unknown the connection is of no further use."""

    def __init__(
        self, status: int, message: str, code: str = "", param: str = "", retry_after: int = 0, allow: str = ""
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        fields = {"Retry-After": str(retry_after or ""), "Allow": allow}
        self.headers = {name: value for name, value in fields.items() if value}

    @property
    def body(self) -> bytes:
        """The error in the shape OpenAI's clients read."""
        return json.dumps({"error": self.error}, ensure_ascii=False).encode()

    @property
    def error(self) -> dict[str, str | None]:
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(
            self.status, "server_error" if self.status >= 500 else "invalid_request_error"
        )
        return {"message": self.message, "type": kind, "param": self.param or None, "code": self.code or None}


@dataclass(frozen=True)
class Request:
    method: str
    path: str  # without the query
    headers: Mapping[str, str]  # names in small letters
    body: bytes
    client: str  # the address it came from
    keep_alive: bool
    version: int  # HTTP/1.0 or 1.1


@dataclass(frozen=True)
class Limits:
    """What one connection may take. Seconds and bytes."""

    head_bytes: int
    body_bytes: int
    read_seconds: float  # for a whole request, from its first byte
    idle_seconds: float  # between two requests, and before the first
    write_seconds: float  # for a piece of an answer to be taken


class Reader:
    """The requests that come in over a socket."""

    def __init__(self, sock: socket.socket, client: str, limits: Limits) -> None:
        self.sock, self.client, self.limits = sock, client, limits
        self.idle = True  # no request has begun
        self._buffer = b""

    def next(self) -> Request:
        """The next request. Raises ClientGoneError when none comes, and RequestError for one that must not be served."""
        self.idle = True
        if not self._buffer:
            try:
                self._more(time.monotonic() + self.limits.idle_seconds)
            except (TimeoutError, RequestError):
                raise ClientGoneError from None
        self.idle = False
        deadline = time.monotonic() + self.limits.read_seconds
        try:
            method, target, version, headers = parse_head(self._head(deadline))
            length = body_length(method, headers, self.limits.body_bytes)
            if headers.get("expect", "").lower() == "100-continue" and length > len(self._buffer):
                self.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            while len(self._buffer) < length:
                self._more(deadline)
        except TimeoutError:
            seconds = f"{self.limits.read_seconds:g} seconds"
            raise RequestError(
                408, f"the request did not arrive whole within {seconds}; send it again, faster"
            ) from None
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        said = headers.get("connection", "").lower()
        keep = "close" not in said and (version == 1 or "keep-alive" in said)
        return Request(method, target.partition("?")[0], headers, body, self.client, keep, version)

    def _head(self, deadline: float) -> bytes:
        """The request line and the fields, without the empty line that ends them."""
        while True:
            self._buffer = self._buffer.lstrip(b"\r\n")  # RFC 9112 2.2
            head, end, rest = self._buffer.partition(b"\r\n\r\n")
            if len(head) > self.limits.head_bytes:
                raise RequestError(431, f"the request's headers are over the limit of {self.limits.head_bytes:,} bytes")
            if end:
                self._buffer = rest
                return head
            self._more(deadline)

    def _more(self, deadline: float) -> None:
        """Wait for bytes. Raises TimeoutError, RequestError(400) when the client has ended, ClientGoneError when it has broken off."""
        try:
            self.sock.settimeout(max(0.001, deadline - time.monotonic()))
            data = self.sock.recv(CHUNK)
        except TimeoutError:
            raise
        except OSError:
            raise ClientGoneError from None
        if not data:
            raise RequestError(400, "the request ended before it was whole")
        self._buffer += data


def parse_head(head: bytes) -> tuple[str, str, int, dict[str, str]]:
    """(method, target, minor version, fields). Raises RequestError(400) for what is no HTTP/1 request."""
    line, *rest = head.decode("latin-1").split("\r\n")
    match = REQUEST_LINE.fullmatch(line)
    if not match:
        raise RequestError(400, "this is no HTTP/1.1 request; the first line is: METHOD /path HTTP/1.1")
    fields: dict[str, str] = {}
    for text in rest:
        field = FIELD.fullmatch(text)
        if not field:
            raise RequestError(400, "a header line is malformed; write Name: value")
        name, value = field[1].lower(), field[2].rstrip()
        if name in fields and name in ("content-length", "host", "content-type", "authorization"):
            raise RequestError(400, f"the header {name} is there twice; send it once")
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return match[1].upper(), match[2], int(match[3]), fields


def body_length(method: str, headers: Mapping[str, str], limit: int) -> int:
    """Bytes of body that follow the head. Raises RequestError: 400 malformed, 411 unknown length, 413 more than `limit`."""
    if "transfer-encoding" in headers:
        raise RequestError(
            411, "bodies of unknown length are not read; send Content-Length instead of Transfer-Encoding"
        )
    text = headers.get("content-length")
    if text is None:
        if method in ("POST", "PUT", "PATCH"):
            raise RequestError(411, "the length of the body is missing; send Content-Length")
        return 0
    if not re.fullmatch("[0-9]{1,18}", text):
        raise RequestError(400, "Content-Length must be a number of bytes")
    if int(text) > limit:
        raise RequestError(
            413, f"the body has {int(text):,} bytes, the limit is {limit:,}; shorten it", "body_too_large"
        )
    return int(text)


class Exchange:
    """The answer to one request, written to its socket. Every method raises ClientGoneError when nobody takes it."""

    def __init__(self, sock: socket.socket, limits: Limits, request: Request | None = None) -> None:
        self.sock, self.limits = sock, limits
        self.head_only = request is not None and request.method == "HEAD"
        self.keep_alive = request is not None and request.keep_alive
        self.chunked = request is not None and request.version == 1
        self.status = 0  # 0 until the answer has begun

    def refuse(self, refused: RequestError) -> None:
        """An error, whole."""
        self.reply(refused.status, refused.body, JSON, refused.headers)

    def reply(self, status: int, body: bytes, kind: str, headers: Mapping[str, str] | None = None) -> None:
        """A whole answer."""
        fields = {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}
        self._send(self._begin(status, fields) + (b"" if self.head_only else body))

    def start(self, kind: str) -> None:
        """The beginning of an answer that comes in pieces."""
        fields = {"Content-Type": kind, "X-Accel-Buffering": "no"}  # a proxy in between is to pass pieces on
        if self.chunked:
            fields["Transfer-Encoding"] = "chunked"
        else:
            self.keep_alive = False  # HTTP/1.0 knows the end by the closing
        self._send(self._begin(200, fields))

    def send(self, piece: bytes) -> None:
        self._send(b"%x\r\n%s\r\n" % (len(piece), piece) if self.chunked else piece)

    def end(self) -> None:
        if self.chunked:
            self._send(b"0\r\n\r\n")

    def gone(self) -> bool:
        """Whether the client has closed its side: asked while it waits."""
        try:
            self.sock.settimeout(0)
            return self.sock.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _begin(self, status: int, fields: Mapping[str, str]) -> bytes:
        self.status = status
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
        lines += [f"{name}: {value}" for name, value in ({**SAFE, **fields}).items()]
        lines += ["Connection: keep-alive" if self.keep_alive else "Connection: close", "", ""]
        return "\r\n".join(lines).encode("latin-1")

    def _send(self, data: bytes) -> None:
        try:
            self.sock.settimeout(self.limits.write_seconds)
            self.sock.sendall(data)
        except OSError:
            raise ClientGoneError from None


# On every answer: no guessing of types, nothing kept by caches, nothing told to other sites, in no frame.
SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}


def hang_up(sock: socket.socket, seconds: float = 1.0, most: int = 1 << 20) -> None:
    """Close so that what was written arrives: a socket closed upon unread bytes takes back its last words."""
    deadline = time.monotonic() + seconds
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        while most > 0 and (left := deadline - time.monotonic()) > 0:
            sock.settimeout(left)
            data = sock.recv(CHUNK)
            if not data:
                break
            most -= len(data)
    sock.close()


App = Callable[[Request, Exchange], None]
