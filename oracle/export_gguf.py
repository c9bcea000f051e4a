"""A model as one GGUF file, which llama.cpp and Ollama run: weights, tokenizer and chat template inside.

Tensor names and keys are llama.cpp's for its architecture "gpt2" (github.com/ggml-org/ggml, docs/gguf.md). Its GPT-2
wants every bias; matrices may be quantised, vectors and positions stay float32. The rows that only pad the embedding stay behind.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece as spm
import torch

from oracle.cli import UserError
from oracle.export import Leaving
from oracle.export_check import Limit
from oracle.files import read_json, write_text

PACKAGE = "gguf==0.19.0"
# A few times what was measured. llama.cpp looks GELU up in a table of float16, whatever the weights are.
LIMITS = {
    "f32": Limit(0.01, 1e-3, same_text=True),
    "f16": Limit(0.02, 2e-3),
    "bf16": Limit(0.1, 0.01),
    "q8_0": Limit(0.3, 0.03),
}
FILE_TYPES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
NAMES = {
    "wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm", "ln_1": "attn_norm", "ln_2": "ffn_norm",
    "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
}  # fmt: skip
GENERATION_MARKS = re.compile(r"{%-? (end)?generation -?%}")  # transformers' own; llama.cpp's Jinja has no such tag


def package() -> Any:
    """The gguf package. Raises UserError if it is not installed."""
    try:
        import gguf
    except ImportError:
        raise UserError(f"a GGUF file is written with the package gguf: pip install {PACKAGE}") from None
    return gguf


def write(leaving: Leaving, folder: Path, kind: str) -> None:
    """The GGUF file in number format `kind`, and the Modelfile and card beside it."""
    gguf, width = package(), leaving.model.config.n_embd
    if kind == "q8_0" and width % 32:
        raise UserError(f"gguf_type=q8_0 takes widths that are a multiple of 32, this model's is {width}: choose f16")
    path = folder / f"{leaving.name}-{kind}.gguf"
    writer = gguf.GGUFWriter(path, "gpt2")
    _add_settings(writer, gguf, leaving, kind)
    _add_tokenizer(writer, gguf, leaving)
    for name, tensor in leaving.tensors().items():
        if name == "wte.weight":
            tensor = tensor[: leaving.tokenizer.vocab_size]
        quant = gguf.GGMLQuantizationType[kind.upper()]
        if tensor.dim() == 1 or name == "wpe.weight":  # llama.cpp adds them to float32 rows
            quant = gguf.GGMLQuantizationType.F32
        data = gguf.quants.quantize(np.ascontiguousarray(tensor.float().numpy()), quant)
        writer.add_tensor(tensor_name(name), data, raw_dtype=quant)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    write_text(folder / "Modelfile", modelfile(leaving, path.name))
    write_text(folder / "README.md", leaving.card(use(leaving, path.name)))


def tensor_name(name: str) -> str:
    """llama.cpp's name of one of our tensors."""
    found = re.fullmatch(r"(?:h\.(\d+)\.)?(.+)\.(weight|bias)", name)
    assert found
    block, part, kind = found.groups()
    return f"blk.{block}.{NAMES[part]}.{kind}" if block else f"{NAMES[part]}.{kind}"


def _add_settings(writer: Any, gguf: Any, leaving: Leaving, kind: str) -> None:
    shape = leaving.model.config
    writer.add_name(leaving.name)
    writer.add_context_length(shape.block_size)
    writer.add_embedding_length(shape.n_embd)
    writer.add_block_count(shape.n_layer)
    writer.add_feed_forward_length(4 * shape.n_embd)
    writer.add_head_count(shape.n_head)
    writer.add_layer_norm_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType[FILE_TYPES[kind]])
    if kind == "q8_0":
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _add_tokenizer(writer: Any, gguf: Any, leaving: Leaving) -> None:
    tokenizer, ids = leaving.tokenizer, leaving.special
    writer.add_token_list([tokenizer.piece(token) for token in range(tokenizer.vocab_size)])
    if leaving.checkpoint.tokenizer.suffix == ".model":
        sp = spm.SentencePieceProcessor(model_file=str(leaving.checkpoint.tokenizer))
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores([sp.get_score(token) for token in range(tokenizer.vocab_size)])
        writer.add_add_bos_token(True)
        writer.add_add_space_prefix(False)
        writer.add_unk_token_id(ids["unk"])
        bytes_, unknown = set(tokenizer.byte_ids), ids["unk"]
    else:
        merges = read_json(leaving.checkpoint.tokenizer)["model"]["merges"]
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
        writer.add_add_bos_token(False)
        bytes_, unknown = set(), -1
    kinds, control = gguf.TokenType, set(tokenizer.control)
    writer.add_token_types(
        [
            kinds.UNKNOWN if i == unknown else kinds.CONTROL if i in control else kinds.BYTE if i in bytes_ else kinds.NORMAL
            for i in range(tokenizer.vocab_size)
        ]
    )  # fmt: skip
    writer.add_bos_token_id(ids["bos"])
    writer.add_eos_token_id(leaving.ends[0])
    writer.add_pad_token_id(ids["pad"])
    if leaving.chat_template:
        writer.add_eot_token_id(leaving.ends[0])
        writer.add_chat_template(GENERATION_MARKS.sub("", leaving.chat_template))


