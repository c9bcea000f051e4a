"""What should fit on which GPU, and that a run takes it."""

import re
from types import SimpleNamespace

import pytest
import torch

import train
from model import GPT, GPTConfig
from oracle.config import load
from oracle.dist import ALONE
from oracle.memory import settled
from oracle.plan import make_plan
from oracle.preset import CARDS, CHUNKS, SPARE, memory_gib, micro_batch_sizes, preset
from oracle.settings import Config
from tests.test_train import ROOT, metrics, run_dir

MEDIUM = GPTConfig(n_layer=24, n_head=16, n_embd=1024)
BF16 = torch.bfloat16


def test_the_table_in_the_config_file_is_what_a_gpu_gets(monkeypatch):
    text = (ROOT / "config" / "rizospastis.py").read_text(encoding="utf-8")
    rows = re.findall(r"^# +(\d+ GB) +(\d+) +(\d+) +([\d.]+)$", text, re.MULTILINE)
    assert [card for card, *_ in rows] == list(CARDS)
    monkeypatch.chdir(ROOT)
    config = load("train.py", ["config/rizospastis.py"]).config
    plan = make_plan(config, 50_000, 170_000_000)
    for card, size, chunks, gib in rows:
        picked = preset(plan.model, micro_batch_sizes(plan.sequences_per_step), CARDS[card], BF16)
        assert picked == (int(size), int(chunks)), card
        assert f"{sum(memory_gib(plan.model, *picked, BF16).values()):.1f}" == gib


def test_what_is_picked_fits_and_the_next_card_is_never_worse():
    before = 0
    for gib in range(12, 200, 4):
        size, chunks = preset(MEDIUM, micro_batch_sizes(512), gib, BF16)
        assert sum(memory_gib(MEDIUM, size, chunks, BF16).values()) <= (1 - SPARE) * gib
        assert size >= before
        before = size
    assert before == 64


def test_a_given_micro_batch_stays_and_hopeless_cards_get_the_least():
    assert preset(MEDIUM, [16], 23.5, BF16) == (16, 4)
    assert preset(MEDIUM, [8], 23.5, BF16) == (8, 1)
    assert preset(MEDIUM, micro_batch_sizes(512), 4, BF16) == (1, CHUNKS[-1])
    longer = GPTConfig(n_layer=24, n_head=16, n_embd=1024, block_size=131_072)
    assert preset(longer, [1, 2, 4], 10_000, BF16) == (1, 1)


def test_chunks_save_logits_and_cost_a_gradient():
    plain, chunked = (memory_gib(MEDIUM, 16, n, BF16) for n in (1, 8))
    assert plain["logits"] == pytest.approx(4.6, abs=0.1)
    assert chunked["logits"] == pytest.approx(4.6 / 8 + 0.29, abs=0.1)
    assert plain["activations"] == chunked["activations"] == pytest.approx(12, abs=0.1)


def test_a_gpu_is_asked_for_its_memory(monkeypatch, capsys):
    card = SimpleNamespace(total_memory=int(CARDS["24 GB"] * 2**30))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    model = GPT(GPTConfig(block_size=1024, vocab_size=50_304, n_layer=1, n_head=2, n_embd=16))
    config = settled(Config(batch_size=0, loss_chunks=0), model, 512, torch.device("cuda"), BF16, ALONE)
    assert (config.batch_size, config.loss_chunks) == (64, 1) and model.loss_chunks == 1
    assert "for a GPU of 23.5 GiB micro-batches of 64 sequences, the loss in one piece" in capsys.readouterr().out


def test_a_cpu_takes_the_loss_in_one_piece(tiny_args, capsys):
    train.main([*tiny_args, "--total_batch_size=128", "--batch_size=auto", "--loss_chunks=auto"])
    out = capsys.readouterr().out
    assert "loss_chunks=auto: the loss in one piece" in out and "micro-batches of 8 sequences" in out
    assert '"loss_chunks": 1' in (run_dir(tiny_args) / "config.json").read_text(encoding="utf-8")


def test_a_run_in_chunks_is_the_same_run(tiny_args, tmp_path):
    losses = []
    for chunks in (1, 3):
        args = [a for a in tiny_args if "out_dir" not in a] + [f"--out_dir={tmp_path / str(chunks)}"]
        train.main([*args, f"--loss_chunks={chunks}"])
        losses.append([r.get("loss", r.get("val_loss")) for r in metrics(args) if "loss" in r or "val_loss" in r])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_dry_run_says_what_each_gpu_would_get(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    train.main(["config/rizospastis.py", "--dry_run", "--data_dir=nowhere"])
    out = capsys.readouterr().out
    assert "24 GB      micro-batches of 16 sequences, the loss in 4 chunks (about 19.4 GiB)" in out
    train.main(["config/rizospastis.py", "--dry_run", "--data_dir=nowhere", "--batch_size=16", "--loss_chunks=8"])
    out = capsys.readouterr().out
    assert "in 32 micro-batches of 16" in out and "logits 0.9" in out
