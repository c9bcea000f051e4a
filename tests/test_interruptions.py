"""Runs that are stopped, killed or out of disk: nothing is lost, and the end is the same."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import train
from model import GPT, GPTConfig
from oracle import cli
from oracle.checkpoint import Checkpoint, RunDirectory
from oracle.evaluate import Validation
from oracle.logbook import read
from oracle.optim import learning_rate, make_optimizer
from oracle.settings import Config
from tests.runs import metrics, run_dir, weights
from tests.torture_train import torture

ROOT = Path(__file__).parents[1]
LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
import train
from oracle import cli
sys.exit(cli.run(train.main))
"""


@pytest.mark.parametrize("more", [["--dropout=0.2", "--total_batch_size=128"], ["--dtype=bfloat16"]])
def test_resumed_equals_uninterrupted_bit_for_bit(tiny_args, tmp_path, more, prepared, monkeypatch):
    """Across an epoch boundary, with dropout and accumulation."""
    steps = prepared.train.tokens // 64 + 8
    whole = [*tiny_args, *more, f"--max_iters={steps}", "--eval_interval=40"]
    train.main(whole)
    parts = [a if not a.startswith("--out_dir") else f"--out_dir={tmp_path / 'parts'}" for a in whole]
    with monkeypatch.context() as patch:
        original = train.housekeeping

        def crash_late(job, progress, *rest):
            original(job, progress, *rest)
            if progress.step == steps - 5:  # past the last checkpoint: those steps are done again
                raise RuntimeError("power cut")

        patch.setattr(train, "housekeeping", crash_late)
        with pytest.raises(RuntimeError, match="power cut"):
            train.main(parts)
    train.main([*parts, "--init_from=resume"])
    assert metrics(parts) == metrics(whole)
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(parts)[name]), name


def last_step(args: list[str]) -> int:
    return Checkpoint.open(RunDirectory(run_dir(args)).find("last")).progress.step


