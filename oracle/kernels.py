"""Matrices that few rows are multiplied with: on a CPU, as fast as memory can be read.

Writing a text multiplies one row with every matrix of the model, so its speed is that of reading them. PyTorch's own
matrix product reaches half of it for one row; a sum over products, which torch.compile's backend turns into one
vectorised loop, reaches all of it, takes a few rows at once for little more, and works on weights of any format.
int8 weights are taken four at a time as one int32 and unpacked by shifts and masks, which every processor does well; the
four come from the four quarters of a row, so that each meets a stretch of the inputs as they are, without reordering them.

Scales are one for each output, activations stay float32: a row's result does not depend on the rows beside it.
"""

import functools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

GROUPS = (8, 4, 2, 1)  # rows that share one reading of the matrix
FEW = 32  # rows beyond which an ordinary matrix product is faster
LARGE = 1 << 19  # elements from which a loop of its own pays for being compiled
LANES = 4  # int8 weights in an int32
TOP = -(1 << 24)  # mask of an int32's uppermost byte

Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Matrix:
    """A linear layer: `stored` (out, in) in float32, bfloat16 or int8, this as `quantize` gives it, with a `scale` (out).

    Called with rows (N, in) in float32 it returns (N, out) in float32.
    """

    def __init__(self, stored: torch.Tensor, bias: torch.Tensor | None, scale: torch.Tensor | None = None) -> None:
        self.stored = stored
        self.bias = torch.zeros(len(stored)) if bias is None else bias
        self.scale = torch.ones(len(stored)) if scale is None else scale
        # As float32, in which PyTorch's vectors are read fastest: int32 ones go over the stack, five times as slow on AMD's.
        four = stored.dtype == torch.int8 and stored.shape[1] % LANES == 0
        self._lanes = stored.view(torch.float32) if four else None

    @property
    def nbytes(self) -> int:
        return self.stored.nbytes + (self.scale.nbytes if self.stored.dtype == torch.int8 else 0)

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Its rows `ids` (N) as an embedding: (N, in)."""
        found = self.stored[ids].float()
        return found if self.stored.dtype != torch.int8 else deinterleave(found) * self.scale[ids, None]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.shape[0]  # asked for once: a hundred matrices a token feel what it costs
        if rows > FEW or self.stored.numel() < LARGE:
            return self._product(x)
        if rows in GROUPS:
            return self._few(x, rows)
        parts, first = [], 0
        while first < rows:
            size = next(n for n in GROUPS if n <= rows - first)
            parts.append(self._few(x[first : first + size], size))
            first += size
        return torch.cat(parts)

    def _product(self, x: torch.Tensor) -> torch.Tensor:
        if self.stored.dtype == torch.int8:
            return F.linear(interleave(x), self.stored.float()) * self.scale + self.bias
        return F.linear(x, self.stored.float(), self.bias)

    def _few(self, x: torch.Tensor, rows: int) -> torch.Tensor:
        stored, kind = (self.stored, self.stored.dtype) if self._lanes is None else (self._lanes, torch.int32)
        kernel = compiled_kernel(rows, stored.shape, kind, torch.get_num_threads())
        if not kernel:
            return self._uncompiled(x)
        x = x.contiguous()
        return kernel(stored, self.scale, self.bias, x if self._lanes is None else x.view(rows, LANES, -1))

    def _uncompiled(self, x: torch.Tensor) -> torch.Tensor:
        """The fastest of PyTorch's own, where there is no compiler; in bfloat16 but for float32 weights."""
        if self.stored.dtype == torch.float32:
            return F.linear(x, self.stored, self.bias)
        if self.stored.dtype == torch.bfloat16:
            return F.linear(x.bfloat16(), self.stored).float() + self.bias
        product: torch.Tensor = torch._weight_int8pack_mm(interleave(x).bfloat16(), self.stored, self.scale.bfloat16())
        return product.float() + self.bias


