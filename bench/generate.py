"""Words out: our engine beside its peers, the same 354 M shape, prompt 64, 128 new tokens, one text at a time.

    python -m bench.generate [--rounds=3] [--engines=ours-int8,llama-q8_0,…] [--peers=/path/to/python] [--avx2]

Every engine runs in a process of its own in every round, in turns; medians are over the rounds. --peers is a Python
that has llama-cpp-python; it runs GGUF files made by our own export.py. --avx2 holds PyTorch to what a ten-year-old
processor can do (llama.cpp chooses its instructions when it is built and is not held). nanoGPT's way, which reads the
context anew for every token, writes 16 tokens. The model (random weights, 1.4 GB) is made once, in --out.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

import export
from bench.generate_worker import ENGINES
from bench.options import Options, read
from model import GPT, count_parameters
from oracle import cli
from oracle.checkpoint import Progress, RunDirectory
from oracle.cli import UsageError
from oracle.config import to_json
from oracle.files import sha256, write_text
from oracle.markdown import table
from oracle.plan import model_shape
from oracle.settings import Config
from oracle.tokenizer import train_tokenizer

OWN = {
    "rounds": "3", "engines": "", "peers": sys.executable, "avx2": "", "out": "out/bench-generate", "threads": "2",
    "prompt": "64", "tokens": "128",
}  # fmt: skip
GGUF_TYPES = ("f32", "bf16", "f16", "q8_0")
UNCACHED_TOKENS = 16
SHAPE = Config(
    n_layer=24, n_head=16, n_embd=1024, block_size=1024, vocab_size=50_000, padded_vocab_size=50_304, data_dir="none"
)
BYTES = {"float32": 4, "f32": 4, "bfloat16": 2, "bf16": 2, "f16": 2, "int8": 1, "q8_0": 34 / 32}


def main(argv: Sequence[str]) -> None:
    options = read(argv, OWN)
    own = options.own
    names = own["engines"].split(",") if own["engines"] else all_engines(own["peers"])
    unknown = [name for name in names if name not in ENGINES and name.removeprefix("llama-") not in GGUF_TYPES]
    if unknown:
        raise UsageError(f"--engines={','.join(unknown)}: no such engine; they are {', '.join(all_engines('', True))}")
    run = model_of(Path(own["out"]))
    models = {name: gguf_of(run, name) if name.startswith("llama-") else run for name in names}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    bandwidth = []
    for _ in range(options.number("rounds")):
        for name in names:
            bandwidth.append(read_bandwidth(options.number("threads")))
            found[name].append(measure(name, models[name], options))
            print(f"{name}: {found[name][-1]['tokens_per_second']:.1f} tokens/s", file=sys.stderr, flush=True)
    memory = statistics.median(bandwidth)
    rows = [row_of(name, rounds, memory) for name, rounds in found.items()]
    print("\n".join(table(list(rows[0]), [[str(value) for value in row.values()] for row in rows])))
    print(
        f"memory read at {memory:.1f} GB/s (median of {len(bandwidth)}, {min(bandwidth):.0f} to {max(bandwidth):.0f})"
    )
    result = {
        "bench": "generate",
        "avx2": bool(own["avx2"]),
        "threads": options.number("threads"),
        "gb_per_second": memory,
    }
    print(json.dumps(result | {"torch": torch.__version__, "engines": rows}))


def all_engines(peers: str, whatever_is_there: bool = False) -> list[str]:
    probe = [peers, "-c", "import llama_cpp"]
    llama = whatever_is_there or subprocess.run(probe, capture_output=True).returncode == 0
    own = [name for name in ENGINES if name != "llama"]
    return own + ([f"llama-{kind}" for kind in GGUF_TYPES] if llama else [])


def model_of(folder: Path, shape: Config = SHAPE) -> Path:
    """The run directory of a model with random weights and as many pieces as `shape` says, made if it is not there."""
    run = RunDirectory(folder)
    if not run.pointers():
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer = folder / "tokenizer.model"
        train_tokenizer([invented_words()], tokenizer, "bpe", shape.vocab_size)
        torch.manual_seed(0)
        model = GPT(model_shape(shape, shape.vocab_size))
        identity = {"data": "", "tokenizer": sha256(tokenizer)}
        run.save(Progress(), model, torch.optim.AdamW(model.parameters()), shape, tokenizer, identity)
        write_text(folder / "config.json", to_json(shape))
    return folder


def invented_words() -> str:
    """Enough different words that a tokenizer finds 50,000 pieces in them."""
    rng = random.Random(0)
    syllables = [a + b for a in "βγδζθκλμνξπρστφχψ" for b in ("α", "ε", "η", "ι", "ο", "υ", "ω", "ας", "ης", "ου")]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(60_000)]
    return "\n".join(" ".join(rng.choices(words, k=20)) for _ in range(40_000))


def gguf_of(run: Path, name: str) -> Path:
    """Our own export of the run in the engine's number format."""
    kind = name.removeprefix("llama-")
    folder = run / "export" / f"gguf-{kind}"
    if not folder.exists():
        export.main([str(run), "--format=gguf", f"--gguf_type={kind}", "--verify=False"])
    return next(folder.glob("*.gguf"))


def measure(name: str, model: Path, options: Options) -> dict[str, float]:
    """What the worker says of itself."""
    own, engine = options.own, "llama" if name.startswith("llama-") else name
    python = own["peers"] if engine == "llama" else sys.executable
    tokens = str(UNCACHED_TOKENS) if name.startswith("nanogpt") else own["tokens"]
    command = [python, "-m", "bench.generate_worker", engine, str(model), own["threads"], own["prompt"], tokens]
    held = {"ATEN_CPU_CAPABILITY": "avx2"} if own["avx2"] else {}
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **held, "OMP_NUM_THREADS": own["threads"]}
    )
    if done.returncode:
        raise cli.UserError(f"{name} failed: {done.stderr.strip().splitlines()[-1] if done.stderr else 'no message'}")
    record: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return record


def read_bandwidth(threads: int) -> float:
    """GB/s at which this machine sums up 400 MB just now; best of three."""
    torch.set_num_threads(threads)
    data, best = torch.ones(100_000_000), 0.0
    for _ in range(3):
        began = time.perf_counter()
        data.sum()
        best = max(best, data.nbytes / (time.perf_counter() - began) / 1e9)
    return best


def row_of(name: str, rounds: list[dict[str, float]], memory: float) -> dict[str, object]:
    median = {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
    speeds = [r["tokens_per_second"] for r in rounds]
    weights = count_parameters(model_shape(SHAPE, SHAPE.vocab_size), positions=False) * BYTES[name.split("-")[1]]
    share = "–" if name.startswith("nanogpt") else f"{median['tokens_per_second'] * weights / 1e9 / memory:.0%}"
    return {
        "engine": name,
        "tokens/s": round(median["tokens_per_second"], 1),
        "min–max": f"{min(speeds):.1f}–{max(speeds):.1f}",
        "first token, ms": round(median["first_ms"]),
        "load, s": round(median["load_seconds"], 1),
        "peak, MiB": round(median["peak_mib"]),
        "of the bandwidth": share,
    }


if __name__ == "__main__":
    sys.exit(cli.run(main))
