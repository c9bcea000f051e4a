"""Beam search: the likeliest texts rather than a random one (Graves 2012; length penalty as in Wu et al. 2016)."""

from dataclasses import dataclass

import torch

from oracle.cli import UserError
from oracle.engine import Span
from oracle.generate import RUINED, Engine


@dataclass(frozen=True)
class Hypothesis:
    """A finished text: its tokens without the end of text, the sum of their log-probabilities in nats (that of the end
    of text included), and that sum divided by the number of tokens to the power of the length penalty."""

    tokens: list[int]
    logprob: float
    score: float
    finish_reason: str  # "stop" or "length"


@dataclass(frozen=True)
class _Beam:
    tokens: list[int]
    logprob: float
    slot: int


@torch.inference_mode()
def beam_search(
    engine: Engine, prompt: list[int], beams: int, max_new_tokens: int, length_penalty: float = 1.0
) -> list[Hypothesis]:
    """The `beams` best continuations of `prompt` that the search finds, best first.

    `length_penalty` 0 favours short texts, 1 compares means per token, more favours long ones. Raises UserError when
    the engine has fewer slots than beams, or when the text would not fit into the context: beams do not slide.
    """
    network, eos = engine.network, engine.tokenizer.eos
    longest = len(prompt) + max_new_tokens
    if longest > engine.block_size:
        raise UserError(
            f"beam search stays within the context: {len(prompt):,} tokens of prompt and {max_new_tokens:,} new ones are"
            f" {longest:,}, it holds {engine.block_size:,}; lower max_new_tokens or shorten the prompt"
        )
    if network.slots < beams:
        raise UserError(f"{beams} beams need {beams} places in the cache, the engine has {network.slots}")
    engine.forget()
    live = [_Beam([], 0.0, 0)]
    rows = network.forward(torch.tensor(prompt), [Span(0, 0, len(prompt))])
    finished: list[Hypothesis] = []
    for length in range(1, max_new_tokens + 1):
        candidates = _best(live, _log_probabilities(engine, rows), 2 * beams)
        open_ones = []
        for rank, (logprob, parent, token) in enumerate(candidates):
            if token != eos:
                open_ones.append((logprob, parent, token))
            elif rank < beams:  # an end that others have overtaken already is no find
                finished.append(Hypothesis(parent.tokens, logprob, logprob / length**length_penalty, "stop"))
        live = _move(engine, open_ones[:beams], len(prompt) + length - 1, beams)
        finished = sorted(finished, key=lambda h: -h.score)[:beams]
        # Log-probabilities only fall, so no live beam can end better than this.
        hope = max((b.logprob / max_new_tokens ** max(0.0, length_penalty) for b in live), default=-torch.inf)
        if not live or length == max_new_tokens or (len(finished) == beams and finished[-1].score >= hope):
            break
        spans = [Span(b.slot, len(prompt) + length - 1, 1) for b in live]
        rows = network.forward(torch.tensor([b.tokens[-1] for b in live]), spans)
    if length == max_new_tokens:
        finished += [Hypothesis(b.tokens, b.logprob, b.logprob / length**length_penalty, "length") for b in live]
    return sorted(finished, key=lambda h: -h.score)[:beams]


def _log_probabilities(engine: Engine, logits: torch.Tensor) -> torch.Tensor:
    """(beams, V of the tokenizer), double; control symbols other than the end of text are impossible."""
    if logits.isnan().any():
        raise UserError(RUINED)
    logits = logits[:, : engine.tokenizer.vocab_size].double()
    logits[:, [i for i in engine.tokenizer.control if i != engine.tokenizer.eos]] = -torch.inf
    return torch.log_softmax(logits, dim=1)


def _best(live: list[_Beam], steps: torch.Tensor, count: int) -> list[tuple[float, _Beam, int]]:
    """The `count` likeliest one-token continuations of all beams: (sum of log-probabilities, beam, token)."""
    totals = (steps + torch.tensor([b.logprob for b in live], dtype=torch.float64)[:, None]).flatten()
    values, places = totals.topk(min(count, len(totals)))
    return [
        (value, live[place // steps.shape[1]], place % steps.shape[1])
        for value, place in zip(values.tolist(), places.tolist(), strict=True)
        if value > -torch.inf
    ]


def _move(engine: Engine, chosen: list[tuple[float, _Beam, int]], length: int, beams: int) -> list[_Beam]:
    """The next live beams. Each has its parent's text in a slot of its own: the first child inherits the parent's,
    the others get copies in slots whose beams died."""
    spare = [slot for slot in range(beams) if slot not in {parent.slot for _, parent, _ in chosen}]
    taken: set[int] = set()
    moved = []
    for logprob, parent, token in chosen:
        slot = parent.slot
        if slot in taken:
            slot = spare.pop()
            engine.network.copy(parent.slot, slot, length)
        taken.add(slot)
        moved.append(_Beam([*parent.tokens, token], logprob, slot))
    return moved
