"""SentencePiece, set up so that every text comes back byte for byte and no text can forge a special token.

The settings are those that convert exactly to transformers' LlamaTokenizer and to llama.cpp: identity
normalisation, no dummy prefix, byte fallback for whatever has no piece. The special tokens are *control symbols*:
they have ids, but a user who types `<|assistant|>` gets those characters, never the id.
"""

import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import sentencepiece as spm

from oracle.cli import UserError
from oracle.files import atomic_file, sha256
from oracle.shards import token_dtype

UNK, BOS, EOS, PAD = 0, 1, 2, 3
CHAT_TOKENS = ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>")
RESERVED = tuple(f"<|reserved_{i}|>" for i in range(12))  # for whoever needs a thirteenth idea after a 30-hour run

# Pieces never reach across a blank or a line end, so a text's encoding is that of these units, joined.
UNITS = re.compile(r"\n| *[^ \n]+| +")
CACHE_UNITS = 1_000_000


def train_tokenizer(
    texts: Iterable[str], path: Path, kind: str, vocab_size: int, character_coverage: float = 0.9999
) -> None:
    """Train a `kind` ("bpe", "unigram", "char") model on `texts` and write it to `path`, atomically.

    Raises UserError when the text cannot fill (or its characters overfill) the vocabulary.
    """
    model = io.BytesIO()
    try:
        spm.SentencePieceTrainer.train(
            sentence_iterator=(line for text in texts for line in text.split("\n") if line),
            model_writer=model,
            model_type=kind,
            vocab_size=vocab_size,
            hard_vocab_limit=kind != "char",  # characters are as many as there are
            character_coverage=character_coverage,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            byte_fallback=True,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            control_symbols=[*CHAT_TOKENS, *RESERVED],
            unk_id=UNK,
            bos_id=BOS,
            eos_id=EOS,
            pad_id=PAD,
            max_sentence_length=1 << 24,  # the default, 4192 bytes, silently skips long lines
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UserError(_why_not(str(error), kind, vocab_size)) from None
    with atomic_file(path) as file:
        file.write(model.getvalue())


def open_tokenizer(path: str | Path) -> "Tokenizer":
    """The tokenizer in a file: SentencePiece, or the `tokenizer.json` of a model that was trained elsewhere."""
    if Path(path).suffix != ".json":
        return Tokenizer(path)
    from oracle.byte_level import ByteLevelTokenizer

    return ByteLevelTokenizer(path)


def _why_not(message: str, kind: str, vocab_size: int) -> str:
    """SentencePiece's own error as a sentence."""
    if high := re.search(r"too high \(\d+\)\. Please set it to a value <= (\d+)", message):
        return (
            f"vocab_size={vocab_size} is more than this text supports: {kind} finds {int(high[1]):,} pieces in it;"
            f" set vocab_size to at most {high[1]} or give more text"
        )
    if small := re.search(r"smaller than required_chars\. (\d+) vs (\d+)", message):
        return (
            f"vocab_size={vocab_size} is too small: bytes, special tokens and the text's characters alone are {small[2]};"
            " raise vocab_size or lower character_coverage"
        )
    return f"SentencePiece could not train a {kind} tokenizer of {vocab_size} pieces: {message.strip()}"


class Tokenizer:
    """A trained model: text to ids and back.

    Attributes: `vocab_size`, `sha256` of the file, `bos` and `eos` (beginning and end of a text), `control` (ids no text produces and no sample may contain),
    `byte_ids` (the 256 byte-fallback pieces), `piece_bytes` (the UTF-8 bytes each id stands for).
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise UserError(f"{self.path}: no tokenizer there; prepare.py makes one")
        try:
            self._model = spm.SentencePieceProcessor(model_file=str(self.path))
        except (OSError, RuntimeError):
            raise UserError(f"{self.path}: not a SentencePiece model; prepare.py makes one") from None
        self.sha256 = sha256(self.path)
        self.vocab_size: int = self._model.get_piece_size()
        self.bos, self.eos = BOS, EOS
        self.dtype = token_dtype(self.vocab_size)
        ids = range(self.vocab_size)
        self.control = [i for i in ids if self._model.is_control(i) or self._model.is_unknown(i)]
        self.byte_ids = [i for i in ids if self._model.is_byte(i)]
        self.piece_bytes = [self._bytes_of(i) for i in ids]
        self._cache: dict[str, bytes] = {}  # unit -> its ids, as bytes of self.dtype

    def _bytes_of(self, token: int) -> bytes:
        if self._model.is_control(token) or self._model.is_unknown(token):
            return b""
        piece: str = self._model.id_to_piece(token)
        return bytes([int(piece[1:-1], 16)]) if self._model.is_byte(token) else piece.replace("\u2581", " ").encode()

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without beginning or end marks. Never a control id."""
        ids: list[int] = self._model.encode(text)
        return ids

    def encode_documents(self, texts: Sequence[str]) -> list[np.ndarray]:
        """For each text its ids between beginning and end marks, in `self.dtype`.

        The same ids as `encode`, several times faster: words repeat, so each distinct one is encoded once.
        """
        split = [UNITS.findall(text) for text in texts]
        if len(self._cache) > CACHE_UNITS:
            self._cache.clear()
        cache = self._cache
        new = list({unit for units in split for unit in units if unit not in cache})
        for unit, ids in zip(new, self._model.encode(new, out_type="numpy", num_threads=1), strict=True):
            cache[unit] = ids.astype(self.dtype).tobytes()
        first, last = (np.array([token], dtype=self.dtype).tobytes() for token in (self.bos, self.eos))
        return [
            np.frombuffer(b"".join([first, *map(cache.__getitem__, units), last]), dtype=self.dtype) for units in split
        ]

    def decode(self, ids: Iterable[int]) -> str:
        """The text `ids` stand for; control ids are nothing, bytes that are no UTF-8 become U+FFFD."""
        return b"".join(map(self.piece_bytes.__getitem__, ids)).decode("utf-8", errors="replace")

    def piece(self, token: int) -> str:
        piece: str = self._model.id_to_piece(token)
        return piece

    def chat_id(self, name: str) -> int:
        """Id of a control symbol such as `<|user|>`. Raises UserError if this tokenizer has none of that name."""
        token: int = self._model.piece_to_id(name)  # the unknown id, silently, for a missing piece
        if not self._model.is_control(token):
            raise UserError(
                f"{self.path}: has no control token {name}; train the tokenizer with prepare.py, which adds it"
            )
        return token
