"""What a tokenizer costs: the figures prepare.py prints, saves and puts into the manifest."""

import lzma
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from oracle.shards import Split, unigram_bits
from oracle.tokenizer import Tokenizer, train_tokenizer

WORD = re.compile(r"[^\W\d_]{3,}")  # three letters or more
COMPARED = ("bpe", "unigram")
COMPARISON_CHARS = 10_000_000  # both rivals learn from this much; unigram needs some 17 bytes of memory for each byte


@dataclass
class Tally:
    """Counts over documents; a word is what stands between blanks."""

    documents: int = 0
    words: int = 0
    characters: int = 0
    bytes: int = 0
    tokens: int = 0  # without the marks at a document's beginning and end
    byte_tokens: int = 0  # byte-fallback tokens, line ends aside
    failed: list[str] = field(default_factory=list)  # documents that did not come back from encoding

    @classmethod
    def of(cls, texts: Sequence[str], tokens: Sequence[np.ndarray], tokenizer: Tokenizer) -> "Tally":
        ids = np.concatenate(tokens) if tokens else np.zeros(0, dtype=np.int64)
        fallback = np.isin(ids, [i for i in tokenizer.byte_ids if tokenizer.piece_bytes[i] != b"\n"])
        return cls(
            documents=len(texts),
            words=sum(len(text.split()) for text in texts),
            characters=sum(map(len, texts)),
            bytes=sum(len(text.encode()) for text in texts),
            tokens=len(ids) - 2 * len(texts),
            byte_tokens=int(fallback.sum()),
            failed=[t[:80] for t, i in zip(texts, tokens, strict=True) if tokenizer.decode(i.tolist()) != t],
        )

    def __iadd__(self, other: "Tally") -> "Tally":
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)
        return self

    def summary(self) -> dict[str, Any]:
        counts = {name: value for name, value in asdict(self).items() if name != "failed"}
        return counts | {
            "tokens_per_word": self.tokens / max(1, self.words),
            "characters_per_token": self.characters / max(1, self.tokens),
            "bytes_per_token": self.bytes / max(1, self.tokens),
            "byte_token_share": self.byte_tokens / max(1, self.tokens),
            "round_trip_failures": len(self.failed),
        }


def compare(
    sample: Sequence[str], held_out: Sequence[str], folder: Path, vocab_size: int, coverage: float
) -> dict[str, Any]:
    """Train both kinds on the same part of `sample`: kind -> summary on the held-out text, or why there is none."""
    part, size = [], 0
    for text in sample:
        part.append(text)
        size += len(text)
        if size > COMPARISON_CHARS:
            break
    result: dict[str, Any] = {"trained_on_characters": size}
    for kind in COMPARED:
        path = folder / f"compared.{kind}.tmp"
        try:
            train_tokenizer(part, path, kind, vocab_size, coverage)
            tokenizer = Tokenizer(path)
            result[kind] = Tally.of(held_out, tokenizer.encode_documents(held_out), tokenizer).summary()
        except ValueError as error:  # a small text may support bpe's vocabulary and not unigram's
            result[kind] = {"error": str(error)}
        finally:
            path.unlink(missing_ok=True)
    return result


def wasteful_words(texts: Sequence[str], tokenizer: Tokenizer, count: int = 15) -> list[dict[str, Any]]:
    """The words of `texts` that cost most tokens beyond one, over all their occurrences."""
    words = Counter(word for text in texts for word in WORD.findall(text))
    pieces = dict(zip(words, tokenizer.encode_documents([f" {w}" for w in words]), strict=True))
    extra = {word: (len(pieces[word]) - 3) * n for word, n in words.items()}
    return [
        {
            "word": word,
            "times": words[word],
            "tokens": len(pieces[word]) - 2,
            "pieces": [tokenizer.piece(int(i)) for i in pieces[word][1:-1]],
        }
        for word, waste in sorted(extra.items(), key=lambda item: (-item[1], item[0]))[:count]
        if waste > 0
    ]


