"""Telegram's Bot API on loopback, with everything that can go wrong with it."""

import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

TOKEN = "123456789:AAF-marker_Abcdefghijklmnopqrstuvwxyz0123"
FAULTS = ("429", "500", "502", "bad_json", "rubbish", "empty", "hang", "drop", "lost")
Draw = Callable[[str, int], str]  # method, its count -> a fault or ""


class QuietServer(ThreadingHTTPServer):
    """On a free port of this machine. Whoever is killed hangs up, which is no error."""

    daemon_threads = True

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def end(self) -> None:
        self.shutdown()
        self.server_close()


@dataclass
class Sent:
    """A message of the bot's."""

    text: str
    versions: list[str]
    rows: Any = None
    reply_to: int | None = None


@dataclass
class FakeTelegram:
    """Serves between `with` and its end. `lost` faults do what was asked and lose the answer."""

    draw: Draw = lambda method, count: ""
    hang_seconds: float = 1.0
    retry_after: int = 1
    webhook: bool = False
    me: Any = field(
        default_factory=lambda: {"id": 42, "is_bot": True, "first_name": "Oracle", "username": "oracle_bot"}
    )

    def __post_init__(self) -> None:
        self.updates: list[dict[str, Any]] = []
        self.chats: dict[int, dict[int, Sent]] = {}
        self.blocked: set[int] = set()
        self.calls: list[tuple[float, str, dict[str, str], str]] = []  # time, method, parameters, fault
        self.acknowledged: list[str] = []
        self.changed = threading.Condition()
        self._next_message, self._next_update = 1000, 500
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1

            def do_POST(self) -> None:
                try:
                    fake._serve(self)
                except ConnectionError:
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        self.server = QuietServer(Handler)
        self.address = self.server.address

    def __enter__(self) -> "FakeTelegram":
        return self

    def __exit__(self, *_: object) -> None:
        self.server.end()

    # What people do.

    def say(self, chat: int, text: str | None, user: int = 0, language: str = "el", age: float = 0, **more: Any) -> int:
        """A message to the bot; the update's number. Without text it is a photo."""
        with self.changed:
            self._next_message += 1
            message: dict[str, Any] = {
                "message_id": self._next_message, "date": int(time.time() - age),
                "chat": {"id": chat, "type": "private" if chat > 0 else "group", "first_name": "Χ", "title": "Χ"},
                "from": {"id": user or abs(chat), "is_bot": False, "first_name": "Χ", "language_code": language},
                **({"text": text} if text is not None else {"photo": []}), **more,
            }  # fmt: skip
            return self._deliver({"message": message})

    def press(self, chat: int, message: int, data: str) -> int:
        with self.changed:
            query = {
                "id": f"q{self._next_update}", "data": data, "chat_instance": "1",
                "from": {"id": chat, "is_bot": False, "first_name": "Χ", "language_code": "el"},
                "message": {"message_id": message, "date": int(time.time()), "chat": {"id": chat, "type": "private"}},
            }  # fmt: skip
            return self._deliver({"callback_query": query})

    def raw(self, update: Any) -> None:
        """Anything at all as an update."""
        with self.changed:
            self.updates.append(update)
            self.changed.notify_all()

    def _deliver(self, content: dict[str, Any]) -> int:
        self._next_update += 1
        self.updates.append({"update_id": self._next_update, **content})
        self.changed.notify_all()
        return self._next_update

    # What tests ask.

    def texts(self, chat: int) -> list[str]:
        """The bot's messages in a chat, as they stand now."""
        with self.changed:
            return [sent.text for sent in self.chats.get(chat, {}).values()]

    def holding(self, chat: int, text: str) -> int:
        """How many messages in the chat contain `text` and are finished."""
        return sum(text in t and not t.endswith("…") for t in self.texts(chat))

    def count(self, method: str) -> int:
        return sum(m == method for _, m, _, _ in self.calls)

    # What the API does.

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers.get("Content-Length", 0))
        body = handler.rfile.read(length).decode()
        if len(body) < length:
            raise ConnectionError("killed while it was asking")
        values = {key: value[0] for key, value in parse_qs(body).items()}
        token, _, method = handler.path.removeprefix("/bot").partition("/")
        with self.changed:
            fault = self.draw(method, self.count(method))
            self.calls.append((time.monotonic(), method, values, fault))
        if token != TOKEN:
            return _send(handler, 401, {"ok": False, "error_code": 401, "description": "Unauthorized"})
        if fault and fault != "lost":
            return self._fail(handler, fault)
        status, answer = self._do(method, values)
        if fault == "lost":
            handler.close_connection = True
            return None
        return _send(handler, status, answer)

    def _fail(self, handler: BaseHTTPRequestHandler, fault: str) -> None:
        if fault == "429":
            after = {"parameters": {"retry_after": self.retry_after}}
            _send(handler, 429, {"ok": False, "description": "Too Many Requests", **after})
        elif fault == "409":
            text = "Conflict: terminated by other getUpdates request; make sure that only one bot instance is running"
            _send(handler, 409, {"ok": False, "description": text})
        elif fault.isdigit():
            _send(handler, int(fault), b"<html>Bad Gateway</html>")
        elif fault == "bad_json":
            _send(handler, 200, b'{"ok": true, "result": [{"upd')
        elif fault == "rubbish":
            _send(handler, 200, {"ok": True, "result": {"surprise": 1}})
        elif fault == "empty":
            _send(handler, 200, {"ok": True})
        else:
            if fault == "hang":
                time.sleep(self.hang_seconds)
            handler.close_connection = True

    def _do(self, method: str, values: dict[str, str]) -> tuple[int, Any]:
        if method == "getUpdates":
            return self._updates(int(values.get("offset", 0)), float(values.get("timeout", 0)))
        with self.changed:
            try:
                result = getattr(self, f"_{method}", lambda values: True)(values)
            except _No as no:
                return no.status, {"ok": False, "error_code": no.status, "description": str(no)}
            self.changed.notify_all()
            return 200, {"ok": True, "result": result}

    def _updates(self, offset: int, seconds: float) -> tuple[int, Any]:
        if self.webhook:
            text = (
                "Conflict: can't use getUpdates method while webhook is active; use deleteWebhook to delete the webhook"
            )
            return 409, {"ok": False, "description": text}
        with self.changed:
            self.updates = [u for u in self.updates if not isinstance(u, dict) or u.get("update_id", offset) >= offset]
            if not self.updates:
                self.changed.wait(seconds)
            return 200, {"ok": True, "result": self.updates[:100]}

    def _getMe(self, values: dict[str, str]) -> Any:  # noqa: N802
        return self.me

    def _deleteWebhook(self, values: dict[str, str]) -> Any:  # noqa: N802
        self.webhook = False
        return True

    def _sendMessage(self, values: dict[str, str]) -> Any:  # noqa: N802
        chat, text = self._writable(values)
        self._next_message += 1
        to = json.loads(values["reply_parameters"])["message_id"] if "reply_parameters" in values else None
        self.chats.setdefault(chat, {})[self._next_message] = Sent(text, [text], reply_to=to)
        return _message(chat, self._next_message, text)

    def _editMessageText(self, values: dict[str, str]) -> Any:  # noqa: N802
        chat, text = self._writable(values)
        sent = self.chats.get(chat, {}).get(int(values["message_id"]))
        if sent is None:
            raise _No(400, "Bad Request: message to edit not found")
        rows = json.loads(values["reply_markup"])["inline_keyboard"] if "reply_markup" in values else None
        if (sent.text, sent.rows) == (text, rows):
            raise _No(400, "Bad Request: message is not modified: specified new message content is the same")
        sent.text, sent.rows = text, rows
        sent.versions.append(text)
        return _message(chat, int(values["message_id"]), text)

    def _editMessageReplyMarkup(self, values: dict[str, str]) -> Any:  # noqa: N802
        sent = self.chats.get(int(values["chat_id"]), {}).get(int(values["message_id"]))
        if sent is None:
            raise _No(400, "Bad Request: message to edit not found")
        sent.rows = None
        return True

    def _answerCallbackQuery(self, values: dict[str, str]) -> Any:  # noqa: N802
        self.acknowledged.append(values.get("text", ""))
        return True

    def _writable(self, values: dict[str, str]) -> tuple[int, str]:
        """Chat and text of a message that may be written. Refuses what Telegram refuses."""
        chat, text = int(values["chat_id"]), values.get("text", "").strip()
        if chat in self.blocked:
            raise _No(403, "Forbidden: bot was blocked by the user")
        if not text:
            raise _No(400, "Bad Request: message text is empty")
        if len(text.encode("utf-16-le")) > 2 * 4096:
            raise _No(400, "Bad Request: message is too long")
        assert "parse_mode" not in values
        assert json.loads(values["link_preview_options"])["is_disabled"]
        return chat, text


