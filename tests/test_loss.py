"""The loss in chunks is the loss: value and gradients, in every way a step is computed."""

import shutil

import pytest
import torch

from model import GPT, IGNORE, GPTConfig
from oracle.hardware import autocast

CPU = torch.device("cpu")
V = 112
SHAPE = GPTConfig(block_size=12, vocab_size=V, n_layer=1, n_head=2, n_embd=32)


def batch(rows: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(0, V, (rows, 13), generator=torch.Generator().manual_seed(1))
    targets = tokens[:, 1:].clone()
    targets[:, :3] = IGNORE
    targets[0] = IGNORE  # a chunk in which nothing counts
    return tokens[:, :-1], targets


def network(chunks: int) -> GPT:
    torch.manual_seed(0)
    model = GPT(SHAPE)
    model.loss_chunks = chunks
    with torch.no_grad():
        model.wte.weight.mul_(20)  # probabilities far from uniform
    return model


def step(
    chunks: int, micro_batches: int = 1, dtype: torch.dtype = torch.float32, backend: str = "",
    reduction: str = "sum", scale: float = 1.0,
) -> tuple[float, dict[str, torch.Tensor]]:  # fmt: skip
    """Loss and gradients of one step as the training loop computes them."""
    model = network(chunks)
    forward = torch.compile(model, backend=backend, fullgraph=True, dynamic=False) if backend else model
    total, (x, y) = 0.0, batch()
    for xs, ys in zip(x.chunk(micro_batches), y.chunk(micro_batches), strict=True):
        with autocast(CPU, dtype)():
            part = forward(xs, ys, reduction=reduction) * scale
        part.backward()
        total += part.item()
    return total, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same(one, other, rtol: float, atol: float) -> None:
    assert one[0] == pytest.approx(other[0], rel=rtol)
    assert one[1].keys() == other[1].keys()
    for name, gradient in one[1].items():
        assert gradient.dtype == torch.float32
        size = other[1][name].abs().max().item()
        torch.testing.assert_close(gradient, other[1][name], rtol=rtol, atol=atol * size)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("chunks", [2, 5, 7, 48, 1000])
def test_chunks_change_nothing(chunks, reduction):
    assert_same(step(chunks, reduction=reduction), step(1, reduction=reduction), 1e-5, 1e-5)


@pytest.mark.parametrize("chunks", [2, 7])
def test_chunks_in_bfloat16_are_as_near_to_float32_as_without(chunks):
    exact = step(1)[1]["wte.weight"]
    distance = {n: (step(n, dtype=torch.bfloat16)[1]["wte.weight"] - exact).norm() for n in (1, chunks)}
    assert distance[chunks] < 1.2 * distance[1] < 0.05 * exact.norm()
    assert_same(step(chunks, dtype=torch.bfloat16), step(1, dtype=torch.bfloat16), 0.03, 0.03)


def test_a_scaled_loss_has_scaled_gradients():
    loss, gradients = step(3)
    scaled, scaled_gradients = step(3, scale=1024.0)
    assert scaled == pytest.approx(1024 * loss)
    for name, gradient in gradients.items():
        torch.testing.assert_close(scaled_gradients[name], 1024 * gradient, rtol=1e-4, atol=1e-2)


def test_the_losses_own_gradients_are_exact_to_finite_differences():
    from oracle.loss import chunked_cross_entropy

    torch.manual_seed(0)
    hidden = torch.randn(6, 4, requires_grad=True)
    weight = torch.randn(9, 4, requires_grad=True)
    targets = torch.tensor([1, 8, IGNORE, 0, 3, 3])
    chunked_cross_entropy(hidden, weight, targets, 4, IGNORE).backward()
    assert not hidden.grad[2].any()
    with torch.no_grad():
        for tensor in (hidden, weight):
            moved = torch.zeros_like(tensor)
            moved[1, 2] = 1e-2
            ends = []
            for sign in (1, -1):
                tensor += sign * moved
                ends.append(chunked_cross_entropy(hidden, weight, targets, 4, IGNORE).item())
                tensor -= sign * moved
            assert tensor.grad[1, 2].item() == pytest.approx((ends[0] - ends[1]) / 2e-2, rel=2e-2)


def test_evaluation_and_other_reductions():
    x, y = batch()
    chunked, plain = network(5).eval(), network(1).eval()
    with torch.no_grad():
        torch.testing.assert_close(chunked(x, y, reduction="sum"), plain(x, y, reduction="sum"))
        torch.testing.assert_close(chunked(x, y, reduction="none"), plain(x, y, reduction="none"))
        torch.testing.assert_close(chunked(x), plain(x))
        assert chunked(x, torch.full_like(y, IGNORE), reduction="sum") == 0


def test_the_whole_logits_are_never_there():
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = [0]

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple | list) else [out]:
                if isinstance(tensor, torch.Tensor) and tensor.dim() > 1 and tensor.shape[-1] == V:
                    largest[0] = max(largest[0], tensor.numel())
            return out

    x, y = batch(16)  # more tokens than the model is wide: the weight itself is not mistaken for logits
    for chunks, expected in ((1, 192 * V), (4, 48 * V)):
        largest[0] = 0
        model = network(chunks)
        with Watch():
            model(x, y).backward()
        assert largest[0] == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunks", [1, 3])
@pytest.mark.parametrize("backend", ["", "aot_eager"])
def test_gradients_of_micro_batches_are_those_of_one_large_eager_batch(chunks, dtype, backend):
    """In every mode there is. The reference is in float32; bfloat16 has eight bits."""
    tolerance = 1e-4 if dtype == torch.float32 else 0.04
    assert_same(step(chunks, 4, dtype, backend), step(1), tolerance, tolerance)


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_the_same_from_the_true_compiler():
    assert_same(step(3, 4, torch.bfloat16, "inductor"), step(1), 0.04, 0.04)
