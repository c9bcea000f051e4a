"""A model in the layout of the Hugging Face Hub, as transformers' GPT2LMHeadModel and AutoTokenizer load it."""

import json
import shutil
from pathlib import Path
from typing import Any

import sentencepiece as spm
import torch

from oracle.cli import UserError
from oracle.export import Leaving
from oracle.files import read_json, write_text
from oracle.hf import TRANSPOSED
from oracle.tensors import save_tensors

SPACE = "\u2581"  # SentencePiece's sign for a blank


def write(leaving: Leaving, folder: Path) -> None:
    """All files of the layout, into an empty folder."""
    tensors = {
        f"transformer.{name}": (t.t() if name.endswith(TRANSPOSED) else t).contiguous()
        for name, t in leaving.tensors().items()
    }
    save_tensors(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    texts = {
        "config.json": config(leaving), "generation_config.json": generation_config(leaving),
        "tokenizer.json": tokenizer_json(leaving), "tokenizer_config.json": tokenizer_config(leaving),
    }  # fmt: skip
    for name, content in texts.items():
        write_text(
            folder / name, json.dumps(content, ensure_ascii=False, indent=None if name == "tokenizer.json" else 1)
        )
    if leaving.chat_template:
        write_text(folder / "chat_template.jinja", leaving.chat_template)
    if leaving.checkpoint.tokenizer.suffix == ".model":
        shutil.copyfile(leaving.checkpoint.tokenizer, folder / "tokenizer.model")
    write_text(folder / "README.md", leaving.card(use(leaving)))


def config(leaving: Leaving) -> dict[str, Any]:
    """`vocab_size` counts the rows of the embedding: the tokenizer's pieces, and padding no text ever uses."""
    shape = leaving.model.config
    return {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "dtype": "float32",
        "vocab_size": shape.vocab_size, "n_positions": shape.block_size, "n_embd": shape.n_embd,
        "n_layer": shape.n_layer, "n_head": shape.n_head, "n_inner": None, "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True, "resid_pdrop": 0.0, "embd_pdrop": 0.0,
        "attn_pdrop": 0.0, "initializer_range": 0.02, "use_cache": True, **_ids(leaving),
    }  # fmt: skip


def generation_config(leaving: Leaving) -> dict[str, Any]:
    """The run's own settings of sampling; control tokens and padding rows are never written, as in our own engine."""
    c, shape, tokenizer = leaving.settings, leaving.model.config, leaving.tokenizer
    never = [*(i for i in tokenizer.control if i not in leaving.ends), *range(tokenizer.vocab_size, shape.vocab_size)]
    return {
        **_ids(leaving), "eos_token_id": leaving.ends, "do_sample": True, "max_new_tokens": c.max_new_tokens,
        "temperature": c.temperature or 1.0, "top_k": c.top_k, "top_p": c.top_p,
        "repetition_penalty": c.repetition_penalty, "suppress_tokens": never,
    }  # fmt: skip


def _ids(leaving: Leaving) -> dict[str, int]:
    return {f"{role}_token_id": token for role, token in leaving.special.items() if role != "unk"}


def tokenizer_config(leaving: Leaving) -> dict[str, Any]:
    names = {f"{role}_token": leaving.tokenizer.piece(token) for role, token in leaving.special.items()}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast", **names, "add_bos_token": False, "add_prefix_space": False,
        "clean_up_tokenization_spaces": False, "split_special_tokens": True,
        "model_max_length": leaving.model.config.block_size,
    }  # fmt: skip


def tokenizer_json(leaving: Leaving) -> dict[str, Any]:
    """The tokenizer as the `tokenizers` package has it. Whether it is exactly ours is for verification to find out."""
    if leaving.checkpoint.tokenizer.suffix == ".json":
        return read_json(leaving.checkpoint.tokenizer)
    sp = spm.SentencePieceProcessor(model_file=str(leaving.checkpoint.tokenizer))
    pieces = [sp.id_to_piece(i) for i in range(sp.get_piece_size())]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    blanks = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "content": pieces[i], **flags, "special": True} for i in leaving.tokenizer.control],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        "pre_tokenizer": None, "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [blanks, {"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": _unigram(sp, pieces) if kind_of(leaving) == "unigram" else _bpe(sp, pieces),
    }  # fmt: skip


