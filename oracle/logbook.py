"""What a run writes down: `metrics.jsonl` always, one line on the console, wandb when asked."""

import json
import secrets
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from oracle.cli import explain
from oracle.config import to_json
from oracle.files import take_lock, write_text
from oracle.settings import Config

METRICS, SAMPLES = "metrics.jsonl", "samples.jsonl"
WANDB_ID = "wandb_id"  # a resumed run goes on in the same curves


class Logbook:
    """Appends records to a run directory. On resume, records from after the resumed step are dropped first.

    With `writes` False (a rank that is not the first) nothing is written.
    """

    def __init__(self, folder: Path, config: Config, first_step: int, last_step: int, writes: bool = True) -> None:
        self.folder, self.writes = folder, writes
        self._unwritten: dict[str, str] = {}
        self._lock = take_lock(folder) if writes else None  # two trainings in one folder would mix their files
        if writes:
            for name in (METRICS, SAMPLES):
                _forget_after(folder / name, first_step)
        # A terminal gets a bar below the lines; a log file gets the lines.
        silent = not (writes and sys.stderr.isatty())
        self._bar = tqdm(total=last_step, initial=first_step, unit="step", disable=silent, leave=False)
        self._wandb = _start_wandb(folder, config) if config.wandb_log and writes else None

    def say(self, line: str) -> None:
        self._bar.write(line, file=sys.stdout)
        sys.stdout.flush()

    def advance(self, step: int) -> None:
        self._bar.update(step - self._bar.n)

    def metrics(self, record: dict[str, Any]) -> None:
        """Append a record with a "step"; floats keep their full precision."""
        self._append(METRICS, record)
        if self._wandb:
            try:
                self._wandb.log({k: v for k, v in record.items() if k != "step"}, step=record["step"])
            except Exception as error:  # a web service is never the reason a run dies
                self.say(f"warning: wandb: {error}; metrics.jsonl goes on")

    def note(self, record: dict[str, Any]) -> None:
        """Append a record that holds no figures to draw."""
        self._append(METRICS, record)

    def sample(self, record: dict[str, Any]) -> None:
        self._append(SAMPLES, record)

    def _append(self, name: str, record: dict[str, Any]) -> None:
        if not self.writes:
            return
        waiting = self._unwritten.pop(name, "")
        lines = waiting + json.dumps({**record, "time": round(time.time(), 3)}, ensure_ascii=False) + "\n"
        try:
            with (self.folder / name).open("a", encoding="utf-8") as file:
                file.write(lines)
        except OSError as error:  # a full disk: a log is not the reason a run dies either
            if not waiting:
                self.say(f"warning: {explain(error)}; {name} is continued when it can be")
            self._unwritten[name] = "\n" + lines.lstrip("\n")  # what is there may end in half a line

    def close(self) -> None:
        self._bar.close()
        if self._lock:
            self._lock.close()
        if self._wandb:
            self._wandb.finish()


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a log; a last line that a kill cut short is left out."""
    records = []
    if path.exists():
        for line in path.read_bytes().split(b"\n"):  # splitlines would also break at U+2028, which a sample may hold
            try:
                records.append(json.loads(line))
            except ValueError:
                continue
    return records


def _forget_after(path: Path, step: int) -> None:
    """Drop the records of what will be done again: later steps, and the evaluation that follows a checkpoint."""
    if not path.exists():
        return
    kept = [
        r for r in read(path) if r["step"] < step or (r["step"] == step and r.keys() & {"loss", "skipped", "machine"})
    ]
    write_text(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in kept))


def _start_wandb(folder: Path, config: Config) -> Any:
    """A wandb run, offline where there is no key, or None with a warning: the local log is enough to go on."""
    path = folder / WANDB_ID
    if not path.exists():
        write_text(path, secrets.token_hex(4))
    options = {
        "project": config.wandb_project,
        "name": config.wandb_run_name or folder.name,
        "id": path.read_text(encoding="utf-8"),
        "resume": "allow",
        "dir": str(folder),
        "config": json.loads(to_json(config)),
    }
    try:
        import wandb

        try:
            return wandb.init(**options)
        except wandb.errors.UsageError as error:  # nobody is logged in
            print(f"note: wandb: {error}; logging offline, `wandb sync` uploads it later")
            return wandb.init(**options, mode="offline")
    except Exception as error:
        first = str(error).strip().splitlines()[0]
        print(f"warning: wandb is not available ({first}); metrics.jsonl is written all the same")
        return None


def duration(seconds: float) -> str:
    """`42 s`, `3 min 20 s`, `29 h 40 min`."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


def short(count: float) -> str:
    """`812`, `47.1k`, `354M`, `5.10B`."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            scaled = count / size
            return (
                f"{scaled:.0f}{unit}"
                if scaled >= 100
                else f"{scaled:.1f}{unit}"
                if scaled >= 10
                else f"{scaled:.2f}{unit}"
            )
    return f"{count:.0f}"
