"""One model, many requests in flight: what sample, evaluation, bot and server write with.

Every step takes each running request one token further, and reads one part of one waiting prompt, in the same pass
through the network. A request's draws depend on its own seed alone, not on who else is being served.

**When the context is full** its older half is forgotten and the newer half read again: GPT-2's positions are absolute,
so what is kept must move to the beginning. That costs one reading of half a context for every half context written.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from oracle.chat import Template
from oracle.checkpoint import Checkpoint, RunDirectory
from oracle.cli import UserError
from oracle.config import from_dict
from oracle.engine import CachedGPT, Network, Span
from oracle.kernels import GROUPS
from oracle.plan import model_shape
from oracle.sampling import Repeats, SamplingParams, TokenLogprob, draw, penalize
from oracle.stream import TextStream
from oracle.tokenizer import Tokenizer, open_tokenizer
from oracle.weights import load_parts

FinishReason = Literal["", "stop", "length", "cancelled"]
PREFILL = 256  # tokens of a prompt read in one step, so that a long one does not keep the others waiting
RUINED = "the model's logits are not numbers, its weights were ruined in training; use an older checkpoint"


class Generation:
    """One request: its prompt, what was written so far, and whether it is over."""

    def __init__(self, tokenizer: Tokenizer, prompt: list[int], params: SamplingParams) -> None:
        self.prompt, self.params = prompt, params
        self.tokens: list[int] = []  # written so far; the one that ended it is not among them
        self.logprobs: list[TokenLogprob] = []  # one for each of them, when asked for
        self.finish_reason: FinishReason = ""  # while it runs
        self.cancelled = False
        self._stream = TextStream(tokenizer, params.stop)
        self._taken = 0
        self._random = torch.Generator().manual_seed(params.seed)
        self._repeats = Repeats(params.no_repeat_ngram, prompt) if params.no_repeat_ngram else None

    @property
    def text(self) -> str:
        """All that may be shown so far: whole characters, no special token, nothing from a stop text on."""
        return self._stream.text

    def take(self) -> str:
        """What `text` has more than at the last call."""
        new = self._stream.text[self._taken :]
        self._taken += len(new)
        return new

    def cancel(self) -> None:
        """End it before the next step; any thread may call this."""
        self.cancelled = True

    def choose(self, logits: torch.Tensor, control: Sequence[int], ends: frozenset[int]) -> None:
        """Draw the next token from `logits` (V, the tokenizer's pieces; changed in place) and take it in."""
        natural = torch.log_softmax(logits, dim=0) if self.params.logprobs else None
        logits[[i for i in control if i not in ends]] = -torch.inf
        penalize(logits, (*self.prompt, *self.tokens), self.params.repetition_penalty)
        if self._repeats and (forbidden := self._repeats.forbidden()):
            logits[[i for i in forbidden if i not in ends]] = -torch.inf
        token = draw(logits, self.params, self._random)
        if token in ends:
            self.finish("stop")
            return
        self.tokens.append(token)
        if natural is not None:
            values, ids = natural.topk(self.params.logprobs)
            top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
            self.logprobs.append(TokenLogprob(token, float(natural[token]), top))
        if self._repeats:
            self._repeats.add(token)
        self._stream.push(token)
        if self._stream.stopped:
            self.finish("stop")
        elif len(self.tokens) == self.params.max_new_tokens:
            self.finish("length")

    def finish(self, reason: FinishReason) -> None:
        self.finish_reason = reason
        self._stream.finish()


@dataclass
class _Slot:
    """A row of the cache: the text it holds, and the request it serves."""

    cached: list[int] = field(default_factory=list)
    request: Generation | None = None
    context: list[int] = field(default_factory=list)  # what the request's next token depends on
    number: int = 0  # of the request, in the order of admission

    def common(self, prompt: list[int]) -> int:
        """How many of the first tokens of `prompt` are in the cache already; its last token is read in any case."""
        pairs = zip(self.cached, prompt[:-1], strict=False)
        return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(self.cached), len(prompt) - 1))


