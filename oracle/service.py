"""What the server answers: the API, the page, health and metrics, put together over one worker."""

import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oracle.api import Parse, Served, parse_chat, parse_completion, parse_json
from oracle.api_answers import DONE, EVENT_STREAM, Shaper, event
from oracle.metrics import Metrics
from oracle.plaintext import clean_output
from oracle.ratelimit import RateLimit
from oracle.record import Recorder
from oracle.sampling import TokenLogprob
from oracle.wire import JSON, ClientGoneError, Exchange, Request, RequestError
from oracle.worker import DISPLACED, FAILED, LATE, Answer, Piece, QueueFullError, Worker

POLL = 0.2  # seconds between two looks at whether a waiting client is still there
Handler = Callable[[Request, Exchange], None]


class Service:
    """The application behind `oracle/http.py`. Its methods run in the connections' threads."""

    def __init__(
        self, served: Served, worker: Worker, metrics: Metrics, page: "Page", access: "Access", seconds: float,
        recorder: Recorder | None = None,
    ) -> None:  # fmt: skip
        self.served, self.worker, self.metrics, self.page = served, worker, metrics, page
        self.access, self.seconds, self.recorder = access, seconds, recorder
        self.started = int(time.time())
        self.gauges: Callable[[], Mapping[str, tuple[float, str]]] = dict  # what the server adds to the metrics
        self.routes: dict[str, dict[str, Handler]] = {
            "/": {"GET": self._page},
            "/health": {"GET": self._health},
            "/metrics": {"GET": self._metrics},
            "/v1/models": {"GET": self._models},
            f"/v1/models/{served.name}": {"GET": self._model},
            "/v1/chat/completions": {"POST": lambda r, e: self._generate(parse_chat, r, e)},
            "/v1/completions": {"POST": lambda r, e: self._generate(parse_completion, r, e)},
        }
        if recorder:
            self.routes["/v1/feedback"] = {"POST": self._feedback}

    def __call__(self, request: Request, exchange: Exchange) -> None:
        """Answer one request and count it."""
        path = request.path if request.path in self.routes else "other"
        try:
            self._route(request, exchange)
        except RequestError as refused:  # the request was read whole: the connection may go on
            if exchange.status:
                raise
            exchange.refuse(refused)
        except ClientGoneError:
            self.metrics.add("vanished")
            raise
        finally:
            self.metrics.add("requests", path=path, status=exchange.status or 499)

    def _route(self, request: Request, exchange: Exchange) -> None:
        methods = self.routes.get(request.path)
        if methods is None:
            raise RequestError(404, "no such address; this server has /, /health, /metrics and /v1/models, /v1/completions,"
                          " /v1/chat/completions", "not_found")  # fmt: skip
        handler = methods.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            raise RequestError(
                405, f"this address takes {' and '.join(methods)}", "method_not_allowed", allow=", ".join(methods)
            )
        if request.path not in ("/", "/health"):
            self.access.check_key(request)
        handler(request, exchange)

    def _page(self, request: Request, exchange: Exchange) -> None:
        exchange.reply(200, self.page.body, "text/html; charset=utf-8", self.page.headers)

    def _health(self, request: Request, exchange: Exchange) -> None:
        well = self.worker.alive and not self.worker.failure
        state = {"status": "ok" if well else "failing", "model": self.served.name,
                 "running": self.worker.running, "waiting": self.worker.waiting}  # fmt: skip
        if self.worker.failure:
            state["reason"] = self.worker.failure
        _reply(exchange, state, 200 if well else 503)

    def _metrics(self, request: Request, exchange: Exchange) -> None:
        gauges = {
            "requests_running": (float(self.worker.running), "Requests being written"),
            "requests_waiting": (float(self.worker.waiting), "Requests in the queue"),
            **self.gauges(),
        }
        exchange.reply(200, self.metrics.text(gauges).encode(), "text/plain; version=0.0.4; charset=utf-8")

    def _models(self, request: Request, exchange: Exchange) -> None:
        _reply(exchange, {"object": "list", "data": [self.model_info()]})

    def _model(self, request: Request, exchange: Exchange) -> None:
        _reply(exchange, self.model_info())

    def model_info(self) -> dict[str, Any]:
        """The model as OpenAI's clients list it, and what the page and curious clients want to know besides."""
        info: dict[str, Any] = {
            "id": self.served.name, "object": "model", "created": self.started, "owned_by": "nanoOracle",
            "chat": self.served.template is not None,
            "context_length": self.served.block_size,
            "max_answer_tokens": self.served.max_answer_tokens,
            "defaults": {
                "temperature": self.served.defaults.temperature,
                "top_p": self.served.defaults.top_p,
                "max_tokens": min(self.served.defaults.max_new_tokens, self.served.max_answer_tokens),
            },
            "recording": self.recorder is not None,
        }  # fmt: skip
        if self.recorder:
            info["notice"] = (
                'Conversations asked with "store": true are kept for training once their user has rated an answer;'
                " nothing else is kept."
            )
        return info

    def _feedback(self, request: Request, exchange: Exchange) -> None:
        """`{"id": …, "rating": "up" | "down", "versions": [ids of the other answers to the same question]}`"""
        assert self.recorder
        self.access.check_rate(request)
        values = parse_json(request.body, request.headers.get("content-type", ""))
        answer, rating, versions = values.get("id"), values.get("rating"), values.get("versions") or []
        ids = [i for i in (answer, *(versions if isinstance(versions, list) else [None])) if isinstance(i, str)]
        if rating not in ("up", "down") or not isinstance(versions, list) or len(ids) != 1 + len(versions):
            raise RequestError(400, 'send {"id": an answer\'s id, "rating": "up" or "down", "versions": ids}')
        if not self.recorder.rate(ids[0], rating, ids[1:]):
            raise RequestError(
                404, 'this answer is not kept, or no longer: ask with "store": true and rate soon', "not_found"
            )
        self.metrics.add("ratings", rating=rating)
        _reply(exchange, {"recorded": True})

    def _generate(self, parse: Parse, request: Request, exchange: Exchange) -> None:
        client = self.access.check_rate(request)
        ask = parse(parse_json(request.body, request.headers.get("content-type", "")), self.served)
        shaper = Shaper(ask, self.served.name, self.served.tokenizer)
        try:
            answer = self.worker.ask(ask.prompt, ask.params, client, self.seconds)
        except QueueFullError as full:
            raise _queue_full(full.retry_after) from None
        try:
            text = (_stream if ask.stream else _whole)(answer, shaper, exchange)
        finally:
            answer.cancel()  # without effect on one that is over
        if self.recorder and ask.store and ask.chat:
            self.recorder.remember(shaper.id, ask.messages, text)


