"""Which device, which number format, and how fast the device could be."""

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import cast

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from oracle.cli import UsageError, UserError
from oracle.settings import Config
from oracle.versions import versions

# Dense bf16 with fp32 accumulation, TFLOP/s, from the makers' data sheets. The first name found in the GPU's counts.
PEAK_TFLOPS = {
    "B200": 2250.0,
    "H200": 989.4,
    "H100 PCIe": 756.0,
    "H100": 989.4,
    "A100": 312.0,
    "A40": 149.7,
    "A10G": 70.0,
    "A10": 125.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "RTX PRO 6000": 503.8,
    "RTX 5090": 209.5,
    "RTX 5080": 112.6,
    "RTX 4090": 165.2,
    "RTX 4080": 97.5,
    "RTX 3090": 71.0,
    "V100": 125.0,  # fp16; it has no bf16
    "T4": 65.0,  # fp16
}
SDPA = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(name: str) -> torch.device:
    """The device a setting means. Raises UsageError if this machine has none of that kind."""
    mps = torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"device={name!r}: must be auto, cpu, cuda, cuda:N or mps") from None
    if device.type == "mps" and not mps:
        raise UsageError(f"device={name}: PyTorch finds no Apple GPU here; use --device=cpu or auto")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise UsageError(f"device={name}: PyTorch finds {count} CUDA GPUs here; use --device=cpu or auto")
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The format of the matrix products. Raises UsageError for one the device cannot do."""
    if name == "int8":
        raise UsageError("dtype=int8 is a format to write with, not to train in; use bfloat16 or float32")
    bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if name == "auto":
        return torch.bfloat16 if bf16 else torch.float16 if device.type == "cuda" else torch.float32
    if name == "bfloat16" and device.type == "cuda" and not bf16:
        raise UsageError(f"dtype=bfloat16: {torch.cuda.get_device_name(device)} has none; use --dtype=float16")
    if name == "float16" and device.type != "cuda":
        raise UsageError(f"dtype=float16 trains on CUDA GPUs only, this is {device.type}; use bfloat16 or float32")
    return DTYPES[name]


def autocast(device: torch.device, dtype: torch.dtype) -> Callable[[], AbstractContextManager]:
    """A factory of contexts in which matrix products run in `dtype`."""
    if dtype == torch.float32:
        return contextlib.nullcontext
    return lambda: torch.autocast(device.type, dtype)


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def machine(device: torch.device, dtype: torch.dtype, ranks: int) -> dict[str, str | int | None]:
    """What a run notes of where it runs, at the start of each session."""
    return {
        "device": device_name(device),
        "devices": ranks,
        "dtype": str(dtype).removeprefix("torch."),
        "cpu_cores": os.cpu_count(),
        **versions(),
    }


def peak_flops(device: torch.device, config: Config) -> float:
    """FLOP/s the device can do at best; 0 when nobody has told us, and then no MFU is printed."""
    if config.peak_tflops:
        return config.peak_tflops * 1e12
    if device.type != "cuda":
        return 0.0
    name = device_name(device)
    known = next((peak for key, peak in PEAK_TFLOPS.items() if key.lower() in name.lower()), 0.0)
    if not known:
        print(f"note: no peak known for {name}, so no MFU; set --peak_tflops to its dense bf16 peak to see it")
    return known * 1e12


def setup(config: Config, local_rank: int = 0) -> tuple[torch.device, torch.dtype]:
    """Choose device and format and set the process up for them; under torchrun each rank takes its own GPU."""
    device = setup_device(config, local_rank)
    return device, pick_dtype(config.dtype, device)


def setup_device(config: Config, local_rank: int = 0) -> torch.device:
    """Choose the device and set the process up for it."""
    device = pick_device(config.device)
    if device.type == "cuda" and local_rank:
        device = pick_device(f"cuda:{local_rank}")
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.set_float32_matmul_precision("high")  # TF32 for what stays in float32
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


@contextmanager
def attention(
    name: str, shape: tuple[int, int, int], dropout: float, device: torch.device, dtype: torch.dtype
) -> Iterator[str]:
    """Within, attention runs on the kernel `name`; yields the name of the kernel in use, PyTorch's choice for "auto".

    `shape` is that of the queries while training: heads, time, width of a head. Other shapes, as in sampling, may
    fall back to "math". Raises UsageError if this device has no such kernel for that shape.
    """
    wanted = [] if name == "auto" else [SDPA[name], SDPBackend.MATH]
    with sdpa_kernel(wanted, set_priority=True) if wanted else contextlib.nullcontext():
        in_use = "math"  # MPS has one kernel only
        if device.type != "mps":
            query = torch.empty(1, *shape, device=device, dtype=dtype, requires_grad=True)
            choice = torch._fused_sdp_choice(query, query, query, dropout_p=dropout, is_causal=True)
            in_use = next((key for key, backend in SDPA.items() if backend.value == choice), "another")
        if name not in ("auto", in_use):
            raise UsageError(
                f"attention={name}: {device_name(device)} has no such kernel for {dtype} and heads {shape[-1]} wide;"
                " use --attention=auto"
            )
        yield in_use


def compiled(
    model: torch.nn.Module, probe: Callable[[torch.nn.Module], None], fullgraph: bool = True
) -> torch.nn.Module:
    """`model` through torch.compile, or as it is, with a warning, where `probe` (one real use) fails.

    One graph of fixed shapes for model and loss; `fullgraph=False` allows several, which FSDP2's hooks need.
    """
    try:
        candidate = cast("torch.nn.Module", torch.compile(model, fullgraph=fullgraph, dynamic=False))
        probe(candidate)
    except UserError:
        raise
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # no C++ compiler, no Triton, an unsupported Python: all end the same way
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        print(
            f"warning: torch.compile does not work here ({first}); going on without it, slower but with the same result"
        )
        return model
    return candidate