def wait_until(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_signals_save_and_stop(tiny_args, name):
    args = [*tiny_args, "--max_iters=100000", "--eval_interval=100000", "--log_interval=1"]
    process = subprocess.Popen([sys.executable, "train.py", *args], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    log = run_dir(args) / "metrics.jsonl"
    wait_until(lambda: len(read(log)) >= 5)
    process.send_signal(signal.SIGUSR1)
    wait_until(lambda: RunDirectory(run_dir(args)).pointers())
    asked_for, at_that_time = last_step(args), len(read(log))
    wait_until(lambda: len(read(log)) > at_that_time + 3)
    process.send_signal(getattr(signal, name))
    out = process.communicate(timeout=60)[0]
    assert process.returncode == 0 and "--init_from=resume" in out
    assert f"step {asked_for:,} | saved" in out and "as asked" in out
    assert last_step(args) == read(log)[-1]["step"] > asked_for


@contextlib.contextmanager
def asking_to_stop_at(step: int, monkeypatch):
    """Within, the loop hears SIGTERM before it does what is due at `step`."""

    def rate(number, *rest):
        if number == step - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return learning_rate(number, *rest)

    with monkeypatch.context() as patch:
        patch.setattr("train.learning_rate", rate)
        yield


@pytest.mark.parametrize("step", [1, 6, 8])
def test_stopped_and_resumed_equals_uninterrupted(tiny_args, tmp_path, monkeypatch, step, capsys):
    """Also where an evaluation is due: that is left to the resumed run, for a rented machine gives seconds."""
    train.main(tiny_args)
    parts = [a if not a.startswith("--out_dir") else f"--out_dir={tmp_path / 'my parts'}" for a in tiny_args]
    capsys.readouterr()
    with asking_to_stop_at(step, monkeypatch):
        train.main(parts)
    assert last_step(parts) == step
    command = capsys.readouterr().out.splitlines()[-1].partition("go on with: ")[2]
    assert shlex.split(command) == ["python", "train.py", *parts, "--init_from=resume"]
    train.main(shlex.split(command)[2:])
    assert metrics(parts) == metrics(tiny_args)
    for name, tensor in weights(tiny_args).items():
        assert torch.equal(tensor, weights(parts)[name]), name


def test_a_budget_of_minutes_stops_and_can_be_gone_on_from(tiny_args, capsys):
    train.main([*tiny_args, "--max_minutes=0.0001"])
    assert last_step(tiny_args) == 0 and "stopped at step 0, saved" in capsys.readouterr().out
    train.main([*tiny_args, "--max_minutes=600", "--init_from=resume"])
    assert last_step(tiny_args) == 12 and "max_minutes" not in capsys.readouterr().out


def test_float16_goes_on_with_its_scale(tiny_args, tmp_path, monkeypatch):
    """On a CPU, which can do what it should not be asked to; the scale grows every third step and overflows."""
    monkeypatch.setattr("oracle.hardware.pick_dtype", lambda *_: torch.float16)
    scaler = torch.amp.GradScaler
    monkeypatch.setattr(
        torch.amp, "GradScaler", lambda kind, enabled: scaler(kind, init_scale=2.0**14, growth_interval=3)
    )
    args = [*tiny_args, "--max_iters=14"]
    train.main(args)
    parts = [a if not a.startswith("--out_dir") else f"--out_dir={tmp_path / 'parts'}" for a in args]
    for stop in (4, 9):
        with asking_to_stop_at(stop, monkeypatch):
            train.main([*parts, *(["--init_from=resume"] if stop > 4 else [])])
    saved = Checkpoint.open(RunDirectory(run_dir(parts)).find("last"))
    model = GPT(GPTConfig(block_size=16, vocab_size=512, n_layer=2, n_head=2, n_embd=32))
    scale = saved.load_optimizer(model, make_optimizer(model, Config()))["scaler"].tolist()[0]
    assert scale not in (0.0, 2.0**14)
    train.main([*parts, "--init_from=resume"])
    assert metrics(parts) == metrics(args)
    assert all(torch.equal(t, weights(parts)[name]) for name, t in weights(args).items())


def test_a_disk_that_is_full_during_a_save(tiny_args):
    """A file-size limit stands for the disk: weights cannot be written, then nothing can at all."""
    train.main([*tiny_args, "--max_iters=6"])
    args = [*tiny_args, "--max_iters=30", "--init_from=resume"]
    for limit in (100_000, 700):
        run = subprocess.run(
            [sys.executable, "-c", LIMITED, str(limit), *args], cwd=ROOT, capture_output=True, text=True
        )
        assert run.returncode == 1 and "Traceback" not in run.stderr, run.stderr
        if limit == 100_000:
            assert "warning: step 12: no checkpoint" in run.stdout and "training goes on" in run.stdout
            assert "the previous checkpoint is whole" in run.stderr
            assert read(run_dir(args) / "metrics.jsonl")[-1]["step"] == 30
        assert last_step(args) == 6 and not list(run_dir(args).rglob("*.tmp"))
    train.main(args)
    assert last_step(args) == 30


def test_torture_in_small(prepared_dir, tmp_path):
    toll = torture(prepared_dir, tmp_path, kills=3, steps=120, seed=1)
    assert toll.kills == 3 and toll.opened


def test_saving_comes_before_evaluating(tiny_args, monkeypatch):
    def crash(*_):
        raise RuntimeError("out of memory in evaluation")

    monkeypatch.setattr(
        Validation, "__call__", lambda self, *_: {"val_loss": 1.0, "val_bpb": 1.0, "val_perplexity": 1.0}
    )
    original = train.housekeeping

    def housekeeping(job, progress, *rest):
        if progress.step == 6:
            job.evaluate = crash
        original(job, progress, *rest)

    monkeypatch.setattr(train, "housekeeping", housekeeping)
    with pytest.raises(RuntimeError, match="in evaluation"):
        train.main(tiny_args)
    assert Checkpoint.open(RunDirectory(run_dir(tiny_args)).find("last")).progress.step == 6


def test_a_full_disk_is_one_sentence(tiny_args, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["train.py", *tiny_args])

    def full(*_):
        raise OSError(28, "No space left on device", "model.safetensors")

    monkeypatch.setattr("oracle.checkpoint._save_tensors", full)
    assert cli.run(train.main) == 1
    assert "No space left on device; what was finished before is whole" in capsys.readouterr().err
