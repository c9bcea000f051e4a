"""The whole optimizer step of any config on this machine's device: speed, spread, MFU, memory, waiting for data.

    python -m bench.train_step [config/demo.py] [--name=value …]
    python -m bench.train_step config/rizospastis.py --compare
    python -m bench.train_step config/rizospastis.py --compare='now:;small:--batch_size=4;tuned:--compile_mode=max-autotune-no-cudagraphs'
    python -m bench.train_step config/rizospastis.py --profile[=kernels.md]

What is timed is `train.fit` on the config's shards, or on random tokens where they are not prepared. `--compare` runs
variants in turns, --rounds of them; bare, it takes a set of its own. A variant may also set `--compile_mode` (of
torch.compile), `--optimizer=for-loop`, `--linears=fp8` (bench/fp8.py) and `--loop=nanogpt` (bench/nanogpt_loop.py).
--steps are timed in all, after --warm_up (default 51 and 20 on a GPU, 12 and 3 elsewhere); after --seconds nothing new
begins.
"""

import json
import math
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.gpu import watching
from bench.jobs import Text, text_of
from bench.kernels import attention_backend, describe, kernels_of
from bench.measure import Contender, Ours, Row, take_turns
from bench.nanogpt_loop import NanoGPT
from bench.options import GIVEN, Options, read
from bench.variants import Variant, built_in, parse
from model import GPTConfig, count_parameters, flops_per_token
from oracle import cli
from oracle.files import write_text
from oracle.hardware import device_name, peak_flops, pick_device
from oracle.logbook import short
from oracle.plan import make_plan
from oracle.preset import GIB
from oracle.settings import Config
from oracle.versions import versions

OWN = {"compare": "", "profile": "", "rounds": "", "steps": "", "warm_up": "", "seconds": "0"}
PROFILED_STEPS = 3
HEAD = (
    "variant", "micro-batch", "steps", "ms/step", "spread", "tokens/s", "ratio", "TFLOP/s", "MFU", "peak GiB",
    "waits for data", "MHz", "W",
)  # fmt: skip


def main(argv: Sequence[str]) -> None:
    options = read(argv, OWN)
    config = Variant("as configured").config(options.place, options.settings)
    device, text = pick_device(config.device), text_of(config)
    shape = make_plan(config, text.vocab_size, text.train.tokens).model
    allow_many_variants()
    print(f"{device_name(device)}, torch {torch.__version__}; {short(count_parameters(shape))} parameters; {text.note}")
    with tempfile.TemporaryDirectory() as folder:
        result = {
            "bench": "train_step", "config": options.place, "settings": options.settings, "device": device_name(device),
            "versions": versions(), "random_tokens": "random" in text.note,
        }  # fmt: skip
        if options.own["profile"]:
            result |= profiled(options, text, folder)
        else:
            result |= compared(options, config, text, device, shape, folder)
    print(json.dumps(result, ensure_ascii=False))


def allow_many_variants() -> None:
    """Let torch.compile treat each variant as if it were alone in its process: no shared shapes, no limit of graphs."""
    import torch._dynamo.config as dynamo

    dynamo.automatic_dynamic_shapes = False
    dynamo.recompile_limit = dynamo.accumulated_recompile_limit = 1000


def build(variant: Variant, options: Options, text: Text, folder: str) -> Contender:
    number = len(list(Path(folder).iterdir()))
    place = Path(folder) / f"{number}"
    place.mkdir()
    config = variant.config(options.place, [*options.settings, f"--out_dir={place}"])
    return NanoGPT(variant, config, text) if variant.own["loop"] == "nanogpt" else Ours(variant, config, text)


def compared(
    options: Options, config: Config, text: Text, device: torch.device, shape: GPTConfig, folder: str
) -> dict[str, object]:
    """Measure one variant or several, print the table, and return what goes into the JSON."""
    asked = options.own["compare"]
    variants = [Variant("as configured")]
    notes: list[str] = []
    if asked:
        variants, notes = parse(built_in(config, device.type) if asked == GIVEN else asked)
    gpu = device.type == "cuda"
    defaults = {"rounds": 3 if asked else 1, "steps": 51 if gpu else 12, "warm_up": 20 if gpu else 3}
    rounds, steps, warm_up = (options.number(name) if options.own[name] else value for name, value in defaults.items())
    rows = take_turns(
        variants, lambda variant: build(variant, options, text, folder), max(1, rounds), max(1, steps), warm_up,
        lambda row: watching(device, row.clocks, row.watts), options.number("seconds") or math.inf,
    )  # fmt: skip
    flops, peak = flops_per_token(shape), peak_flops(device, config)
    print_table(rows, flops, peak)
    for note in notes:
        print(f"note: {note}")
    measured = [r for r in rows if r.rounds]
    ratios = against_nanogpt(variants, measured)
    for name, ratio in ratios.items():
        print(f"{name}: {ratio}")
    return {"variants": [record(r, rows[0], flops, peak) for r in rows], "left_out": notes, **ratios}


