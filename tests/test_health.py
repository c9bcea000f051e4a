"""Sick steps: found on the device, left out by the optimizer, named with their documents, survived or not as configured."""

import math

import pytest
import torch

import train
from model import GPT
from oracle.cli import UserError
from oracle.health import ENOUGH, IN_A_ROW, WINDOW, Health, describe, give_up
from oracle.loader import PretrainingBatches
from oracle.logbook import read
from oracle.settings import Config
from tests.runs import metrics, run_dir, weights

CPU = torch.device("cpu")


@pytest.fixture
def patient():
    """(health, step): `step(number, loss, norm)` does one optimizer step and says whether the weight moved."""
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
    health = Health(Config(), CPU, scaled=False)

    def step(number: int, loss: float, norm: float = 1.0) -> bool:
        before = weight.detach().clone()
        weight.grad = torch.full((2,), norm)
        health.step(number, torch.tensor(loss), torch.tensor(norm), optimizer)
        return not torch.equal(before, weight)

    return health, step


def test_what_is_no_number_changes_nothing(patient):
    health, step = patient
    assert step(0, 3.0)
    assert not step(1, math.nan) and not step(2, 3.0, math.inf) and not step(3, math.inf, math.nan)
    assert step(4, 3.0)
    sick = health.sick_steps()
    assert [(s.step, s.kind) for s in sick] == [(2, "not a number"), (3, "not a number"), (4, "not a number")]
    assert health.sick_steps() == []
    assert "its gradient is not a number" in describe(sick[1], ["a", "b"])


def test_a_spike_is_above_six_sigma_of_the_last_losses(patient):
    health, step = patient
    losses = torch.randn(WINDOW, generator=torch.Generator().manual_seed(0)) * 0.1 + 3
    for number, loss in enumerate(losses.tolist()):
        assert step(number, loss if number < ENOUGH else min(loss, 3.3))
    limit = 3 + 6 * 0.1
    assert step(WINDOW, limit - 0.15) and not step(WINDOW + 1, limit + 0.15)
    (sick,) = health.sick_steps()
    assert (
        sick.kind == "spike"
        and sick.loss == pytest.approx(limit + 0.15)
        and sick.limit == pytest.approx(limit, abs=0.1)
    )
    assert describe(sick, [str(n) for n in range(8)]).endswith("0, 1, 2, 3, 4 and 3 more (metrics.jsonl has all)")


def test_early_losses_and_a_lasting_rise_are_no_spikes(patient):
    health, step = patient
    assert all(step(number, 10.0 if number == 5 else 1.0) for number in range(ENOUGH - 1))
    skipped = [not step(number, 2.0 + 0.01 * (number % 5)) for number in range(200, 200 + 3 * WINDOW)]
    assert not any(skipped[-WINDOW:])
    health.sick_steps()
    assert not health.hopeless


def test_overflow_in_float16_is_the_scalers_business():
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
    weight.grad = torch.ones(2)
    health = Health(Config(), CPU, scaled=True)
    health.step(0, torch.tensor(3.0), torch.tensor(math.inf), optimizer)
    assert torch.equal(weight, torch.ones(2)) and not health.sick_steps()
    health.step(1, torch.tensor(math.nan), torch.tensor(math.nan), optimizer)
    assert len(health.sick_steps()) == 1


def test_its_memory_is_part_of_a_checkpoint(patient):
    health, step = patient
    for number in range(70):
        step(number, 2.0 + 0.1 * (number % 3))
    other = Health(Config(), CPU, scaled=False)
    other.load(health.state())
    assert torch.equal(other.losses[:70], health.losses[:70])
    assert other.recent_loss(70) == health.recent_loss(70) == pytest.approx(2.1, abs=0.01)
    assert Health(Config(), CPU, scaled=False).recent_loss(0) is None


def test_what_to_try():
    config = Config(dtype="float16", grad_clip=0.0, on_sick_step="stop")
    message = str(give_up("step 7: loss nan", config, hopeless=False))
    for expected in ("step 7", "--learning_rate (0.0006)", "--warmup_iters", "--dtype=bfloat16", "--grad_clip", "skip"):
        assert expected in message
    assert str(give_up("step 7", config, hopeless=True)).startswith(f"{IN_A_ROW} sick steps in a row")


@pytest.fixture
def poisoned(monkeypatch):
    """From the forward pass that reads `poisoned.step` on, the loss is NaN for as many steps as `poisoned.steps` says."""

    class Poison:
        step, steps = 4, 1

    batches, forward = PretrainingBatches.step, GPT.forward
    now = []

    def step(self, number):
        now[:] = [number]
        return batches(self, number)

    def sick(self, idx, targets=None, *, reduction="mean"):
        out = forward(self, idx, targets, reduction=reduction)
        due = self.training and Poison.step <= now[0] < Poison.step + Poison.steps
        return out * math.nan if due and targets is not None else out

    monkeypatch.setattr(PretrainingBatches, "step", step)
    monkeypatch.setattr(GPT, "forward", sick)
    return Poison


def test_a_run_skips_a_sick_step_and_names_its_documents(tiny_args, poisoned, prepared, capsys):
    train.main(tiny_args)
    (record,) = [r for r in metrics(tiny_args) if "skipped" in r]
    assert record["step"] == 5 and record["skipped"] == "not a number" and record["batch_loss"] is None
    from oracle.loader import Windows

    expected = prepared.train.ids(Windows(prepared.train, 16, 1337).documents(4 * 4, 4))
    assert record["documents"] == expected and all(name.startswith("d") for name in expected)
    assert f"step 5: loss nan; its documents: {expected[0]}" in capsys.readouterr().out
    assert all(t.isfinite().all() for t in weights(tiny_args).values())
    assert all(math.isfinite(r["loss"]) for r in read(run_dir(tiny_args) / "metrics.jsonl") if "loss" in r)


def test_a_run_stops_at_a_sick_step_if_told_to(tiny_args, poisoned):
    with pytest.raises(UserError, match=r"step 5: loss nan.*lower --learning_rate.*resume"):
        train.main([*tiny_args, "--on_sick_step=stop"])


def test_a_run_that_stays_sick_ends(tiny_args, poisoned):
    poisoned.steps = 1000
    with pytest.raises(UserError, match="20 sick steps in a row"):
        train.main([*tiny_args, "--max_iters=60"])
    assert not [r for r in metrics(tiny_args) if r["step"] == 9 and "loss" in r], "no mean of nothing"
