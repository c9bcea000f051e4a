"""GPT-2's own kind of tokenizer: byte-level BPE, for models that were trained elsewhere.

The file is the `tokenizers` package's `tokenizer.json`. The chat tokens are added to it, as ids behind its own, so that
an imported model can be taught to answer like one of ours; what text becomes is not changed by that.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from oracle.cli import UserError
from oracle.files import read_json, sha256
from oracle.shards import token_dtype
from oracle.tokenizer import CHAT_TOKENS, Tokenizer

MARKS = (("<|endoftext|>", "<|endoftext|>"), ("<s>", "</s>"))  # beginning and end of a text, by custom
NEEDED = "an imported tokenizer needs the package tokenizers: pip install tokenizers==0.23.3"


def byte_alphabet() -> dict[str, int]:
    """The printable character that stands for each byte in byte-level BPE (Radford et al. 2019, encoder.py)."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(b): b for b in shown} | {chr(256 + number): b for number, b in enumerate(hidden)}


class ByteLevelTokenizer(Tokenizer):
    """A `tokenizer.json` with the interface of our own; every one of its added tokens is a control token.

    Raises UserError if it is not byte-level BPE, changes text before it reads it, or has no end-of-text token.
    """

    def __init__(self, path: str | Path) -> None:
        try:
            from tokenizers import Tokenizer as Model
        except ImportError:
            raise UserError(NEEDED) from None
        self.path = Path(path)
        _check(read_json(self.path), self.path)
        self._bpe = Model.from_file(str(self.path))
        self._bpe.encode_special_tokens = True  # text that looks like one is text
        self.sha256 = sha256(self.path)
        self.vocab_size = self._bpe.get_vocab_size()
        self.dtype = token_dtype(self.vocab_size)
        self.control = sorted(self._bpe.get_added_tokens_decoder())
        alphabet, added = byte_alphabet(), set(self.control)
        self.piece_bytes = [
            b"" if i in added else bytes(map(alphabet.__getitem__, self.piece(i))) for i in range(self.vocab_size)
        ]
        self.byte_ids = [i for i, piece in enumerate(self.piece_bytes) if len(piece) == 1]
        self.bos, self.eos = self._marks()

    def _marks(self) -> tuple[int, int]:
        for names in MARKS:
            first, last = map(self._bpe.token_to_id, names)
            if first in self.control and last in self.control:
                return first, last
        raise UserError(f"{self.path}: has no end-of-text token such as <|endoftext|>; use the tokenizer of a GPT-2")

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._bpe.encode(text, add_special_tokens=False).ids
        return ids

    def encode_documents(self, texts: Sequence[str]) -> list[np.ndarray]:
        found = self._bpe.encode_batch(list(texts), add_special_tokens=False)
        return [np.array([self.bos, *one.ids, self.eos], dtype=self.dtype) for one in found]

    def piece(self, token: int) -> str:
        piece: str | None = self._bpe.id_to_token(token)
        if piece is None:
            raise UserError(f"{self.path}: has no piece {token}, its ids have gaps; use the tokenizer of a GPT-2")
        return piece

    def chat_id(self, name: str) -> int:
        token: int | None = self._bpe.token_to_id(name)
        if token not in self.control:
            raise UserError(f"{self.path}: has no control token {name}; import the model anew, which adds it")
        return token


def _check(file: dict[str, Any], path: Path) -> None:
    kinds = [
        (file.get(part) or {}).get("type") for part in ("model", "pre_tokenizer", "decoder", "normalizer")
    ]  # fmt: skip
    if kinds[:3] != ["BPE", "ByteLevel", "ByteLevel"]:
        raise UserError(f"{path}: is {kinds[0]} after {kinds[1]}, not byte-level BPE; use the tokenizer of a GPT-2")
    if kinds[3] or (file["pre_tokenizer"] or {}).get("add_prefix_space"):
        raise UserError(f"{path}: changes a text before it reads it, so texts would not come back; use another model")


def from_folder(folder: Path) -> str:
    """The text of a `tokenizer.json` for the byte-level tokenizer in a Hugging Face folder, the chat tokens added.

    Raises UserError if there is none, or it is of another kind.
    """
    if (folder / "tokenizer.json").exists():
        return with_chat_tokens(read_json(folder / "tokenizer.json"))
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    if not (vocab.exists() and merges.exists()):
        raise UserError(
            f"{folder}: no tokenizer there; put tokenizer.json, or vocab.json and merges.txt, beside the weights"
        )
    return with_chat_tokens(_published(read_json(vocab), merges.read_text(encoding="utf-8").splitlines()))


def _published(vocab: dict[str, int], merges: Sequence[str]) -> dict[str, Any]:
    """The two files OpenAI published, as one."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    special = [name for name in dict.fromkeys(name for pair in MARKS for name in pair) if name in vocab]
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [_added(vocab[name], name) for name in special],
        "normalizer": None, "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False, "vocab": vocab,
            "merges": [line for line in merges if line and not line.startswith("#version")],
        },
    }  # fmt: skip


def with_chat_tokens(file: dict[str, Any]) -> str:
    """A `tokenizer.json` to which the chat tokens it lacks are added, as its highest ids."""
    added = [{**token, "special": True} for token in file.get("added_tokens") or []]
    names = {token["content"] for token in added}
    free = 1 + max((*(file["model"].get("vocab") or {"": -1}).values(), *(token["id"] for token in added)))
    missing = [name for name in CHAT_TOKENS if name not in names]
    added += [_added(free + number, name) for number, name in enumerate(missing)]
    return json.dumps({**file, "added_tokens": sorted(added, key=lambda token: token["id"])}, ensure_ascii=False)


def _added(token: int, name: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token, "content": name, **flags, "special": True}
