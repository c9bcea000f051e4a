"""The shard format: exact bytes, llm.c's header, and every kind of damage refused by name."""

import json
import shutil

import numpy as np
import pytest

from oracle.cli import UserError
from oracle.shards import HEADER_BYTES, MANIFEST, Prepared, Split, SplitWriter, token_dtype, unigram_bits


def write_split(folder, documents, dtype="<u2", shard_tokens=10):
    writer = SplitWriter(folder, "train", np.dtype(dtype), shard_tokens)
    for document in documents:
        writer.add(np.array(document), utf8_bytes=2 * len(document), id=f"no {document[0]}\n")
    return writer, writer.close()


@pytest.mark.parametrize("dtype", ["<u2", "<u4"])
def test_documents_come_back(tmp_path, dtype):
    documents = [list(range(n, n + n)) for n in (3, 4, 12, 1, 9)]
    _, entry = write_split(tmp_path, documents, dtype)
    split = Split(tmp_path, entry, np.dtype(dtype), verify=True)
    assert [split.document(i).tolist() for i in range(len(split))] == documents
    assert split.all_tokens().tolist() == [token for document in documents for token in document]
    assert split.ids([3, 0, 3]) == ["no 3", "no 1"]
    assert split.tokens == 29 and split.bytes == 58 and len(entry["shards"]) == 3


def test_header_is_llm_c_s(tmp_path):
    write_split(tmp_path, [[7, 8, 9]])
    raw = (tmp_path / "train_000000.bin").read_bytes()
    header = np.frombuffer(raw[:HEADER_BYTES], dtype="<i4")
    assert header[:3].tolist() == [20240520, 1, 3] and not header[3:].any()
    assert np.frombuffer(raw[HEADER_BYTES:], dtype="<u2").tolist() == [7, 8, 9]


def test_type_holds_every_id():
    assert token_dtype(65_536) == np.dtype("<u2")
    assert token_dtype(65_537) == np.dtype("<u4")


def test_counts_and_unigram_bits(tmp_path):
    writer, _ = write_split(tmp_path, [[1, 5, 5, 2], [1, 5, 2]])
    assert writer.counts.tolist() == [0, 2, 2, 0, 0, 3]
    # add-one frequencies without id 1: 0:1 2:3 3:1 4:1 5:4 of 10
    expected = -np.log2(0.4) - np.log2(0.3)
    assert unigram_bits(writer.counts.astype(float), [np.array([1, 5, 2])], skip=1) == pytest.approx(expected)


def test_prepared_folder_is_refused_when_damaged(prepared_dir, tmp_path):
    shard = "train_000000.bin"

    def damaged(action, expected):
        folder = tmp_path / "copy"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(prepared_dir, folder)
        action(folder)
        with pytest.raises(UserError, match=expected):
            Prepared(folder)

    def flip(name, position):
        def action(folder):
            data = bytearray((folder / name).read_bytes())
            data[position] ^= 1
            (folder / name).write_bytes(data)

        return action

    damaged(lambda f: (f / shard).write_bytes((f / shard).read_bytes()[:-2]), "truncated")
    damaged(lambda f: (f / shard).write_bytes((f / shard).read_bytes() + b"xx"), "truncated or replaced")
    damaged(flip(shard, HEADER_BYTES + 10), "bytes have changed")
    damaged(flip(shard, 0), "header")
    damaged(flip("train.documents.npy", 200), "bytes have changed")
    damaged(flip("tokenizer.model", 50), "the shards were made by")
    damaged(lambda f: (f / shard).unlink(), "missing")
    damaged(lambda f: (f / "tokenizer.model").unlink(), "missing")
    damaged(lambda f: (f / MANIFEST).unlink(), "run prepare.py")


def test_manifest_tells_the_truth(prepared_dir, prepared):
    manifest = json.loads((prepared_dir / MANIFEST).read_text(encoding="utf-8"))
    for name, split in (("train", prepared.train), ("val", prepared.val)):
        assert manifest["splits"][name]["documents"] == len(split)
        assert manifest["splits"][name]["tokens"] == split.lengths.sum() == len(split.all_tokens())
