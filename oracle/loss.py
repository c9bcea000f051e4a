"""Cross-entropy of a tied head without the whole logits, which are the largest tensor of a training step.

A chunk of tokens at a time has its logits, its loss and both of its gradients computed, all in the forward pass; only
the gradients stay. The matrix products are the three that any head needs, none is done twice. The idea is Liger
Kernel's (arXiv 2410.10989); this is plain PyTorch that torch.compile sees through, as part of the model's one graph.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable


def chunked_cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, chunks: int, ignore_index: int
) -> torch.Tensor:
    """Sum of the cross-entropies in nats (scalar, float32) of `hidden` (N, C) times `weight` (V, C) to `targets` (N).

    Targets equal to `ignore_index`, a negative number, do not count. The `chunks` need not be of one size. Products
    are in autocast's format where there is one; the gradient of `weight` is added up in its own, float32.
    """
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    if torch.is_grad_enabled():
        total: torch.Tensor = _ChunkedCrossEntropy.apply(hidden, weight, targets, chunks, ignore_index, dtype)
        return total
    total, matrix = torch.zeros((), device=hidden.device), weight.to(dtype)
    for h, t in zip(hidden.chunk(chunks), targets.chunk(chunks), strict=True):
        logits = (h.to(dtype) @ matrix.t()).float()
        total = total + F.cross_entropy(logits, t, ignore_index=ignore_index, reduction="sum")
    return total


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor,
        chunks: int, ignore_index: int, dtype: torch.dtype,
    ) -> torch.Tensor:  # fmt: skip
        total = torch.zeros((), device=hidden.device)
        matrix, pieces = weight.to(dtype), torch.arange(len(weight), device=weight.device)
        hidden_gradients, weight_gradient = [], torch.zeros_like(weight)
        for h, t in zip(hidden.to(dtype).chunk(chunks), targets.chunk(chunks), strict=True):
            t = t.unsqueeze(1)
            counts = t != ignore_index
            logp = F.log_softmax((h @ matrix.t()).float(), dim=-1)
            total = total - (logp.gather(1, t.clamp(min=0)) * counts).sum()
            # The gradient of the logits: probability minus truth, in place because this is what memory is short of.
            error = logp.exp_().add_(pieces == t, alpha=-1).mul_(counts).to(dtype)
            del logp
            hidden_gradients.append(error @ matrix)
            weight_gradient += error.t() @ h
        ctx.save_for_backward(torch.cat(hidden_gradients), weight_gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden_gradient, weight_gradient = ctx.saved_tensors
        return hidden_gradient * gradient, weight_gradient * gradient, None, None, None, None
