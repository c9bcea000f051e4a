"""Where a step's time goes: kernels by share, and which attention it was."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from oracle.markdown import literal, table

SHOWN = 25
# First match counts: cuDNN's attention kernels have "flash" in their names, flash attention's have "cutlass".
ATTENTION = {
    "cudnn": r"cudnn.*(sdpa|attention|flash)",
    "flash": r"flash_(fwd|bwd)|pytorch_flash|flash_attn|flash_attention",
    "efficient": r"fmha|efficient_attention|mem_eff",
}
KINDS = {
    "attention": "|".join(ATTENTION.values()),
    "optimizer": r"adam|multi_tensor|foreach",
    "matrix products": r"gemm|nvjet|cublas|xmma|cutlass|splitk|aten::(add)?b?mm|mkldnn|mkl_|aten::linear",
    "copies": r"memcpy|memset|aten::(copy_|zero_|fill_)",
    "compiled": r"^triton_|inductor|cpp_fused|CompiledFunction|graph_\d",
}
NO_KERNEL = "math, or fused by the compiler: no attention kernel found"


@dataclass(frozen=True)
class Kernel:
    name: str
    calls: int
    microseconds: float

    @property
    def kind(self) -> str:
        return next((kind for kind, names in KINDS.items() if re.search(names, self.name, re.IGNORECASE)), "other")


def attention_backend(names: Iterable[str]) -> str:
    """Which of scaled_dot_product_attention's backends these kernels are of."""
    every = list(names)
    return next(
        (kind for kind, mark in ATTENTION.items() if any(re.search(mark, name, re.IGNORECASE) for name in every)),
        NO_KERNEL,
    )


def kernels_of(run: Callable[[], None], device: torch.device) -> list[Kernel]:
    """What `run` spends its time on, longest first: kernels on a GPU, operators elsewhere (their own time only)."""
    gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
    with profile(activities=activities) as recording:
        run()
    found = []
    for event in recording.key_averages():
        on_gpu = event.device_type == DeviceType.CUDA
        if on_gpu != gpu or getattr(event, "is_user_annotation", False):
            continue
        time = event.self_device_time_total if gpu else event.self_cpu_time_total
        if time > 0:
            found.append(Kernel(event.key, event.count, time))
    return sorted(found, key=lambda kernel: -kernel.microseconds)


def describe(kernels: list[Kernel], steps: int) -> str:
    """Markdown: the backend, shares by kind, and the longest kernels."""
    total = sum(k.microseconds for k in kernels) or 1.0
    kinds: dict[str, float] = {}
    for kernel in kernels:
        kinds[kernel.kind] = kinds.get(kernel.kind, 0.0) + kernel.microseconds
    by_kind = [[kind, f"{time / total:.1%}"] for kind, time in sorted(kinds.items(), key=lambda item: -item[1])]
    longest = [
        [literal(k.name[:100]), k.kind, f"{k.calls / steps:,.0f}", f"{k.microseconds / steps / 1000:.2f}", f"{k.microseconds / total:.1%}"]
        for k in kernels[:SHOWN]
    ]  # fmt: skip
    lines = [
        f"attention: {attention_backend(k.name for k in kernels)}",
        f"all kernels: {total / steps / 1000:.1f} ms a step, over {steps} steps",
        "",
        *table(["kind", "share"], by_kind),
        "",
        *table(["kernel", "kind", "calls a step", "ms a step", "share"], longest),
    ]
    return "\n".join(lines)
