"""Supervised fine-tuning beside TRL's SFTTrainer: samples per second on the same weights' shape and the same pairs.

    python -m bench.sft RUN CONVERSATIONS [--rounds=3] [--steps=20] [--batch=8] [--threads=2]

RUN gives shape and tokenizer. TRL gets the same ids in batches of --batch conversations, padded as it does by default;
ours are packed, with as many conversations in a step on average. Both take whole optimizer steps, in turns, in float32.
Needs a Python that has trl.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence

import numpy as np
import torch

from bench.options import read
from model import GPT, GPTConfig
from oracle import cli
from oracle.chat import Template
from oracle.cli import UsageError
from oracle.conversations import read_conversations
from oracle.optim import make_optimizer
from oracle.packing import ConversationBatches, PackedRows, Sample, fit
from oracle.plan import model_shape
from oracle.pretrained import Pretrained
from oracle.settings import Config
from oracle.stage import Place

OWN = {"rounds": "3", "steps": "20", "batch": "8", "threads": "2"}
CPU = Place(torch.device("cpu"), torch.float32)


def main(argv: Sequence[str]) -> None:
    places = [word for word in argv if not word.startswith("--")]
    options = read([word for word in argv if word.startswith("--")], OWN)
    if len(places) != 2:
        raise UsageError("name a run directory and a file of conversations")
    steps, batch = options.number("steps"), options.number("batch")
    torch.set_num_threads(options.number("threads"))
    samples, shape = load(*places)
    found: dict[str, list[float]] = {"ours, packed": [], "TRL, padded": []}
    for _ in range(options.number("rounds")):
        found["ours, packed"].append(ours(samples, shape, steps, batch))
        found["TRL, padded"].append(theirs(samples, shape, steps, batch))
    ratios = [a / b for a, b in zip(*found.values(), strict=True)]
    for name, speeds in found.items():
        print(f"{name:14} {statistics.median(speeds):8.1f} samples/s   ({min(speeds):.1f} to {max(speeds):.1f})")
    print(f"ratio of each pair, median {statistics.median(ratios):.2f}")
    print(json.dumps({"bench": "sft", "samples": len(samples), "samples_per_second": found, "ratios": ratios}))


def load(run: str, conversations: str) -> tuple[list[Sample], GPTConfig]:
    source = Pretrained(run)
    tokenizer = source.open_tokenizer()
    shape = model_shape(Config(**source.settings()), tokenizer.vocab_size)
    template, samples = Template(tokenizer), []
    for c in read_conversations(conversations, skip=True).items:
        ids, mask = template.render(c.messages, c.learn)
        samples.append(Sample(c.id, np.array(ids), np.array(mask)))
    return fit(samples, shape.block_size, cut=False).samples, shape


def ours(samples: list[Sample], shape: GPTConfig, steps: int, batch: int) -> float:
    model, rows = GPT(shape), PackedRows(samples, shape.block_size)
    per_step = max(1, round(batch * len(rows) / len(samples)))
    batches = ConversationBatches(rows, per_step, per_step, 0, CPU)
    optimizer = make_optimizer(model, Config(learning_rate=2e-5))

    def step(number: int) -> int:
        made = batches.step(number)
        (model(*made.micro_batches[0], reduction="sum") / made.n_targets).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return len(batches.documents(number))

    step(0)
    began = time.perf_counter()
    return sum(step(number) for number in range(1, steps + 1)) / (time.perf_counter() - began)


def theirs(samples: list[Sample], shape: GPTConfig, steps: int, batch: int) -> float:
    import datasets
    import transformers
    import trl
    from tokenizers import Tokenizer, models

    words = Tokenizer(models.WordLevel({"pad": 0}, unk_token="pad"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="pad", eos_token="pad")
    gpt = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=shape.vocab_size, n_positions=shape.block_size, n_embd=shape.n_embd, n_layer=shape.n_layer,
            n_head=shape.n_head, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, pad_token_id=0,
        )
    )  # fmt: skip
    rows = [{"input_ids": s.ids.tolist(), "completion_mask": s.mask.astype(int).tolist()} for s in samples]
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for count in (1, steps + 1):  # what starting costs is left out
            config = trl.SFTConfig(
                output_dir=folder, per_device_train_batch_size=batch, max_steps=count, report_to="none", use_cpu=True,
                bf16=False, gradient_checkpointing=False, completion_only_loss=True, max_length=None, save_strategy="no",
                logging_strategy="no", disable_tqdm=True,
            )  # fmt: skip
            trainer = trl.SFTTrainer(
                model=gpt, args=config, train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer
            )
            began = time.perf_counter()
            trainer.train()
            seconds.append(time.perf_counter() - began)
    return steps * batch / (seconds[1] - seconds[0])


if __name__ == "__main__":
    sys.exit(cli.run(main))
