"""A tiny invented corpus and what prepare.py makes of it, built once per test session."""

import json
import os
import random
from pathlib import Path

import pytest
import torch

import prepare
from oracle.shards import Prepared
from oracle.tokenizer import Tokenizer

WORDS = [
    "ο",
    "η",
    "το",
    "και",
    "με",
    "για",
    "από",
    "στο",
    "λιμάνι",
    "γέφυρα",
    "ποτάμι",
    "δήμαρχος",
    "είπε",
    "χθες",
    "σήμερα",
    "νερό",
    "μέλι",
    "πορτοκάλια",
    "αγώνας",
    "γκολ",
    "σχολείο",
    "βιβλιοθήκη",
    "φάρος",
    "θάλασσα",
    "ψαράς",
    "καΐκι",
    "«Αγία",
    "Μαρίνα»",
    "πλατεία",
    "πλάτανος",
    "τιμή",
    "ευρώ",
    "380.000",
    "12%",
    "Μαρτίου;",
]


def make_text(seed: int, words: int = 60) -> str:
    rng = random.Random(seed)
    return "\n".join(" ".join(rng.choices(WORDS, k=12)) for _ in range(words // 12))


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """For models this small a second thread only waits; on a busy machine it waits for long."""
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # of what the tests start


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    rows = [{"id": f"d{i}", "title": f"Τίτλος {i}", "text": make_text(i, 24 + 12 * (i % 7))} for i in range(60)]
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    return path


def prepare_args(corpus: Path, folder: Path, *more: str) -> list[str]:
    return [f"--corpus={corpus}", f"--data_dir={folder}", "--vocab_size=400", "--val_fraction=0.2", *more]


@pytest.fixture(scope="session")
def prepared_dir(corpus, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    prepare.main(prepare_args(corpus, folder, "--shard_tokens=1000"))
    return folder


@pytest.fixture(scope="session")
def prepared(prepared_dir) -> Prepared:
    return Prepared(prepared_dir)


@pytest.fixture(scope="session")
def tokenizer(prepared) -> Tokenizer:
    return Tokenizer(prepared.tokenizer_path)


TINY = (
    "--n_layer=2", "--n_head=2", "--n_embd=32", "--block_size=16", "--batch_size=4", "--max_iters=12",
    "--warmup_iters=2", "--learning_rate=0.01", "--eval_interval=6", "--log_interval=3", "--device=cpu", "--dtype=float32",
)  # fmt: skip


@pytest.fixture
def tiny_args(prepared_dir, tmp_path) -> list[str]:
    """A training command line that takes a fraction of a second."""
    return [f"--data_dir={prepared_dir}", f"--out_dir={tmp_path / 'run'}", *TINY]