class Engine:
    """A network with its tokenizer, serving requests. Not thread-safe: one thread owns it."""

    def __init__(
        self, network: Network, tokenizer: Tokenizer, name: str = "", template: Template | None = None
    ) -> None:
        self.network, self.tokenizer, self.name = network, tokenizer, name
        self.template = template  # of a model that was taught to answer
        self.block_size = network.config.block_size
        self._slots = [_Slot() for _ in range(network.slots)]
        self._waiting: deque[Generation] = deque()
        self._admitted = 0

    @property
    def active(self) -> list[Generation]:
        """The requests that have a place in the cache."""
        return [slot.request for slot in self._slots if slot.request]

    @property
    def free(self) -> int:
        """Places left, those counted that waiting requests will take; negative when more wait than will fit."""
        return sum(slot.request is None for slot in self._slots) - len(self._waiting)

    def submit(self, prompt: list[int], params: SamplingParams) -> Generation:
        """Take in a request, which begins at one of the next steps, in order of arrival.

        `prompt` begins with the tokenizer's beginning-of-text. Raises UserError if it is empty or does not fit.
        """
        if not prompt:
            raise UserError("the prompt has no tokens; begin it with the beginning-of-text token")
        if len(prompt) > self.block_size:
            raise UserError(
                f"the prompt has {len(prompt):,} tokens, the context holds {self.block_size:,}: shorten it, or keep its end"
            )
        request = Generation(self.tokenizer, list(prompt), params)
        self._waiting.append(request)
        return request

    @torch.inference_mode()
    def step(self) -> list[Generation]:
        """One token for every request that is being written, one part of a prompt for one that is being read.

        Returns the requests that advanced or ended. Raises UserError when the model's weights are ruined.
        """
        ended = self._drop_cancelled()
        self._admit()
        # Apart, because a few rows and many take different ways through the matrices, which round differently: what
        # is being written must not depend on whether somebody else's prompt is being read.
        for work in self._work():
            if not work:
                continue
            tokens: list[int] = []
            for slot, span in work:
                tokens += slot.context[span.start : span.start + span.count]
            logits = self.network.forward(torch.tensor(tokens), [span for _, span in work])
            if logits.isnan().any():
                raise UserError(RUINED)
            advanced = [self._advance(slot, span, row) for (slot, span), row in zip(work, logits, strict=True)]
            ended += [request for request in advanced if request]
        return ended

    def stream(self, prompt: list[int], params: SamplingParams) -> Iterator[str]:
        """The answer to one prompt, piece by piece. Closing the iterator cancels the request."""
        request = self.submit(prompt, params)
        try:
            while not request.finish_reason:
                self.step()
                if text := request.take():
                    yield text
        finally:
            request.cancel()

    def complete(
        self, prompts: Sequence[list[int]], params: SamplingParams | Sequence[SamplingParams]
    ) -> list[Generation]:
        """The finished answers to `prompts`, in their order, each with its own parameters or all with the same."""
        each = [params] * len(prompts) if isinstance(params, SamplingParams) else params
        requests = [self.submit(prompt, own) for prompt, own in zip(prompts, each, strict=True)]
        while not all(request.finish_reason for request in requests):
            self.step()
        return requests

    def warm_up(self) -> None:
        """Compute once with each number of rows that has a loop of its own, in texts and in a prompt: compiling takes seconds.

        For engines that people wait for. Raises UserError while requests are running.
        """
        self.forget()
        for rows in GROUPS:
            prompt, texts = min(rows, self.block_size), min(rows, len(self._slots))
            self.network.forward(torch.zeros(prompt, dtype=torch.long), [Span(0, 0, prompt)])
            self.network.forward(torch.zeros(texts, dtype=torch.long), [Span(slot, 0, 1) for slot in range(texts)])

    def forget(self) -> None:
        """Whoever uses the network beside the requests calls this first. Raises UserError while some are running."""
        if self.active:
            raise UserError("the engine is serving requests; let them end first")
        for slot in self._slots:
            slot.cached = []

    def _drop_cancelled(self) -> list[Generation]:
        dropped = [r for r in (*self.active, *self._waiting) if r.cancelled and not r.finish_reason]
        for request in dropped:
            request.finish("cancelled")
        self._waiting = deque(r for r in self._waiting if not r.finish_reason)
        for slot in self._slots:
            if slot.request and slot.request.finish_reason:
                slot.request = None
        return dropped

    def _admit(self) -> None:
        """Give waiting requests the free rows, each the one whose old text has most in common with its prompt."""
        while self._waiting and (free := [slot for slot in self._slots if not slot.request]):
            request = self._waiting.popleft()
            slot = max(free, key=lambda slot: (slot.common(request.prompt), -len(slot.cached)))
            slot.cached = slot.cached[: slot.common(request.prompt)]
            slot.request, slot.context, slot.number = request, list(request.prompt), self._admitted
            self._admitted += 1

    def _work(self) -> tuple[list[tuple[_Slot, Span]], list[tuple[_Slot, Span]]]:
        """What this step reads: the last token of each text being written, and a part of the oldest unread prompt."""
        written: list[tuple[_Slot, Span]] = []
        read: list[tuple[_Slot, Span]] = []
        for number, slot in enumerate(self._slots):
            if not slot.request:
                continue
            if len(slot.context) > self.block_size:
                slot.context, slot.cached = slot.context[-max(1, self.block_size // 2) :], []
            start = len(slot.cached)
            span = Span(number, start, min(len(slot.context) - start, PREFILL))
            (written if span.count == 1 else read).append((slot, span))
        oldest = sorted(read, key=lambda work: work[0].number)[:1]
        return written, oldest

    def _advance(self, slot: _Slot, span: Span, logits: torch.Tensor) -> Generation | None:
        """Note what was read; when that was all of the context, draw. Returns the request if it has a new token or ended."""
        request = slot.request
        assert request
        slot.cached += slot.context[span.start : span.start + span.count]
        if len(slot.cached) < len(slot.context):
            return None
        ends = frozenset((self.tokenizer.eos, *request.params.stop_tokens))
        request.choose(logits[: self.tokenizer.vocab_size], self.tokenizer.control, ends)
        if request.finish_reason:
            slot.request = None
        else:
            slot.context.append(request.tokens[-1])
        return request


def prompt_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids a completion of `text` starts from."""
    return [tokenizer.bos, *tokenizer.encode(text)]


def open_engine(
    place: str | Path, which: str = "best", dtype: str = "auto", slots: int = 1, device: str | torch.device = "cpu"
) -> Engine:
    """The engine over a run directory's checkpoint ("best" or "last"), its weights in `dtype`, serving `slots` at once.

    Raises UserError if there is no such checkpoint, or it is damaged.
    """
    checkpoint = Checkpoint.open(RunDirectory(place).find(which), verify=())
    checkpoint.verify(checkpoint.tokenizer.name)  # the weights are verified where they are read
    tokenizer = open_tokenizer(checkpoint.tokenizer)
    shape = model_shape(from_dict(checkpoint.config(), str(checkpoint.path)), tokenizer.vocab_size)
    parts = load_parts(checkpoint, shape, dtype, torch.device(device))
    template = Template(tokenizer) if checkpoint.chat_template else None
    return Engine(CachedGPT(shape, parts, slots), tokenizer, Path(place).resolve().name, template)
