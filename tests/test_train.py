"""The loop, on a model that trains in a fraction of a second: it learns, it resumes exactly, it refuses to mix runs."""

import contextlib
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import torch

import prepare
import train
from model import GPT, GPTConfig
from oracle import cli
from oracle.checkpoint import Checkpoint, RunDirectory
from oracle.cli import UsageError, UserError
from oracle.evaluate import Validation
from oracle.hardware import PEAK_TFLOPS, compiled, peak_flops, pick_device, pick_dtype
from oracle.logbook import Logbook, duration, read, short
from oracle.optim import learning_rate, make_optimizer
from oracle.settings import Config
from oracle.tokenizer import BOS
from tests.conftest import prepare_args
from tests.torture_train import torture

ROOT = Path(__file__).parents[1]


def run_dir(args: list[str]) -> Path:
    return Path(next(a for a in args if a.startswith("--out_dir=")).partition("=")[2])


def metrics(args: list[str]) -> list[dict]:
    return [
        {k: v for k, v in r.items() if k not in ("time", "tokens_per_second")}
        for r in read(run_dir(args) / "metrics.jsonl")
        if "machine" not in r
    ]


def weights(args: list[str], which: str = "last") -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(RunDirectory(run_dir(args)).find(which) / "model.safetensors")


def test_a_run_learns_and_leaves_its_files(tiny_args, prepared):
    args = [*tiny_args, "--max_iters=60", "--eval_interval=20", "--sample_prompts=Το λιμάνι", "--sample_iters=10"]
    train.main(args)
    records = metrics(args)
    evaluations = [r for r in records if "val_loss" in r]
    losses = [r["loss"] for r in records if "loss" in r]
    assert [r["step"] for r in evaluations] == [0, 20, 40, 60]
    assert evaluations[0]["val_loss"] == pytest.approx(math.log(512), abs=0.3)
    assert evaluations[-1]["val_bpb"] < 0.8 * evaluations[0]["val_bpb"] and losses[-1] < losses[0]
    assert evaluations[-1]["val_perplexity"] == pytest.approx(math.exp(evaluations[-1]["val_loss"]))
    assert evaluations[-1]["epoch"] == pytest.approx(60 * 64 / prepared.train.tokens)
    samples = read(run_dir(args) / "samples.jsonl")
    assert [s["step"] for s in samples] == [10, 60] and all(s["prompt"] == "Το λιμάνι" for s in samples)
    assert (run_dir(args) / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((run_dir(args) / "config.json").read_text())["padded_vocab_size"] == 512


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


def test_micro_batches_do_not_change_the_run(tiny_args, tmp_path):
    losses = []
    for size in (8, 2):
        args = [a for a in tiny_args if "out_dir" not in a]
        args += [f"--out_dir={tmp_path / str(size)}", "--total_batch_size=128", f"--batch_size={size}"]
        train.main(args)
        losses.append([r["loss"] for r in metrics(args) if "loss" in r])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_evaluation_is_the_sum_over_every_token(prepared):
    torch.manual_seed(0)
    model = GPT(GPTConfig(block_size=16, vocab_size=512, n_layer=1, n_head=2, n_embd=16))
    with torch.no_grad():
        model.wte.weight.mul_(30)
    results = [
        Validation(prepared.val, 16, size, torch.device("cpu"))(model, contextlib.nullcontext) for size in (1, 4)
    ]
    tokens = torch.from_numpy(prepared.val.all_tokens().astype("int64"))
    nats, scored = 0.0, 0
    for start in range(0, len(tokens) - 1, 16):
        window = tokens[start : start + 17]
        losses = model(window[None, :-1], window[None, 1:], reduction="none")
        nats += float(losses.detach()[window[1:] != BOS].sum())
        scored += int((window[1:] != BOS).sum())
    for figures in results:
        assert figures["val_loss"] == pytest.approx(nats / scored, rel=1e-5)
        assert figures["val_bpb"] == pytest.approx(nats / math.log(2) / prepared.val.bytes, rel=1e-5)


def test_a_run_is_never_overwritten(tiny_args):
    train.main(tiny_args)
    before = metrics(tiny_args)
    with pytest.raises(UserError, match="--init_from=resume"):
        train.main(tiny_args)
    assert metrics(tiny_args) == before


def test_resume_refuses_other_data_and_another_shape(tiny_args, corpus, tmp_path):
    train.main(tiny_args)
    with pytest.raises(UserError, match=r"another shape .*\(32,\) -> \(64,\)"):
        train.main([*tiny_args, "--n_embd=64", "--init_from=resume"])
    prepare.main([*prepare_args(corpus, tmp_path / "other"), "--vocab_size=390"])
    with pytest.raises(UserError, match=r"was trained with data \w{12}, .* holds data \w{12}"):
        train.main([*tiny_args, f"--data_dir={tmp_path / 'other'}", "--init_from=resume"])


def test_resume_keeps_the_batches(tiny_args):
    train.main(tiny_args)
    for arguments, expected in (
        [["--total_batch_size=128"], "total_batch_size=64, now it is 128"],
        [["--seed=1"], "seed=1337"],
    ):
        with pytest.raises(UserError, match=expected):
            train.main([*tiny_args, *arguments, "--init_from=resume"])
    train.main([*tiny_args, "--batch_size=2", "--max_iters=18", "--init_from=resume"])
    config = json.loads((run_dir(tiny_args) / "config.json").read_text())
    assert config["total_batch_size"] == 64, "a step stays what it was, in smaller micro-batches"


def test_resume_lists_other_versions(tiny_args, capsys):
    train.main(tiny_args)
    state = RunDirectory(run_dir(tiny_args)).find("last") / "state.json"
    content = json.loads(state.read_text())
    content["versions"]["torch"] = "1.0"
    state.write_text(json.dumps(content))
    train.main([*tiny_args, "--init_from=resume"])
    assert f"torch was 1.0, is now {torch.__version__}: figures may differ" in capsys.readouterr().out


def test_resume_lists_what_changed_and_goes_further(tiny_args, capsys):
    train.main(tiny_args)
    capsys.readouterr()
    train.main([*tiny_args, "--max_iters=18", "--learning_rate=0.02", "--init_from=resume"])
    out = capsys.readouterr().out
    assert "learning_rate was 0.01, is now 0.02" in out and "n_layer was" not in out and "init_from was" not in out
    assert [r["step"] for r in metrics(tiny_args) if "val_loss" in r] == [0, 6, 12, 18]


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


def test_patience_ends_a_run_at_its_best(tiny_args, monkeypatch, capsys):
    losses = iter([5.0, 4.0, 4.5, 3.0, 3.5, 3.4, 3.3, 1.0])

    def figures(*_):
        loss = next(losses)
        return {"val_loss": loss, "val_bpb": loss, "val_perplexity": loss}

    monkeypatch.setattr(Validation, "__call__", figures)
    args = [*tiny_args, "--max_iters=100", "--eval_interval=2"]
    train.main([*args, "--patience=3"])
    out = capsys.readouterr().out
    assert "3 evaluations brought no improvement; best validation loss 3.0000 at step 6" in out
    run = RunDirectory(run_dir(args))
    assert (run.find("best").name, run.find("last").name) == ("step-00000006", "step-00000012")


def test_evaluations_show_overfitting(tiny_args, prepared, capsys):
    train.main([*tiny_args, "--max_iters=40", "--eval_interval=20", "--log_interval=1"])
    records = metrics(tiny_args)
    first, *later = [r for r in records if "val_loss" in r]
    assert "gap" not in first and first["tokens_per_unique_token"] == 0
    losses = {r["step"]: r["loss"] for r in records if "loss" in r}
    for record in later:
        recent = [losses[s] for s in range(max(1, record["step"] - 31), record["step"] + 1)]
        assert record["train_loss"] == pytest.approx(sum(recent) / len(recent), rel=1e-5)
        assert record["gap"] == pytest.approx(record["val_loss"] - record["train_loss"])
        assert record["tokens_per_unique_token"] == pytest.approx(record["step"] * 64 / prepared.train.tokens)
    out = capsys.readouterr().out
    assert f"gap {later[-1]['gap']:+.4f}" in out and "each unique token seen 0.28 times" in out


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
import train
from oracle import cli
sys.exit(cli.run(train.main))
"""


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


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--max_iters=0"], "neither max_iters nor max_epochs"),
        (["--max_epochs=2"], "both say how long"),
        (["--padded_vocab_size=300", "--max_iters=5"], "fewer rows than"),
        (["--block_size=100000"], "fewer than one window"),
        (["--data_dir=nowhere"], "run prepare.py"),
    ],
)
def test_impossible_runs(tiny_args, arguments, expected):
    with pytest.raises(UserError, match=expected):
        train.main([*tiny_args, *arguments])


def test_dry_run_needs_no_data(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    train.main(["config/rizospastis.py", "--dry_run", "--data_dir=nowhere"])
    out = capsys.readouterr().out
    for expected in (
        "354.9 M parameters",
        "353.8 M",
        "524,288 tokens per step",
        "9,728 steps",
        "30.00 epochs",
        "GiB",
        "FLOP",
    ):
        assert expected in out


def test_epochs_become_steps(tiny_args, prepared):
    train.main([*tiny_args, "--max_iters=0", "--max_epochs=0.5"])
    assert metrics(tiny_args)[-1]["step"] == math.ceil(0.5 * prepared.train.tokens / 64)


def test_compile_falls_back_with_a_warning(capsys):
    model = torch.nn.Linear(1, 1)

    def fails(_):
        raise RuntimeError("no compiler found\nlong story")

    assert compiled(model, fails) is model
    assert "torch.compile does not work here (no compiler found)" in capsys.readouterr().out


def test_devices_and_formats(monkeypatch, capsys):
    cpu = torch.device("cpu")
    assert pick_device("cpu") == cpu
    with pytest.raises(UsageError, match="PyTorch finds 0 CUDA GPUs"):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        pick_device("cuda:3")
    assert pick_dtype("auto", cpu) == torch.float32
    with pytest.raises(UsageError, match="float16 trains on CUDA GPUs only"):
        pick_dtype("float16", cpu)
    cuda = torch.device("cuda")
    monkeypatch.setattr("oracle.hardware.device_name", lambda _: "NVIDIA H200")
    assert peak_flops(cuda, Config()) == PEAK_TFLOPS["H200"] * 1e12
    monkeypatch.setattr("oracle.hardware.device_name", lambda _: "Frobnicator 9000")
    assert peak_flops(cuda, Config()) == 0 and "--peak_tflops" in capsys.readouterr().out
    assert peak_flops(cuda, Config(peak_tflops=100.0)) == 1e14


def test_figures_as_people_read_them():
    assert [duration(s) for s in (42, 200, 106_800)] == ["42 s", "3 min 20 s", "29 h 40 min"]
    assert [short(n) for n in (812, 47_100, 354e6, 5.1e9)] == ["812", "47.1k", "354M", "5.10B"]


def test_the_log_survives_a_torn_last_line(tmp_path):
    (tmp_path / "m.jsonl").write_bytes('{"step": 1, "text": "\u2028"}\n{"step": 2, "text": "φ'.encode()[:-1])
    assert read(tmp_path / "m.jsonl") == [{"step": 1, "text": "\u2028"}]


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


def test_help_and_usage_as_a_user_sees_them():
    help_text = subprocess.run([sys.executable, "train.py", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert help_text.returncode == 0 and "--learning_rate=float" in help_text.stdout
    wrong = subprocess.run(
        [sys.executable, "train.py", "config/rizospastis.py", "--lerning_rate=1", "--n_layr=2"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert wrong.returncode == 2 and "learning_rate?" in wrong.stderr and "n_layer?" in wrong.stderr
    assert "Traceback" not in wrong.stderr
