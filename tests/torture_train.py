"""A run killed again and again, each time resumed, ends with the very weights of one that nobody touched.

    python -m tests.torture_train [kills, default 50] [seed]

Half of the kills come while a checkpoint is being written. After each of them every checkpoint on disk must open.
The end is judged by bytes: the final weights, and the log without its clocks.
"""

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import prepare
import train
from oracle.checkpoint import FOLDER, WEIGHTS, Checkpoint, RunDirectory
from oracle.files import sha256
from oracle.logbook import METRICS, read
from tests.conftest import make_text, prepare_args

ROOT = Path(__file__).parents[1]
STEPS_PER_KILL = 40  # more than a run can do before it is killed
STARTING, WRITING, TRAINING = 1.0, 0.01, 0.1  # seconds within which a kill comes
SPARED = 4  # checkpoints that may be written first
RUN = (
    "--n_layer=2", "--n_head=2", "--n_embd=64", "--block_size=16", "--batch_size=4", "--total_batch_size=128",
    "--dropout=0.1", "--warmup_iters=10", "--learning_rate=0.005", "--eval_interval=40", "--checkpoint_interval=5",
    "--keep_interval=100", "--log_interval=4", "--device=cpu", "--dtype=float32", "--threads=1",
)  # fmt: skip


@dataclass
class Toll:
    kills: int = 0
    while_writing: int = 0  # left a half-written checkpoint behind
    finished_early: int = 0  # ended before the kill came
    opened: int = 0  # checkpoints verified afterwards
    steps: list[int] = field(default_factory=list)  # where the run was


def torture(data: Path, folder: Path, kills: int, steps: int, seed: int) -> Toll:
    """Kill and resume a run of `steps` on the prepared `data`; raises AssertionError if anything was lost."""
    rng, toll = random.Random(seed), Toll()
    whole, broken = folder / "whole", folder / "broken"
    settings = [f"--data_dir={data}", *RUN, f"--max_iters={steps}"]
    train.main([*settings, f"--out_dir={whole}"])
    while toll.kills < kills:
        resume = ["--init_from=resume"] if RunDirectory(broken).pointers() else []
        command = [sys.executable, "train.py", *settings, f"--out_dir={broken}", *resume]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        wait_for_the_moment(process, broken, rng)
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), errors.decode()
        if process.returncode == 0:
            toll.finished_early += 1
            break
        toll.kills += 1
        toll.while_writing += bool(list((broken / FOLDER).glob("step-????????.tmp")))
        for checkpoint in (broken / FOLDER).glob("step-????????"):
            toll.steps.append(Checkpoint.open(checkpoint).progress.step)
            toll.opened += 1
    if toll.finished_early == 0:
        resume = ["--init_from=resume"] if RunDirectory(broken).pointers() else []
        train.main([*settings, f"--out_dir={broken}", *resume])
    ends = [sha256(RunDirectory(run).find("last") / WEIGHTS) for run in (whole, broken)]
    assert ends[0] == ends[1], "the killed run ended with other weights"
    assert log(whole) == log(broken), "the killed run wrote another log"
    return toll


def wait_for_the_moment(process: subprocess.Popen, run: Path, rng: random.Random) -> None:
    """Return at a random moment: of the start, of a later checkpoint's writing, or of the steps after it."""
    kind = rng.choice(("starting", "writing", "writing", "training"))
    if kind == "starting":
        time.sleep(rng.uniform(0, STARTING))
        return
    spared = rng.randrange(SPARED)
    written: set[str] = set()
    while process.poll() is None and len(written) <= spared:
        written |= {p.name for p in (run / FOLDER).glob("step-????????.tmp")}
        time.sleep(0.001)
    time.sleep(rng.uniform(0, WRITING if kind == "writing" else TRAINING))


def log(run: Path) -> list[dict]:
    """The figures of a run, without what depends on the clock and on how often it was started."""
    clocks = ("time", "tokens_per_second")
    records = (record for record in read(run / METRICS) if "machine" not in record)
    return [{k: v for k, v in record.items() if k not in clocks} for record in records]


def main(argv: list[str]) -> None:
    kills, seed = int(argv[0]) if argv else 50, int(argv[1]) if len(argv) > 1 else 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = folder / "corpus.jsonl"
        rows = [{"id": f"d{i}", "text": make_text(i, 24 + 12 * (i % 7))} for i in range(60)]
        corpus.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
        prepare.main(prepare_args(corpus, folder / "data"))
        toll = torture(folder / "data", folder, kills, steps=STEPS_PER_KILL * kills, seed=seed)
    print(
        f"{toll.kills} kills, {toll.while_writing} of them while a checkpoint was being written,"
        f" up to step {max(toll.steps, default=0):,} of {STEPS_PER_KILL * kills:,}; {toll.opened} checkpoints opened, none broken;"
        " final weights and log equal the uninterrupted run's"
    )
    print(json.dumps({"bench": "torture_train", "kills": toll.kills, "while_writing": toll.while_writing}))


if __name__ == "__main__":
    main(sys.argv[1:])
