"""Corpus -> tokenizer -> token shards and their manifest.

    python prepare.py config/demo.py
    python prepare.py --corpus=my_texts/ --data_dir=data/mine --vocab_size=8000

Two passes over the corpus, both streaming: measure it and draw the tokenizer's sample; encode. What is already
done for the same corpus and settings is not done again; the manifest is written last.
"""

import heapq
import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from oracle import cli
from oracle.cli import UserError
from oracle.config import load
from oracle.corpus import OPENERS, CorpusReader, Document
from oracle.parallel import cores, ordered_map
from oracle.settings import Config, Corpus
from oracle.settings import Tokenizer as TokenizerSettings
from oracle.shards import MANIFEST, SplitWriter, sha256, write_text
from oracle.text import normalize
from oracle.tokenizer import Tokenizer, train_tokenizer
from oracle.tokenizer_report import Tally, baselines, compare, markdown, wasteful_words

FORMAT = 2  # raise it when the same settings would give other shards
BATCH_CHARS = 1 << 20  # text handed to a worker at once
HELD_OUT_BYTES = 5_000_000  # validation text that tokenizers are compared on


@dataclass(frozen=True)
class Measured:
    """What a worker found in one document; a blank one has no bytes and is left out everywhere."""

    hash: int  # 64 bits of its normalised text: decides the split and the sample, so exact copies stay together
    bytes: int
    chars: int


@dataclass
class Draw:
    """An even draw of bounded size from a stream: the documents of lowest hash."""

    limit: int  # UTF-8 bytes
    size: int = 0
    heap: list[tuple[int, str]] = field(default_factory=list)  # (-hash, text): the highest hash leaves first

    def add(self, hash: int, text: str, size: int) -> None:
        heapq.heappush(self.heap, (-hash, text))
        self.size += size
        while self.size > self.limit and len(self.heap) > 1:
            self.size -= len(heapq.heappop(self.heap)[1].encode())

    def texts(self) -> list[str]:
        return [normalize(text) for _, text in sorted(self.heap, reverse=True)]


def main(argv: Sequence[str]) -> None:
    call = load("prepare.py", argv)
    config = call.config
    reader = CorpusReader(Path(config.corpus), config.keep_titles, config.text_chunk_chars, config.skip_bad_lines)
    folder = Path(config.data_dir)
    fingerprint = {"format": FORMAT, "corpus": reader.fingerprint(), **_deciding_settings(config)}
    if call.dry_run:
        print(f"would prepare {len(reader.files())} file(s) of {config.corpus} into {folder}:")
        print(json.dumps(fingerprint, ensure_ascii=False, indent=1))
        return
    if _already_done(folder, fingerprint, config):
        return
    folder.mkdir(parents=True, exist_ok=True)
    learned = learn(reader, folder, fingerprint, config)
    manifest = encode(reader, folder, learned, config)
    write_text(folder / "tokenizer_report.md", markdown(manifest))
    write_text(folder / MANIFEST, json.dumps(manifest, ensure_ascii=False, indent=1))
    print((folder / "tokenizer_report.md").read_text(encoding="utf-8"))
    print(f"{folder} is ready; next: python train.py {call.source or '--data_dir=' + config.data_dir}")


def _deciding_settings(config: Config) -> dict[str, Any]:
    """The settings that decide what the folder will contain."""
    names = [f.name for group in (Corpus, TokenizerSettings) for f in fields(group)]
    values = asdict(config)
    return {"seed": config.seed} | {n: values[n] for n in names if n not in ("workers", "overwrite")}


def _already_done(folder: Path, fingerprint: dict[str, Any], config: Config) -> bool:
    """True if `folder` holds exactly this; raises UserError rather than overwrite data made otherwise."""
    path = folder / MANIFEST
    if not path.exists():
        return False
    old = json.loads(path.read_text(encoding="utf-8"))["fingerprint"]
    changed = [f"{k} {old.get(k)!r} -> {v!r}" for k, v in fingerprint.items() if old.get(k) != v]
    if not changed:
        print(f"{folder}: already prepared from this corpus with these settings; nothing to do")
        return True
    if not config.overwrite:
        raise UserError(
            f"{folder}: holds data prepared otherwise ({'; '.join(changed)}):"
            " choose another --data_dir, or pass --overwrite=True to replace it"
        )
    path.unlink()  # from here on the folder is unfinished, and says so
    return False


def _batches(documents: Iterable[Document], progress: tqdm) -> Iterator[list[Document]]:
    """Documents in groups of about BATCH_CHARS characters."""
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= BATCH_CHARS:
            yield batch
            progress.update(size)
            batch, size = [], 0
    yield batch
    progress.update(size)


def _measure(seed: int, batch: list[Document]) -> tuple[list[str], list[Measured]]:
    texts, measured = [normalize(document.text) for document in batch], []
    for text in texts:
        data = text.encode() if not text.isspace() else b""
        digest = blake2b(data, digest_size=8, key=seed.to_bytes(8, "little")).digest()
        measured.append(Measured(int.from_bytes(digest, "little"), len(data), len(text)))
    return texts, measured


def _measure_only(seed: int, batch: list[Document]) -> list[Measured]:
    return _measure(seed, batch)[1]


