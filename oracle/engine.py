"""GPT-2 as it writes: what was read is kept as keys and values, so every token goes through the network once.

The network takes a ragged batch: some tokens of each of several texts, one token where a text is being written, many
where a prompt is being read. Everything but attention treats them as one pile of rows; attention looks at each text's
own past. So texts of different lengths share a step without padding, and none depends on its neighbours.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F

from model import GPT, GPTConfig

Linear = Callable[[torch.Tensor], torch.Tensor]  # (N, in) -> (N, out)


@dataclass(frozen=True)
class Span:
    """Tokens of one text: they stand at positions `start` to `start + count` of the text in cache row `slot`."""

    slot: int
    start: int
    count: int


class Network(Protocol):
    """What the requests in flight need of a model."""

    config: GPTConfig
    slots: int

    def forward(self, tokens: torch.Tensor, spans: Sequence[Span], every: bool = False) -> torch.Tensor:
        """Logits (spans, V) after each span's last token, or after `every` token (N, V); float32, on the CPU.

        `tokens` (N) holds the spans' tokens one after the other. A span must begin where its slot's text ended, or
        earlier: what lay behind is then forgotten.
        """
        ...

    def copy(self, source: int, target: int, length: int) -> None:
        """Give slot `target` the first `length` positions of slot `source`."""
        ...

    @property
    def bytes_per_token(self) -> int:
        """Bytes of weights that writing one token reads."""
        ...


@dataclass(frozen=True)
class Layer:
    """A block's parts, each a function of rows."""

    ln_1: Linear
    attn_in: Linear  # c_attn
    attn_out: Linear  # c_proj
    ln_2: Linear
    mlp_in: Linear  # c_fc
    mlp_out: Linear  # c_proj


@dataclass(frozen=True)
class Parts:
    """All of a network's parts: what `oracle/engine.py` computes with, whatever format the weights are in."""

    embedding: Linear  # ids (N) -> (N, C): here the rows are token ids
    positions: torch.Tensor  # block_size, C
    layers: Sequence[Layer]
    ln_f: Linear
    head: Linear
    bytes_per_token: int


