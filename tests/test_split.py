"""Which document is on which side: repeated ones together, held-out days apart, no leak left."""

import json
import random

import numpy as np
import pytest

import prepare
from oracle.cli import UsageError, UserError
from oracle.config import load
from oracle.corpus import CorpusReader
from oracle.dedup import Resemblance
from oracle.shards import MANIFEST, Prepared
from oracle.split import BLANK, HELDOUT, TRAIN, VAL, assign
from oracle.text import normalize
from oracle.tokenizer import Tokenizer
from tests.conftest import make_text, prepare_args


def near(text: str) -> str:
    """`text` with one of its 120 words replaced: Jaccard 0.92."""
    words = text.split(" ")
    return " ".join([*words[:50], "άλλη", *words[51:]])


@pytest.fixture
def write(tmp_path):
    def write(rows):
        path = tmp_path / "corpus.jsonl"
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


def pairs(count=60):
    """Stories, each with its edited copy: dated 2018 and onwards, a month apart."""
    rows = []
    for number in range(count):
        text, day = make_text(number, 120), f"{2018 + number // 12}-{number % 12 + 1:02}-05"
        rows += [{"id": f"{number}", "date": day, "text": text}, {"id": f"{number}b", "date": day, "text": near(text)}]
    return rows


def sides_of(path, *more):
    config = load("prepare.py", prepare_args(path, path.parent / "p", *more)).config
    reader = CorpusReader(path)
    assigned = assign(reader, config, workers=1)
    return {document.id: int(side) for document, side in zip(reader, assigned.sides, strict=True)}, assigned


def test_near_duplicates_fall_on_one_side(write, tmp_path):
    path = write(pairs())
    prepare.main(prepare_args(path, tmp_path / "p"))
    data = Prepared(tmp_path / "p")
    tokenizer = Tokenizer(data.tokenizer_path)
    val = {tokenizer.decode(data.val.document(i).tolist()) for i in range(len(data.val))}
    stories = [normalize(make_text(number, 120)) for number in range(60)]
    assert 4 <= sum(story in val for story in stories) < 30
    assert all((story in val) == (near(story) in val) for story in stories)
    assert data.manifest["leaks"] == {"validation": 0}
    assert data.manifest["split"]["groups"] == 60
    report = (tmp_path / "p" / "tokenizer_report.md").read_text(encoding="utf-8")
    assert "near-duplicates across the split: 0 validation documents; 60 groups" in report


def test_without_the_search_copies_are_torn_apart_and_the_manifest_does_not_claim_otherwise(write, tmp_path):
    path = write(pairs())
    sides, _ = sides_of(path, "--near_duplicates=False")
    assert any(sides[str(number)] != sides[f"{number}b"] for number in range(60))
    prepare.main(prepare_args(path, tmp_path / "p", "--near_duplicates=False"))
    assert json.loads((tmp_path / "p" / MANIFEST).read_text(encoding="utf-8"))["leaks"] == {}
    assert "not looked for" in (tmp_path / "p" / "tokenizer_report.md").read_text(encoding="utf-8")


def test_the_split_does_not_depend_on_the_order_of_the_corpus(write):
    rows = pairs()
    sides, _ = sides_of(write(rows))
    random.Random(0).shuffle(rows)
    assert sides_of(write(rows))[0] == sides


def test_exact_copies_stay_together_without_the_search(write):
    rows = [{"id": f"{n}{copy}", "text": make_text(n, 36) + copy} for n in range(40) for copy in ("", "\u00ad")]
    sides, _ = sides_of(write(rows), "--near_duplicates=False")
    assert all(sides[f"{n}"] == sides[f"{n}\u00ad"] for n in range(40)) and set(sides.values()) == {TRAIN, VAL}


