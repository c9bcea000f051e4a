"""The network and nothing else: GPT-2, as OpenAI published it (Radford et al. 2019).

Learned positions, pre-norm blocks, tanh-approximated GELU, a head tied to the token embedding. Letters at line
ends give shapes: B batch, T time (tokens), C channels (n_embd), H heads, V vocabulary (padded).
"""

import functools
import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

from oracle.loss import chunked_cross_entropy

IGNORE = -1  # a target that does not count: padding, or a prompt's tokens


@dataclass(frozen=True)
class GPTConfig:
    block_size: int = 1024
    vocab_size: int = 50304  # rows of the embedding: the tokenizer's pieces, padded
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    dropout: float = 0.0
    bias: bool = True


class SelfAttention(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.dropout = config.dropout
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.resid_dropout = nn.Dropout(config.dropout)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        B, T, C = x.shape
        # split, not one 5-d permute: its backward is a single concatenation
        q, k, v = (
            p.view(B, T, self.n_head, -1).transpose(1, 2) for p in self.c_attn(x).split(C, dim=2)
        )  # B, H, T, C/H
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None)
        y = y.transpose(1, 2).reshape(B, T, C)
        return self.resid_dropout(self.c_proj(y))


class MLP(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.c_proj(F.gelu(self.c_fc(x), approximate="tanh")))


class Block(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.attn = SelfAttention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.mlp = MLP(config)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        x = x + self.attn(self.ln_1(x), mask)
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """Parameter names are those of transformers' `GPT2Model`; linear weights are (out, in), not Conv1D's (in, out)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.loss_chunks = 1  # more take less memory while training: see oracle/loss.py
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)  # also the output head
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.drop = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.init_weights()

    def init_weights(self) -> None:
        """GPT-2's initialisation: N(0, 0.02), and 0.02 / sqrt(2 n_layer) where a block adds to the residual stream."""
        for name, p in self.named_parameters():
            if name.endswith(".bias"):
                nn.init.zeros_(p)
            elif p.dim() == 1:  # layer norm gain
                nn.init.ones_(p)
            else:
                residual = name.endswith("c_proj.weight")
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * self.config.n_layer) if residual else 0.02)

    def forward(
        self,
        idx: torch.Tensor,
        targets: torch.Tensor | None = None,
        places: torch.Tensor | None = None,
        *,
        reduction: str = "mean",
    ) -> torch.Tensor:
        """Logits (B, T, V) for `idx` (B, T); with `targets` (B, T) their cross-entropy in nats instead.

        Targets equal to IGNORE do not count. `reduction` is "mean" over those that do, "sum", or "none" (B*T),
        which is never chunked. `places` (B, T) are the tokens' positions where a row holds several texts: each begins
        at 0, and none sees another.
        Raises ValueError for an `idx` longer than the context.
        """
        _, T = idx.shape
        if self.config.block_size < T:
            raise ValueError(f"{T} tokens given, the context holds {self.config.block_size}: crop to the last ones")
        positions = self.wpe.weight[:T] if places is None else self.wpe(places)
        mask = None if places is None else separate(places)
        x = self.drop(self.wte(idx) + positions)  # B, T, C
        for block in self.h:
            x = block(x, mask)
        x = self.ln_f(x)
        if targets is not None and self.loss_chunks > 1 and reduction != "none":
            total = chunked_cross_entropy(x.flatten(0, 1), self.wte.weight, targets.flatten(), self.loss_chunks, IGNORE)
            return total if reduction == "sum" else total / (targets != IGNORE).sum()
        logits = F.linear(x, self.wte.weight)  # B, T, V
        if targets is None:
            return logits
        # Upcast inside the loss: under torch.compile the float32 copy of the logits is never written out.
        return F.cross_entropy(
            logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction=reduction
        )


def separate(places: torch.Tensor) -> torch.Tensor:
    """Who sees whom (B, 1, T, T) where each text in a row (B, T) begins at place 0: the past of one's own text."""
    text = (places == 0).cumsum(1)
    return (text[:, :, None] == text[:, None, :]).tril()[:, None]


@functools.cache
def count_parameters(config: GPTConfig, positions: bool = True) -> int:
    """Parameters of the model, the tied embedding counted once; without the position table if asked."""
    with torch.device("meta"):
        total = sum(p.numel() for p in GPT(config).parameters())
    return total if positions else total - config.block_size * config.n_embd


def flops_per_token(config: GPTConfig) -> float:
    """Training FLOPs (forward and backward) per token by PaLM's formula, as nanoGPT counts them: 6 N + 12 L C T."""
    attention = 12 * config.n_layer * config.n_embd * config.block_size
    return 6 * count_parameters(config, positions=False) + attention
