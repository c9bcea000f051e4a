"""Which parameters decay, and what the learning rate is at every step."""

import itertools

import pytest
import torch

from model import GPT, GPTConfig
from oracle.optim import learning_rate, make_optimizer
from oracle.settings import Config

SCHEDULE = Config(learning_rate=1.0, min_lr=0.1, warmup_iters=10, max_iters=100)


def test_decay_on_matrices_only():
    model = GPT(GPTConfig(block_size=8, vocab_size=64, n_layer=1, n_head=2, n_embd=32))
    decayed, free = make_optimizer(model, Config(weight_decay=0.3)).param_groups
    assert decayed["weight_decay"] == 0.3 and free["weight_decay"] == 0
    names = {id(p): n for n, p in model.named_parameters()}
    assert {names[id(p)] for p in free["params"]} == {n for n in names.values() if n.endswith("bias") or "ln_" in n}
    assert len(decayed["params"]) + len(free["params"]) == len(names)


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
def test_warm_up_starts_above_zero_and_reaches_the_peak(kind):
    config = Config(**{**vars(SCHEDULE), "lr_schedule": kind})
    rates = [learning_rate(s, config, 100) for s in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == pytest.approx(1.0) and max(rates) == pytest.approx(1.0)
    assert rates[99] == pytest.approx(1.0 if kind == "constant" else 0.1)
    assert all(a >= b for a, b in itertools.pairwise(rates[9:]))


def test_cosine_and_linear_by_hand():
    half = 10 + (99 - 10) / 2
    cosine = (learning_rate(int(half), SCHEDULE, 100) + learning_rate(int(half) + 1, SCHEDULE, 100)) / 2
    assert cosine == pytest.approx(0.55, abs=1e-3)
    linear = Config(**{**vars(SCHEDULE), "lr_schedule": "linear"})
    assert learning_rate(40, linear, 100) == pytest.approx(1 - 0.9 * 30 / 89)


def test_decay_may_end_early_and_warm_up_may_be_none():
    early = Config(**{**vars(SCHEDULE), "lr_decay_iters": 50})
    assert learning_rate(49, early, 100) == learning_rate(80, early, 100) == pytest.approx(0.1)
    assert learning_rate(0, Config(**{**vars(SCHEDULE), "warmup_iters": 0}), 100) == 1.0


def test_gradients_do_not_depend_on_the_split_into_micro_batches():
    """Even with ignored targets spread unevenly, the classic mean-of-means mistake."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(block_size=8, vocab_size=64, n_layer=2, n_head=2, n_embd=32))
    x, y = torch.randint(0, 64, (2, 6, 8)).unbind()
    y[0, 1:] = -1
    y[3, :5] = -1
    gradients = []
    for size in (6, 2, 1):
        model.zero_grad()
        for part in range(0, 6, size):
            (model(x[part : part + size], y[part : part + size], reduction="sum") / (y != -1).sum()).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(gradients[0], gradients[2], rtol=1e-4, atol=1e-7)
