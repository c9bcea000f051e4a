"""Text out of a model: one token after another, streamed as whole characters."""

import codecs
from collections.abc import Iterator

import torch

from model import GPT
from oracle.cli import UserError
from oracle.tokenizer import BOS, EOS, Tokenizer


def pick(
    logits: torch.Tensor, temperature: float, top_k: int, top_p: float, generator: torch.Generator | None
) -> torch.Tensor:
    """Draw one id (0-d) from `logits` (V). Temperature 0 takes the largest; among equals, the first.

    top_k 0 and top_p 1 leave every token in; a k above V does too. The most likely token always stays in.
    """
    if temperature == 0:
        return logits.argmax()
    probabilities, order = torch.sort(torch.softmax(logits.double() / temperature, dim=0), descending=True, stable=True)
    before = probabilities.cumsum(0) - probabilities  # mass of the tokens that are likelier
    keep = before < top_p
    if top_k:
        keep[top_k:] = False
    keep[0] = True
    return order[torch.multinomial(probabilities * keep, 1, generator=generator)[0]]


@torch.inference_mode()
def generate(
    model: GPT,
    tokenizer: Tokenizer,
    prompt: list[int],
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> Iterator[int]:
    """Yield ids that continue `prompt` (beginning-of-text included), until end-of-text or `max_new_tokens`.

    Once the context is full it slides: the oldest tokens drop out. Control symbols and the rows that pad the
    vocabulary are never drawn. `generator` lives on the CPU, so a seed gives the same text on every device.
    """
    device = model.wte.weight.device
    ids = torch.tensor([prompt], device=device)
    for _ in range(max_new_tokens):
        logits = model(ids[:, -model.config.block_size :])[0, -1].float().cpu()
        if logits.isnan().any():
            raise UserError(
                "the model's logits are not numbers, its weights were ruined in training; use an older checkpoint"
            )
        logits[tokenizer.vocab_size :] = -torch.inf
        logits[[i for i in tokenizer.control if i != EOS]] = -torch.inf
        token = pick(logits, temperature, top_k, top_p, generator)
        if token == EOS:
            return
        yield int(token)
        ids = torch.cat([ids, token.to(device).view(1, 1)], dim=1)


def prompt_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return [BOS, *tokenizer.encode(text)]


def stream(tokenizer: Tokenizer, ids: Iterator[int]) -> Iterator[str]:
    """The text of `ids` in pieces: bytes are held back until they make a whole character. Joined, it is the decoding."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for token in ids:
        if text := decoder.decode(tokenizer.piece_bytes[token]):
            yield text
    if text := decoder.decode(b"", final=True):
        yield text
