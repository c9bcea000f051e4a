"""Are the gradients right? N micro-steps against one large eager batch in float32, in every mode of this device.

    python -m bench.gradients [config/rizospastis.py] [--layers=2] [--name=value …]

The config's width, heads, context and vocabulary with --layers of its layers and a step of eight sequences, random
tokens. The distance is that of the whole gradient vector in relation to its length (relative L2); in bfloat16 the
limit is what rounding alone does to it. A setting or compiler that is not there is a row that says so.
"""

import json
import sys
import tempfile
from collections.abc import Sequence

import torch

from bench.jobs import RandomSplit, Text, attending, make_job
from bench.measure import one_line
from bench.options import read
from bench.train_step import allow_many_variants
from bench.variants import ATTENTION, Variant, parse
from oracle import cli
from oracle.hardware import autocast, device_name, pick_device

SEQUENCES = 8
LIMITS = {"float32": 1e-3, "bfloat16": 3e-2}  # TF32 products are part of float32 here


def modes(device_type: str) -> str:
    """The variants to check, as a text for `bench.variants.parse`; the first is what the others must equal."""
    dtypes = ["float32", *(["bfloat16"] if device_type == "cuda" else [])]
    parts = ["reference:--dtype=float32 --compile=False"]
    for dtype in dtypes:
        parts += [
            f"{dtype}, eager:--dtype={dtype} --compile=False --batch_size=2",
            f"{dtype}, compiled:--dtype={dtype} --compile=True --batch_size=2",
            f"{dtype}, loss in 4 chunks:--dtype={dtype} --compile=False --batch_size=2 --loss_chunks=4",
            f"{dtype}, compiled, loss in 4 chunks:--dtype={dtype} --compile=True --batch_size=2 --loss_chunks=4",
        ]
        for kind in ATTENTION if device_type == "cuda" else ("math",):
            parts.append(f"{dtype}, attention {kind}:--dtype={dtype} --compile=False --batch_size=2 --attention={kind}")
    return ";".join(parts)


def gradient(variant: Variant, place: str, settings: Sequence[str], text: Text) -> torch.Tensor:
    """The gradient of one step, all parameters in one vector, float32 on the CPU."""
    with tempfile.TemporaryDirectory() as folder:
        config = variant.config(place, [*settings, f"--out_dir={folder}"])
        with attending(config):
            job = make_job(config, text)
            if job.config.compile and job.forward is job.model:
                raise ValueError("torch.compile does not work here")
            cast = autocast(job.device, job.dtype)
            batch = job.batches.step(0)
            for micro_batch in batch.micro_batches:
                with cast():
                    loss = job.forward(*micro_batch, reduction="sum") / batch.n_targets
                loss.backward()
    return torch.cat([p.grad.detach().float().cpu().flatten() for p in job.model.parameters() if p.grad is not None])


def main(argv: Sequence[str]) -> None:
    options = read(argv, {"layers": "2"}, "config/rizospastis.py")
    base = Variant("base").config(options.place, options.settings)
    device = pick_device(base.device)
    allow_many_variants()
    total = SEQUENCES * base.block_size
    settings = [
        *options.settings, f"--n_layer={options.number('layers')}", f"--batch_size={SEQUENCES}",
        f"--total_batch_size={total}", "--dropout=0.0", "--loss_chunks=1",
    ]  # fmt: skip
    text = Text(RandomSplit(base.vocab_size), base.vocab_size, "random tokens")
    variants, notes = parse(modes(device.type))
    reference = gradient(variants[0], options.place, settings, text)
    print(f"{device_name(device)}: gradients of {SEQUENCES // 2} micro-steps against one eager float32 batch")
    rows: list[dict[str, object]] = []
    for variant in variants[1:]:
        limit = LIMITS[variant.name.split(",")[0]]
        try:
            found = gradient(variant, options.place, settings, text)
            distance = float((found - reference).norm() / reference.norm())
            rows.append({"mode": variant.name, "distance": distance, "limit": limit, "right": distance <= limit})
            shown = f"{distance:.2e} {'<=' if distance <= limit else '> (WRONG)'} {limit:g}"
        except Exception as error:  # as in bench.measure: a row and not the end
            rows.append({"mode": variant.name, "failure": one_line(error)})
            shown = one_line(error)
        print(f"{variant.name:40} {shown}", flush=True)
    for note in notes:
        print(f"note: {note}")
    print(json.dumps({"bench": "gradients", "device": device_name(device), "modes": rows, "left_out": notes}))
    wrong = [row["mode"] for row in rows if row.get("right") is False]
    if wrong:
        raise cli.UserError(f"gradients differ from those of one large batch: {'; '.join(map(str, wrong))}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
