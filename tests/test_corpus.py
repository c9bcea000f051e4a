"""Reading corpora: every way a file can be wrong is named with file and place, and nothing is silently lost."""

import gzip
import json
import lzma
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oracle.cli import UserError
from oracle.corpus import CorpusReader, chunks


def write_lines(path, *lines):
    path.write_bytes(b"".join(line if isinstance(line, bytes) else line.encode() + b"\n" for line in lines))
    return path


def record(text, **more):
    return json.dumps({"text": text, **more}, ensure_ascii=False)


def texts(path, **options):
    return [d.text for d in CorpusReader(path, **options)]


def test_json_lines_with_and_without_titles(tmp_path):
    path = write_lines(tmp_path / "c.jsonl", record("κείμενο", title="Τίτλος", id=7), "", record("άλλο"))
    assert texts(path) == ["Τίτλος\n\nκείμενο", "άλλο"]
    assert texts(path, keep_titles=False) == ["κείμενο", "άλλο"]
    assert [d.id for d in CorpusReader(path)] == ["7", "c.jsonl:3"]


@pytest.mark.parametrize("opener", [gzip.open, lzma.open])
def test_compressed_is_the_same(tmp_path, opener):
    path = tmp_path / ("c.jsonl.gz" if opener is gzip.open else "c.jsonl.xz")
    with opener(path, "wb") as file:
        file.write(record("κείμενο").encode() + b"\n")
    assert texts(path) == ["κείμενο"]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match="damaged archive"):
        texts(path)


def test_folder_of_text_in_a_fixed_order(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "2.txt").write_text("δύο", encoding="utf-8")
    (tmp_path / "1.txt").write_text("\ufeffένα", encoding="utf-8")
    (tmp_path / "notes.pdf").write_bytes(b"\xff")
    assert texts(tmp_path) == ["ένα", "δύο"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"text": "a"', "line 2: not JSON"),
        ('{"body": "a"}', 'line 2: no "text"'),
        ('["a"]', 'line 2: no "text"'),
        ('{"text": "\\ud800"}', "surrogate"),
        (b'{"text": "\xce"}\n', "line 2: invalid UTF-8 at byte 28"),
    ],
)
def test_a_bad_line_is_named_or_counted(tmp_path, line, expected):
    path = write_lines(tmp_path / "c.jsonl", record("first"), line, record("last"))
    with pytest.raises(UserError) as caught:
        texts(path)
    assert expected in str(caught.value) and "--skip_bad_lines" in str(caught.value)
    reader = CorpusReader(path, skip_bad_lines=True)
    assert [d.text for d in reader] == ["first", "last"] and len(reader.bad_lines) == 1


def test_invalid_utf8_names_the_byte_of_the_file(tmp_path):
    first = record("αβ") + "\n"
    path = write_lines(tmp_path / "c.jsonl", first.encode(), b'{"text": "\xce\xce"}\n')
    with pytest.raises(UserError, match=f"byte {len(first.encode()) + 10} of the file"):
        texts(path)
    text = tmp_path / "t.txt"
    text.write_bytes("αβγ".encode() + b"\xff")
    with pytest.raises(UserError, match=r"t\.txt: invalid UTF-8 at byte 6"):
        texts(text)
    text.write_bytes("αβγ".encode() + b"\xce")
    with pytest.raises(UserError, match="at byte 6"):
        texts(text)


def test_missing_empty_and_foreign(tmp_path):
    for path, expected in [
        (tmp_path / "none.jsonl", "no such corpus"),
        (tmp_path, "no .jsonl or .txt"),
        (write_lines(tmp_path / "x.pdf", "x"), "a corpus is"),
    ]:
        with pytest.raises(UserError, match=expected):
            texts(path)
    with pytest.raises(UserError, match="no corpus given"):
        CorpusReader(Path()).files()


@given(st.text(alphabet="αβγ \n", max_size=400), st.integers(1, 50))
def test_chunks_join_to_the_text(text, size):
    pieces = list(chunks(text, size))
    assert "".join(pieces) == text
    assert all(len(p) <= 2 * size for p in pieces)


def test_chunks_do_not_depend_on_how_the_file_was_read(tmp_path, monkeypatch):
    text = "\n\n".join(f"Παράγραφος {i} με λίγα λόγια." for i in range(200))
    path = tmp_path / "t.txt"
    path.write_text(text, encoding="utf-8")
    whole = texts(path, text_chunk_chars=300)
    monkeypatch.setattr("oracle.corpus.READ_BYTES", 7)
    assert texts(path, text_chunk_chars=300) == whole == list(chunks(text, 300))
    assert "".join(whole) == text and all(p.endswith("\n\n") for p in whole[:-1])


def test_fingerprint_follows_the_bytes(tmp_path):
    path = write_lines(tmp_path / "c.jsonl", record("a"))
    before = CorpusReader(path).fingerprint()
    assert before == CorpusReader(path).fingerprint()
    write_lines(path, record("b"))
    assert before != CorpusReader(path).fingerprint()