@pytest.mark.parametrize("heldout", [(), ("--heldout_from=2022-01-01",)])
def test_what_the_groups_missed_is_found_by_the_check_and_repaired(write, monkeypatch, heldout):
    monkeypatch.setattr(Resemblance, "groups", lambda self: [])
    rows = pairs()
    for row in rows[::2]:
        row["date"] = "2018-01-05"  # of every pair the first is old
    sides, assigned = sides_of(write(rows), *heldout)
    assert all(sides[str(number)] == sides[f"{number}b"] for number in range(60))
    assert assigned.leaks == ({"validation": 0, "heldout": 0} if heldout else {"validation": 0})
    assert assigned.split["joined_by_check"] >= 4
    assert set(sides.values()) == ({TRAIN, VAL, HELDOUT} if heldout else {TRAIN, VAL})


def test_the_check_counts_what_it_finds(write, monkeypatch):
    """Were nothing repaired, the leaks would be there to be counted."""
    path = write(pairs())
    sides, _ = sides_of(path, "--near_duplicates=False")
    resemblance = Resemblance(((d.id, d.text) for d in CorpusReader(path)), workers=1)
    masks = [np.array([sides[name] == side for name in resemblance.ids]) for side in (TRAIN, VAL)]
    torn = [name for name, side in sides.items() if side == VAL and sides[other(name)] == TRAIN]
    assert [resemblance.ids[leak.held] for leak in resemblance.leaks(*masks)] == torn and torn
    resemblance.close()


def other(name):
    return name.removesuffix("b") if name.endswith("b") else f"{name}b"


def test_held_out_days_form_a_third_split_with_all_that_repeats_them(write, tmp_path):
    rows = [*pairs(), {"id": "undated", "text": make_text(99, 120)}, {"id": "blank", "date": "2023-01-01", "text": " "}]
    rows.append({"id": "forerunner", "date": "2018-01-01", "text": near(make_text(59, 120)) + " τέλος"})
    path = write(rows)
    sides, assigned = sides_of(path, "--heldout_from=2022-01-05")
    late = {row["id"] for row in rows if row.get("date", "") >= "2022-01-05"} - {"blank"}
    assert len(late) == 24
    assert {name for name, side in sides.items() if side == HELDOUT} == late | {"forerunner"}
    assert sides["blank"] == BLANK and sides["undated"] in (TRAIN, VAL) and assigned.corpus["undated"] == 1

    prepare.main(prepare_args(path, tmp_path / "p", "--heldout_from=2022-01-05"))
    data = Prepared(tmp_path / "p")
    assert data.heldout is not None and len(data.heldout) == 25
    assert sum(map(len, (data.train, data.val, data.heldout))) == len(rows) - 1
    assert data.manifest["splits"]["heldout"]["documents"] == 25


def test_the_tokenizer_never_sees_held_out_text(write, monkeypatch, tmp_path):
    seen = []
    train = prepare.train_tokenizer
    monkeypatch.setattr(prepare, "train_tokenizer", lambda sample, *more: (seen.extend(sample), train(sample, *more)))
    rows = pairs()
    path = write(rows)
    prepare.main(prepare_args(path, tmp_path / "p", "--heldout_from=2022-01-05"))
    sides, _ = sides_of(path, "--heldout_from=2022-01-05")
    assert sorted(seen) == sorted(normalize(row["text"]) for row in rows if sides[row["id"]] == TRAIN)


def test_what_cannot_be_split_is_one_sentence(write, tmp_path):
    path = write(pairs(4))
    for given, message in (
        ("--heldout_from=2030-01-01", "no document is of that day or later"),
        ("--heldout_from=2000-01-01", "0 validate, 8 are held out and 0 train"),
    ):
        with pytest.raises(UserError, match=message):
            prepare.main(prepare_args(path, tmp_path / "p", given))
    with pytest.raises(UsageError, match=r"heldout_from='1/2/2020': no such day"):
        prepare.main(prepare_args(path, tmp_path / "p", "--heldout_from=1/2/2020"))
    text = make_text(1, 120)
    same = write([{"text": text}, {"text": near(text)}, {"text": text.upper()}])
    with pytest.raises(UserError, match=r"3 validate, 0 are held out and 0 train.*near-duplicates stay together"):
        prepare.main(prepare_args(same, tmp_path / "p"))
