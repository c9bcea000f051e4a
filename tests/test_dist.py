"""torchrun with two ranks on a CPU: the losses of one rank, one log, one checkpoint that any number of ranks resumes."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import train
from oracle.cli import UsageError
from oracle.dist import ALONE, World
from oracle.loader import PretrainingBatches, Windows
from tests.test_train import ROOT, metrics, run_dir, weights

STEP = ("--total_batch_size=128", "--batch_size=2", "--max_iters=8", "--eval_interval=4", "--log_interval=2")


def torchrun(*command: str) -> str:
    """What two ranks printed, started as a user does."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *command]
    done = subprocess.run(launch, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def two_ranks(*command: str) -> str:
    """The same without torchrun's own process: the environment it would set, in half the time."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, env=common | {"RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in "01"
    ]  # fmt: skip
    ends = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ends
    return "".join(out for out, _ in ends)


def with_out(args: list[str], folder: Path) -> list[str]:
    return [f"--out_dir={folder}" if a.startswith("--out_dir=") else a for a in args]


@pytest.fixture(scope="module")
def alone(prepared_dir, tmp_path_factory) -> list[str]:
    """The command line of a finished run on one rank."""
    from tests.conftest import TINY

    args = [f"--data_dir={prepared_dir}", f"--out_dir={tmp_path_factory.mktemp('alone') / 'run'}", *TINY, *STEP]
    train.main(args)
    return args


def assert_same_run(args: list[str], reference: list[str]) -> None:
    ours, theirs = metrics(args), metrics(reference)
    assert [r["step"] for r in ours] == [r["step"] for r in theirs], "one record for each, from one rank"
    for one, other in zip(ours, theirs, strict=True):
        for key in ("loss", "val_loss", "grad_norm", "gap"):
            assert one.get(key, 0) == pytest.approx(other.get(key, 0), rel=1e-4, abs=1e-4), (one["step"], key)
    for name, tensor in weights(reference).items():
        torch.testing.assert_close(weights(args)[name], tensor, rtol=1e-3, atol=1e-3)


def test_two_ranks_give_the_losses_of_one(alone, tmp_path):
    args = with_out(alone, tmp_path / "two")
    out = torchrun("train.py", *args)
    assert "2 micro-batches of 2 on each of 2 ranks" in out
    assert out.count("done: best validation loss") == 1
    assert_same_run(args, alone)


@pytest.mark.parametrize("more", [["--loss_chunks=3"], ["--fsdp=True", "--loss_chunks=3"]], ids=["ddp", "fsdp2"])
def test_two_ranks_go_on_where_one_stopped(alone, tmp_path, more):
    args = with_out(alone, tmp_path / "two")
    train.main([*args, "--max_iters=4", "--lr_decay_iters=8"])
    out = two_ranks("train.py", *args, *more, "--lr_decay_iters=8", "--init_from=resume")
    assert "max_iters was 4, is now 8" in out
    assert_same_run(args, alone)
    train.main([*args, "--max_iters=10", "--init_from=resume"])  # and one rank where two stopped
    assert metrics(args)[-1]["step"] == 10


def test_a_sharded_model_leaves_sick_steps_out(tmp_path):
    script = tmp_path / "sick.py"
    script.write_text(
        """
import sys, math, torch
sys.path.insert(0, sys.argv[1])
from model import GPT, GPTConfig
from oracle.dist import World, joined, shard, whole
from oracle.health import Health
from oracle.optim import make_optimizer
from oracle.settings import Config
world, cpu = World.from_environment(), torch.device("cpu")
with joined(world, cpu):
    model = GPT(GPTConfig(block_size=8, vocab_size=64, n_layer=1, n_head=2, n_embd=16))
    shard(model, model.h, world, cpu)
    optimizer, health = make_optimizer(model, Config()), Health(Config(), cpu, scaled=False)
    tokens = torch.arange(8)[None]
    seen = []
    for step, factor in enumerate((1.0, math.nan, 1.0)):
        loss = model(tokens, tokens) * factor
        loss.backward()
        health.step(step, loss.detach(), torch.tensor(factor), optimizer)
        optimizer.zero_grad()
        seen.append(whole(model.wte.weight.detach()).clone())
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])
    assert [s.step for s in health.sick_steps()] == [2]
    print("healthy")
""",
        encoding="utf-8",
    )
    assert two_ranks(str(script), str(ROOT)).count("healthy") == 1


def test_any_number_of_ranks_sees_the_same_global_batch(prepared):
    windows, cpu = Windows(prepared.train, 16, 1), torch.device("cpu")
    whole = PretrainingBatches(windows, 8, 4, cpu)
    shares = [PretrainingBatches(windows, 8, 2, cpu, World(rank, 2)) for rank in range(2)]
    for step in (0, 5):
        rows = torch.cat([x for share in shares for x, _ in share.step(step).micro_batches])
        assert torch.equal(rows, torch.cat([x for x, _ in whole.step(step).micro_batches]))
        assert {share.step(step).n_targets for share in shares} == {whole.step(step).n_targets}
        assert shares[0].documents(step) == shares[1].documents(step) == whole.documents(step)


def test_a_rank_knows_itself(monkeypatch):
    assert World.from_environment() == ALONE and ALONE.main
    for name, value in {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "here"}.items():
        monkeypatch.setenv(name, value)
    assert World.from_environment() == World(3, 4, 1) and not World.from_environment().main


def test_one_rank_cannot_share(tiny_args):
    with pytest.raises(UsageError, match="start with torchrun"):
        train.main([*tiny_args, "--fsdp=True"])
    assert not run_dir(tiny_args).exists()
