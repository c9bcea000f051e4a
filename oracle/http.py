"""A server that strangers may talk to: their connections, bytes and seconds are all bounded.

A thread serves a connection, a counter bounds the threads. Whoever comes when all are taken is told so (503) and
does not wait. Requests and answers: `oracle/wire.py`.
"""

import contextlib
import ipaddress
import socket
import sys
import threading
import time
import traceback
from collections import Counter

from oracle.cli import UserError
from oracle.wire import App, ClientGoneError, Exchange, Limits, Reader, RequestError, hang_up

BUSY = RequestError(503, "all connections are taken; try again shortly", "overloaded", retry_after=1)


class Server:
    """`app` at host and port, from `run()` until `stop()`. Port 0 takes a free one: see `address`."""

    def __init__(self, host: str, port: int, app: App, limits: Limits, max_connections: int, proxied: bool) -> None:
        self.app, self.limits, self.max_connections, self.proxied = app, limits, max_connections, proxied
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._listener = socket.create_server((host, port), family=family, backlog=512)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{host} port {port}: {reason}; name another --host or --port") from None
        self._listener.settimeout(0.2)
        self._lock = threading.Lock()
        self._open: Counter[str] = Counter()  # connections by address
        self._leaving = 0  # connections being turned away
        self._readers: set[Reader] = set()
        self._stopping, self._closed = threading.Event(), threading.Event()
        self.refused = 0

    @property
    def address(self) -> tuple[str, int]:
        host, port = self._listener.getsockname()[:2]
        return host, port

    @property
    def connections(self) -> int:
        return self._open.total()

    def gauges(self) -> dict[str, tuple[float, str]]:
        """What the metrics show of it."""
        return {
            "connections": (float(self.connections), "Connections open"),
            "connections_refused": (float(self.refused), "Connections that found no place, since the start"),
        }

    def run(self) -> None:
        """Accept connections until `stop` is called."""
        while not self._stopping.is_set():
            try:
                sock, address = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:  # no file descriptors left, or the client has gone again
                time.sleep(0.05)
                continue
            self._take(sock, str(address[0]))
        self._listener.close()
        self._closed.set()

    def stop(self, seconds: float) -> None:
        """Take no more connections, and let the requests that have begun end within `seconds`."""
        self._stopping.set()
        deadline = time.monotonic() + seconds
        self._closed.wait(seconds)  # nobody comes in any more
        while self.connections and time.monotonic() < deadline:
            for reader in [reader for reader in tuple(self._readers) if reader.idle]:
                with contextlib.suppress(OSError):
                    reader.sock.shutdown(socket.SHUT_RD)  # wakes the thread that waits for a request
            time.sleep(0.02)

    def _take(self, sock: socket.socket, address: str) -> None:
        with self._lock:
            welcome = self.connections < self.max_connections and self._open[address] < self._share(address)
            turned_away = not welcome and self._leaving < self.max_connections
            if welcome:
                self._open[address] += 1
            else:
                self.refused += 1
                self._leaving += turned_away
        if welcome:
            target = self._serve
        elif turned_away:
            target = self._turn_away
        else:
            sock.close()
            return
        try:
            threading.Thread(target=target, args=(sock, address), daemon=True).start()
        except RuntimeError:  # the system has no more threads
            self._left(address, welcome)
            sock.close()

    def _share(self, address: str) -> int:
        """Connections that one address may hold: a quarter, but behind a proxy all come from the proxy's."""
        alone = self.proxied or ipaddress.ip_address(address.partition("%")[0]).is_loopback
        return self.max_connections if alone else max(1, self.max_connections // 4)

    def _left(self, address: str, welcome: bool) -> None:
        with self._lock:
            if not welcome:
                self._leaving -= 1
                return
            self._open[address] -= 1
            if not self._open[address]:
                del self._open[address]

    def _serve(self, sock: socket.socket, address: str) -> None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader = Reader(sock, address, self.limits)
        self._readers.add(reader)
        try:
            while self._one(sock, reader) and not self._stopping.is_set():
                pass
        except ClientGoneError:
            pass
        finally:
            self._readers.discard(reader)
            hang_up(sock)
            self._left(address, welcome=True)

    def _one(self, sock: socket.socket, reader: Reader) -> bool:
        """Answer the next request; whether the connection goes on."""
        exchange = Exchange(sock, self.limits)
        try:
            request = reader.next()
            exchange = Exchange(sock, self.limits, request)
            exchange.keep_alive &= not self._stopping.is_set()
            self.app(request, exchange)
        except RequestError as refused:  # its body may not have been read: where the next request begins is not known
            exchange.keep_alive = False
            exchange.refuse(refused)
        except ClientGoneError:
            raise
        except Exception as error:  # ours: whoever runs the server learns where, the client that it happened
            report(error)
            exchange.keep_alive = False
            if not exchange.status:
                exchange.refuse(RequestError(500, "the server failed on this request"))
        return exchange.keep_alive

    def _turn_away(self, sock: socket.socket, address: str) -> None:
        with contextlib.suppress(ClientGoneError):
            Exchange(sock, self.limits).refuse(BUSY)
        hang_up(sock)
        self._left(address, welcome=False)


def report(error: BaseException) -> None:
    """An error of ours, for the log: what and where, but not its message, which may quote what a user wrote."""
    where = "".join(traceback.format_tb(error.__traceback__))
    print(f"error: {type(error).__name__} in the server, at\n{where}", file=sys.stderr, end="", flush=True)
