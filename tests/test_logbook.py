"""The log of a run, and wandb beside it."""

import sys
import types
from pathlib import Path

import pytest

import train
from oracle.cli import UserError
from oracle.logbook import Logbook, duration, read, short
from oracle.settings import Config
from tests.runs import metrics


def test_a_log_that_cannot_be_written_waits(tmp_path, monkeypatch, capsys):
    log = Logbook(tmp_path, Config(), 0, 10)
    log.sample({"step": 1})
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        for step in (2, 3):
            log.sample({"step": step})
    with (tmp_path / "samples.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 2, "te')  # the half of a line that still had room
    log.sample({"step": 4})
    assert [r["step"] for r in read(tmp_path / "samples.jsonl")] == [1, 2, 3, 4]
    assert capsys.readouterr().out.count("warning") == 1


def test_figures_as_people_read_them():
    assert [duration(s) for s in (42, 200, 106_800)] == ["42 s", "3 min 20 s", "29 h 40 min"]
    assert [short(n) for n in (812, 47_100, 354e6, 5.1e9)] == ["812", "47.1k", "354M", "5.10B"]


def test_the_log_survives_a_torn_last_line(tmp_path):
    (tmp_path / "m.jsonl").write_bytes('{"step": 1, "text": "\u2028"}\n{"step": 2, "text": "φ'.encode()[:-1])
    assert read(tmp_path / "m.jsonl") == [{"step": 1, "text": "\u2028"}]


def test_two_trainings_do_not_share_a_folder(tmp_path):
    first = Logbook(tmp_path, Config(), 0, 10)
    with pytest.raises(UserError, match="being written by another run"):
        Logbook(tmp_path, Config(), 0, 10)
    first.close()
    Logbook(tmp_path, Config(), 0, 10).close()


class FakeWandb(types.ModuleType):
    """wandb's surface as far as a run uses it: refuses to go online, and notes what it was told."""

    def __init__(self):
        super().__init__("wandb")
        self.errors = types.SimpleNamespace(UsageError=type("UsageError", (Exception,), {}))
        self.started, self.logged = [], []

    def init(self, **options):
        if options.get("mode") != "offline":
            raise self.errors.UsageError("api_key not configured")
        self.started.append(options)
        return types.SimpleNamespace(log=lambda record, step: self.logged.append(step), finish=lambda: None)


def test_wandb_goes_offline_without_a_key_and_on_in_the_same_curves(tiny_args, monkeypatch):
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    train.main([*tiny_args, "--wandb_log=True"])
    train.main([*tiny_args, "--wandb_log=True", "--max_iters=18", "--init_from=resume"])
    first, second = wandb.started
    assert first["id"] == second["id"] and second["resume"] == "allow" and first["config"]["n_layer"] == 2
    assert wandb.logged[-1] == 18


def test_wandb_missing_or_failing_never_stops_a_run(tiny_args, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    train.main([*tiny_args, "--wandb_log=True"])
    assert "wandb is not available" in capsys.readouterr().out and len(metrics(tiny_args)) > 3
