"""Checkpoints: whole or not there, and refused by name when damaged or foreign."""

import errno
import json
import os

import pytest
import torch

from model import GPT, GPTConfig
from oracle import checkpoint as checkpoint_module
from oracle.checkpoint import Checkpoint, Progress, RunDirectory
from oracle.cli import UserError
from oracle.optim import make_optimizer
from oracle.settings import Config

SHAPE = GPTConfig(block_size=8, vocab_size=64, n_layer=2, n_head=2, n_embd=32)
IDENTITY = {"data": "d" * 64, "tokenizer": "t" * 64}


@pytest.fixture
def saver(tmp_path, tokenizer):
    torch.manual_seed(0)
    model = GPT(SHAPE)
    optimizer = make_optimizer(model, Config())
    run = RunDirectory(tmp_path / "run")

    def save(step: int):
        x = torch.randint(0, 64, (2, 8))
        model(x, x).backward()
        optimizer.step()
        return run.save(Progress(step), model, optimizer, Config(), tokenizer.path, IDENTITY)

    return run, model, optimizer, save


def test_everything_comes_back(saver):
    run, model, optimizer, save = saver
    save(5)
    torch.rand(3)
    after = torch.rand(4)
    torch.manual_seed(99)
    other = GPT(SHAPE)
    opened = Checkpoint.open(run.find("last"))
    assert opened.progress.step == 5 and opened.identity == IDENTITY
    opened.load_model(other)
    other_optimizer = make_optimizer(other, Config())
    opened.load_optimizer(other, other_optimizer)
    torch.rand(3)
    assert torch.equal(torch.rand(4), after), "the random generator goes on where it was"
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
        for key, value in optimizer.state[p].items():
            assert torch.equal(value, other_optimizer.state[q][key])


def test_every_nth_is_kept(saver):
    run, _, _, save = saver
    run.keep_interval = 3
    for step in range(1, 9):
        save(step)
    assert sorted(p.name[-1] for p in run.folder.glob("step-*")) == ["3", "6", "8"]


def test_it_says_what_made_it(saver):
    run, _, _, save = saver
    save(1)
    made_by = Checkpoint.open(run.find("last")).versions
    assert made_by["torch"] == torch.__version__ and made_by.keys() >= {"nanooracle", "python", "numpy", "safetensors"}
    assert made_by["nanooracle"].startswith("0.")


def test_what_a_kill_left_is_swept(saver):
    run, _, _, save = saver
    save(1)
    half = run.folder / "step-00000002.tmp"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    for stale in (run.folder / "pointers.json.77.tmp", run.path / "metrics.jsonl.77.tmp"):
        stale.write_bytes(b"half")
    save(3)
    assert not list(run.path.rglob("*.tmp")) and Checkpoint.open(run.find("last")).progress.step == 3


def test_a_kill_between_rename_and_pointer(saver, monkeypatch):
    run, _, _, save = saver
    save(1)
    with monkeypatch.context() as patch:
        patch.setattr(run, "point", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            save(2)
    assert Checkpoint.open(run.find("last")).progress.step == 1
    save(2)
    assert Checkpoint.open(run.find("last")).progress.step == 2 and not list(run.path.rglob("*.tmp"))


def test_no_permission_leaves_the_previous_checkpoint(saver, monkeypatch):
    """`mkdir` refuses as it does without write permission (which root, who may run these tests, always has)."""
    run, _, _, save = saver
    save(1)

    def refuse(self, *args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.mkdir", refuse)
        with pytest.raises(PermissionError):
            save(2)
    assert Checkpoint.open(run.find("last")).progress.step == 1


def test_the_loop_s_own_tensors_come_back(saver, tokenizer):
    run, model, optimizer, _ = saver
    own = {"scaler": torch.tensor([1024.0, 7.0], dtype=torch.float64), "health:losses": torch.full((3,), torch.nan)}
    run.save(Progress(1), model, optimizer, Config(), tokenizer.path, IDENTITY, own)
    found = Checkpoint.open(run.find("last")).load_optimizer(model, optimizer)
    assert found["scaler"].tolist() == [1024.0, 7.0] and found["health:losses"].isnan().all()


def test_only_what_is_pointed_at_is_kept(saver):
    run, _, _, save = saver
    for step in (1, 2, 3):
        saved = save(step)
        if step == 2:
            run.point("best", saved.name)
    assert sorted(p.name for p in run.folder.glob("step-*")) == ["step-00000002", "step-00000003"]
    assert run.find("best").name == "step-00000002" and run.find("last").name == "step-00000003"


@pytest.mark.parametrize("victim", ["_save_tensors", "write_text", "sync"])
def test_a_failing_save_leaves_the_previous_checkpoint(saver, monkeypatch, victim):
    run, _, _, save = saver
    save(1)
    real, calls = getattr(checkpoint_module, victim), []

    def full_disk(*args):
        calls.append(args)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args)

    monkeypatch.setattr(checkpoint_module, victim, full_disk)
    with pytest.raises(OSError, match="No space left"):
        save(2)
    assert Checkpoint.open(run.find("last")).progress.step == 1
    assert not list(run.folder.glob("*.tmp"))


def test_whom_the_umask_lets_read_may_read_the_weights(saver):
    save = saver[-1]
    before = os.umask(0o027)
    try:
        folder = save(1)
    finally:
        os.umask(before)
    assert {oct(path.stat().st_mode & 0o777) for path in folder.glob("*.safetensors")} == {"0o640"}


def test_the_same_step_twice_is_written_once(saver):
    save = saver[-1]
    first = save(4)
    stamp = (first / "state.json").stat().st_mtime_ns
    save(4)
    assert (first / "state.json").stat().st_mtime_ns == stamp


def test_no_run_no_checkpoint(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        RunDirectory(tmp_path / "none").find("best")
    with pytest.raises(UserError, match="has no checkpoint yet"):
        RunDirectory(tmp_path).find("best")


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "tokenizer.model"])
def test_damage_is_named(saver, name):
    run, _, _, save = saver
    path = save(1) / name
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=rf"{name}: bytes have changed"):
        Checkpoint.open(run.find("last"))
    path.unlink()
    with pytest.raises(UserError, match="missing from the checkpoint"):
        Checkpoint.open(run.find("last"))


def test_half_a_checkpoint_and_another_version(saver):
    run, _, _, save = saver
    state = save(1) / "state.json"
    content = json.loads(state.read_text())
    state.write_text(json.dumps(content | {"format": 99}))
    with pytest.raises(UserError, match="format 99"):
        Checkpoint.open(run.find("last"))
    state.write_text("{")
    with pytest.raises(UserError, match="not a whole checkpoint"):
        Checkpoint.open(run.find("last"))


def test_another_shape_names_both(saver):
    run, _, _, save = saver
    save(1)
    wider = GPT(GPTConfig(block_size=8, vocab_size=64, n_layer=2, n_head=2, n_embd=64))
    with pytest.raises(UserError, match=r"\(32,\) -> \(64,\)|\(96,\) -> \(192,\)"):
        Checkpoint.open(run.find("last")).load_model(wider)


def test_nothing_is_pickled(saver):
    _, _, _, save = saver
    suffixes = {p.suffix for p in save(1).iterdir()}
    assert suffixes == {".safetensors", ".json", ".model"}