def learn(reader: CorpusReader, folder: Path, fingerprint: dict[str, Any], config: Config) -> dict[str, Any]:
    """First pass: measure the corpus, train the tokenizer on a sample of its training split, compare with its rival.

    Returns what the manifest says of it; kept in learned.json, so that an interrupted run starts at the second pass.
    """
    path, saved = folder / "tokenizer.model", folder / "learned.json"
    if saved.exists():
        learned: dict[str, Any] = json.loads(saved.read_text(encoding="utf-8"))
        if learned["fingerprint"] == fingerprint and path.exists() and sha256(path) == learned["tokenizer"]["sha256"]:
            return learned
    corpus, sample, held_out = survey(reader, config)
    print(f"tokenizer: training {config.tokenizer_type} on {sum(map(len, sample)):,} characters", flush=True)
    train_tokenizer(sample, path, config.tokenizer_type, config.vocab_size, config.character_coverage)
    tokenizer = Tokenizer(path)
    comparison = {}
    if config.compare_tokenizers and config.tokenizer_type != "char":
        print("tokenizer: comparing bpe with unigram on held-out text", flush=True)
        comparison = compare(sample, held_out, folder, config.vocab_size, config.character_coverage)
    learned = {
        "fingerprint": fingerprint,
        "corpus": corpus,
        "tokenizer": {
            "file": path.name,
            "sha256": tokenizer.sha256,
            "type": config.tokenizer_type,
            "vocab_size": tokenizer.vocab_size,
        },
        "comparison": comparison,
        "wasteful_words": wasteful_words(held_out, tokenizer),
    }
    write_text(saved, json.dumps(learned, ensure_ascii=False, indent=1))
    return learned


def survey(reader: CorpusReader, config: Config) -> tuple[dict[str, Any], list[str], list[str]]:
    """Measure the corpus and draw (figures, a sample of the training split, a sample of the validation split)."""
    val_below = int(config.val_fraction * (1 << 64))
    train, held_out = Draw(config.tokenizer_sample_mb * 1_000_000), Draw(HELD_OUT_BYTES)
    total = {"documents": 0, "bytes": 0, "characters": 0}
    with tqdm(desc="measure", unit="char", unit_scale=True) as progress:
        work = ordered_map(partial(_measure_only, config.seed), _batches(reader, progress), _workers(reader, config))
        for batch, measured in work:
            for document, m in zip(batch, measured, strict=True):
                if m.bytes:
                    (held_out if m.hash < val_below else train).add(m.hash, document.text, m.bytes)
                    total["documents"] += 1
                    total["bytes"] += m.bytes
                    total["characters"] += m.chars
    if total["documents"] < 2:
        what = "is empty" if not total["documents"] else "holds one document, and validation needs a second"
        raise UserError(
            f"{config.corpus}: the corpus {what}; give more text, or lower text_chunk_chars to cut text files"
        )
    if not held_out.heap:  # a small corpus may have no hash that low: its lowest validates
        train.heap.sort()
        lowest, text = train.heap.pop()
        held_out.heap, val_below = [(lowest, text)], 1 - lowest
    if not train.heap:
        raise UserError(f"{config.corpus}: val_fraction={config.val_fraction} leaves nothing to train on; lower it")
    bad = {"bad_lines": len(reader.bad_lines), "bad_line_examples": reader.bad_lines[:10]}
    return {**total, **bad, "val_below": val_below}, train.texts(), held_out.texts()


_worker_tokenizer: Tokenizer  # one per worker process, with its own cache of words


def _open_tokenizer(path: Path) -> None:
    global _worker_tokenizer
    _worker_tokenizer = Tokenizer(path)


def _encode(seed: int, batch: list[Document]) -> tuple[list[Measured], list[np.ndarray], Tally]:
    """Ids of every document in the batch; each is decoded again and compared."""
    texts, measured = _measure(seed, batch)
    tokens = _worker_tokenizer.encode_documents(texts)
    return measured, tokens, Tally.of(texts, tokens, _worker_tokenizer)


def encode(reader: CorpusReader, folder: Path, learned: dict[str, Any], config: Config) -> dict[str, Any]:
    """Second pass: documents to ids to shards. Returns the manifest."""
    tokenizer = Tokenizer(folder / learned["tokenizer"]["file"])
    corpus = learned["corpus"]
    free, needed = shutil.disk_usage(folder).free, corpus["characters"] * tokenizer.dtype.itemsize
    if free < needed:
        raise UserError(
            f"{folder}: shards may take {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; free some space"
        )
    train, val = (SplitWriter(folder, split, tokenizer.dtype, config.shard_tokens) for split in ("train", "val"))
    tally = Tally()
    with tqdm(desc="encode ", unit="char", unit_scale=True, total=corpus["characters"]) as progress:
        start_worker = partial(_open_tokenizer, tokenizer.path)
        batches = _batches(reader, progress)
        work = ordered_map(partial(_encode, config.seed), batches, _workers(reader, config), start_worker)
        for batch, (measured, tokens, batch_tally) in work:
            tally += batch_tally
            for document, m, ids in zip(batch, measured, tokens, strict=True):
                if m.bytes:
                    (val if m.hash < corpus["val_below"] else train).add(ids, m.bytes, document.id)
    splits = {"train": train.close(), "val": val.close()}
    report = tally.summary()
    if report["round_trip_failures"]:
        raise UserError(
            f"{report['round_trip_failures']} documents do not survive encoding and decoding: {tally.failed[:3]}"
        )
    return {
        **learned,
        "splits": splits,
        "report": report,
        "baselines": baselines(train.counts, folder, splits, tokenizer),
    }


def _workers(reader: CorpusReader, config: Config) -> int:
    """Processes worth starting: one for every few megabytes, as many as there are cores."""
    size = sum(path.stat().st_size * (5 if path.suffix in OPENERS else 1) for path in reader.files())
    return config.workers or max(1, min(cores(), size // 4_000_000))


if __name__ == "__main__":
    sys.exit(cli.run(main))
