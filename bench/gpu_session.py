"""Everything a GPU machine is asked, in one command and a given time: checks, comparison, kernels, a short training.

    python -m bench.gpu_session [config/rizospastis.py] [--minutes=9] [--out=out/gpu-session] [--name=value …]

Each stage is a process of its own with a limit, so that none takes the others' time or ends them; its output goes to
<out>/<stage>.txt. Give --data_dir to train on text; without prepared shards the stages before it use random tokens and
training is left out. Settings are passed to every stage. --stages=gradients,kernels does only those; a comparison of
all variants likes a command of its own: python -m bench.train_step … --total_batch_size=65536 --compare --seconds=500.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.options import Options, read
from oracle import cli
from oracle.cli import UsageError
from oracle.config import load
from oracle.shards import MANIFEST

OWN = {
    "minutes": "9", "out": "out/gpu-session", "tokens": "65536", "train_steps": "300", "compare": "", "steps": "51",
    "warm_up": "20", "layers": "2", "stages": "",
}  # fmt: skip
ALL = ("gradients", "compare", "kernels", "train", "report")
SHORTEST = 15  # seconds without which no stage is worth beginning


@dataclass(frozen=True)
class Stage:
    name: str
    command: list[str]
    share: float  # of the time left when it begins; what it does not use goes to the later ones


def stages(options: Options, seconds: float) -> list[Stage]:
    """What will be run, in order. `seconds` are those of the whole session."""
    own, out = options.own, Path(options.own["out"])
    asked = [options.place, *options.settings]
    step = [*asked, f"--total_batch_size={own['tokens']}"]
    compare = f"--compare={own['compare']}" if own["compare"] else "--compare"
    timing = [f"--steps={own['steps']}", f"--warm_up={own['warm_up']}", f"--seconds={int(seconds * 0.43)}"]
    found = [
        Stage("gradients", module("bench.gradients", *asked, f"--layers={own['layers']}"), 0.2),
        Stage("compare", module("bench.train_step", *step, compare, *timing), 0.65),
        Stage("kernels", module("bench.train_step", *step, f"--profile={out / 'kernels.md'}"), 0.4),
    ]
    if has_text(options):
        run, steps = out / "run", own["train_steps"]
        length = [
            f"--max_iters={steps}", "--max_epochs=0", f"--warmup_iters={min(50, int(steps))}",
            f"--max_minutes={max(0.5, seconds * 0.2 / 60):.2f}", f"--out_dir={run}", f"--eval_interval={steps}",
        ]  # fmt: skip
        found.append(Stage("train", [sys.executable, "train.py", *step, *length], 0.9))
        found.append(Stage("report", module("oracle.report", str(run)), 1.0))
    wanted = own["stages"].split(",") if own["stages"] else [stage.name for stage in found]
    unknown = set(wanted) - set(ALL)
    if unknown:
        raise UsageError(f"--stages={own['stages']}: no stage {', '.join(sorted(unknown))}; they are {', '.join(ALL)}")
    return [stage for stage in found if stage.name in wanted]


def has_text(options: Options) -> bool:
    config = load("train.py", [options.place, *options.settings]).config
    return (Path(config.data_dir) / MANIFEST).exists()


def module(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", name, *arguments]


def carry_out(stage: Stage, folder: Path, limit: float) -> str:
    """Run a stage with its output in a file, show the end of it, and say how it ended."""
    path = folder / f"{stage.name}.txt"
    with path.open("w", encoding="utf-8") as log:
        log.write(f"$ {' '.join(stage.command[1:])}\n")
        log.flush()
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        try:
            done = subprocess.run(
                stage.command, stdout=log, stderr=subprocess.STDOUT, timeout=limit, check=False, env=environment
            )
            ending = "done" if done.returncode == 0 else f"failed with status {done.returncode}"
        except subprocess.TimeoutExpired:
            ending = f"stopped after {limit:.0f} s"
    print(f"--- {stage.name}: {ending}; all of it in {path}")
    print("\n".join(line[:400] for line in path.read_text(encoding="utf-8").splitlines()[-40:]), flush=True)
    return ending


def main(argv: Sequence[str]) -> None:
    options = read(argv, OWN, "config/rizospastis.py")
    for name in ("tokens", "train_steps", "steps", "warm_up", "layers"):
        options.number(name)
    folder, seconds = Path(options.own["out"]), 60.0 * options.number("minutes")
    folder.mkdir(parents=True, exist_ok=True)
    planned = stages(options, seconds)
    began, endings = time.monotonic(), {}
    for stage in planned:
        left = seconds - (time.monotonic() - began)
        if left < SHORTEST:
            endings[stage.name] = {"ending": "no time left", "seconds": 0.0}
            continue
        start = time.monotonic()
        ending = carry_out(stage, folder, max(SHORTEST, left * stage.share))
        endings[stage.name] = {"ending": ending, "seconds": round(time.monotonic() - start, 1)}
    if not has_text(options):
        print("note: no training: the config's data_dir is not prepared; give --data_dir=FOLDER of prepare.py")
    print(json.dumps({"bench": "gpu_session", "config": options.place, "stages": endings}))
    failed = [name for name, how in endings.items() if how["ending"] != "done"]
    if failed:
        raise cli.UserError(f"not all is done: {', '.join(failed)}; see the files in {folder}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