def modelfile(leaving: Leaving, file: str) -> str:
    """Ollama's recipe for the file beside it."""
    c = leaving.settings
    template = "{{ .Prompt }}"
    if leaving.chat_template:
        template = "{{ range .Messages }}<|{{ .Role }}|>{{ .Content }}<|end|>{{ end }}<|assistant|>"
    parameters = {
        "num_ctx": leaving.model.config.block_size, "num_predict": c.max_new_tokens, "temperature": c.temperature,
        "top_k": c.top_k, "top_p": c.top_p, "min_p": c.min_p, "repeat_penalty": c.repetition_penalty,
    }  # fmt: skip
    stops = [leaving.tokenizer.piece(token) for token in leaving.ends]
    return "\n".join(
        [
            f"FROM ./{file}",
            f'TEMPLATE """{template}"""',
            *(f"PARAMETER {name} {value}" for name, value in parameters.items()),
            *(f'PARAMETER stop "{stop}"' for stop in stops),
            "",
        ]
    )


def use(leaving: Leaving, file: str) -> list[str]:
    """How a reader of the card runs it, in Markdown."""
    llama = f"llama-server -m {file} --jinja" if leaving.chat_template else f'llama-completion -m {file} -no-cnv -p "…"'
    lines = ["```sh", llama, f"ollama create {leaving.name} -f Modelfile && ollama run {leaving.name}", "```"]
    if leaving.chat_template:
        lines += ["", "Take `<|…|>` out of what users type: these programs render text, and such text can forge roles."]
    return lines


def reread(path: Path, leaving: Leaving, kind: str) -> dict[str, Any]:
    """Read the file back and compare every tensor with ours. Raises UserError for one that differs by more than rounding."""
    gguf = package()
    ours = {tensor_name(name): t for name, t in leaving.tensors().items()}
    step = {"f32": 0.0, "f16": 2**-11, "bf16": 2**-8, "q8_0": 0.5 / 127 + 2**-11}[
        kind
    ]  # of rounding, in the tensor's largest weight
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    largest = 0.0
    for name in ours.keys() | found.keys():
        if name not in ours or name not in found:
            raise UserError(
                f"{path.name}: tensor {name} is {'missing' if name in ours else 'none of ours'}; nothing was written"
            )
        wanted = ours[name].float().numpy()[: leaving.tokenizer.vocab_size if name == "token_embd.weight" else None]
        data = gguf.quants.dequantize(found[name].data, found[name].tensor_type).reshape(wanted.shape)
        difference = np.abs(data - wanted).max() / max(1e-30, float(np.abs(wanted).max()))
        largest = max(largest, float(difference))
        if difference > step + 1e-7:
            raise UserError(f"{path.name}: tensor {name} came back {difference:.2g} off; nothing was written")
    return {"tensors read back": len(found), "largest relative difference": largest}


class LlamaCpp:
    """A GGUF file through llama.cpp. Raises ImportError if llama-cpp-python is not installed."""

    name = "llama.cpp"

    def __init__(self, path: Path, leaving: Leaving) -> None:
        from llama_cpp import Llama

        context = leaving.model.config.block_size
        # type_k, type_v 0: keys and values in float32, so that nothing but the weights' format makes a difference
        self._llama = Llama(
            str(path),
            n_ctx=context,
            n_batch=context,
            n_ubatch=context,
            logits_all=True,
            type_k=0,
            type_v=0,
            verbose=False,
        )
        control = [token for token in leaving.tokenizer.control if token not in leaving.ends]
        self._never, self._ends, self._bytes = control, leaving.ends, leaving.tokenizer.piece_bytes

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._llama.tokenize(text.encode("utf-8"), add_bos=False, special=False)
        return ids

    def decode(self, ids: list[int]) -> str:
        text: str = self._llama.detokenize(ids).decode("utf-8", errors="replace")
        return text

    def logits(self, ids: list[int]) -> torch.Tensor:
        self._llama.reset()
        self._llama.eval(ids)
        return torch.from_numpy(self._llama.scores[: len(ids)].copy())

    def greedy(self, prompt: list[int], count: int) -> list[int]:
        self._llama.reset()
        self._llama.eval(prompt)
        written: list[int] = []
        while len(written) < count and not (written and written[-1] in self._ends):
            logits = self._llama.scores[self._llama.n_tokens - 1].copy()
            logits[self._never] = -np.inf
            written.append(int(logits.argmax()))
            self._llama.eval(written[-1:])
        return written
