"""Fine-tuning end to end: it learns the answers, resumes bit for bit, and says what it was given wrongly."""

import json

import pytest
import torch

import finetune_chat
import train
from model import GPT, GPTConfig
from oracle.answering import add_noise
from oracle.checkpoint import Checkpoint, RunDirectory
from oracle.cli import UserError
from oracle.generate import open_engine
from oracle.logbook import read
from tests.conftest import TINY, WORDS
from tests.runs import metrics, weights

LONGER = [a for a in TINY if not a.startswith("--block_size")] + ["--block_size=48"]
PLACES = ["λιμάνι", "ποτάμι", "σχολείο", "πλατεία"]


@pytest.fixture(scope="module")
def base(prepared_dir, tmp_path_factory):
    path = tmp_path_factory.mktemp("base")
    train.main([f"--data_dir={prepared_dir}", f"--out_dir={path}", *LONGER, "--n_embd=64", "--max_iters=20"])
    return path


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [{"question": f"{w} {w};", "answer": PLACES[n % 4]} for n, w in enumerate(WORDS[:24])]
    rows += [{"question": "πλάτανος " * 60, "answer": "τιμή"} for _ in range(4)]  # one in eight is too long
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    return path


def args(base, pairs, out, *more) -> list[str]:
    return [
        f"--init_from={base}", f"--conversations={pairs}", f"--out_dir={out}", "--batch_size=4", "--max_iters=8",
        "--learning_rate=0.005", "--warmup_iters=2", "--eval_interval=4", "--log_interval=2", "--device=cpu",
        "--dtype=float32", *more,
    ]  # fmt: skip


def test_it_learns_to_answer_and_says_what_it_forgot(base, pairs, tmp_path, capsys):
    finetune_chat.main(args(base, pairs, tmp_path, f"--val_conversations={pairs}", "--max_iters=150"))
    out = capsys.readouterr().out
    assert "inherited from" in out and "n_embd=64" in out and "4 left out" in out and "--chat" in out
    evaluations = [r for r in read(tmp_path / "metrics.jsonl") if "val_loss" in r]
    assert evaluations[-1]["val_loss"] < 0.3 * evaluations[0]["val_loss"] and evaluations[-1]["token_accuracy"] > 0.9
    assert evaluations[-1]["base_bpb"] > evaluations[0]["base_bpb"]  # nothing kept it from forgetting
    assert Checkpoint.open(RunDirectory(tmp_path).find("best")).chat_template
    engine = open_engine(tmp_path)
    assert engine.template
    prompt = engine.template.prompt([{"role": "user", "content": f"{WORDS[1]} {WORDS[1]};"}])
    from oracle.sampling import SamplingParams

    params = SamplingParams(temperature=0, max_new_tokens=10, stop_tokens=engine.template.stop_tokens)
    answer = engine.complete([prompt], params)[0]
    assert answer.text == PLACES[1] and answer.finish_reason == "stop"


def test_a_mix_of_running_text_forgets_less(base, pairs, tmp_path):
    kept = []
    for mix in (0.0, 0.5):
        out = tmp_path / str(mix)
        finetune_chat.main(args(base, pairs, out, f"--pretrain_mix={mix}", "--max_iters=40"))
        kept.append(read(out / "metrics.jsonl")[-1]["base_bpb"])
    assert kept[1] < kept[0]


@pytest.mark.parametrize("more", [[], ["--pretrain_mix=0.25", "--neftune_alpha=5", "--prompt_loss_weight=0.1"]])
def test_resumed_equals_uninterrupted(base, pairs, tmp_path, more):
    whole = args(base, pairs, tmp_path / "whole", *more)
    finetune_chat.main(whole)
    parts = args(base, pairs, tmp_path / "parts", *more)
    finetune_chat.main([*parts, "--max_iters=4", "--lr_decay_iters=8"])
    resumed = [a for a in parts if not a.startswith("--init_from")]
    finetune_chat.main([*resumed, "--init_from=resume"])
    assert all(torch.equal(t, weights(parts)[name]) for name, t in weights(whole).items())
    assert metrics(whole)[-1] == metrics(parts)[-1]


def test_questions_are_answered_at_every_evaluation(base, pairs, tmp_path):
    config = tmp_path / "config.py"
    config.write_text("sample_prompts = ['λιμάνι λιμάνι;']\nmax_new_tokens = 5\n", encoding="utf-8")
    finetune_chat.main([str(config), *args(base, pairs, tmp_path / "run")])
    samples = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert [s["step"] for s in samples] == [0, 4, 8]


def test_noise_is_for_training_only():
    model = GPT(GPTConfig(block_size=8, vocab_size=64, n_layer=1, n_head=1, n_embd=16))
    x = torch.arange(8)[None]
    plain = model(x)
    add_noise(model.wte, 10.0)
    noise = model.wte(x) - model.wte.weight[x]
    assert 0 < noise.abs().max() <= 10 / (8 * 16) ** 0.5
    assert torch.equal(model.eval()(x), plain)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--init_from=scratch"], "a fine-tune starts from a trained model"),
        (["--init_from=out/nowhere"], "no such run directory"),
        (["--n_layer=5"], "n_layer=5: .* was trained with n_layer=2"),
        (["--conversations="], "no conversations given"),
        (["--data_dir=nowhere", "--pretrain_mix=0.1"], "pretrain_mix=0.1 wants the base model's text"),
    ],
)
def test_what_cannot_be_is_said(base, pairs, tmp_path, more, message):
    with pytest.raises(UserError, match=message):
        finetune_chat.main(args(base, pairs, tmp_path / "run", *more))


def test_all_too_long_and_changed_data(base, pairs, tmp_path):
    long = tmp_path / "long.jsonl"
    long.write_text(pairs.read_text(encoding="utf-8").splitlines()[-1] + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"no conversation to train on \(0 kept, 1 left out"):
        finetune_chat.main(args(base, long, tmp_path / "run"))
    finetune_chat.main(args(base, pairs, tmp_path / "run", "--max_iters=2"))
    with pytest.raises(UserError, match="was trained with data"):
        finetune_chat.main(args(base, pairs, tmp_path / "run", "--init_from=resume", "--long_conversations=cut"))


def test_a_dry_run_counts_and_writes_nothing(base, pairs, tmp_path, capsys):
    finetune_chat.main(args(base, pairs, tmp_path / "run", "--dry_run"))
    out = capsys.readouterr().out
    assert "28 conversations in the shape of question and answer" in out and "training tokens (counted)" in out
    assert not (tmp_path / "run").exists()
