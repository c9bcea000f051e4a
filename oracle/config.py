"""A run's settings: a Python file of plain assignments, overridden by `--name=value`, checked before anything runs.

nanoGPT's habit with its trap removed: there a misspelt name silently becomes a new variable; here every name, type
and bound is checked, and all problems are reported at once, each with the nearest valid name.
"""

import ast
import dataclasses
import difflib
import json
import math
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_origin
from urllib.parse import urlsplit

from oracle.cli import UsageError
from oracle.files import read_json
from oracle.settings import SCRIPTS, Config

AUTO = "auto"  # for settings that allow it; in a Config it is 0
FIELDS = {f.name: f for f in dataclasses.fields(Config)}
# What nanoGPT users will type and what it is called, or follows from, here.
RENAMED = {
    "gradient_accumulation_steps": "total_batch_size (tokens per step; the number of micro-batches follows from it)",
    "decay_lr": "lr_schedule",
    "dataset": "data_dir",
    "backend": "device",
    "always_save_checkpoint": "checkpoint_interval",
    "eval_iters": "eval_interval (evaluation always covers the whole validation split)",
}

COMPLETIONS_ONLY = ("start", "prompts_file", "num_samples", "num_beams", "length_penalty")  # of sample.py's settings


@dataclasses.dataclass(frozen=True)
class Call:
    """What a command line asked for."""

    config: Config
    source: str  # the config file or run directory; empty when there was none
    dry_run: bool
    changed: frozenset[str]  # names set by the file or the command line


def load(script: str, argv: Sequence[str], inherit: Callable[[dict[str, Any]], dict[str, Any]] | None = None) -> Call:
    """Read `[config file or run directory] [--name=value …]` for `script` (a key of `SCRIPTS`).

    `inherit` gets what the user set and returns what else is to be set, as by the model a fine-tune starts from.
    Raises UsageError with every problem found; prints and exits 0 for `--help`.
    """
    if any(a in ("-h", "--help") for a in argv):
        print(help_text(script))
        raise SystemExit(0)
    problems: list[str] = []
    values: dict[str, Any] = {}
    places = [a for a in argv if not a.startswith("--")]
    if len(places) > 1:
        problems.append(f"{len(places)} files given ({', '.join(places)}): name one config file or run directory")
    elif places:
        values.update(_from_place(places[0], problems))
    overrides = [a[2:] for a in argv if a.startswith("--")]
    dry_run = "dry_run" in overrides
    values.update(_from_command_line(script, [o for o in overrides if o != "dry_run"], problems))
    if inherit and not problems:
        values = _check_all(inherit(values), "the base model", problems) | values
    config = Config(**{name: v for name, v in values.items() if name in FIELDS})
    if not problems:
        problems += impossible(config)
    if problems:
        raise UsageError("\n       ".join(problems))
    return Call(config, places[0] if places else "", dry_run, frozenset(values))


def from_dict(values: dict[str, Any], where: str) -> Config:
    """A Config from JSON values such as a checkpoint's `config.json`, checked like a config file."""
    problems: list[str] = []
    checked = _check_all(values, where, problems)
    if problems:
        raise UsageError("; ".join(problems))
    return Config(**checked)


def to_json(config: Config) -> str:
    return json.dumps(dataclasses.asdict(config), ensure_ascii=False, indent=1)


def _from_place(place: str, problems: list[str]) -> dict[str, Any]:
    """Settings from a config file, or from a run directory's own `config.json`."""
    path = Path(place)
    saved = path / "config.json"
    if path.is_dir():
        if not saved.exists():
            problems.append(
                f"{place}: a folder without config.json is no run directory; name a config file or a trained run"
            )
            return {}
        values = read_json(saved)
        return _check_all({**values, "out_dir": str(path)}, str(saved), problems)
    if not path.is_file():
        near = nearest(place, [str(p) for p in sorted(Path("config").glob("*.py"))])
        problems.append(f"{place}: no such config file or run directory{near}")
        return {}
    return _check_all(_assignments(path, problems), place, problems)