def quantize(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`weight` (out, in) as int8, its columns interleaved, and the scale (out) of each row: its largest value becomes 127."""
    scale = weight.float().abs().amax(1).clamp(min=1e-12) / 127
    return interleave((weight.float() / scale[:, None]).round().to(torch.int8)), scale


def interleave(x: torch.Tensor) -> torch.Tensor:
    """Columns (…, n) in the order of stored int8: the first of each quarter, the second of each; n must divide by 4 for it."""
    return x if x.shape[-1] % LANES else x.unflatten(-1, (LANES, -1)).transpose(-1, -2).flatten(-2)


def deinterleave(x: torch.Tensor) -> torch.Tensor:
    """The inverse of `interleave`."""
    return x if x.shape[-1] % LANES else x.unflatten(-1, (-1, LANES)).transpose(-1, -2).flatten(-2)


def _sums_of_products(w: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """w (out, in) of any floating format, x (n, in) -> (n, out). One loop over w for all rows of x."""
    wide = w.to(torch.float32)
    return torch.stack([(wide * row).sum(-1) for row in x.unbind()]) + bias


def _sums_of_lanes(w: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """w (out, in / 4) of 32 bits that are four int8, x (n, 4, in / 4): a row's quarters -> (n, out)."""
    w = w.view(torch.int32)
    # Each number is moved into the uppermost byte, so it counts 2^24 times: masks cost less than shifts back down.
    a, b, c = (part.to(torch.float32) for part in (w << 24, (w << 16) & TOP, (w << 8) & TOP))
    # The same number both ways; with four rows AVX-512 code with a mask here is a third slower.
    d = (w & TOP).to(torch.float32) if len(x) < 4 else (w >> 24).to(torch.float32) * 2.0**24
    sums = [(a * row[0] + b * row[1] + c * row[2] + d * row[3]).sum(-1) for row in x.unbind()]
    return torch.stack(sums) * (scale * 2.0**-24) + bias


def keep_compiled() -> None:
    """Have PyTorch keep what it compiles where a restart finds it; its own choice is a folder that a boot empties.

    To be called before anything of PyTorch's compiler is imported: it makes its choice then.
    """
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nanooracle"
        home.mkdir(parents=True, exist_ok=True)
        if os.access(home, os.W_OK | os.X_OK):
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(home))
    except (OSError, RuntimeError):  # no home, or none that this user may write
        pass


@functools.cache
def compiled_kernel(n: int, shape: torch.Size, dtype: torch.dtype, threads: int) -> Kernel | None:
    """The loop for `n` rows and a matrix of `shape`, compiled once on a machine, fetched once a process.

    `dtype` is that of the weights, int32 for int8 in fours.

    None, with a warning the first time, where there is no C++ compiler. The number of `threads` is part of the code.
    """
    try:
        return _compile(n, shape, dtype)
    except Exception as error:
        _warn_once(next(iter(str(error).strip().splitlines()), type(error).__name__))
        return None


def _compile(n: int, shape: Sequence[int], dtype: torch.dtype) -> Kernel:
    import torch._inductor as inductor  # slow to import, and small models do without
    from torch._inductor import config
    from torch.fx.experimental.proxy_tensor import make_fx

    lanes = dtype == torch.int32
    function = _sums_of_lanes if lanes else _sums_of_products
    x = torch.zeros(n, LANES, shape[1]) if lanes else torch.zeros(n, shape[1])
    stored = torch.zeros(shape, dtype=torch.float32 if lanes else dtype)
    inputs: list[Any] = [stored, torch.ones(shape[0]), torch.zeros(shape[0]), x]
    # The compiler looks at the processor and not at what PyTorch was told to make of it.
    width = 256 if torch.backends.cpu.get_cpu_capability() == "AVX2" else None
    with config.patch({"cpp.simdlen": width}):
        kernel: Kernel = inductor.compile(make_fx(function, tracing_mode="fake")(*inputs), inputs)
        kernel(*inputs)
    return kernel


@functools.cache
def _warn_once(reason: str) -> None:
    print(
        f"warning: no C++ compiler for the fast kernels ({reason}); writing goes on with slower ones", file=sys.stderr
    )