class CachedGPT:
    """The network over `parts` with a cache of `slots` texts of at most `block_size` tokens each."""

    def __init__(self, config: GPTConfig, parts: Parts, slots: int = 1) -> None:
        self.config, self.parts, self.slots = config, parts, slots
        shape = (config.n_layer, slots, config.n_head, config.block_size, config.n_embd // config.n_head)
        # Not zeroed: memory that no text has reached yet is not taken from the system either.
        self.keys = torch.empty(shape, device=parts.positions.device, dtype=parts.positions.dtype)
        self.values = torch.empty_like(self.keys)

    @property
    def bytes_per_token(self) -> int:
        return self.parts.bytes_per_token

    @torch.inference_mode()
    def forward(self, tokens: torch.Tensor, spans: Sequence[Span], every: bool = False) -> torch.Tensor:
        """See `Network.forward`."""
        device = self.parts.positions.device
        places = torch.cat([torch.arange(s.start, s.start + s.count) for s in spans])
        x = self.parts.embedding(tokens.to(device)) + self.parts.positions[places.to(device)]  # N, C
        for number, layer in enumerate(self.parts.layers):
            x = x + layer.attn_out(self._attend(number, layer.attn_in(layer.ln_1(x)), spans))
            x = x + layer.mlp_out(F.gelu(layer.mlp_in(layer.ln_2(x)), approximate="tanh"))
        if not every:
            x = x[torch.tensor([s.count for s in spans], device=device).cumsum(0) - 1]
        return self.parts.head(self.parts.ln_f(x)).float().cpu()

    def _attend(self, layer: int, qkv: torch.Tensor, spans: Sequence[Span]) -> torch.Tensor:
        """Causal attention of each span over its own text; (N, 3C) -> (N, C)."""
        N, H = len(qkv), self.config.n_head
        q, k, v = (part.view(N, H, -1).transpose(0, 1) for part in qkv.chunk(3, dim=1))  # H, N, C/H
        out, first = [], 0
        for s in spans:
            rows, end = slice(first, first + s.count), s.start + s.count
            keys, values = self.keys[layer, s.slot], self.values[layer, s.slot]  # H, block_size, C/H
            keys[:, s.start : end] = k[:, rows]
            values[:, s.start : end] = v[:, rows]
            mask = None
            if s.start and s.count > 1:  # a prompt read in parts: all of the past, and causal among themselves
                mask = torch.ones(s.count, end, dtype=torch.bool, device=qkv.device).tril(s.start)
            y = F.scaled_dot_product_attention(
                q[None, :, rows], keys[None, :, :end], values[None, :, :end],
                attn_mask=mask, is_causal=s.count > 1 and not s.start,
            )  # fmt: skip
            out.append(y[0].transpose(0, 1).reshape(s.count, -1))
            first += s.count
        return torch.cat(out) if len(out) > 1 else out[0]

    def copy(self, source: int, target: int, length: int) -> None:
        """See `Network.copy`."""
        for cache in (self.keys, self.values):
            cache[:, target, :, :length] = cache[:, source, :, :length]


class Uncached:
    """The same interface over a GPT as it is trained, reading everything anew for every token.

    The reference the cache is tested against, and the way to sample from weights that are shared out (FSDP).
    """

    def __init__(self, model: GPT, slots: int = 1) -> None:
        self.model, self.config, self.slots = model, model.config, slots
        self._texts: list[list[int]] = [[] for _ in range(slots)]

    @property
    def bytes_per_token(self) -> int:
        return sum(p.numel() * p.element_size() for p in self.model.parameters())

    @torch.inference_mode()
    def forward(self, tokens: torch.Tensor, spans: Sequence[Span], every: bool = False) -> torch.Tensor:
        """See `Network.forward`."""
        out, device = [], self.model.wte.weight.device
        for s, new in zip(spans, tokens.split([s.count for s in spans]), strict=True):
            text = self._texts[s.slot] = self._texts[s.slot][: s.start] + new.tolist()
            logits = self.model(torch.tensor([text], device=device))[0].float().cpu()
            out.append(logits[s.start :] if every else logits[-1:])
        return torch.cat(out)

    def copy(self, source: int, target: int, length: int) -> None:
        """See `Network.copy`."""
        self._texts[target] = self._texts[source][:length]


def parts_of(config: GPTConfig, tensors: Mapping[str, torch.Tensor]) -> Parts:
    """The parts over a GPT's own tensors by name (`dict(model.named_parameters())`), not copied, in their own format."""

    def linear(name: str) -> Linear:
        return partial(F.linear, weight=tensors[f"{name}.weight"], bias=tensors.get(f"{name}.bias"))

    def norm(name: str) -> Linear:
        weight, bias = tensors[f"{name}.weight"], tensors.get(f"{name}.bias")
        return partial(F.layer_norm, normalized_shape=(config.n_embd,), weight=weight, bias=bias)

    layers = [
        Layer(
            norm(f"h.{n}.ln_1"), linear(f"h.{n}.attn.c_attn"), linear(f"h.{n}.attn.c_proj"),
            norm(f"h.{n}.ln_2"), linear(f"h.{n}.mlp.c_fc"), linear(f"h.{n}.mlp.c_proj"),
        )
        for n in range(config.n_layer)
    ]  # fmt: skip
    table = tensors["wte.weight"]
    read = sum(t.numel() * t.element_size() for name, t in tensors.items() if name != "wpe.weight")
    return Parts(partial(F.embedding, weight=table), tensors["wpe.weight"], layers, norm("ln_f"), linear("wte"), read)


def cached(model: GPT, slots: int = 1) -> CachedGPT:
    """The engine's network over a live model's weights."""
    return CachedGPT(model.config, parts_of(model.config, dict(model.named_parameters())), slots)
