"""A checkpoint's weights in the number format the engine is to compute with.

float32 weights are mapped from the checkpoint's own file: the system reads what is used, and may forget it again.
Weights in bfloat16 or int8 are derived once and kept beside the checkpoint, to be mapped as well from then on:

    serving-int8.safetensors     matrices in int8 as `quantize` orders them, "<name>.scale" (float32); vectors in float32
    serving-int8.json            sha256 of that file and of the model.safetensors it was made from, and how it is laid out
"""

import json
from functools import partial

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from model import GPT, GPTConfig
from oracle.checkpoint import WEIGHTS, Checkpoint
from oracle.cli import UsageError
from oracle.engine import Layer, Linear, Parts, parts_of
from oracle.files import sha256, write_text
from oracle.hardware import pick_dtype
from oracle.kernels import Matrix, keep_compiled, quantize
from oracle.tensors import save_tensors

LAYOUT = 2  # of derived files; one of another layout is made anew

Tensors = dict[str, torch.Tensor]


def load_parts(checkpoint: Checkpoint, config: GPTConfig, dtype: str, device: torch.device) -> Parts:
    """The network's parts in `dtype`: auto is float32 on a CPU, and what training takes elsewhere.

    Raises UserError for weights that are damaged or do not fit, UsageError for a format the device does not have.
    """
    if device.type != "cpu":
        if dtype == "int8":
            raise UsageError(f"dtype=int8: only for CPUs, this is {device.type}; use bfloat16 or auto")
        checkpoint.verify(WEIGHTS)
        kind = pick_dtype(dtype, device)
        tensors = {name: t.to(device, kind) for name, t in load_file(checkpoint.path / WEIGHTS).items()}
        checkpoint.check_shapes(tensors, _shapes(config))
        return parts_of(config, tensors)
    keep_compiled()
    if dtype in ("auto", "float32"):
        checkpoint.verify(WEIGHTS)
        tensors = load_file(checkpoint.path / WEIGHTS)
    elif dtype in ("bfloat16", "int8"):
        tensors = _derived(checkpoint, dtype)
    else:
        raise UsageError(f"dtype={dtype}: a CPU writes in float32, bfloat16 or int8")
    checkpoint.check_shapes({n: t for n, t in tensors.items() if not n.endswith(".scale")}, _shapes(config))
    return _parts(config, tensors)


def _shapes(config: GPTConfig) -> Tensors:
    with torch.device("meta"):
        return GPT(config).state_dict()


def _derived(checkpoint: Checkpoint, dtype: str) -> Tensors:
    """The weights in `dtype`, mapped from the file beside the checkpoint, which is made if need be and possible."""
    path = checkpoint.path / f"serving-{dtype}.safetensors"
    note, source = path.with_suffix(".json"), checkpoint.hashes[WEIGHTS]
    try:
        known = json.loads(note.read_text(encoding="utf-8"))
        if known == {"source": source, "layout": LAYOUT, "sha256": sha256(path)}:
            return dict(load_file(path))
    except (OSError, ValueError, SafetensorError):
        pass
    checkpoint.verify(WEIGHTS)
    tensors = _convert(checkpoint, dtype)
    temporary = path.with_suffix(".tmp")
    try:
        save_tensors(tensors, temporary)
        temporary.replace(path)
        write_text(note, json.dumps({"source": source, "layout": LAYOUT, "sha256": sha256(path)}))
    except OSError:  # a folder that cannot be written only means a slower start the next time
        return tensors
    return dict(load_file(path))


def _convert(checkpoint: Checkpoint, dtype: str) -> Tensors:
    """One tensor after the other, so that the float32 weights are never there as a whole."""
    tensors: Tensors = {}
    with safe_open(checkpoint.path / WEIGHTS, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  (no dictionary, it only has keys)
            tensor = file.get_tensor(name)
            if tensor.dim() < 2 or name == "wpe.weight":
                tensors[name] = tensor.float().clone()
            elif dtype == "int8":
                tensors[name], tensors[f"{name}.scale"] = quantize(tensor)
            else:
                tensors[name] = tensor.bfloat16()
    return tensors


def _parts(config: GPTConfig, tensors: Tensors) -> Parts:
    """The parts over a CPU's matrices; vectors and positions are float32 in every format."""

    def matrix(name: str) -> Matrix:
        return Matrix(tensors[f"{name}.weight"], tensors.get(f"{name}.bias"), tensors.get(f"{name}.weight.scale"))

    def norm(name: str) -> Linear:
        weight, bias = tensors[f"{name}.weight"], tensors.get(f"{name}.bias")
        return partial(F.layer_norm, normalized_shape=(config.n_embd,), weight=weight, bias=bias)

    head, matrices, layers = matrix("wte"), [], []
    for n in range(config.n_layer):
        own = [matrix(f"h.{n}.{part}") for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")]
        layers.append(Layer(norm(f"h.{n}.ln_1"), own[0], own[1], norm(f"h.{n}.ln_2"), own[2], own[3]))
        matrices += own
    read = sum(m.nbytes for m in (head, *matrices))
    return Parts(head.rows, tensors["wpe.weight"], layers, norm("ln_f"), head, read)
