"""Peak memory and time of the loss with and without chunks, forward and backward, on the CPU or a CUDA GPU.

    python -m bench.loss [--tokens=4096] [--width=256] [--vocab=50304] [--chunks=1,4,8,16] [--rounds=3] [--compile]

Each measurement is a process of its own, in alternating rounds. Memory is what the pass added to the peak: of the
process (resident) on a CPU, of the allocator on a GPU.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

from oracle.loss import chunked_cross_entropy

REPEATS = 3


def peak_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / (1 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 10)


def loss(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, chunks: int) -> torch.Tensor:
    if chunks > 1:
        return chunked_cross_entropy(hidden, weight, targets, chunks, -1)
    return F.cross_entropy(F.linear(hidden, weight).float(), targets, ignore_index=-1, reduction="sum")


def measure(options: argparse.Namespace, chunks: int) -> dict[str, float]:
    """Milliseconds (median) and MiB of one pass; run in a process of its own."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    torch.manual_seed(0)
    hidden = torch.randn(options.tokens, options.width, device=device, requires_grad=True)
    weight = (0.02 * torch.randn(options.vocab, options.width, device=device)).requires_grad_()
    targets = torch.randint(0, options.vocab, (options.tokens,), device=device)
    function = torch.compile(loss, fullgraph=True, dynamic=False) if options.compile else loss
    before, times = peak_mib(device), []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            total = function(hidden, weight, targets, chunks)
        total.backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
        hidden.grad = weight.grad = None
    return {"ms": 1000 * statistics.median(times[1:]), "MiB": peak_mib(device) - before, "loss": total.item()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--vocab", type=int, default=50304)
    parser.add_argument("--chunks", default="1,4,8,16", help="variants; 1 is the plain loss")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options, options.only)))
        return
    variants = [int(n) for n in options.chunks.split(",")]
    results: dict[int, list[dict[str, float]]] = {n: [] for n in variants}
    for _ in range(options.rounds):
        for n in variants:
            command = [sys.executable, "-m", "bench.loss", *sys.argv[1:], f"--only={n}"]
            results[n].append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    table = {n: {key: statistics.median(r[key] for r in rows) for key in rows[0]} for n, rows in results.items()}
    print(f"{'chunks':>6} {'ms':>9} {'MiB':>9} {'loss':>12}")
    for n, row in table.items():
        print(f"{n:6} {row['ms']:9.0f} {row['MiB']:9.0f} {row['loss']:12.2f}")
    print(json.dumps({"bench": "loss", **vars(options), "results": table}))


if __name__ == "__main__":
    main()
