"""From logits to one token: what a request may ask of the draw, and the draw itself.

Every filter looks at the model's own distribution at the temperature asked for, and a token must pass all of them;
so their order does not matter, and a filter means the same with and without the others.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from oracle.cli import UsageError
from oracle.settings import Config

HEAD = 512  # candidates sorted at first: nucleus sampling seldom needs more, and sorting 50,000 takes milliseconds


@dataclass(frozen=True)
class SamplingParams:
    """How one request is to be continued. Raises UsageError for a value that means nothing."""

    max_new_tokens: int = 200
    temperature: float = 0.8  # 0 always takes the most likely token
    top_k: int = 0  # only the k most likely tokens; 0 keeps all
    top_p: float = 1.0  # only the fewest tokens whose probabilities reach p (Holtzman et al. 2020)
    min_p: float = 0.0  # only tokens at least so likely, relative to the likeliest (Nguyen et al. 2024)
    repetition_penalty: float = 1.0  # makes tokens that were there less likely (Keskar et al. 2019); 1 does nothing
    no_repeat_ngram: int = 0  # no n tokens in a row twice, the prompt's included; 0 allows it
    stop: tuple[str, ...] = ()  # texts before which the answer ends
    stop_tokens: tuple[int, ...] = ()  # ids that end it, besides the tokenizer's end of text
    seed: int = 1337
    logprobs: int = 0  # keep each token's log-probability and the n likeliest; 0 keeps none

    def __post_init__(self) -> None:
        wrong = [
            f"{name}={getattr(self, name)!r}: {allowed}"
            for name, right, allowed in (
                ("max_new_tokens", self.max_new_tokens >= 1, "must be at least 1"),
                ("temperature", 0 <= self.temperature <= 100, "must be between 0 (the likeliest token) and 100"),
                ("top_k", self.top_k >= 0, "must be at least 0, which keeps all tokens"),
                ("top_p", 0 < self.top_p <= 1, "must be above 0 and at most 1, which keeps all tokens"),
                ("min_p", 0 <= self.min_p < 1, "must be at least 0, which keeps all tokens, and below 1"),
                ("repetition_penalty", 0 < self.repetition_penalty <= 10, "must be above 0 and at most 10; 1 does nothing"),
                ("no_repeat_ngram", self.no_repeat_ngram >= 0, "must be at least 0, which allows repetition"),
                ("stop", all(self.stop), "an empty text would stop at once; leave it out"),
                ("logprobs", 0 <= self.logprobs <= 20, "must be between 0 and 20"),
            )
            if not right
        ]  # fmt: skip
        if wrong:
            raise UsageError("; ".join(wrong))


def params_of(config: Config, number: int = 0) -> SamplingParams:
    """How the settings want text number `number` drawn: each has a seed of its own, however many there are."""
    return SamplingParams(
        config.max_new_tokens, config.temperature, config.top_k, config.top_p, config.min_p,
        config.repetition_penalty, config.no_repeat_ngram, config.stop, seed=config.seed + number,
    )  # fmt: skip


@dataclass(frozen=True)
class TokenLogprob:
    """A token of the answer with its log-probability in nats, and the likeliest tokens at its place with theirs."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def draw(logits: torch.Tensor, params: SamplingParams, generator: torch.Generator) -> int:
    """One id out of `logits` (V, float32, CPU); -inf is never drawn. `generator` gives one number per token drawn.

    Temperature 0 takes the largest; among equals, the first. The most likely token always stays in.
    """
    if params.temperature == 0:
        return int(logits.argmax())
    point = torch.rand((), generator=generator, dtype=torch.float64)
    # A temperature near 0 must not overflow: only differences to the largest matter.
    probabilities = torch.softmax((logits - logits.max()).double() / params.temperature, dim=0)
    if params.min_p:
        probabilities[probabilities < params.min_p * probabilities.max()] = 0
    order = None
    if params.top_k or params.top_p < 1:
        probabilities, order = _head(probabilities, params.top_k, params.top_p)
    cumulative = probabilities.cumsum(0)
    place = int(torch.searchsorted(cumulative, point * cumulative[-1], right=True))
    if place == len(cumulative):  # rounding at the very end of the scale
        place = int(probabilities.argmax())
    return int(order[place]) if order is not None else place


def _head(probabilities: torch.Tensor, top_k: int, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The probabilities that top-k and top-p leave, largest first, and their ids. Among equals, the smaller id first."""
    if len(probabilities) > HEAD:
        largest, ids = torch.topk(probabilities, HEAD)
        ids = ids.sort().values  # topk promises no order among equals
        values, ids = _kept(probabilities[ids], ids, top_k, top_p)
        # The cut lies inside the head, and nothing outside it equals what was kept.
        if len(values) < HEAD and values[-1] > largest[-1]:
            return values, ids
    return _kept(probabilities, torch.arange(len(probabilities)), top_k, top_p)


def _kept(values: torch.Tensor, ids: torch.Tensor, top_k: int, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    values, order = torch.sort(values, descending=True, stable=True)
    keep = values.cumsum(0) - values < top_p  # mass of the likelier tokens
    if top_k:
        keep[top_k:] = False
    keep[0] = True
    return values[keep], ids[order][keep]


def penalize(logits: torch.Tensor, seen: Iterable[int], penalty: float) -> None:
    """Make the ids in `seen` less likely, in place: positive logits are divided by `penalty`, negative multiplied."""
    if penalty == 1:
        return
    ids = torch.tensor(sorted(set(seen)))
    values = logits[ids]
    logits[ids] = torch.where(values > 0, values / penalty, values * penalty)


class Repeats:
    """Which token would make an n-gram a repeated one."""

    def __init__(self, n: int, tokens: Iterable[int]) -> None:
        self.n = n
        self._tokens: list[int] = []
        self._followers: dict[tuple[int, ...], set[int]] = {}
        for token in tokens:
            self.add(token)

    def add(self, token: int) -> None:
        self._tokens.append(token)
        if len(self._tokens) >= self.n:
            *context, last = self._tokens[-self.n :]
            self._followers.setdefault(tuple(context), set()).add(last)

    def forbidden(self) -> list[int]:
        context = tuple(self._tokens[len(self._tokens) - self.n + 1 :]) if self.n > 1 else ()
        return sorted(self._followers.get(context, ()))