class _No(Exception):  # noqa: N818
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def _message(chat: int, number: int, text: str) -> Any:
    return {"message_id": number, "date": int(time.time()), "chat": {"id": chat, "type": "private"}, "text": text}


def _send(handler: BaseHTTPRequestHandler, status: int, value: Any) -> None:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    handler.send_header("Content-Type", "application/json")
    handler.end_headers()
    handler.wfile.write(body)


class FakeModels:
    """A server that speaks OpenAI's API and answers `answer(last question)`, word by word."""

    def __init__(
        self, answer: Callable[[str], str] = lambda text: f"απάντηση: {text}!", word_seconds: float = 0.0
    ) -> None:
        self.asked: Counter[str] = Counter()
        models = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path != "/v1/models":
                    return _send(self, 404, {"error": {"message": "no such address"}})
                return _send(self, 200, {"object": "list", "data": [{"id": "echo", "object": "model"}]})

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                question = request["messages"][-1]["content"]
                models.asked[question] += 1
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                try:
                    for word in answer(question).split(" "):
                        delta = {"choices": [{"index": 0, "delta": {"content": f"{word} "}}]}
                        self.wfile.write(b"data: " + json.dumps(delta).encode() + b"\n\n")
                        time.sleep(word_seconds)
                    self.wfile.write(b"data: [DONE]\n\n")
                except ConnectionError:
                    pass

            def log_message(self, *_: object) -> None:
                pass

        self.server = QuietServer(Handler)
        self.address = f"{self.server.address}/v1"

    def __enter__(self) -> "FakeModels":
        return self

    def __exit__(self, *_: object) -> None:
        self.server.end()


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Whether it comes true in time; for tests that have a process of their own to wait for."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()