def against_nanogpt(variants: list[Variant], rows: list[Row]) -> dict[str, float]:
    """The first of ours over nanoGPT's settings, and over the fastest of its micro-batches; empty without both.

    Compared is what has the same number format: bfloat16 against float32 would say nothing of the loops.
    """
    of = {v.name: v for v in variants}
    ours = next((r for r in rows if of[r.name].own["loop"] == "ours"), None)
    if ours is None:
        return {}
    rivals = [r for r in rows if of[r.name].own["loop"] == "nanogpt" and of[r.name].dtype == of[ours.name].dtype]
    if not rivals:
        return {}
    best = max(rivals, key=lambda r: r.tokens_per_second)
    return {"over_nanogpt": round(ours.ratio(rivals[0]), 3), "over_nanogpt_at_its_best": round(ours.ratio(best), 3)}


def record(row: Row, first: Row, flops: float, peak: float) -> dict[str, object]:
    """A row of the table with names, for the JSON."""
    if not row.rounds:
        return {"name": row.name, "failure": row.failure}
    speed = row.tokens_per_second
    return {
        "name": row.name,
        "micro_batch": row.micro_batch,
        "steps": len(row.seconds),
        "ms": round(1000 * statistics.median(row.seconds), 2),
        "spread": round(row.spread, 4),
        "tokens_per_second": round(speed, 1),
        "ratio": round(row.ratio(first), 4) if first.rounds else None,
        "tflops": round(speed * flops / 1e12, 3),
        "mfu": round(speed * flops / peak, 4) if peak else None,
        "peak_gib": round(row.peak_bytes / GIB, 2) or None,
        "waiting": round(row.waiting, 4),
        "mhz": statistics.median(row.clocks) if row.clocks else None,
        "watts": statistics.median(row.watts) if row.watts else None,
        **({"failure": row.failure} if row.failure else {}),
    }


def print_table(rows: list[Row], flops: float, peak: float) -> None:
    formats = (
        "{}",
        "{}",
        "{:,.1f}",
        "{:.1%}",
        "{:,.0f}",
        "{:.3f}",
        "{:.2f}",
        "{:.1%}",
        "{:.1f}",
        "{:.1%}",
        "{:.0f}",
        "{:.0f}",
    )
    wide = max(len(r.name) for r in rows)
    cells = [[HEAD[0].ljust(wide), *HEAD[1:]]]
    for row in rows:
        values = list(record(row, rows[0], flops, peak).values())
        if row.rounds:
            shown = ["–" if v is None else form.format(v) for form, v in zip(formats, values[1:], strict=False)]
            cells.append([row.name.ljust(wide), *shown])
        else:
            cells.append([row.name.ljust(wide), row.failure])
    widths = [max(len(line[i]) for line in cells if len(line) > 2) for i in range(len(HEAD))]
    for line in cells:
        together = zip(line, widths, strict=False)
        print("  ".join(cell.rjust(width) for cell, width in together) if len(line) > 2 else "  ".join(line))


def profiled(options: Options, text: Text, folder: str) -> dict[str, object]:
    """Profile a few steps, print the table of kernels and write it where asked."""
    contender = build(Variant("as configured"), options, text, folder)
    contender.run(options.number("warm_up") if options.own["warm_up"] else 3)
    # `run` begins one step more than it is asked for.
    kernels = kernels_of(lambda: contender.run(PROFILED_STEPS - 1), contender.device)
    shown = describe(kernels, PROFILED_STEPS)
    print(shown)
    if options.own["profile"] != GIVEN:
        write_text(Path(options.own["profile"]), shown + "\n")
    total = sum(k.microseconds for k in kernels)
    top = [{"name": k.name, "kind": k.kind, "share": round(k.microseconds / total, 4)} for k in kernels[:10]]
    return {"attention": attention_backend(k.name for k in kernels), "kernels": top}


if __name__ == "__main__":
    sys.exit(cli.run(main))