def _assignments(path: Path, problems: list[str]) -> dict[str, Any]:
    """Execute a config file and return its public names. Names starting with `_` are the file's own."""
    namespace: dict[str, Any] = {"__file__": str(path), "__name__": "config"}
    try:
        source = path.read_text(encoding="utf-8-sig")
        exec(compile(ast.parse(source, str(path)), str(path), "exec"), namespace)
    except SyntaxError as error:
        problems.append(f"{path} line {error.lineno}: {error.msg}; a config file is Python: name = value")
    except UnicodeDecodeError as error:
        problems.append(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8")
    except Exception as error:
        problems.append(f"{path}: {type(error).__name__}: {error}; a config file is Python: name = value")
    return {
        name: value
        for name, value in namespace.items()
        if not name.startswith("_") and not isinstance(value, ModuleType) and not callable(value)
    }


def _from_command_line(script: str, overrides: list[str], problems: list[str]) -> dict[str, Any]:
    own = names_of(script)
    values: dict[str, Any] = {}
    for override in overrides:
        name, equals, text = override.partition("=")
        field = FIELDS.get(name)
        if field is None:
            problems.append(unknown(f"--{name}", name, own))
        elif name not in own:
            readers = " and ".join(s for s in SCRIPTS if name in names_of(s))
            problems.append(f"--{name}: a setting of {readers}, without effect in {script}; leave it out here")
        elif not equals and field.type is not bool:
            problems.append(f"--{name}: no value; write --{name}={_example(field)}")
        else:
            value = True if not equals else _parse(text, field.type)
            checked = _check_all({name: value}, "", problems)
            if isinstance(values.get(name), tuple) and name in checked:  # a list may be written item by item
                checked[name] = values[name] + checked[name]
            values.update(checked)
    return values


def _check_all(values: dict[str, Any], where: str, problems: list[str]) -> dict[str, Any]:
    """Those of `values` that are right, converted to their field's type; the others go to `problems`."""
    prefix = f"{where}: " if where else "--"
    good: dict[str, Any] = {}
    for name, value in values.items():
        if name not in FIELDS:
            problems.append(unknown(prefix + name, name, list(FIELDS)))
            continue
        value, problem = _check(FIELDS[name], value)
        if problem:
            problems.append(f"{prefix}{name}={value!r}: {problem}")
        else:
            good[name] = value
    return good


def _parse(text: str, kind: Any) -> Any:
    """A command-line word as a Python value: only strings are taken literally."""
    if kind is str:
        return text
    if kind is bool:
        return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}.get(text.lower(), text)
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _check(field: dataclasses.Field, value: Any) -> tuple[Any, str]:
    """(value in the field's type, "") or (value as given, what is allowed)."""
    kind = field.type
    if get_origin(kind) is tuple:
        item = get_args(kind)[0]
        items = (value,) if isinstance(value, item) else value
        if isinstance(items, list | tuple) and all(type(i) is item for i in items):
            return tuple(items), ""
        return value, f"must be a list of {item.__name__}, such as {_example(field)}"
    if value == AUTO and field.metadata.get("auto"):
        return 0, ""
    if kind is float and type(value) is int:
        value = float(value)  # learning_rate = 1 is a float to everyone but a type checker
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)  # 5e3 steps
    if type(value) is not kind:
        return value, f"must be of type {getattr(kind, '__name__', kind)}, such as {_example(field)}"
    return value, _out_of_bounds(field, value)


def _out_of_bounds(field: dataclasses.Field, value: Any) -> str:
    bounds = field.metadata
    if isinstance(value, float) and not math.isfinite(value):
        return "must be a finite number"
    if "choices" in bounds and value not in bounds["choices"]:
        return f"must be one of {', '.join(bounds['choices'])}{nearest(str(value), bounds['choices'])}"
    if "minimum" in bounds and value < bounds["minimum"]:
        return f"must be at least {bounds['minimum']}"
    if "above" in bounds and value <= bounds["above"]:
        return f"must be above {bounds['above']}"
    if "maximum" in bounds and value > bounds["maximum"]:
        return f"must be at most {bounds['maximum']}"
    return ""