def _whole(answer: Answer, shaper: Shaper, exchange: Exchange) -> str:
    text, logprobs = "", list[TokenLogprob]()
    piece = Piece("")
    while not piece.end:
        piece = _next(answer, exchange)
        text += clean_output(piece.text)
        logprobs += piece.logprobs
    _reply(exchange, shaper.whole(text, logprobs, _reason(piece.end, bool(text)), answer.tokens))
    return text


def _stream(answer: Answer, shaper: Shaper, exchange: Exchange) -> str:
    """The answer as it comes. The status is sent with the first piece: what fails before has a status of its own."""
    piece = _next(answer, exchange)
    if piece.end:
        _reason(piece.end, bool(piece.text))
    exchange.start(EVENT_STREAM)
    first, text = shaper.first(), ""
    if first:
        exchange.send(event(first))
    while True:
        shown = clean_output(piece.text)
        text += shown
        if shown or piece.logprobs:
            exchange.send(event(shaper.piece(shown, piece.logprobs)))
        if piece.end:
            break
        piece = _next(answer, exchange)
    try:
        end = event(shaper.last(_reason(piece.end, bool(text))))
    except RequestError as refused:  # too late for a status
        exchange.send(event({"error": refused.error}))
    else:
        usage = event(shaper.usage(answer.tokens)) if shaper.ask.include_usage else b""
        exchange.send(end + usage + DONE)
    exchange.end()
    return text


def _next(answer: Answer, exchange: Exchange) -> Piece:
    """Wait for the next piece. Raises ClientGoneError when the client does not."""
    piece = None
    while piece is None:
        if exchange.gone():
            raise ClientGoneError
        piece = answer.next(POLL)
    return piece


def _reason(end: str, some: bool) -> str:
    """OpenAI's finish_reason. Raises RequestError for an answer that failed, or did not begin in time."""
    if end == LATE and not some:
        raise RequestError(
            504, "the answer did not begin in time, too many are asking; try again", "timeout", retry_after=5
        )
    if end == DISPLACED:
        raise _queue_full(5)
    if end == FAILED:
        raise RequestError(
            500, "the model failed on this request; try again, and tell whoever runs the server", "model_failed"
        )
    if end == "cancelled":
        raise RequestError(503, "the server is stopping; try again shortly", "stopping", retry_after=5)
    return "length" if end == LATE else end


def _queue_full(seconds: int) -> RequestError:
    message = f"too many are waiting; try again in {seconds} seconds"
    return RequestError(429, message, "queue_full", retry_after=seconds)


def _reply(exchange: Exchange, value: dict[str, Any], status: int = 200) -> None:
    exchange.reply(status, json.dumps(value, ensure_ascii=False).encode(), JSON)


class Access:
    """Who may ask, and how often."""

    def __init__(self, keys: frozenset[str], per_minute: int, proxied: bool) -> None:
        self.keys, self.proxied = keys, proxied
        self._limit = RateLimit(per_minute)

    def check_key(self, request: Request) -> None:
        """Raises RequestError(401) unless no key is needed or the request has one."""
        given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        # All are compared, each in constant time: the time taken tells nothing of the keys.
        if self.keys and not sum(hmac.compare_digest(given.encode(), key.encode()) for key in self.keys):
            raise RequestError(401, "this server needs an API key; send Authorization: Bearer KEY", "invalid_api_key")

    def check_rate(self, request: Request) -> str:
        """The client's name for fair turns. Raises RequestError(429) when it asks too often."""
        client = request.client
        if self.proxied:  # the proxy appends the address it sees; whatever stands before it anyone could have written
            client = request.headers.get("x-forwarded-for", client).rpartition(",")[2].strip()
        if seconds := self._limit.wait(client):
            message = f"too many requests from your address; try again in {seconds} seconds"
            raise RequestError(429, message, "rate_limit_exceeded", retry_after=seconds)
        return client


@dataclass(frozen=True)
class Page:
    """The web page and the headers it is sent with."""

    body: bytes
    headers: Mapping[str, str]

    @classmethod
    def read(cls, path: Path) -> "Page":
        """The page in a file. Its policy allows its own script and style, by their hashes, and this server's answers."""
        text = path.read_text(encoding="utf-8")
        scripts, styles = (
            " ".join(f"'sha256-{_digest(part)}'" for part in re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL))
            for tag in ("script", "style")
        )
        policy = (
            f"default-src 'none'; script-src {scripts}; style-src {styles}; connect-src 'self'; img-src data:;"
            " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        return cls(text.encode("utf-8"), {"Content-Security-Policy": policy})


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()
