"""Pairs: read in every shape, refused with file and line, and in rows that never tear a pair."""

import json

import numpy as np
import pytest
import torch

from oracle.chat import Template
from oracle.cli import UserError
from oracle.dist import World
from oracle.pairs import PairBatches, PairRows, fit
from oracle.preferences import Pair, check_apart, read_pairs
from oracle.stage import Place
from oracle.tokenizer import Tokenizer

CPU = Place(torch.device("cpu"), torch.float32)
GOOD = {"prompt": "Πού;", "chosen": "Στο λιμάνι.", "rejected": "Στο λυμάνι."}


def write(path, *rows) -> str:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def asked(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize(
    "row",
    [
        GOOD,
        {"prompt": [asked("Πού;")], "chosen": [said("Στο λιμάνι.")], "rejected": [said("Στο λυμάνι.")]},
        {"chosen": [asked("Πού;"), said("Στο λιμάνι.")], "rejected": [asked("Πού;"), said("Στο λυμάνι.")]},
        {"instruction": "Πού;", "input": "", "chosen": "Στο λιμάνι.", "rejected": "Στο λυμάνι."},
        {
            "conversations": [{"from": "human", "value": "Πού;"}],
            "chosen": {"from": "gpt", "value": "Στο λιμάνι."},
            "rejected": {"from": "gpt", "value": "Στο λυμάνι."},
        },
    ],
)
def test_every_shape_is_the_same_pair(tmp_path, row):
    (pair,) = read_pairs(write(tmp_path / "p.jsonl", row)).items
    assert (pair.prompt, pair.chosen, pair.rejected) == ((asked("Πού;"),), "Στο λιμάνι.", "Στο λυμάνι.")


def test_corrected_texts_have_no_prompt_and_what_is_not_used_is_told(tmp_path):
    read = read_pairs(write(tmp_path / "p.jsonl", {"wrong": "λυμάνι", "right": "λιμάνι", "id": "d/3", "score": 2}))
    assert read.items == [Pair("d/3", "d", (), "λιμάνι", "λυμάνι", "unknown")]
    assert "1 pairs in the shape of wrong and right" in str(read) and "score (1 lines)" in str(read)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (GOOD | {"rejected": "Στο λιμάνι. "}, "chosen equals rejected"),
        (GOOD | {"rejected": " "}, "the assistant's content is empty"),
        (GOOD | {"chosen": 3}, "chosen is no text"),
        ({"prompt": "Πού;", "chosen": "Στο λιμάνι."}, "rejected is missing"),
        ({"prompt": "Πού;", "choosen": "α", "rejected": "β"}, "did you mean chosen"),
        (GOOD | {"kind": 7}, "kind=7 is no text"),
        ('{"prompt": "Πού;", "chosen": "Στ', "no JSON, or cut off"),
        ({"chosen": [asked("α"), said("γ")], "rejected": [asked("β"), said("δ")]}, "different prompts"),
        (GOOD | {"prompt": [{"role": "judge", "content": "α"}]}, "unknown role 'judge'"),
        (GOOD | {"prompt": [asked("α"), asked("β")]}, "user after user"),
        (GOOD | {"prompt": [{**asked("α"), "mood": "good"}]}, "unknown key 'mood'"),
    ],
)
def test_a_bad_line_is_named(tmp_path, row, message):
    path = write(tmp_path / "p.jsonl", GOOD, row, *[GOOD] * 3)
    with pytest.raises(UserError, match=rf"p.jsonl line 2: .*{message}"):
        read_pairs(path)
    assert len(read_pairs(path, skip=True).items) == 4


def test_one_shape_in_a_file(tmp_path):
    with pytest.raises(UserError, match=r"entry 1 has the shape of prompt.* entry 2 that of wrong and right"):
        read_pairs(write(tmp_path / "p.jsonl", GOOD, {"wrong": "α", "right": "β"}))


def test_a_prompt_on_both_sides_of_the_split_is_refused():
    pair = Pair("a", "", (asked("Πού;"),), "α", "β", "accent")
    with pytest.raises(
        UserError, match=r"v.jsonl: 1 of 1 held-out pairs have a prompt that is trained on, the first a"
    ):
        check_apart([pair], [pair], "v.jsonl")
    check_apart([pair], [Pair("a", "", (asked("Πότε;"),), "α", "β", "accent")], "v.jsonl")


@pytest.fixture(scope="module")
def template(prepared_dir) -> Template:
    return Template(Tokenizer(prepared_dir / "tokenizer.model"))


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    words = ["λιμάνι", "ποτάμι", "πλατεία", "σχολείο"]
    return [
        Pair(f"p{n}", "", (asked(f"πού {n};"),), f"{words[n % 4]} " * (1 + n % 3) + "τώρα", f"{words[n % 4]} τόρα", "x")
        for n in range(25)
    ]


def test_too_long_is_dropped_or_cut_and_counted(template, pairs):
    long = Pair("long", "", pairs[0].prompt, "ναι " * 200, "όχι " * 200, "x")
    same = Pair("same", "", pairs[0].prompt, "ναι " * 200 + "α", "ναι " * 200 + "β", "x")
    assert fit([long, same], template, 32, cut=False).dropped == 2
    fitted = fit([long, same, pairs[0]], template, 32, cut=True)
    assert [t.pair.id for t in fitted.texts] == ["long", "p0"] and (fitted.cut, fitted.dropped) == (1, 1)
    assert "1 too long and cut" in str(fitted) and "1 left out" in str(fitted)


def test_the_prompt_is_masked_and_both_sides_share_a_row(template, pairs):
    texts = fit(pairs, template, 64, cut=False).texts
    rows = PairRows(texts, 64)
    x, y, places = rows.take(range(len(rows)))
    assert x.shape == (len(rows), 2, 64) and sorted(rows.pairs(range(len(rows)))) == list(range(len(texts)))
    for side, name in enumerate(("chosen", "rejected")):
        targets = [getattr(texts[n], name) for n in rows.pairs(range(len(rows)))]
        said = [token for sample in targets for token in sample.ids[sample.mask].tolist()]
        assert y[:, side][y[:, side] >= 0].tolist() == said
        starts = (places[:, side] == 0) & (x[:, side] == template.tokenizer.bos)
        assert starts.sum() == len(texts)
    assert template.tokenizer.decode(texts[0].chosen.ids[texts[0].chosen.mask].tolist()) == pairs[0].chosen


def test_a_batch_is_a_function_of_seed_and_step_and_ranks_share_it(template, pairs):
    rows = PairRows(fit(pairs, template, 32, cut=False).texts, 32)
    reference = np.arange(2 * len(rows.texts), dtype=np.float32).reshape(-1, 2) + 1
    batches = PairBatches(rows, reference, 4, 4, seed=1, place=CPU)
    seen = [name for step in range(len(rows)) for name in batches.documents(step)]
    assert sorted(seen) == sorted([t.pair.id for t in rows.texts] * 2)  # two rows of pairs a step: two epochs
    whole = batches.step(3)
    ranks = [
        PairBatches(rows, reference, 4, 2, 1, Place(CPU.device, CPU.dtype, World(rank, 2))).step(3) for rank in range(2)
    ]
    for part in range(4):
        joined = torch.cat([rank.micro_batches[0][part] for rank in ranks])
        assert torch.equal(whole.micro_batches[0][part], joined)
    assert whole.n_targets == ranks[1].n_targets == len(batches.documents(3))
    given = whole.micro_batches[0][3]
    names = [f"p{int(value - 1) // 2}" for row in given[:, 0] for value in row if value]
    assert names == batches.documents(3)
