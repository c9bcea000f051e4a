"""The micro-batch that fits and the fastest one, with a device whose memory is a number."""

import pytest
import torch

import train
from model import GPT, GPTConfig
from oracle.cli import UsageError, UserError
from oracle.dist import ALONE
from oracle.hardware import autocast
from oracle.memory import choose_batch_size, fastest, measurement, naming_what_fits
from oracle.preset import micro_batch_sizes
from tests.runs import metrics, run_dir

CPU = torch.device("cpu")


def device(room: int, saturated: int = 10**9):
    """Measures like a GPU that holds `room` sequences and is at full speed from `saturated` on."""

    def measure(size: int) -> float:
        if size > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 1 / min(size, saturated)

    return measure


def test_sizes_cut_a_step_evenly():
    assert micro_batch_sizes(512) == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    assert micro_batch_sizes(48) == [1, 2, 3, 6, 12, 24, 48]
    assert micro_batch_sizes(7) == [1, 7]


def test_the_fastest_that_fits_and_the_smallest_of_those():
    sizes = micro_batch_sizes(512)
    assert fastest(sizes, device(room=40)) == 32
    assert fastest(sizes, device(room=400, saturated=16)) == 16
    assert fastest(sizes, device(room=0)) == 0
    with pytest.raises(RuntimeError, match="something else"):
        fastest(sizes, lambda _: (_ for _ in ()).throw(RuntimeError("something else")))


def test_a_measurement_leaves_no_gradient():
    model = GPT(GPTConfig(block_size=8, vocab_size=64, n_layer=1, n_head=2, n_embd=16))
    assert measurement(model, autocast(CPU, torch.float32), CPU)(2) > 0
    assert all(p.grad is None for p in model.parameters())


def test_a_cpu_has_a_rule():
    model = GPT(GPTConfig(block_size=512, vocab_size=64, n_layer=1, n_head=2, n_embd=16))
    cast = autocast(CPU, torch.float32)
    assert choose_batch_size(model, 480, cast, CPU, ALONE) == 8
    assert choose_batch_size(model, 7, cast, CPU, ALONE) == 7


@pytest.mark.parametrize(
    ("error", "measure", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), device(room=6), r"batch_size=32; lower it: --batch_size=4 fits"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), device(room=0), "no smaller one fits either"),
        (torch.OutOfMemoryError("CUDA out of memory"), None, "--batch_size=16 is the next lower one"),
    ],
)
def test_out_of_memory_names_what_fits(error, measure, expected):
    with pytest.raises(UserError, match=expected), naming_what_fits(32, 64, measure):
        raise error


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="another"), naming_what_fits(32, 64, device(1)):
        raise RuntimeError("another")


def test_a_run_out_of_memory_is_one_sentence(tiny_args, monkeypatch):
    forward = GPT.forward

    def hungry(self, idx, targets=None, *, reduction="mean"):
        if len(idx) > 2 and targets is not None and self.training:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB")
        return forward(self, idx, targets, reduction=reduction)

    monkeypatch.setattr(GPT, "forward", hungry)
    with pytest.raises(UserError, match=r"--batch_size=[12] fits \(measured\)"):
        train.main([*tiny_args, "--total_batch_size=128"])


def test_auto_is_settled_before_the_run_and_kept_in_its_config(tiny_args, capsys):
    train.main([*tiny_args, "--total_batch_size=128", "--batch_size=auto"])
    assert "batch_size=auto: micro-batches of 8 sequences" in capsys.readouterr().out
    assert '"batch_size": 8' in (run_dir(tiny_args) / "config.json").read_text(encoding="utf-8")
    assert metrics(tiny_args)[-1]["step"] == 12
    with pytest.raises(UsageError, match="set total_batch_size"):
        train.main([*tiny_args, "--batch_size=auto", "--total_batch_size=0"])
    train.main([*tiny_args, "--total_batch_size=128", "--batch_size=auto", "--dry_run"])
    assert "as large as the device will like" in capsys.readouterr().out
