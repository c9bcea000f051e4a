"""Corpus -> tokenizer -> token shards and their manifest.

    python prepare.py config/demo.py
    python prepare.py --corpus=my_texts/ --data_dir=data/mine --vocab_size=8000
    python prepare.py --corpus=my_texts/ --data_dir=data/mine --tokenizer=gpt2

Three passes over the corpus, all streaming: decide every document's split; draw the tokenizer's sample; encode.
What is already done for the same corpus and settings is not done again; the manifest is written last.
"""

import heapq
import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from oracle import cli
from oracle.cli import UserError
from oracle.config import load
from oracle.corpus import OPENERS, CorpusReader, Document
from oracle.files import atomic_file, read_json, sha256, write_text
from oracle.parallel import cores, ordered_map
from oracle.pretrained import tokenizer_file
from oracle.settings import Config, Corpus
from oracle.settings import Tokenizer as TokenizerSettings
from oracle.shards import MANIFEST, Prepared, SplitWriter
from oracle.split import BLANK, HELDOUT, TRAIN, VAL, Assigned, assign
from oracle.text import normalize
from oracle.tokenizer import Tokenizer, open_tokenizer, train_tokenizer
from oracle.tokenizer_report import Tally, baselines, compare, markdown, wasteful_words

FORMAT = 2  # raise it when the same settings would give other shards
BATCH_CHARS = 1 << 20  # text handed to a worker at once
HELD_OUT_BYTES = 5_000_000  # validation text that tokenizers are compared on


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
    fingerprint = {"format": FORMAT, "corpus_sha256": reader.fingerprint(), **_deciding_settings(config)}
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
    print(f"{folder} is ready; next: python train.py {call.source or f'--data_dir={config.data_dir} --max_epochs=10'}")


def _deciding_settings(config: Config) -> dict[str, Any]:
    """The settings that decide what the folder will contain."""
    given = {"tokenizer": sha256(tokenizer_file(config.tokenizer))} if config.tokenizer else {}
    names = [f.name for group in (Corpus, TokenizerSettings) for f in fields(group)]
    values = asdict(config)
    return (
        {"seed": config.seed} | {n: values[n] for n in names if n not in ("workers", "overwrite", "tokenizer")} | given
    )


def _already_done(folder: Path, fingerprint: dict[str, Any], config: Config) -> bool:
    """True if `folder` holds exactly this; raises UserError rather than overwrite data made otherwise."""
    path = folder / MANIFEST
    if not path.exists():
        return False
    try:
        old = Prepared(folder).manifest["fingerprint"]
    except UserError as error:
        print(f"note: {error}: doing so")
        path.unlink()
        return False
    names = [name for name in {**fingerprint, **old} if old.get(name) != fingerprint.get(name)]
    changed = [f"{name} {old.get(name)!r} -> {fingerprint.get(name)!r}" for name in names]
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


def learn(reader: CorpusReader, folder: Path, fingerprint: dict[str, Any], config: Config) -> dict[str, Any]:
    """Split the corpus, train the tokenizer on a sample of the training split, compare it with its rival.

    Returns what the manifest says of it; kept in learned.json, so that an interrupted run starts at the last pass.
    """
    given = tokenizer_file(config.tokenizer) if config.tokenizer else None
    path = folder / (given.name if given else "tokenizer.model")
    sides, saved = folder / "sides.npy", folder / "learned.json"
    if saved.exists():
        learned = read_json(saved)
        made = {"tokenizer": path, "split": sides}
        if learned["fingerprint"] == fingerprint and all(
            file.exists() and sha256(file) == learned[name]["sha256"] for name, file in made.items()
        ):
            return learned
    assigned = assign(reader, config, _workers(reader, config))
    with atomic_file(sides) as file:
        np.save(file, assigned.sides, allow_pickle=False)
    bad = {"bad_lines": len(reader.bad_lines), "bad_line_examples": reader.bad_lines[:10]}
    sample, held_out = draw(reader, assigned, config)
    if given:
        with atomic_file(path) as file:
            file.write(given.read_bytes())
    else:
        print(f"tokenizer: training {config.tokenizer_type} on {sum(map(len, sample)):,} characters", flush=True)
        train_tokenizer(sample, path, config.tokenizer_type, config.vocab_size, config.character_coverage)
    tokenizer = open_tokenizer(path)
    comparison = {}
    if config.compare_tokenizers and config.tokenizer_type != "char" and not given:
        print("tokenizer: comparing bpe with unigram on held-out text", flush=True)
        comparison = compare(sample, held_out, folder, config.vocab_size, config.character_coverage)
    learned = {
        "fingerprint": fingerprint,
        "corpus": assigned.corpus | bad,
        "split": assigned.split | {"file": sides.name, "sha256": sha256(sides)},
        "leaks": assigned.leaks,
        "tokenizer": {
            "file": path.name,
            "sha256": tokenizer.sha256,
            "type": "given" if given else config.tokenizer_type,
            "vocab_size": tokenizer.vocab_size,
        },
        "comparison": comparison,
        "wasteful_words": wasteful_words(held_out, tokenizer),
    }
    write_text(saved, json.dumps(learned, ensure_ascii=False, indent=1))
    return learned


