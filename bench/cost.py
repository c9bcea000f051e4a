"""Hours and money of the full run on different GPUs: the table of docs/cost.md.

    python -m bench.cost [config/rizospastis.py] [--price RTX4090=0.40 …] [--speed H200=210000 …] [--write]

A speed is taken where somebody measured this very shape, and is else estimated from what the GPU can do: time of the
matrix products, of causal attention and of the memory traffic that is left when element-wise work is fused.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from model import GPTConfig, flops_per_token
from oracle import cli
from oracle.cli import UsageError
from oracle.config import load
from oracle.files import write_text
from oracle.markdown import table
from oracle.plan import make_plan

PAGE = Path(__file__).parents[1] / "docs" / "cost.md"
BEGIN, END = "<!-- table: python -m bench.cost --write -->", "<!-- end of table -->"
OVERHEAD = 0.05  # microseconds a token: optimizer, casts of the weights
BANDWIDTH_REACHED = 0.85
BYTES_PER_LAYER = 106  # per token and unit of width, both passes, fused
BYTES_OF_LOSS = 8  # per token and row of the vocabulary
OPTIMISM = 0.92  # three published speeds over what this formula says: 0.93 (A100), 0.91 (H100), 0.91 (RTX 4090)


@dataclass(frozen=True)
class Gpu:
    name: str
    peak: float  # dense bf16, TFLOP/s
    gemm: float  # TFLOP/s that large matrix products reach
    attention: float  # TFLOP/s of fused causal attention
    bandwidth: float  # TB/s, of the data sheet
    price: float  # per hour: an example
    measured: float = 0.0  # tokens/s of the 354 M model at context 1024
    source: str = ""


GPUS = (
    Gpu("RTX3090", 71.0, 64, 30, 0.936, 0.20),
    Gpu("RTX4090", 165.2, 150, 89, 1.008, 0.40, 47_000, "reported by kkOracle"),
    Gpu("RTX5090", 209.5, 188, 105, 1.792, 0.60),
    Gpu("A100", 312.0, 250, 116, 2.039, 1.30, 79_900, "published: llm.c, per GPU of eight"),
    Gpu("H100", 989.4, 650, 330, 3.350, 2.20, 188_000, "published: llm.c, per GPU of eight"),
    Gpu("H200", 989.4, 700, 350, 4.800, 3.00),
)


@dataclass(frozen=True)
class Job:
    shape: GPTConfig
    tokens: int


def roofline(gpu: Gpu, shape: GPTConfig) -> float:
    """Tokens/s if nothing ever waits."""
    counted_attention = 12 * shape.n_layer * shape.n_embd * shape.block_size
    products = (flops_per_token(shape) - counted_attention) / (gpu.gemm * 1e6)  # microseconds
    attention = counted_attention / 2 / (gpu.attention * 1e6)  # the causal half
    bytes_moved = BYTES_PER_LAYER * shape.n_embd * shape.n_layer + BYTES_OF_LOSS * shape.vocab_size
    memory = bytes_moved / (gpu.bandwidth * BANDWIDTH_REACHED * 1e6)
    return 1e6 / (products + attention + memory + OVERHEAD)


def speed(gpu: Gpu, job: Job, own: dict[str, float]) -> tuple[float, str]:
    """(tokens/s, where it is from); `own` are the reader's measurements."""
    if gpu.name in own:
        return own[gpu.name], "measured"
    if gpu.measured:
        return gpu.measured, gpu.source
    return OPTIMISM * roofline(gpu, job.shape), "**estimate**"


def rows(job: Job, prices: dict[str, float], speeds: dict[str, float]) -> list[dict[str, object]]:
    found = []
    for gpu in GPUS:
        tokens_per_second, source = speed(gpu, job, speeds)
        hours = job.tokens / tokens_per_second / 3600
        price = prices.get(gpu.name, gpu.price)
        found.append(
            {
                "gpu": gpu.name, "tokens_per_second": round(tokens_per_second),
                "mfu": round(tokens_per_second * flops_per_token(job.shape) / (gpu.peak * 1e12), 3), "hours": round(hours, 1),
                "price": price, "money": round(hours * price, 2), "source": source,
            }
        )  # fmt: skip
    return found


def markdown(found: list[dict[str, object]]) -> str:
    head = ("GPU", "tokens/s", "MFU", "hours", "price per hour", "the run", "speed is")
    cells = [
        [
            str(r["gpu"]), f"{r['tokens_per_second']:,}", f"{r['mfu']:.0%}", f"{r['hours']:.1f}", f"{r['price']:.2f}",
            f"{r['money']:.0f}", str(r["source"]),
        ]
        for r in found
    ]  # fmt: skip
    return "\n".join(table(head, cells))


def numbers(option: str, words: Sequence[str]) -> dict[str, float]:
    """`RTX4090=0.40` as a number for each GPU named; raises UsageError for what is none."""
    known = [gpu.name for gpu in GPUS]
    found = {}
    for word in words:
        name, _, number = word.partition("=")
        name = name.replace(" ", "")
        try:
            found[name] = float(number)
        except ValueError:
            found[name] = 0.0
        if name not in known or not 0 < found[name] < float("inf"):
            raise UsageError(f"{option} {word}: write GPU=NUMBER, above 0; the GPUs are {', '.join(known)}")
    return found


def job_of(place: str) -> Job:
    config = load("train.py", [place]).config
    plan = make_plan(config, config.vocab_size, config.expected_tokens)
    return Job(plan.model, plan.max_iters * plan.tokens_per_step)


def with_table(page: str, shown: str) -> str:
    """`page` with what stands between its two marks replaced."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{shown}\n{END}{after}"


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("config", nargs="?", default="config/rizospastis.py")
    parser.add_argument("--price", nargs="+", default=[], metavar="GPU=PRICE", help="per hour, in any currency")
    parser.add_argument("--speed", nargs="+", default=[], metavar="GPU=TOKENS", help="per second, measured by yourself")
    parser.add_argument("--write", action="store_true", help="put the table into docs/cost.md")
    options = parser.parse_args(argv)
    job = job_of(options.config)
    found = rows(job, numbers("--price", options.price), numbers("--speed", options.speed))
    print(markdown(found))
    if options.write:
        write_text(PAGE, with_table(PAGE.read_text(encoding="utf-8"), markdown(found)))
    print(json.dumps({"bench": "cost", "config": options.config, "tokens": job.tokens, "gpus": found}))


if __name__ == "__main__":
    sys.exit(cli.run(main))
