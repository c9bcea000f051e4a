"""The engine's network computed by llama.cpp: a GGUF file instead of a checkpoint, everything else the same.

Sampling, templates, streaming and queues stay ours and prompts go in as ids, so an answer differs from that of the
checkpoint only as the file's number format does, and a float32 file answers the same. Needs llama-cpp-python.
Interface: https://github.com/ggml-org/llama.cpp/blob/master/include/llama.h
"""

import ctypes
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model import GPTConfig
from oracle.chat import Template
from oracle.checkpoint import TOKENIZERS, Checkpoint, RunDirectory
from oracle.cli import UsageError, UserError
from oracle.engine import Span
from oracle.generate import PREFILL, Engine
from oracle.tokenizer import open_tokenizer


class LlamaNetwork:
    """`oracle.engine.Network` over a GGUF file, with a cache of `slots` texts. Raises UserError for an unusable file."""

    def __init__(self, path: Path, slots: int, threads: int = 0) -> None:
        self.slots = slots
        self._library = llama_cpp = library()
        options = llama_cpp.llama_model_default_params()
        options.check_tensors = True
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), options)
        if not self._model:
            raise UserError(f"{path}: llama.cpp cannot load it; make it with export.py, or again if it is damaged")
        self.bytes_per_token = int(llama_cpp.llama_model_size(self._model))
        self.vocab_size = int(llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model)))
        context = int(llama_cpp.llama_model_n_ctx_train(self._model))
        self.config = GPTConfig(
            block_size=context,
            vocab_size=self.vocab_size,
            n_layer=int(llama_cpp.llama_model_n_layer(self._model)),
            n_head=int(llama_cpp.llama_model_n_head(self._model)),
            n_embd=int(llama_cpp.llama_model_n_embd(self._model)),
        )
        self._room = max(context, PREFILL + slots)  # tokens of one call
        self._context = self._open(context, threads or os.cpu_count() or 1)
        self._batch = llama_cpp.llama_batch_init(self._room, 0, 1)
        self._memory = llama_cpp.llama_get_memory(self._context)

    def _open(self, context: int, threads: int) -> Any:
        llama_cpp = self._library
        options = llama_cpp.llama_context_default_params()
        options.n_ctx, options.n_seq_max = context * self.slots, self.slots
        options.n_batch = options.n_ubatch = self._room
        options.n_threads = options.n_threads_batch = threads
        options.type_k = options.type_v = llama_cpp.GGML_TYPE_F32  # as our own engine, and for the same answers
        options.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        opened = llama_cpp.llama_init_from_model(self._model, options)
        if not opened:
            raise UserError(f"no memory for {self.slots} contexts of {context:,} tokens; serve with fewer --slots")
        return opened

    def forward(self, tokens: torch.Tensor, spans: Sequence[Span], every: bool = False) -> torch.Tensor:
        """See `Network.forward`."""
        llama_cpp, ids, batch, row = self._library, tokens.tolist(), self._batch, 0
        wanted: list[int] = []
        for span in spans:
            llama_cpp.llama_memory_seq_rm(self._memory, span.slot, span.start, -1)
            for place in range(span.start, span.start + span.count):
                batch.token[row], batch.pos[row] = ids[row], place
                batch.n_seq_id[row], batch.seq_id[row][0] = 1, span.slot
                batch.logits[row] = every or place == span.start + span.count - 1
                if batch.logits[row]:
                    wanted.append(row)
                row += 1
        batch.n_tokens = row
        status = llama_cpp.llama_decode(self._context, batch)
        if status:
            raise RuntimeError(f"llama_decode: {status}")
        return torch.stack([self._logits(row) for row in wanted])

    def _logits(self, row: int) -> torch.Tensor:
        pointer = self._library.llama_get_logits_ith(self._context, row)
        return torch.from_numpy(np.ctypeslib.as_array(pointer, (self.vocab_size,)).copy())

    def copy(self, source: int, target: int, length: int) -> None:
        """See `Network.copy`."""
        self._library.llama_memory_seq_cp(self._memory, source, target, 0, -1)  # it copies all of a text or nothing
        self._library.llama_memory_seq_rm(self._memory, target, length, -1)

    def metadata(self, key: str) -> str:
        """A string of the file's metadata, empty if it has none of that name."""
        buffer = ctypes.create_string_buffer(1 << 16)
        found = self._library.llama_model_meta_val_str(self._model, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", errors="replace") if found >= 0 else ""

    def piece(self, token: int) -> str:
        vocabulary = self._library.llama_model_get_vocab(self._model)
        return str(self._library.llama_vocab_get_text(vocabulary, token).decode("utf-8", errors="replace"))


def open_gguf(place: str, gguf: str, slots: int, threads: int = 0) -> Engine:
    """The engine over a GGUF file; the tokenizer is the one beside it, or the run directory's.

    Raises UserError if a file is missing, or the two do not belong together.
    """
    path = _find(place, gguf)
    beside = next(filter(Path.is_file, map(path.with_name, TOKENIZERS)), None)
    tokenizer = open_tokenizer(beside or Checkpoint.open(RunDirectory(place).find("best"), verify=()).tokenizer)
    network = LlamaNetwork(path, slots, threads)
    some = range(0, tokenizer.vocab_size, max(1, tokenizer.vocab_size // 1000))
    if network.vocab_size < tokenizer.vocab_size or any(network.piece(i) != tokenizer.piece(i) for i in some):
        raise UserError(
            f"{path}: made with another tokenizer than {tokenizer.path}; put its own tokenizer.model beside it"
        )
    template = Template(tokenizer) if network.metadata("tokenizer.chat_template") else None
    return Engine(network, tokenizer, path.stem, template)


def _find(place: str, gguf: str) -> Path:
    if gguf:
        if not Path(gguf).is_file():
            raise UsageError(f"--gguf={gguf}: no such file; make one with export.py")
        return Path(gguf)
    found = sorted(Path(place).rglob("*.gguf"))
    if len(found) != 1:
        what = f"{len(found)} .gguf files" if found else "no .gguf file"
        raise UsageError(f"{place}: {what} in it; name one with --gguf=FILE")
    return found[0]


@cache
def library() -> Any:
    """llama.cpp, told to keep quiet. Raises UserError where it is not installed."""
    try:
        import llama_cpp
    except ImportError:
        raise UserError("--engine=llama needs llama-cpp-python: pip install llama-cpp-python") from None
    llama_cpp.llama_log_set(_silence(llama_cpp), None)
    llama_cpp.llama_backend_init()
    return llama_cpp


@cache
def _silence(llama_cpp: Any) -> Any:
    """A log function that says nothing; kept, because C holds it."""
    return llama_cpp.llama_log_callback(lambda level, text, data: None)
