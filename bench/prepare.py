"""Encoding speed: prepare.py's way against calling SentencePiece directly, one process, alternating.

    python -m bench.prepare [prepared folder] [corpus] [rounds]

Three ways on the same documents: `direct`, one SentencePiece call per list of documents; `ours`, the same ids
through the cache of words; `stage`, all that a worker of prepare.py does besides (normalising, hashing, decoding every
document again, counting). The cache is emptied before each round.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import sentencepiece as spm

import prepare
from oracle.corpus import CorpusReader
from oracle.text import normalize
from oracle.tokenizer import Tokenizer

LIMIT_BYTES = 40_000_000


def main(argv: list[str]) -> None:
    folder = Path(argv[0] if argv else "data/demo/prepared")
    corpus = Path(argv[1] if len(argv) > 1 else "data/demo/corpus.jsonl")
    rounds = int(argv[2]) if len(argv) > 2 else 5
    documents, size = [], 0
    for document in CorpusReader(corpus, text_chunk_chars=50_000):
        documents.append(document)
        size += len(document.text.encode())
        if size > LIMIT_BYTES:
            break
    texts = [normalize(d.text) for d in documents]
    batches = [texts[i : i + 64] for i in range(0, len(texts), 64)]
    document_batches = [documents[i : i + 64] for i in range(0, len(documents), 64)]
    path = folder / "tokenizer.model"
    model = spm.SentencePieceProcessor(model_file=str(path))

    def direct() -> list[int]:
        return [len(ids) for batch in batches for ids in model.encode(batch, out_type="numpy", num_threads=1)]

    def ours() -> list[int]:
        tokenizer = Tokenizer(path)
        return [len(ids) - 2 for batch in batches for ids in tokenizer.encode_documents(batch)]

    def stage() -> list[int]:
        prepare._open_tokenizer(path)
        return [len(ids) - 2 for batch in document_batches for ids in prepare._encode(batch)[1]]

    ways: dict[str, Callable[[], list[int]]] = {"direct": direct, "ours": ours, "stage": stage}
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    counts = {}
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.process_time()
            counts[name] = way()
            speeds[name].append(size / 1e6 / (time.process_time() - began))
    assert counts["direct"] == counts["ours"] == counts["stage"]
    print(f"{size / 1e6:.1f} MB, {len(texts):,} documents, vocabulary {model.get_piece_size():,}, {rounds} rounds")
    print(f"{'way':10} {'MB/s per core':>14} {'min':>8} {'max':>8} {'ratio':>7}")
    base = statistics.median(speeds["direct"])
    for name, values in speeds.items():
        middle = statistics.median(values)
        print(f"{name:10} {middle:14.1f} {min(values):8.1f} {max(values):8.1f} {middle / base:7.2f}")
    medians = {name: round(statistics.median(values), 2) for name, values in speeds.items()}
    print(json.dumps({"bench": "prepare", "megabytes": round(size / 1e6, 1), "mb_per_s_per_core": medians}))


if __name__ == "__main__":
    main(sys.argv[1:])