def baselines(counts: np.ndarray, folder: Path, splits: dict[str, Any], tokenizer: Tokenizer) -> dict[str, float]:
    """Bits per byte on the validation text of two models that understand nothing.

    The token frequencies of the training split, and `xz -9` on the validation text by itself.
    """
    val = Split(folder, splits["val"], tokenizer.dtype, verify=False)
    documents = [val.document(number) for number in range(len(val))]
    xz = lzma.LZMACompressor(preset=9)
    packed = sum(len(xz.compress(tokenizer.decode(ids.tolist()).encode())) for ids in documents) + len(xz.flush())
    padded = np.zeros(tokenizer.vocab_size)
    padded[: len(counts)] = counts[: tokenizer.vocab_size]
    return {
        "unigram_bits_per_byte": unigram_bits(padded, documents, skip=tokenizer.bos) / val.bytes,
        "xz_bits_per_byte": 8 * packed / val.bytes,
    }


def markdown(manifest: dict[str, Any]) -> str:
    """The report as a page."""
    corpus, tokenizer, report, splits = (manifest[k] for k in ("corpus", "tokenizer", "report", "splits"))
    lines = [
        "# Tokenizer report",
        "",
        f"- corpus: {corpus['documents']:,} documents, {report['words']:,} words, {corpus['characters']:,} characters,"
        f" {corpus['bytes']:,} bytes",
        f"- skipped lines: {corpus['bad_lines']:,}",
        f"- tokenizer: {tokenizer['type']}, {tokenizer['vocab_size']:,} pieces, {tokenizer['sha256'][:12]}",
        f"- tokens per word: {report['tokens_per_word']:.2f}",
        f"- characters per token: {report['characters_per_token']:.2f}",
        f"- bytes per token: {report['bytes_per_token']:.2f}",
        f"- byte-fallback tokens: {report['byte_token_share']:.3%}",
        f"- round trip: {report['documents']:,} documents encoded and decoded, {report['round_trip_failures']} differ",
        f"- near-duplicates across the split: {_leaks(manifest)}",
        "",
        "| split | documents | tokens | bytes |",
        "|---|---:|---:|---:|",
        *(f"| {name} | {s['documents']:,} | {s['tokens']:,} | {s['bytes']:,} |" for name, s in splits.items()),
        "",
        "Bits per byte on the validation text that any model has to beat: "
        f"token frequencies {manifest['baselines']['unigram_bits_per_byte']:.3f},"
        f" xz -9 {manifest['baselines']['xz_bits_per_byte']:.3f}.",
    ]
    return "\n".join([*lines, *_comparison(manifest["comparison"]), *_wasteful(manifest["wasteful_words"])]) + "\n"


def _leaks(manifest: dict[str, Any]) -> str:
    if not manifest["leaks"]:
        return "not looked for (near_duplicates=False)"
    counted = ", ".join(f"{count} {split} documents" for split, count in manifest["leaks"].items())
    return f"{counted}; {manifest['split']['groups']:,} groups of documents that nearly repeat each other stay together"


def _comparison(comparison: dict[str, Any]) -> list[str]:
    if not comparison:
        return []
    lines = [
        "",
        f"## bpe and unigram on held-out text (both trained on {comparison['trained_on_characters']:,} characters)",
        "",
        "| | tokens per word | characters per token | bytes per token | byte-fallback tokens |",
        "|---|---:|---:|---:|---:|",
    ]
    for kind in COMPARED:
        s = comparison[kind]
        if "error" in s:
            lines.append(f"| {kind} | {s['error']} | | | |")
        else:
            lines.append(
                f"| {kind} | {s['tokens_per_word']:.2f} | {s['characters_per_token']:.2f} |"
                f" {s['bytes_per_token']:.2f} | {s['byte_token_share']:.3%} |"
            )
    return lines


def _wasteful(words: list[dict[str, Any]]) -> list[str]:
    if not words:
        return []
    rows = (f"| {w['word']} | {w['times']:,} | {w['tokens']} | {' · '.join(w['pieces'])} |" for w in words)
    title = "## The most wasteful words of the held-out text"
    return ["", title, "", "| word | times | tokens | pieces |", "|---|---:|---:|---|", *rows]
