"""prepare.py from corpus to shards: nothing lost, nothing overwritten, restartable, the same for any number of cores."""

import json
from pathlib import Path

import pytest

import prepare
from oracle import cli
from oracle.cli import UserError
from oracle.corpus import CorpusReader
from oracle.parallel import ordered_map
from oracle.shards import MANIFEST, Prepared
from oracle.text import normalize
from oracle.tokenizer import BOS, EOS, Tokenizer
from tests.conftest import make_text, prepare_args


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_every_document_is_in_one_split_exactly(corpus, prepared, tokenizer):
    stored = [split.document(i).tolist() for split in (prepared.train, prepared.val) for i in range(len(split))]
    assert all(ids[0] == BOS and ids[-1] == EOS for ids in stored)
    assert sorted(tokenizer.decode(ids) for ids in stored) == sorted(normalize(d.text) for d in CorpusReader(corpus))
    assert len(prepared.val) >= 1 and len(prepared.train) > len(prepared.val)
    total = sum(len(normalize(d.text).encode()) for d in CorpusReader(corpus))
    assert prepared.train.bytes + prepared.val.bytes == total


def test_report_counts(prepared_dir, corpus):
    manifest = json.loads((prepared_dir / MANIFEST).read_text(encoding="utf-8"))
    report = manifest["report"]
    documents = [normalize(d.text) for d in CorpusReader(corpus)]
    assert report["documents"] == len(documents) == 60
    assert report["words"] == sum(len(d.split()) for d in documents)
    assert report["tokens"] + 2 * 60 == sum(s["tokens"] for s in manifest["splits"].values())
    assert report["round_trip_failures"] == 0
    assert 0 < manifest["baselines"]["xz_bits_per_byte"] < 8
    assert {"bpe", "unigram"} <= manifest["comparison"].keys()
    page = (prepared_dir / "tokenizer_report.md").read_text(encoding="utf-8")
    assert "tokens per word" in page and "| unigram |" in page and "most wasteful words" in page


def test_a_second_run_does_nothing_and_other_settings_are_refused(corpus, tmp_path, capsys):
    prepare.main(prepare_args(corpus, tmp_path))
    before = contents(tmp_path)
    prepare.main(prepare_args(corpus, tmp_path))
    assert "nothing to do" in capsys.readouterr().out and contents(tmp_path) == before
    with pytest.raises(UserError, match=r"vocab_size 400 -> 420.*--overwrite=True"):
        prepare.main([*prepare_args(corpus, tmp_path), "--vocab_size=420"])
    assert contents(tmp_path) == before
    prepare.main([*prepare_args(corpus, tmp_path), "--vocab_size=420", "--overwrite=True"])
    assert Prepared(tmp_path).manifest["tokenizer"]["vocab_size"] == 420


def test_a_changed_corpus_of_the_same_name_is_noticed(corpus, tmp_path):
    copy = tmp_path / "corpus.jsonl"
    copy.write_bytes(corpus.read_bytes())
    prepare.main(prepare_args(copy, tmp_path / "p"))
    copy.write_bytes(corpus.read_bytes() + b'{"text": "one more"}\n')
    with pytest.raises(UserError, match="corpus_sha256"):
        prepare.main(prepare_args(copy, tmp_path / "p"))


@pytest.mark.parametrize("name", ["train_000000.bin", "tokenizer.model", MANIFEST])
def test_what_is_damaged_is_made_again(corpus, tmp_path, name):
    prepare.main(prepare_args(corpus, tmp_path))
    before = contents(tmp_path)
    (tmp_path / name).write_bytes(before[name][:-7])
    prepare.main(prepare_args(corpus, tmp_path))
    assert contents(tmp_path) == before