def kind_of(leaving: Leaving) -> str:
    """bpe, char or unigram: a BPE piece's score is minus its rank, a unigram's the logarithm of a probability."""
    if leaving.checkpoint.tokenizer.suffix == ".json":
        return "byte-level bpe"
    sp = spm.SentencePieceProcessor(model_file=str(leaving.checkpoint.tokenizer))
    normal = [i for i in range(sp.get_piece_size()) if not (sp.is_control(i) or sp.is_unknown(i) or sp.is_byte(i))]
    if all(len(sp.id_to_piece(i)) == 1 for i in normal):
        return "char"
    return "bpe" if all(sp.get_score(i).is_integer() for i in normal) else "unigram"


def _bpe(sp: spm.SentencePieceProcessor, pieces: list[str]) -> dict[str, Any]:
    """Every way to put a piece together from two others is a merge; the earlier piece, of the higher score, goes first."""
    parts = {
        piece: token
        for token, piece in enumerate(pieces)
        if not (sp.is_control(token) or sp.is_unknown(token) or sp.is_byte(token))
    }
    merges = [
        (-sp.get_score(token), parts[piece[:n]], parts[piece[n:]])
        for piece, token in parts.items()
        for n in range(1, len(piece))
        if piece[:n] in parts and piece[n:] in parts
    ]
    return {
        "type": "BPE", "dropout": None, "unk_token": pieces[0], "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
        "vocab": {piece: token for token, piece in enumerate(pieces)},
        "merges": [[pieces[first], pieces[second]] for _, first, second in sorted(merges)],
    }  # fmt: skip


def _unigram(sp: spm.SentencePieceProcessor, pieces: list[str]) -> dict[str, Any]:
    vocab = [[piece, sp.get_score(token)] for token, piece in enumerate(pieces)]
    return {"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": True}


def use(leaving: Leaving) -> list[str]:
    """How a reader of the card runs it, in Markdown."""
    bos = leaving.tokenizer.piece(leaving.tokenizer.bos)
    if leaving.chat_template:
        ids = [
            'messages = [{"role": "user", "content": "…"}]  # take <|…|> out of what users typed: a template of text lets it',
            "                                              # forge roles; or render by ids, as this model was trained",
            "ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors='pt', return_dict=True,",
            "                                    tokenizer_kwargs={'split_special_tokens': False})",
        ]
    else:
        ids = [f'ids = tokenizer("{bos}" + "…", return_tensors="pt", split_special_tokens=False)']
    pieces, rows = leaving.tokenizer.vocab_size, leaving.model.config.vocab_size
    return [
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        'tokenizer, model = (kind.from_pretrained("…") for kind in (AutoTokenizer, AutoModelForCausalLM))',
        *ids,
        "print(tokenizer.decode(model.generate(**ids)[0], skip_special_tokens=True))",
        "```",
        "",
        f"The tokenizer has {pieces:,} pieces, the embedding {rows:,} rows: the last {rows - pieces:,} are padding.",
    ]


class Transformers:
    """An exported folder through transformers. Raises UserError if that is not installed."""

    name, package = "transformers", "transformers==5.23.0"

    def __init__(self, folder: Path) -> None:
        try:
            from transformers import AutoTokenizer, GPT2LMHeadModel
            from transformers.utils import logging
        except ImportError:
            raise UserError(
                f"a Hugging Face export is checked with transformers: pip install {self.package},"
                " or go without the check, --verify=False"
            ) from None
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = GPT2LMHeadModel.from_pretrained(folder).eval()

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text

    @torch.no_grad()
    def logits(self, ids: list[int]) -> torch.Tensor:
        found: torch.Tensor = self._model(torch.tensor([ids])).logits[0]
        return found

    def greedy(self, prompt: list[int], count: int) -> list[int]:
        ids = torch.tensor([prompt])
        out = self._model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=count)
        written: list[int] = out[0, len(prompt) :].tolist()
        return written
