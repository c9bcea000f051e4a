"""A run's own diary: the same prompts continued again and again, to watch it learn."""

from collections.abc import Sequence
from dataclasses import replace

from model import GPT
from oracle.engine import Uncached, cached
from oracle.generate import Engine
from oracle.logbook import Logbook
from oracle.sampling import params_of
from oracle.settings import Config
from oracle.stage import Place
from oracle.tokenizer import Tokenizer


def write_samples(
    model: GPT, tokenizer: Tokenizer, prompts: Sequence[list[int]], config: Config, place: Place, logbook: Logbook,
    step: int, stop_tokens: tuple[int, ...] = (),
) -> None:  # fmt: skip
    """Continue each of the config's `sample_prompts`, whose ids are `prompts`, and keep the texts in samples.jsonl."""
    model.eval()
    # Weights that are shared out among ranks come together only inside the model's own forward pass.
    engine = Engine(Uncached(model) if config.fsdp else cached(model), tokenizer)
    for number, (prompt, ids) in enumerate(zip(config.sample_prompts, prompts, strict=True)):
        params = replace(params_of(config, number), stop_tokens=stop_tokens)
        with place.cast():
            text = "".join(engine.stream(ids[-engine.block_size :], params))
        logbook.sample({"step": step, "prompt": prompt, "text": text})
        logbook.say(f"step {step:,} | {prompt}>>{text[:160]!r}")
    model.train()