def test_an_interrupted_run_goes_on_and_ends_the_same(corpus, tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    prepare.main(prepare_args(corpus, whole))
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "encode", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare.main(prepare_args(corpus, broken))
    assert not (broken / MANIFEST).exists()
    with monkeypatch.context() as patch:  # the tokenizer is not trained again
        patch.setattr(prepare, "train_tokenizer", lambda *_: pytest.fail("trained twice"))
        prepare.main(prepare_args(corpus, broken))
    assert contents(broken) == contents(whole)


def test_any_number_of_workers_gives_the_same_bytes(corpus, prepared_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "BATCH_CHARS", 2000)
    prepare.main(prepare_args(corpus, tmp_path, "--shard_tokens=1000", "--workers=2"))
    assert contents(tmp_path) == contents(prepared_dir)


def test_exact_copies_fall_on_one_side(tmp_path):
    corpus = tmp_path / "c.jsonl"
    rows = [{"text": make_text(i // 2, 36)} for i in range(80)]
    corpus.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    prepare.main(prepare_args(corpus, tmp_path / "p"))
    data = Prepared(tmp_path / "p")
    sides = [{split.document(i).tobytes() for i in range(len(split))} for split in (data.train, data.val)]
    assert not sides[0] & sides[1] and len(sides[0] | sides[1]) == 40


def test_a_small_corpus_still_has_a_validation_document(tmp_path):
    corpus = tmp_path / "c.jsonl"
    corpus.write_text("".join(json.dumps({"text": make_text(i, 240)}) + "\n" for i in range(5)), encoding="utf-8")
    prepare.main([*prepare_args(corpus, tmp_path / "p"), "--val_fraction=0.0001"])
    data = Prepared(tmp_path / "p")
    assert (len(data.train), len(data.val)) == (4, 1)


@pytest.mark.parametrize(
    ("content", "expected"),
    [("", "is empty"), ('{"text": " \\n "}\n', "is empty"), ('{"text": "μόνο ένα"}\n', "holds one document")],
)
def test_too_little_to_work_with(tmp_path, content, expected):
    corpus = tmp_path / "c.jsonl"
    corpus.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=expected):
        prepare.main(prepare_args(corpus, tmp_path / "p"))


def test_a_folder_of_text_in_another_language(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in ("Ђорђе", "Новак"):
        (folder / f"{name}.txt").write_text(
            "\n\n".join(make_text(i, 36) + f" {name} шета поред реке." for i in range(60)), encoding="utf-8"
        )
    prepare.main([*prepare_args(folder, tmp_path / "p"), "--text_chunk_chars=500"])
    data = Prepared(tmp_path / "p")
    assert len(data.train) > 20 and len(data.val) >= 1
    assert "Ђорђе" in Tokenizer(data.tokenizer_path).decode(data.train.all_tokens().tolist())


def test_skipped_lines_are_counted(corpus, tmp_path):
    bad = tmp_path / "c.jsonl"
    bad.write_bytes(corpus.read_bytes() + b"{broken\n")
    with pytest.raises(UserError, match="line 61"):
        prepare.main(prepare_args(bad, tmp_path / "p"))
    prepare.main(prepare_args(bad, tmp_path / "p", "--skip_bad_lines"))
    assert Prepared(tmp_path / "p").manifest["corpus"]["bad_lines"] == 1


def test_no_disk_space_is_said_before_writing(corpus, tmp_path, monkeypatch):
    usage = prepare.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(prepare.shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(UserError, match="free some space"):
        prepare.main(prepare_args(corpus, tmp_path / "p"))


def test_exit_codes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["prepare.py", "--corpus=none.jsonl", f"--data_dir={tmp_path}"])
    assert cli.run(prepare.main) == 1
    assert capsys.readouterr().err.startswith("error: none.jsonl: no such corpus")
    monkeypatch.setattr("sys.argv", ["prepare.py", "--vocab_sise=1"])
    assert cli.run(prepare.main) == 2


def _fail_on_three(x: int) -> int:
    if x == 3:
        raise ValueError("three")
    return x * x


def test_ordered_map_keeps_order_bounds_its_reading_and_raises():
    read = []

    def items():
        for i in range(50):
            read.append(i)
            yield i + 10

    results = ordered_map(_fail_on_three, items(), 2)
    assert next(results) == (10, 100) and len(read) <= 6
    assert [r for _, r in results] == [(i + 10) ** 2 for i in range(1, 50)]
    with pytest.raises(ValueError, match="three"):
        list(ordered_map(_fail_on_three, range(5), 2))
