"""Let a trained model write, or talk with one that was taught to answer.

python sample.py out/demo --start="Το λιμάνι" --num_samples=2 --temperature=0.7 --top_p=0.9
python sample.py out/demo --start=FILE:beginning.txt --dtype=int8
python sample.py out/demo --prompts_file=beginnings.txt --json > texts.jsonl
python sample.py out/demo-chat --chat
python sample.py --init_from=gpt2 --start="The harbour"
"""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from oracle import cli
from oracle.beam import beam_search
from oracle.cli import UsageError, UserError
from oracle.config import load, without_effect
from oracle.generate import Engine, Generation, open_engine, prompt_ids
from oracle.hardware import setup_device
from oracle.hf import as_run
from oracle.sampling import SamplingParams, params_of
from oracle.settings import Config
from oracle.speedometer import Speedometer
from oracle.terminal import converse
from oracle.text import normalize

AT_ONCE = 8  # completions written in the same step, where there are many


def main(argv: Sequence[str]) -> None:
    call = load("sample.py", argv)
    config = call.config
    for warning in without_effect(config, "sample.py"):
        print(f"warning: {warning}", file=sys.stderr)
    texts = read_prompts(config.prompts_file) if config.prompts_file else [read_start(config.start)]
    many = len(texts) * config.num_samples > 1 and (config.json or bool(config.prompts_file))
    slots = config.num_beams or (AT_ONCE if many else 1)
    # A run's own settings say where that run began; only the command line asks for another model.
    asked = any(word.startswith("--init_from=") for word in argv)
    place = as_run(config.init_from) if asked else config.out_dir
    engine = open_engine(place, config.checkpoint, config.dtype, slots, setup_device(config))
    if call.dry_run:
        print(
            f"would {'talk' if config.chat else f'complete {len(texts)} texts, first {texts[0]!r},'} with {engine.name}"
        )
        return
    if config.chat:
        converse(engine, params_of(config), config.system)
        return
    prompts = [within_context(engine, text) for text in texts]
    if config.num_beams:
        write_beams(engine, texts, prompts, config)
    elif many:
        write_many(engine, texts, prompts, config)
    else:
        write_one_by_one(engine, texts[0], prompts[0], config)


def sample_params(config: Config, number: int) -> SamplingParams:
    """How sample number `number` is drawn, and what --json tells of it."""
    return replace(params_of(config, number), logprobs=config.logprobs if config.json else 0)


def write_one_by_one(engine: Engine, text: str, prompt: list[int], config: Config) -> None:
    """Samples of one text, shown as they are written."""
    speed = Speedometer(engine.network)
    for number in range(config.num_samples):
        request = engine.submit(prompt, sample_params(config, number))
        if not config.json:
            print(text, end="", flush=True)
        while not request.finish_reason:
            before = len(request.tokens)
            engine.step()
            speed.step(len(request.tokens) - before)
            if not config.json:
                print(request.take(), end="", flush=True)
        print(as_json(engine, text, request) if config.json else "\n" + "-" * 20, flush=True)
    print(speed, file=sys.stderr)


def write_many(engine: Engine, texts: Sequence[str], prompts: Sequence[list[int]], config: Config) -> None:
    """Samples of all texts, several at once, printed in order as soon as they are whole."""
    requests = [
        (text, engine.submit(prompt, sample_params(config, number)))
        for text, prompt in zip(texts, prompts, strict=True)
        for number in range(config.num_samples)
    ]
    speed = Speedometer(engine.network)
    for text, request in requests:
        while not request.finish_reason:
            speed.step(sum(advanced.finish_reason != "stop" for advanced in engine.step()))
        print(as_json(engine, text, request) if config.json else f"{text}{request.text}\n" + "-" * 20, flush=True)
    print(speed, file=sys.stderr)


def write_beams(engine: Engine, texts: Sequence[str], prompts: Sequence[list[int]], config: Config) -> None:
    """The likeliest continuations of each text."""
    for text, prompt in zip(texts, prompts, strict=True):
        found = beam_search(engine, prompt, config.num_beams, config.max_new_tokens, config.length_penalty)
        for hypothesis in found[: config.num_samples]:
            written = engine.tokenizer.decode(hypothesis.tokens)
            if config.json:
                record = {"prompt": text, "text": written, **vars(hypothesis)}
                print(json.dumps(record, ensure_ascii=False), flush=True)
            else:
                print(f"{text}{written}\n{'-' * 20} {hypothesis.score:.3f}", flush=True)


def as_json(engine: Engine, text: str, request: Generation) -> str:
    """A completion as one line: text, tokens, each with its log-probability in nats and the likeliest at its place."""

    def show(token: int) -> str:
        return engine.tokenizer.decode([token])

    tokens: list[dict[str, Any]] = [
        {
            "id": item.token, "text": show(item.token), "logprob": round(item.logprob, 6),
            "top": [{"id": t, "text": show(t), "logprob": round(value, 6)} for t, value in item.top],
        }
        for item in request.logprobs
    ]  # fmt: skip
    record = {
        "prompt": text, "text": request.text, "finish_reason": request.finish_reason, "seed": request.params.seed,
        "prompt_tokens": len(request.prompt), "tokens": tokens,
    }  # fmt: skip
    return json.dumps(record, ensure_ascii=False)


def within_context(engine: Engine, text: str) -> list[int]:
    """The ids of a text to complete; of one that is too long its end."""
    prompt, window = prompt_ids(engine.tokenizer, text), engine.block_size
    if len(prompt) > window:
        print(
            f"note: the prompt has {len(prompt):,} tokens, the context {window:,}: only its end is seen",
            file=sys.stderr,
        )
    return prompt[-window:]


def read_start(start: str) -> str:
    """The prompt's text, from the setting or from the file it names, in the form the model was trained on."""
    if not start.startswith("FILE:"):
        if any("\ud800" <= character <= "\udfff" for character in start):  # how Python shows bytes it could not read
            raise UsageError(
                "--start: the text is not UTF-8 as this console sends it; put it in a file, --start=FILE:path"
            )
        return normalize(start)
    path = Path(start.removeprefix("FILE:"))
    if not path.is_file():
        raise UsageError(f"--start={start}: no such file; give FILE:path of a text file, or the text itself")
    return normalize(read_utf8(path))


def read_prompts(name: str) -> list[str]:
    """The texts in a prompts file: its lines, or what the lines of a .jsonl file have under "prompt"."""
    path = Path(name)
    if not path.is_file():
        raise UsageError(f"--prompts_file={name}: no such file; give one text a line, or a .jsonl file")
    lines: Iterable[tuple[int, str]] = enumerate(read_utf8(path).split("\n"), start=1)
    texts = [
        normalize(prompt_of(line, f"{name} line {number}") if path.suffix == ".jsonl" else line)
        for number, line in lines
        if line.strip()
    ]
    if not texts:
        raise UserError(f"{name}: holds no text; give one text a line")
    return texts


def prompt_of(line: str, where: str) -> str:
    try:
        prompt = json.loads(line)["prompt"]
    except (ValueError, KeyError, TypeError):
        prompt = None
    if not isinstance(prompt, str):
        raise UserError(f'{where}: no text under "prompt"; write {{"prompt": "…"}}')
    return prompt


def read_utf8(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: invalid UTF-8 at byte {error.start}; convert it to UTF-8") from None


if __name__ == "__main__":
    sys.exit(cli.run(main))
