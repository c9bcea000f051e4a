"""Kernels of attention, and a loop that never waits for its device."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import train
from oracle.cli import UsageError
from oracle.hardware import attention
from oracle.loader import PretrainingBatches
from tests.runs import metrics, run_dir

CPU = torch.device("cpu")


def test_attention_by_another_kernel_is_the_same_run(tiny_args, tmp_path, capsys):
    losses = []
    for name in ("auto", "math", "flash"):
        args = [a for a in tiny_args if "out_dir" not in a] + [f"--out_dir={tmp_path / name}"]
        train.main([*args, f"--attention={name}"])
        losses.append([r["loss"] for r in metrics(args) if "loss" in r])
        assert "attention by the flash kernel" in capsys.readouterr().out or name == "math"
        assert '"attention": ' in (run_dir(args) / "metrics.jsonl").read_text(encoding="utf-8")
    assert losses[0] == losses[2] == pytest.approx(losses[1], rel=1e-4)


def test_a_kernel_the_device_lacks_is_one_sentence(tiny_args):
    with pytest.raises(UsageError, match=r"attention=cudnn: cpu has no such kernel .*--attention=auto"):
        train.main([*tiny_args, "--attention=cudnn"])
    assert not run_dir(tiny_args).exists()


def test_a_choice_of_kernel_ends_with_its_block():
    with attention("math", (2, 8, 16), 0.0, CPU, torch.float32) as kernel:
        assert kernel == "math" and not torch.backends.cuda.flash_sdp_enabled()
    assert torch.backends.cuda.flash_sdp_enabled()
    with attention("auto", (2, 8, 16), 0.0, CPU, torch.float32) as kernel:
        assert kernel == "flash"


@pytest.mark.parametrize("more", [[], ["--loss_chunks=3"]])
def test_the_host_waits_for_the_device_at_log_lines_only(tiny_args, monkeypatch, more):
    """What makes a host wait is reading a number off a tensor: `aten::_local_scalar_dense`, or a shape made of one."""
    waits: list[int] = []
    steps = [0]

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero):
                waits.append(steps[0])
            return func(*args, **(kwargs or {}))

    batches, keep, look = PretrainingBatches.step, train.housekeeping, train.look_after
    watch = Watch()

    def unwatched(function):
        def call(*args, **kwargs):
            before = len(waits)
            result = function(*args, **kwargs)
            del waits[before:]
            return result

        return call

    def counted(self, step):
        steps[0] = step + 1
        return batches(self, step)

    monkeypatch.setattr(PretrainingBatches, "step", counted)
    monkeypatch.setattr(train, "housekeeping", unwatched(keep))
    monkeypatch.setattr(train, "look_after", unwatched(look))
    args = [*tiny_args, *more, "--total_batch_size=128", "--log_interval=4", "--eval_interval=12"]
    fit = train.fit

    def watched(*given):
        with watch:
            return fit(*given)

    monkeypatch.setattr(train, "fit", watched)
    train.main(args)
    assert set(waits) == {4, 8, 12}
