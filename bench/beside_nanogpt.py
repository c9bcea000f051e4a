"""Training speed of the whole process, as a user runs it, alone or beside nanoGPT's own train.py.

    python -m bench.beside_nanogpt [config/demo.py] [--rounds=3] [--steps=60] [--nanogpt=PATH] [--name=value …]

Each round runs `train.py` on the config's prepared shards; with --nanogpt, a checkout of karpathy/nanoGPT is run
alternately on the same tokens and shape (its files are not changed: data and a copy of its scripts go to a temporary
folder). Reported: the median over steps of tokens/s, warm-up left out, evaluation and saving left out by both.
"""

import json
import pickle
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.jobs import BARE
from bench.options import read
from oracle import cli
from oracle.config import load
from oracle.plan import make_plan
from oracle.settings import Config
from oracle.shards import Prepared
from oracle.tokenizer import Tokenizer

WARM_UP = 10


def ours(place: list[str], overrides: list[str], steps: int, folder: Path) -> float:
    command = [
        sys.executable, "train.py", *place, *overrides, f"--out_dir={folder / 'run'}", f"--max_iters={steps}", "--max_epochs=0",
        "--log_interval=1", f"--eval_interval={steps}", "--warmup_iters=5", "--sample_prompts=[]",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, text=True)
    lines = (folder / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return statistics.median(r["tokens_per_second"] for r in records if r.get("loss") and r["step"] > WARM_UP)


def nanogpt(checkout: Path, config: Config, steps: int, folder: Path) -> float:
    """nanoGPT's train.py with our model's shape, our tokens and our device; its own loop and loader."""
    work = folder / "nanogpt"
    data = work / "data" / "shards"
    data.mkdir(parents=True)
    for name in ("train.py", "model.py", "configurator.py"):
        shutil.copy(checkout / name, work / name)
    prepared = Prepared(config.data_dir)
    prepared.train.all_tokens().astype(np.uint16).tofile(data / "train.bin")
    prepared.val.all_tokens().astype(np.uint16).tofile(data / "val.bin")
    plan = make_plan(config, Tokenizer(prepared.tokenizer_path).vocab_size, prepared.train.tokens)
    (data / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": plan.model.vocab_size}))
    options = {
        "dataset": "shards", "out_dir": str(work / "out"), "eval_interval": 10**9, "eval_iters": 1, "log_interval": 1,
        "max_iters": steps, "batch_size": config.batch_size, "block_size": config.block_size, "n_layer": config.n_layer,
        "n_head": config.n_head, "n_embd": config.n_embd, "dropout": config.dropout, "bias": config.bias,
        "gradient_accumulation_steps": plan.micro_batches, "device": "cpu" if config.device == "auto" else config.device,
        "dtype": "float32" if config.dtype == "auto" else config.dtype, "compile": config.compile,
    }  # fmt: skip
    command = [sys.executable, "train.py", *(f"--{name}={value}" for name, value in options.items())]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True)
    times = [float(ms) for ms in re.findall(r"iter \d+: loss .*?, time ([\d.]+)ms", done.stdout)]
    if len(times) <= WARM_UP:
        raise SystemExit(f"nanoGPT did not run: {done.stderr[-500:]}")
    return plan.tokens_per_step / statistics.median(times[WARM_UP:]) * 1000


def main(argv: Sequence[str]) -> None:
    options = read(argv, {"rounds": "3", "steps": "60", "nanogpt": ""})
    checkout, steps = options.own["nanogpt"], options.number("steps")
    config = load("train.py", [options.place, *options.settings, *BARE]).config
    speeds: dict[str, list[float]] = {name: [] for name in ("nanoOracle", *(["nanoGPT"] if checkout else []))}
    for _ in range(options.number("rounds")):
        for name in speeds:
            with tempfile.TemporaryDirectory() as folder:
                if name == "nanoOracle":
                    speed = ours([options.place], options.settings, steps, Path(folder))
                else:
                    speed = nanogpt(Path(checkout), config, steps, Path(folder))
            speeds[name].append(speed)
    print(f"{'':12} {'tokens/s':>10} {'min':>10} {'max':>10}")
    for name, values in speeds.items():
        print(f"{name:12} {statistics.median(values):10,.0f} {min(values):10,.0f} {max(values):10,.0f}")
    result: dict[str, object] = {"bench": "beside_nanogpt", "config": options.place, "overrides": options.settings} | {
        name: round(statistics.median(values)) for name, values in speeds.items()
    }
    if "nanoGPT" in speeds:
        pairs = zip(speeds["nanoOracle"], speeds["nanoGPT"], strict=True)
        result["ratio"] = round(statistics.median(a / b for a, b in pairs), 3)
        print(f"ratio of each pair, median: {result['ratio']}")
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(cli.run(main))
