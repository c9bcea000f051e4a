"""The one thread that owns the model, and the queue before it.

Connections hand a request in and read its answer as it is written. Waiting requests join the running ones as soon as
the engine has a place, so one pass through the network serves many. Places go to the client whose last turn is
longest ago. The queue is bounded; when it is full, the client with most requests in it makes room for one with fewer.
"""

import math
import queue
import threading
import time
from collections import Counter
from dataclasses import dataclass

from oracle.cli import UserError
from oracle.generate import Engine, Generation
from oracle.metrics import Metrics
from oracle.sampling import SamplingParams, TokenLogprob

# What ends an answer besides the engine's own "stop", "length" and "cancelled".
LATE, DISPLACED, FAILED = "late", "displaced", "failed"


class QueueFullError(Exception):
    """No place to wait in; `retry_after` seconds are a guess when there will be one."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"the queue is full, try again in {retry_after} seconds")
        self.retry_after = retry_after


@dataclass(frozen=True)
class Piece:
    """What is new of an answer."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    end: str = ""  # on the last piece: why it is the last


class Answer:
    """One request on its way: the model's thread writes it, a connection's thread reads it."""

    def __init__(self, prompt: list[int], params: SamplingParams, client: str, deadline: float) -> None:
        self.prompt, self.params, self.client, self.deadline = prompt, params, client, deadline
        self.asked = time.monotonic()
        self.generation: Generation | None = None  # once it runs
        self.begun = False  # it has a first token
        self.cancelled = False
        self._pieces: queue.SimpleQueue[Piece] = queue.SimpleQueue()
        self._logprobs = 0  # handed over already

    @property
    def tokens(self) -> int:
        """Tokens written so far."""
        return len(self.generation.tokens) if self.generation else 0

    def next(self, seconds: float) -> Piece | None:
        """The next piece, or None when there is none within `seconds`."""
        try:
            return self._pieces.get(timeout=seconds)
        except queue.Empty:
            return None

    def cancel(self) -> None:
        """Nobody waits for it any more; any thread may say so."""
        self.cancelled = True

    def hand_over(self, end: str) -> None:
        """Give the reader what the generation has new."""
        text, logprobs = "", tuple[TokenLogprob, ...]()
        if self.generation:
            text, logprobs = self.generation.take(), tuple(self.generation.logprobs[self._logprobs :])
        if text or end:
            self._logprobs += len(logprobs)
            self._pieces.put(Piece(text, logprobs, end))


class Worker:
    """Serves `engine` in a thread of its own from `start()` until `stop()`."""

    def __init__(self, engine: Engine, max_waiting: int, metrics: Metrics) -> None:
        self.engine, self.max_waiting, self.metrics = engine, max_waiting, metrics
        self.failure = ""  # what the last step failed of, if it did
        self._waiting: list[Answer] = []
        self._running: dict[Generation, Answer] = {}
        self._turns: dict[str, int] = {}  # of the clients waiting or running: the number of their last turn
        self._turn = 0
        self._seconds = 5.0  # that an answer takes, as far as is known
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End every answer where it is, and the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout=30)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    def ask(self, prompt: list[int], params: SamplingParams, client: str, seconds: float) -> Answer:
        """Hand a request in, to be over within `seconds`. Raises QueueFullError."""
        answer = Answer(prompt, params, client, time.monotonic() + seconds)
        with self._changed:
            if self._stopping:
                answer.hand_over("cancelled")
                return answer
            if len(self._waiting) >= self.max_waiting + max(0, self.engine.free) and not self._make_room(client):
                raise QueueFullError(self._retry_after())
            self._waiting.append(answer)
            self._changed.notify()
        return answer

    def _make_room(self, client: str) -> bool:
        """Send away the newest request of the client with most of them, if `client` would have fewer."""
        counts = Counter(answer.client for answer in self._waiting)
        if not counts:
            return False
        greediest, most = counts.most_common(1)[0]
        if counts[client] + 1 >= most:
            return False
        newest = next(answer for answer in reversed(self._waiting) if answer.client == greediest)
        self._waiting.remove(newest)
        newest.hand_over(DISPLACED)
        return True

    def _retry_after(self) -> int:
        places = max(1, len(self._running) + max(0, self.engine.free))
        return min(60, math.ceil(self._seconds * (1 + len(self._waiting) / places)))

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._stopping or self._waiting or self._running):
                    self._changed.wait()
                if self._stopping:
                    self._end_all("cancelled")
                    return
                self._admit()
            try:
                self._step()
                self.failure = ""
            except Exception as error:
                self.metrics.add("engine_failures")
                self.failure = str(error) if isinstance(error, UserError) else type(error).__name__
                with self._changed:
                    self._end_all(FAILED)

    def _admit(self) -> None:
        """Let go of the waiting that nobody waits for or that are late, and give places to the others in turn."""
        now = time.monotonic()
        for answer in [a for a in self._waiting if a.cancelled or now > a.deadline]:
            self._waiting.remove(answer)
            answer.hand_over("cancelled" if answer.cancelled else LATE)
        while self._waiting and self.engine.free > 0:
            answer = min(self._waiting, key=lambda a: self._turns.get(a.client, 0))  # the first among equals
            self._waiting.remove(answer)
            self._turn += 1
            self._turns[answer.client] = self._turn
            try:
                answer.generation = self.engine.submit(answer.prompt, answer.params)
            except UserError:  # the prompt was checked, so this is ours
                answer.hand_over(FAILED)
            else:
                self._running[answer.generation] = answer
        present = {a.client for a in (*self._waiting, *self._running.values())}
        self._turns = {client: turn for client, turn in self._turns.items() if client in present}

    def _step(self) -> None:
        now = time.monotonic()
        for generation, answer in self._running.items():
            if answer.cancelled or now > answer.deadline:
                generation.cancel()
        for generation in self.engine.step():
            if generation not in self._running:  # left from a step that failed
                continue
            answer = self._running[generation]
            if generation.tokens and not answer.begun:
                answer.begun = True
                self.metrics.observe("first_token_seconds", time.monotonic() - answer.asked)
            end = str(generation.finish_reason)
            if end == "cancelled" and not answer.cancelled:
                end = LATE
            answer.hand_over(end)
            if end:
                self._over(generation, answer)

    def _over(self, generation: Generation, answer: Answer) -> None:
        del self._running[generation]
        self.metrics.add("prompt_tokens", len(answer.prompt))
        self.metrics.add("generated_tokens", len(generation.tokens))
        if not answer.cancelled:
            seconds = time.monotonic() - answer.asked
            self.metrics.observe("answer_seconds", seconds)
            self._seconds += 0.1 * (seconds - self._seconds)

    def _end_all(self, end: str) -> None:
        for answer in self._waiting:
            answer.hand_over(end)
        for generation, answer in self._running.items():
            generation.cancel()
            answer.hand_over(end)
        self._waiting, self._running = [], {}
