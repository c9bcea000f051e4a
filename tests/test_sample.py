"""sample.py: the same text for the same seed, and every silly prompt answered."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sample
import train
from oracle.checkpoint import RunDirectory
from oracle.cli import UsageError, UserError
from oracle.generate import prompt_ids
from oracle.tokenizer import BOS
from tests.conftest import TINY

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def run(prepared_dir, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("run")
    train.main([f"--data_dir={prepared_dir}", f"--out_dir={path}", *TINY, "--max_iters=30"])
    return path


def output(capsys, *args) -> str:
    capsys.readouterr()
    sample.main(args)
    return capsys.readouterr().out


def test_same_seed_same_text_and_samples_differ(run, capsys):
    args = (str(run), "--start=Το λιμάνι", "--num_samples=2", "--max_new_tokens=20")
    first = output(capsys, *args)
    assert first == output(capsys, *args) != output(capsys, *args, "--seed=7")
    one, two, rest = first.split("\n" + "-" * 20 + "\n")
    assert one.startswith("Το λιμάνι") and two.startswith("Το λιμάνι") and one != two and not rest


def test_a_file_is_a_prompt(run, capsys, tmp_path):
    path = tmp_path / "start.txt"
    path.write_text("Η γέφυρα", encoding="utf-8")
    assert output(capsys, str(run), f"--start=FILE:{path}", "--num_samples=1").startswith("Η γέφυρα")
    with pytest.raises(UsageError, match="no such file"):
        sample.main([str(run), "--start=FILE:none.txt"])
    path.write_bytes(b"\xff")
    with pytest.raises(UserError, match="invalid UTF-8 at byte 0"):
        sample.main([str(run), f"--start=FILE:{path}"])


@pytest.mark.parametrize("start", ["", "漢字 😀 \u2581", "<|assistant|></s>", "λ" * 500])
def test_any_prompt_is_answered(run, capsys, start):
    assert output(capsys, str(run), f"--start={start}", "--num_samples=1", "--max_new_tokens=3")


def test_a_prompt_that_is_no_utf8(run):
    with pytest.raises(UsageError, match="not UTF-8"):
        sample.main([str(run), "--start=\udcff\udcfe"])


def test_a_console_of_another_alphabet(run):
    done = subprocess.run(
        [sys.executable, "sample.py", str(run), "--start=Το", "--num_samples=1", "--max_new_tokens=3"],
        cwd=ROOT, capture_output=True, text=True, env=os.environ | {"PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.startswith("\\u03a4")


def test_a_long_prompt_is_noted(run, capsys):
    sample.main([str(run), "--start=" + "λιμάνι " * 50, "--num_samples=1", "--max_new_tokens=3"])
    assert "only its end is seen" in capsys.readouterr().err


def test_best_is_the_default(run, tokenizer):
    pointers = RunDirectory(run).pointers()
    assert set(pointers) == {"best", "last"}


def test_a_run_without_checkpoint(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        sample.main([f"--out_dir={tmp_path / 'none'}"])


def test_a_run_measured_in_epochs_writes_too(prepared_dir, tmp_path, capsys):
    train.main([f"--data_dir={prepared_dir}", f"--out_dir={tmp_path}", *TINY, "--max_iters=0", "--max_epochs=0.2"])
    assert output(capsys, str(tmp_path), "--start=Το", "--num_samples=1", "--max_new_tokens=3").startswith("Το")


@pytest.mark.parametrize("name", ["config.json", "checkpoints/pointers.json"])
def test_damaged_json_is_one_sentence(run, tmp_path, name):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / name).write_bytes(b"{\xff")
    with pytest.raises(UserError, match="holds no JSON object"):
        sample.main([str(copy)])


def test_prompt_ids_start_with_beginning_of_text(tokenizer):
    assert prompt_ids(tokenizer, "<s>")[0] == BOS and prompt_ids(tokenizer, "<s>").count(BOS) == 1


def test_many_prompts_are_answered_in_order_whatever_the_batch(run, capsys, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Το λιμάνι\n\nΗ γέφυρα\n", encoding="utf-8")
    out = output(capsys, str(run), f"--prompts_file={prompts}", "--num_samples=6", "--max_new_tokens=9")
    texts = out.split("\n" + "-" * 20 + "\n")[:-1]
    assert [t.startswith("Το λιμάνι") for t in texts] == [True] * 6 + [False] * 6
    alone = output(capsys, str(run), "--start=Η γέφυρα", "--num_samples=6", "--max_new_tokens=9")
    assert texts[6:] == alone.split("\n" + "-" * 20 + "\n")[:-1]


def test_json_has_tokens_and_log_probabilities(run, capsys, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "Το λιμάνι"}\n{"prompt": ""}\n', encoding="utf-8")
    capsys.readouterr()
    sample.main(
        [str(run), f"--prompts_file={prompts}", "--json", "--num_samples=1", "--max_new_tokens=5", "--logprobs=2"]
    )
    out, err = capsys.readouterr()
    first, second = map(json.loads, out.splitlines())
    assert first["prompt"] == "Το λιμάνι" and second["prompt"] == "" and first["finish_reason"] in ("length", "stop")
    assert len(first["tokens"]) <= 5 and all(len(t["top"]) == 2 and t["logprob"] <= 0 for t in first["tokens"])
    assert "".join(t["text"] for t in first["tokens"]).replace("\ufffd", "") in first["text"]
    assert "tokens/s" in err and "GB/s" in err


def test_beams(run, capsys):
    args = (str(run), "--start=Το λιμάνι", "--max_new_tokens=6", "--num_samples=2", "--num_beams=4")
    out = output(capsys, *args)
    scores = [float(line.split()[1]) for line in out.splitlines() if line.startswith("-" * 20)]
    assert len(scores) == 2 and scores[0] >= scores[1]
    first = json.loads(output(capsys, *args, "--json").splitlines()[0])
    assert first["score"] == pytest.approx(scores[0], abs=1e-3) and out.startswith(first["prompt"] + first["text"])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--prompts_file=none.txt"], "no such file"),
        (["--temperature=-1"], "temperature"),
        (["--num_beams=2", "--num_samples=3"], "raise num_beams"),
        (["--chat", "--start=Το"], "chat=True is a conversation"),
        (["--chat"], "base model, which continues texts"),
        (["--num_beams=2", "--num_samples=1", "--max_new_tokens=100"], "stays within the context"),
    ],
)
def test_what_cannot_be_is_said(run, args, message):
    with pytest.raises(UserError, match=message):
        sample.main([str(run), *args])


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_a_prompts_file_without_text(run, tmp_path, content):
    path = tmp_path / "empty.txt"
    path.write_text(content)
    with pytest.raises(UserError, match="holds no text"):
        sample.main([str(run), f"--prompts_file={path}"])


@pytest.mark.parametrize("line", ["{", '{"text": "a"}', '{"prompt": 3}', "[]"])
def test_a_damaged_line_of_prompts_is_named(run, tmp_path, line):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "Το"}\n' + line + "\n")
    with pytest.raises(UserError, match='line 2: no text under "prompt"'):
        sample.main([str(run), f"--prompts_file={path}"])


def test_a_pipe_that_closes_early_is_no_error(run):
    command = (
        f'"{sys.executable}" sample.py "{run}" --num_samples=50 --max_new_tokens=5 | head -n 1; exit ${{PIPESTATUS[0]}}'
    )
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr
