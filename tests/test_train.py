"""The loop, on a model that trains in a fraction of a second: it learns, it resumes exactly, it refuses to mix runs."""

import contextlib
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import prepare
import train
from model import GPT, GPTConfig
from oracle.checkpoint import RunDirectory
from oracle.cli import UsageError, UserError
from oracle.evaluate import Validation
from oracle.hardware import PEAK_TFLOPS, compiled, peak_flops, pick_device, pick_dtype
from oracle.logbook import read
from oracle.settings import Config
from oracle.tokenizer import BOS
from tests.conftest import prepare_args
from tests.runs import metrics, run_dir

ROOT = Path(__file__).parents[1]


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


def test_help_and_usage_as_a_user_sees_them():
    help_text = subprocess.run([sys.executable, "train.py", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert help_text.returncode == 0 and "--learning_rate=float" in help_text.stdout
    wrong = subprocess.run(
        [sys.executable, "train.py", "config/rizospastis.py", "--lerning_rate=1", "--n_layr=2"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert wrong.returncode == 2 and "learning_rate?" in wrong.stderr and "n_layer?" in wrong.stderr
    assert "Traceback" not in wrong.stderr
