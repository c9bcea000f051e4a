"""Linear layers in fp8 as a variant of the bench: tensorwise scales, e4m3 forward, e5m2 for gradients.

The recipe is that of PyTorch's own float8 training (torchao): both operands are scaled so that their largest value is
fp8's largest, the product is accumulated in float32 and scaled back. Kept out of training until a GPU shows that it
is faster at this width; embedding, head and attention stay as they are.
"""

from typing import Any

import torch
import torch.nn as nn
from torch.autograd.function import once_differentiable

FORWARD, GRADIENT = torch.float8_e4m3fn, torch.float8_e5m2


class Fp8Linear(nn.Linear):
    """A linear layer whose three products run in fp8; its weight stays as it was."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        with torch.autocast(device, enabled=False):
            y = _Fp8Product.apply(x.flatten(0, -2).to(dtype), self.weight.to(dtype))
        y = y.view(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias.to(dtype)


class _Fp8Product(torch.autograd.Function):
    """(N, in) times (out, in) transposed -> (N, out)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, FORWARD, weight.t(), FORWARD, fast=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, weight = ctx.saved_tensors
        # A gradient's small values matter, so its products are accumulated exactly.
        by_x = _product(gradient, GRADIENT, weight, FORWARD, fast=False)
        by_weight = _product(gradient.t(), GRADIENT, x, FORWARD, fast=False)
        return by_x, by_weight


def _product(a: torch.Tensor, a_kind: torch.dtype, b: torch.Tensor, b_kind: torch.dtype, fast: bool) -> torch.Tensor:
    """a (M, K) @ b (K, N) in fp8, in the format of `a`. The hardware wants a by rows and b by columns."""
    a8, a_scale = _quantized(a, a_kind)
    b8, b_scale = _quantized(b, b_kind)
    product: torch.Tensor = torch._scaled_mm(
        a8.contiguous(),
        b8.t().contiguous().t(),
        scale_a=a_scale,
        scale_b=b_scale,
        out_dtype=a.dtype,
        use_fast_accum=fast,
    )
    return product


def _quantized(x: torch.Tensor, kind: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """`x` in fp8 and the factor (float32, 0-d) that brings it back."""
    scale = torch.finfo(kind).max / x.abs().amax().float().clamp(min=1e-12)
    return (x.float() * scale).to(kind), scale.reciprocal()


def use_fp8(model: nn.Module) -> None:
    """Compute the linear layers of every block in fp8 from now on; parameters and their names stay.

    Raises ValueError for sizes that are no multiples of 16, which the hardware cannot do.
    """
    for module in model.modules():
        if type(module) is nn.Linear:
            if module.in_features % 16 or module.out_features % 16:
                raise ValueError(f"fp8 needs widths that are multiples of 16, not {tuple(module.weight.shape)}")
            module.__class__ = Fp8Linear