def impossible(c: Config) -> list[str]:
    """Settings that are each allowed but cannot stand together, one sentence for each."""
    found = []
    if c.n_embd % c.n_head:
        found.append(f"n_embd={c.n_embd} does not divide by n_head={c.n_head}: make the width a multiple of the heads")
    if not c.batch_size and not c.total_batch_size:
        found.append(
            "batch_size=auto chooses how a step is cut and not how large it is:"
            f" set total_batch_size to a multiple of block_size={c.block_size} tokens"
        )
    if c.total_batch_size % ((c.batch_size or 1) * c.block_size):
        micro = (c.batch_size or 1) * c.block_size
        fit = max(1, round(c.total_batch_size / micro)) * micro
        found.append(
            f"total_batch_size={c.total_batch_size} tokens is not a whole number of micro-batches of batch_size={c.batch_size or AUTO}"
            f" x block_size={c.block_size} = {micro} tokens: write total_batch_size={fit} or another batch_size"
        )
    if c.heldout_from and not _is_day(c.heldout_from):
        found.append(f"heldout_from={c.heldout_from!r}: no such day; write days as 2024-01-31")
    if c.max_iters and c.max_epochs:
        found.append(
            f"max_iters={c.max_iters} and max_epochs={c.max_epochs:g} both say how long to train: set one of them to 0"
        )
    if c.min_lr > c.learning_rate:
        found.append(f"min_lr={c.min_lr:g} is above learning_rate={c.learning_rate:g}: the schedule only goes down")
    if c.max_iters and c.warmup_iters > c.max_iters:
        found.append(
            f"warmup_iters={c.warmup_iters} is more than max_iters={c.max_iters}: the peak would never be reached"
        )
    if c.fsdp and not c.batch_size:
        found.append("batch_size=auto is for models that fit on one device, fsdp=True for others: give a number")
    if c.fsdp and c.dtype == "float16":
        found.append("fsdp=True trains in bfloat16 or float32: choose another dtype")
    if c.num_beams and c.num_samples > c.num_beams:
        found.append(
            f"num_samples={c.num_samples} is more than num_beams={c.num_beams} find: raise num_beams or ask for fewer"
        )
    if c.chat and (c.start or c.prompts_file or c.json or c.num_beams):
        found.append("chat=True is a conversation: leave out start, prompts_file, json and num_beams")
    if c.start and c.prompts_file:
        found.append("start and prompts_file both name texts to complete: give one of them")
    found += _impossible_addresses(c)
    if c.label_smoothing and c.dpo_loss != "sigmoid":
        found.append(f"label_smoothing={c.label_smoothing:g} is for dpo_loss=sigmoid, not {c.dpo_loss}: set it to 0")
    if c.device.partition(":")[0] not in ("auto", "cpu", "cuda", "mps"):
        found.append(f"device={c.device!r}: must be auto, cpu, cuda, cuda:N or mps")
    return found


def _impossible_addresses(c: Config) -> list[str]:
    found = []
    if c.api_url and not _host(c.api_url):
        found.append(f"api_url={c.api_url!r}: no address of a server; write it as http://127.0.0.1:8000/v1")
    if not _host(c.bot_api):
        found.append(f"bot_api={c.bot_api!r}: no address of a server; write it as https://api.telegram.org")
    elif urlsplit(c.bot_api).scheme == "http" and _host(c.bot_api) not in ("127.0.0.1", "::1", "localhost"):
        found.append(
            f"bot_api={c.bot_api!r} would send the token unencrypted: use https:// or an address of this machine"
        )
    return found


