"""Is an export the same model? Ids of thousands of lines, logits, and greedy text, through the program it is for."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from oracle.cli import UserError
from oracle.engine import cached
from oracle.export import Leaving
from oracle.generate import Engine, prompt_ids
from oracle.sampling import SamplingParams
from oracle.text import normalize
from oracle.tokenizer import Tokenizer

OWN_LINES, RANDOM_LINES = 2000, 1000
PROMPTS, GREEDY_TOKENS = 8, 48
ALPHABETS = ("αβγδεζηθικλμνξοπρστυφχψωάέήίόύώϊΐΑΕΟΣς", "abcdefghijklmnop ", "абвгдђжзčćšž", " \n\t\u00a0\u2009", "0123456789,.;:·«»–—!?",
             "½²𝕏ﬁÅΩ", "😀👩‍👩‍👧🇬🇷", "αέ̓̔́ᾳᾆ", "漢字かなกขअ")  # fmt: skip


class Reader(Protocol):
    """An export as another program has it."""

    name: str

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: list[int]) -> str: ...

    def logits(self, ids: list[int]) -> torch.Tensor:
        """(T, V or more) for `ids` (T)."""
        ...

    def greedy(self, prompt: list[int], count: int) -> list[int]: ...


@dataclass(frozen=True)
class Limit:
    """How far logits may lie from ours, in standard deviations of ours, and whether greedy texts must be equal."""

    largest: float
    mean: float
    same_text: bool = False


EXACT = Limit(1e-3, 1e-4, same_text=True)


def lines_of(leaving: Leaving) -> list[str]:
    """Lines of the model's own text if it is at hand, and random ones, among them imitated control tokens."""
    rng = random.Random(leaving.settings.seed)
    own = sorted({line for line in leaving.own_text() if line})
    drawn = rng.sample(own, min(OWN_LINES, len(own)))
    controls = [leaving.tokenizer.piece(token) for token in leaving.tokenizer.control]
    return [*drawn, *(random_line(rng, controls) for _ in range(RANDOM_LINES))]


def random_line(rng: random.Random, controls: Sequence[str]) -> str:
    parts = ["".join(rng.choices(rng.choice(ALPHABETS), k=rng.randint(1, 9))) for _ in range(rng.randint(1, 8))]
    if rng.random() < 0.3:
        parts.insert(rng.randrange(len(parts) + 1), rng.choice(controls))
    if rng.random() < 0.1:
        parts.append(chr(rng.choice((rng.randrange(0x20, 0xD800), rng.randrange(0xE000, 0x20000)))))
    return normalize("".join(parts))


def check_ids(reader: Reader, tokenizer: Tokenizer, kind: str, lines: Sequence[str]) -> dict[str, Any]:
    """Raises UserError if a line has other ids there than here, or comes back as another text."""
    wrong = []
    for line in lines:
        ids = tokenizer.encode(line)
        if reader.encode(line) != ids or reader.decode(ids) != tokenizer.decode(ids):
            wrong.append(line)
    if wrong:
        raise UserError(
            f"this {kind} tokenizer cannot be converted exactly: {len(wrong):,} of {len(lines):,} lines have other ids in"
            f" {reader.name} than here, the first {min(wrong, key=len)!r}; nothing was written: train with"
            " --tokenizer_type=bpe, or take the export as it is, --verify=False"
        )
    return {"lines with the same ids": len(lines)}


def check_logits(reader: Reader, leaving: Leaving, texts: Sequence[list[int]], limit: Limit) -> dict[str, Any]:
    """Compare at every position of `texts`. Raises UserError beyond `limit`."""
    largest = total = same = count = 0.0
    scale, pieces = 0.0, leaving.tokenizer.vocab_size
    for ids in texts:
        with torch.no_grad():
            ours = leaving.model(torch.tensor([ids]))[0, :, :pieces]
        theirs = reader.logits(ids)[:, :pieces]
        difference = (theirs - ours).abs()
        largest, total = max(largest, float(difference.max())), total + float(difference.double().sum())
        same, count = same + int((theirs.argmax(1) == ours.argmax(1)).sum()), count + len(ids)
        scale = max(scale, float(ours.std()))
    found = {
        "positions": int(count), "same arg-max": round(same / count, 4), "largest difference of logits": largest,
        "mean difference of logits": total / count / pieces, "standard deviation of logits": scale,
    }  # fmt: skip
    if not (largest <= limit.largest * scale and total / count / pieces <= limit.mean * scale):
        raise UserError(
            f"the exported model is not the same in {reader.name}: its logits differ by up to {largest:.3g} on a scale of"
            f" {scale:.3g}; nothing was written"
        )
    return found


def check_greedy(reader: Reader, leaving: Leaving, prompts: Sequence[list[int]], exact: bool) -> dict[str, Any]:
    """Let both write the likeliest text. Raises UserError if it must be equal and is not."""
    tokenizer, model = leaving.tokenizer, leaving.model
    count = min(GREEDY_TOKENS, model.config.block_size - max(map(len, prompts)))
    params = SamplingParams(max_new_tokens=count, temperature=0, stop_tokens=tuple(leaving.ends))
    ours = Engine(cached(model), tokenizer).complete(prompts, params)
    equal = 0
    for prompt, request in zip(prompts, ours, strict=True):
        theirs = [token for token in reader.greedy(prompt, count) if token not in leaving.ends]
        equal += tokenizer.decode(theirs) == tokenizer.decode(request.tokens) or _tie(
            leaving, prompt, request.tokens, theirs
        )
    if exact and equal < len(prompts):
        raise UserError(
            f"{len(prompts) - equal} of {len(prompts)} greedy texts of {count} tokens differ in {reader.name};"
            " nothing was written"
        )
    return {"greedy texts equal": f"{equal} of {len(prompts)}, {count} tokens each"}


def _tie(leaving: Leaving, prompt: list[int], ours: list[int], theirs: list[int]) -> bool:
    """Whether two texts part where two tokens are as likely, to the last digits."""
    n = next((n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
    if n is None:
        return False
    with torch.no_grad():
        logits = leaving.model(torch.tensor([[*prompt, *ours[:n]]]))[0, -1]
    return bool((logits[ours[n]] - logits[theirs[n]]).abs() < 1e-4 * logits.std())


def verify(reader: Reader, leaving: Leaving, kind: str, limit: Limit = EXACT) -> dict[str, Any]:
    """All three. Returns what was found; raises UserError for an export that is not the same model."""
    lines = lines_of(leaving)
    ids = check_ids(reader, leaving.tokenizer, kind, lines)
    length = min(256, leaving.model.config.block_size)
    rng = random.Random(leaving.settings.seed)
    running = [token for line in lines[: PROMPTS * 20] for token in leaving.tokenizer.encode(line)]
    drawn = [rng.randrange(leaving.tokenizer.vocab_size) for _ in range(length)]
    texts = [[leaving.tokenizer.bos, *running][:length], drawn]
    prompts = [prompt_ids(leaving.tokenizer, line)[: max(2, length // 4)] for line in lines[:PROMPTS]]
    return {
        "with": reader.name, **ids, **check_logits(reader, leaving, texts, limit),
        **check_greedy(reader, leaving, prompts, exact=limit.same_text),
    }  # fmt: skip