def draw(reader: CorpusReader, assigned: Assigned, config: Config) -> tuple[list[str], list[str]]:
    """Second pass: an even sample of the training split, and one of the validation split."""
    drawn = {TRAIN: Draw(config.tokenizer_sample_mb * 1_000_000), VAL: Draw(HELD_OUT_BYTES)}
    with tqdm(desc="draw   ", unit="document", unit_scale=True, total=len(assigned.sides)) as progress:
        for document, side, hash, size in zip(reader, assigned.sides, assigned.hashes, assigned.sizes, strict=True):
            if side in drawn:
                drawn[side].add(int(hash), document.text, int(size))
            progress.update()
    return drawn[TRAIN].texts(), drawn[VAL].texts()


_worker_tokenizer: Tokenizer  # one per worker process, with its own cache of words


def _open_tokenizer(path: Path) -> None:
    global _worker_tokenizer
    _worker_tokenizer = open_tokenizer(path)


def _encode(batch: list[Document]) -> tuple[list[int], list[np.ndarray], Tally]:
    """UTF-8 bytes and ids of every document in the batch; each is decoded again and compared."""
    texts = [normalize(document.text) for document in batch]
    tokens = _worker_tokenizer.encode_documents(texts)
    return [len(text.encode()) for text in texts], tokens, Tally.of(texts, tokens, _worker_tokenizer)


def encode(reader: CorpusReader, folder: Path, learned: dict[str, Any], config: Config) -> dict[str, Any]:
    """Third pass: documents to ids to shards. Returns the manifest."""
    tokenizer = open_tokenizer(folder / learned["tokenizer"]["file"])
    corpus = learned["corpus"]
    free, needed = shutil.disk_usage(folder).free, corpus["characters"] * tokenizer.dtype.itemsize
    if free < needed:
        raise UserError(
            f"{folder}: shards may take {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; free some space"
        )
    names = {TRAIN: "train", VAL: "val"} | ({HELDOUT: "heldout"} if config.heldout_from else {})
    writers = {side: SplitWriter(folder, name, tokenizer.dtype, config.shard_tokens) for side, name in names.items()}
    sides = iter(np.load(folder / learned["split"]["file"], allow_pickle=False).tolist())
    tally = Tally()
    with tqdm(desc="encode ", unit="char", unit_scale=True, total=corpus["characters"]) as progress:
        start_worker = partial(_open_tokenizer, tokenizer.path)
        batches = _batches(reader, progress)
        work = ordered_map(_encode, batches, _workers(reader, config), start_worker)
        for batch, (sizes, tokens, batch_tally) in work:
            tally += batch_tally
            for document, size, ids in zip(batch, sizes, tokens, strict=True):
                side = next(sides)
                if side != BLANK:
                    writers[side].add(ids, size, document.id)
    splits = {name: writers[side].close() for side, name in names.items()}
    report = tally.summary()
    if report["round_trip_failures"]:
        raise UserError(
            f"{report['round_trip_failures']} documents do not survive encoding and decoding: {tally.failed[:3]}"
        )
    return {
        **learned,
        "splits": splits,
        "report": report,
        "baselines": baselines(writers[TRAIN].counts, folder, splits, tokenizer),
    }


def _workers(reader: CorpusReader, config: Config) -> int:
    """Processes worth starting: one for every few megabytes, as many as there are cores."""
    size = sum(path.stat().st_size * (5 if path.suffix in OPENERS else 1) for path in reader.files())
    return config.workers or max(1, min(cores(), size // 4_000_000))


if __name__ == "__main__":
    sys.exit(cli.run(main))