def _host(address: str) -> str:
    """The host of a web address; empty for anything else."""
    try:
        parts = urlsplit(address)
        return parts.hostname or "" if parts.scheme in ("http", "https") and parts.port != 0 else ""
    except ValueError:  # a port that is no number, a bracket that is not closed
        return ""


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def without_effect(c: Config, script: str) -> list[str]:
    """Settings of `script` that another setting switches off: worth a warning, not an error."""
    found = []
    if script == "train.py":
        if c.lr_schedule == "constant" and (c.min_lr or c.lr_decay_iters):
            found.append("min_lr and lr_decay_iters have no effect with lr_schedule=constant")
        if not c.wandb_log and c.wandb_run_name:
            found.append("wandb_run_name has no effect without wandb_log=True")
    if script == "serve.py" and c.gguf and c.engine != "llama":
        found.append("gguf has no effect without engine=llama")
    if script == "sample.py":
        found += _idle_in_sampling(c)
    if script in ("serve.py", "telegram_bot.py"):
        set_here = [name for name in COMPLETIONS_ONLY if getattr(c, name) != FIELDS[name].default]
        found += [f"{' and '.join(set_here)}: without effect in {script}, which answers"] if set_here else []
    return found


def _idle_in_sampling(c: Config) -> list[str]:
    found = []
    filters = c.top_k or c.top_p < 1 or c.min_p
    if c.temperature == 0 and filters:
        found.append("top_k, top_p and min_p have no effect at temperature=0, which always takes the most likely token")
    if c.temperature == 0 and c.num_samples > 1 and not (c.num_beams or c.chat):
        found.append(f"at temperature=0 all {c.num_samples} samples are the same")
    if c.num_beams and (filters or c.repetition_penalty != 1 or c.no_repeat_ngram or c.stop):
        found.append("top_k, top_p, min_p, repetition_penalty, no_repeat_ngram and stop have no effect with num_beams")
    if c.system and not c.chat:
        found.append("system has no effect without chat=True")
    return found


def names_of(script: str) -> list[str]:
    return [f.name for group in SCRIPTS[script] for f in dataclasses.fields(group)]


def nearest(word: str, among: Sequence[str]) -> str:
    """`; did you mean …?`, or nothing when no name is near."""
    close = difflib.get_close_matches(word, among, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def unknown(shown: str, name: str, among: Sequence[str]) -> str:
    if name in RENAMED:
        return f"{shown}: no such setting; here it is {RENAMED[name]}"
    return f"{shown}: no such setting{nearest(name, among) or '; --help lists them all'}"


def _example(field: dataclasses.Field) -> str:
    if get_origin(field.type) is tuple:
        return "1,2" if get_args(field.type)[0] is int else "'a','b'"
    return "text" if field.default == "" else repr(field.default)


def help_text(script: str) -> str:
    """Every setting of `script` with type, default, bounds and meaning."""
    places = {
        **dict.fromkeys(("sample.py", "serve.py", "telegram_bot.py"), "[run directory | config file]"),
        "export.py": "out/<run>",
        "evaluate.py": "out/<run> [out/<other> ...]",
    }
    place = places.get(script, "[config file]")
    lines = [f"usage: python {script} {place} [--name=value ...] [--dry_run] [--help]", ""]
    for group in SCRIPTS[script]:
        lines.append(f"{group.__name__.lower()}:")
        for f in dataclasses.fields(group):
            kind = (
                getattr(f.type, "__name__", str(f.type))
                if get_origin(f.type) is None
                else f"{get_args(f.type)[0].__name__} ..."
            )
            choices = f" One of {', '.join(f.metadata['choices'])}." if "choices" in f.metadata else ""
            lines.append(f"  --{f.name}={kind}  (default {f.default!r})")
            lines.append(f"        {f.metadata['meaning']}.{choices}")
    lines += ["", "other:", "  --dry_run  show what would be done, and stop", "  --help     this text"]
    return "\n".join(lines)
