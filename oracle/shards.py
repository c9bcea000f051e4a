"""Token shards: the file format, the manifest that binds them to a tokenizer, and the reader.

A shard is llm.c's: 256 little-endian int32 (magic, version, token count, zeros), then the tokens. Magic 20240520
version 1 is uint16, magic 20240801 version 7 is uint32, so other trainers can read these files and we theirs.
Beside the shards of a split lie `<split>.documents.npy`, int64 rows (first token, UTF-8 bytes), one per document,
and `<split>.ids.txt`, its id in the corpus, one a line; no document crosses a shard. `manifest.json` names every file
with its sha256, and is written last.
"""

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from oracle.cli import UserError
from oracle.files import atomic_file, read_json, sha256

HEADER_INTS = 256
HEADER_BYTES = HEADER_INTS * 4
FORMATS = {np.dtype("<u2"): (20240520, 1), np.dtype("<u4"): (20240801, 7)}
MANIFEST = "manifest.json"


def token_dtype(vocab_size: int) -> np.dtype:
    """The smallest type that holds every id: NumPy would wrap a larger one silently."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


class SplitWriter:
    """Writes one split, `shard_tokens` at a time (a document that is longer makes a longer shard)."""

    def __init__(self, folder: Path, split: str, dtype: np.dtype, shard_tokens: int) -> None:
        self.folder, self.split, self.dtype, self.shard_tokens = folder, split, dtype, shard_tokens
        self.shards: list[dict[str, Any]] = []
        self.documents: list[tuple[int, int]] = []
        self.counts: np.ndarray = np.zeros(0, dtype=np.int64)
        self._parts: list[np.ndarray] = []
        self._waiting = 0  # tokens in _parts
        self._written = 0  # tokens in finished shards
        self._open_files = ExitStack()
        self._ids_path = folder / f"{split}.ids.txt"
        self._ids = self._open_files.enter_context(atomic_file(self._ids_path))

    def add(self, tokens: np.ndarray, utf8_bytes: int, id: str) -> None:
        """Append a document. Its id goes straight to a file: a corpus may have millions."""
        self._ids.write(" ".join(id.split()).encode("utf-8", "replace") + b"\n")
        if self._waiting and self._waiting + len(tokens) > self.shard_tokens:
            self._flush()
        self.documents.append((self._written + self._waiting, utf8_bytes))
        self._parts.append(tokens.astype(self.dtype))
        self._waiting += len(tokens)

    def _flush(self) -> None:
        tokens = np.concatenate(self._parts)
        path = self.folder / f"{self.split}_{len(self.shards):06d}.bin"
        magic, version = FORMATS[self.dtype]
        header: np.ndarray = np.zeros(HEADER_INTS, dtype="<i4")
        header[:3] = magic, version, len(tokens)
        with atomic_file(path) as file:
            file.write(header.tobytes())
            file.write(tokens.tobytes())
        counts = np.bincount(tokens, minlength=len(self.counts))
        counts[: len(self.counts)] += self.counts
        self.counts = counts
        self.shards.append({"file": path.name, "tokens": len(tokens), "sha256": sha256(path)})
        self._parts, self._waiting, self._written = [], 0, self._written + len(tokens)

    def close(self) -> dict[str, Any]:
        """Finish the split and return its entry in the manifest."""
        if self._waiting:
            self._flush()
        self._open_files.close()
        path = self.folder / f"{self.split}.documents.npy"
        with atomic_file(path) as file:
            np.save(file, np.array(self.documents, dtype=np.int64).reshape(-1, 2), allow_pickle=False)
        return {
            "documents": len(self.documents),
            "tokens": self._written,
            "bytes": sum(size for _, size in self.documents),
            "shards": self.shards,
            "documents_file": {"file": path.name, "sha256": sha256(path)},
            "ids_file": {"file": self._ids_path.name, "sha256": sha256(self._ids_path)},
        }


class Split:
    """A split's tokens, memory-mapped, addressed by document.

    Attributes: `tokens` and `bytes` (UTF-8, of the text) in all, `lengths` (tokens per document, int64).
    """

    def __init__(self, folder: Path, entry: dict[str, Any], dtype: np.dtype, verify: bool) -> None:
        self.tokens: int = entry["tokens"]
        self.bytes: int = entry["bytes"]
        self._maps = [_open_shard(folder / s["file"], s, dtype, verify) for s in entry["shards"]]
        documents_path = folder / entry["documents_file"]["file"]
        if verify:
            _check_hash(documents_path, entry["documents_file"]["sha256"])
        self._ids_path = folder / entry["ids_file"]["file"]
        if verify:
            _check_hash(self._ids_path, entry["ids_file"]["sha256"])
        self._starts = np.load(documents_path, allow_pickle=False)[:, 0]
        self._shard_starts = np.cumsum([0] + [len(m) for m in self._maps])
        self.lengths: np.ndarray = np.diff(np.append(self._starts, self.tokens))

    def __len__(self) -> int:
        return len(self.lengths)

    def document(self, number: int) -> np.ndarray:
        """The tokens of one document, beginning-of-text and end-of-text among them; a view, not a copy."""
        start = int(self._starts[number])
        shard = int(np.searchsorted(self._shard_starts, start, side="right")) - 1
        local = start - int(self._shard_starts[shard])
        return self._maps[shard][local : local + int(self.lengths[number])]

    def ids(self, numbers: Iterable[int]) -> list[str]:
        """The corpus's ids of these documents, in stored order; read from the file each time, seldom needed."""
        wanted = set(numbers)
        with self._ids_path.open(encoding="utf-8") as lines:
            return [line.rstrip("\n") for number, line in enumerate(lines) if number in wanted]

    def all_tokens(self) -> np.ndarray:
        """Every token in stored order, copied into one array."""
        return np.concatenate(self._maps)


