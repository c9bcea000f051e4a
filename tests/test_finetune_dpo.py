"""Preferences end to end: a margin grows, the good answers stay likely, resumed is uninterrupted, a ruin is stopped."""

import json

import pytest
import torch

import finetune_chat
import finetune_dpo
import train
from oracle.checkpoint import Checkpoint, RunDirectory
from oracle.cli import UsageError, UserError
from oracle.logbook import read
from tests.conftest import TINY, WORDS
from tests.runs import metrics, weights

LONGER = [a for a in TINY if not a.startswith("--block_size")] + ["--block_size=48"]
PLACES = ["λιμάνι", "ποτάμι", "σχολείο", "πλατεία"]


@pytest.fixture(scope="module")
def chat(prepared_dir, tmp_path_factory):
    """A model that was taught to answer the questions that the pairs ask."""
    path = tmp_path_factory.mktemp("models")
    train.main([f"--data_dir={prepared_dir}", f"--out_dir={path / 'base'}", *LONGER, "--n_embd=64", "--max_iters=20"])
    rows = [{"question": f"{w} {w};", "answer": PLACES[n % 4]} for n, w in enumerate(WORDS[:24])]
    (path / "qa.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    finetune_chat.main(
        [
            f"--init_from={path / 'base'}", f"--conversations={path / 'qa.jsonl'}", f"--out_dir={path / 'chat'}",
            "--batch_size=4", "--max_iters=30", "--learning_rate=0.003", "--eval_interval=30", "--device=cpu",
            "--dtype=float32",
        ]
    )  # fmt: skip
    return path / "chat"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [
        {
            "prompt": f"{w} {w};", "chosen": PLACES[n % 4], "rejected": PLACES[n % 4][:-1] + "υ", "kind": f"kind {n % 2}",
            "id": f"d{n}/0",
        }
        for n, w in enumerate(WORDS[:24])
    ]  # fmt: skip
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    return path


def args(chat, pairs, out, *more) -> list[str]:
    return [
        f"--init_from={chat}", f"--pairs={pairs}", f"--out_dir={out}", "--batch_size=4", "--max_iters=8",
        "--learning_rate=0.0005", "--warmup_iters=2", "--eval_interval=4", "--log_interval=2", "--device=cpu",
        "--dtype=float32", "--chat_val_fraction=0.25", *more,
    ]  # fmt: skip


def evaluations(out) -> list[dict]:
    return [r for r in read(out / "metrics.jsonl") if "val_loss" in r]


def test_it_learns_to_prefer_and_the_good_answers_stay(chat, pairs, tmp_path, capsys):
    finetune_dpo.main(args(chat, pairs, tmp_path, "--max_iters=30", "--eval_interval=10"))
    out = capsys.readouterr().out
    assert "inherited from" in out and "24 pairs in the shape of prompt, chosen, rejected" in out
    first, *_, last = evaluations(tmp_path)
    assert first["rewards/accuracies"] == first["rewards/margins"] == 0
    assert first["val_loss"] == pytest.approx(0.6931 - first["logps/chosen_per_token"], abs=1e-4)
    assert first["accuracies/raw"] == first["accuracies/raw_start"] == last["accuracies/raw_start"]
    assert last["rewards/accuracies"] > 0.8 and last["rewards/margins"] > 0.1
    assert last["ppl/chosen"] < 1.05 * first["ppl/chosen"] and last["ppl/chosen_start"] == first["ppl/chosen"]
    assert {"val_accuracies/raw/kind 0", "val_accuracies/raw/kind 1"} <= last.keys()
    steps = [r for r in read(tmp_path / "metrics.jsonl") if "lr" in r]
    assert all({"rewards/accuracies", "rewards/margins", "logps/chosen", "ppl/chosen"} <= r.keys() for r in steps)
    assert Checkpoint.open(RunDirectory(tmp_path).find("best")).chat_template


def test_resumed_equals_uninterrupted(chat, pairs, tmp_path):
    whole, parts = (args(chat, pairs, tmp_path / name) for name in ("whole", "parts"))
    finetune_dpo.main(whole)
    finetune_dpo.main([*parts, "--max_iters=4", "--lr_decay_iters=8"])
    finetune_dpo.main([*parts[1:], "--init_from=resume"])
    assert all(torch.equal(t, weights(parts)[name]) for name, t in weights(whole).items())
    assert metrics(whole)[-1] == metrics(parts)[-1]


def test_a_run_that_unlearns_the_good_answers_is_ended_and_a_sound_checkpoint_kept(chat, pairs, tmp_path, capsys):
    ruin = ("--sft_weight=0", "--learning_rate=0.02", "--max_iters=40", "--eval_interval=2")
    finetune_dpo.main(args(chat, pairs, tmp_path, *ruin))
    assert "the run ends here: ppl/chosen" in capsys.readouterr().out
    found = evaluations(tmp_path)
    assert found[-1]["step"] < 40 and found[-1]["ppl/chosen"] > 1.05 * found[0]["ppl/chosen"]
    best = Checkpoint.open(RunDirectory(tmp_path).find("best")).progress.step
    kept = next(r for r in found if r["step"] == best)
    assert kept["ppl/chosen"] <= 1.05 * found[0]["ppl/chosen"]


def test_a_reference_that_is_gone_or_of_other_pairs(chat, pairs, tmp_path):
    run = tmp_path / "run"
    finetune_dpo.main(args(chat, pairs, run, "--max_iters=2"))
    (run / "reference.safetensors").unlink()
    with pytest.raises(UserError, match=r"reference.safetensors: missing"):
        finetune_dpo.main(args(chat, pairs, run, "--init_from=resume"))
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(pairs.read_text(encoding="utf-8").splitlines()[1:]) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match="was trained with data"):
        finetune_dpo.main(args(chat, other, run, "--init_from=resume"))


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        (["--init_from=scratch"], UserError, "a fine-tune starts from a trained model"),
        (["--pairs="], UserError, "no pairs given"),
        (["--batch_size=3"], UsageError, "batch_size=3 .* give even numbers"),
        (["--dpo_loss=ipo", "--label_smoothing=0.1"], UsageError, "label_smoothing=0.1 is for dpo_loss=sigmoid"),
        (["--val_pairs=PAIRS"], UserError, "24 of 24 held-out pairs have a prompt that is trained on"),
    ],
)
def test_what_cannot_be_is_said(chat, pairs, tmp_path, more, error, message):
    more = [a.replace("PAIRS", str(pairs)) for a in more]
    with pytest.raises(error, match=message):
        finetune_dpo.main(args(chat, pairs, tmp_path / "run", *more))


def test_all_too_long_and_a_dry_run(chat, pairs, tmp_path, capsys):
    long = tmp_path / "long.jsonl"
    row = {"prompt": "πλάτανος " * 60, "chosen": "ναι", "rejected": "όχι"}
    long.write_text("".join(json.dumps({**row, "prompt": row["prompt"] + w}) + "\n" for w in WORDS[:4]))
    with pytest.raises(UserError, match=r"no pair to train on \(0 pairs kept, \d left out"):
        finetune_dpo.main(args(chat, long, tmp_path / "run"))
    finetune_dpo.main(args(chat, pairs, tmp_path / "run", "--dry_run"))
    assert "training tokens (counted)" in capsys.readouterr().out and not (tmp_path / "run").exists()