class Prepared:
    """A folder made by prepare.py: splits, tokenizer file, manifest. Raises UserError if anything is amiss."""

    def __init__(self, folder: str | Path, verify: bool = True) -> None:
        self.folder = Path(folder)
        path = self.folder / MANIFEST
        if not path.exists():
            raise UserError(
                f"{self.folder}: no {MANIFEST} there, so no prepared data; run prepare.py with the same config"
            )
        self.manifest = read_json(path)
        if not {"tokenizer", "splits", "fingerprint"} <= self.manifest.keys():
            raise UserError(f"{path}: not a manifest of prepare.py; run prepare.py with --overwrite=True")
        self.sha256 = sha256(path)
        self.tokenizer_path = self.folder / self.manifest["tokenizer"]["file"]
        if verify:
            _check_tokenizer(self.tokenizer_path, self.manifest["tokenizer"]["sha256"])
        dtype = token_dtype(self.manifest["tokenizer"]["vocab_size"])
        entries = self.manifest["splits"]
        self.train = Split(self.folder, entries["train"], dtype, verify)
        self.val = Split(self.folder, entries["val"], dtype, verify)
        self.heldout = Split(self.folder, entries["heldout"], dtype, verify) if "heldout" in entries else None


def _check_tokenizer(path: Path, expected: str) -> None:
    if not path.exists():
        raise UserError(f"{path}: missing, the shards cannot be read without it; run prepare.py again")
    found = sha256(path)
    if found != expected:
        raise UserError(
            f"{path}: this is tokenizer {found[:12]}, but the shards were made by {expected[:12]}:"
            " put the old one back or run prepare.py again"
        )


def _check_hash(path: Path, expected: str) -> None:
    if sha256(path) != expected:
        raise UserError(f"{path}: sha256 differs from the manifest's, bytes have changed; run prepare.py again")


def _open_shard(path: Path, entry: dict[str, Any], dtype: np.dtype, verify: bool) -> np.ndarray:
    if not path.exists():
        raise UserError(f"{path}: missing, though the manifest lists it; run prepare.py again")
    size, wanted = path.stat().st_size, HEADER_BYTES + entry["tokens"] * dtype.itemsize
    if size != wanted:
        raise UserError(
            f"{path}: {size:,} bytes, the manifest says {wanted:,}: truncated or replaced; run prepare.py again"
        )
    header = np.fromfile(path, dtype="<i4", count=3)
    if tuple(header) != (*FORMATS[dtype], entry["tokens"]):
        raise UserError(f"{path}: header {header.tolist()} is not that of a {dtype} shard; run prepare.py again")
    if verify:
        _check_hash(path, entry["sha256"])
    return np.memmap(path, dtype=dtype, mode="r", offset=HEADER_BYTES)


def unigram_bits(train_counts: np.ndarray, val: Iterable[np.ndarray], skip: int) -> float:
    """Bits that a model knowing only the training split's token frequencies (add-one) spends on `val`.

    Targets equal to `skip` (beginning of text) are not charged, as in evaluation.
    """
    frequency = train_counts + 1.0
    frequency[skip] = 0
    bits = np.full(len(frequency), 0.0)
    seen = frequency > 0
    bits[seen] = -np.log2(frequency[seen] / frequency.sum())
    return float(sum(bits[tokens].sum() for tokens in val))
