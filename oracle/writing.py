"""What a model writes by itself, measured: repetition, verbatim copies, speed, and right answers."""

from collections.abc import Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

import numpy as np

from oracle.evaluate import Documents
from oracle.generate import Engine, Generation
from oracle.memorisation import longest_runs
from oracle.quality import LANGUAGES, script_share
from oracle.quiz import Question, mark, wordings
from oracle.repetition import repetition
from oracle.sampling import SamplingParams, params_of
from oracle.settings import Config
from oracle.shards import Prepared, Split
from oracle.speedometer import Speedometer
from oracle.tokenizer import Tokenizer

SPEED_TOKENS = 128
RECITED = 32  # tokens of a training text that are given, and as many that might follow


def measure_samples(engine: Engine, language: str, config: Config, data: Prepared | None) -> dict[str, Any]:
    """Texts begun from nothing, beside as many that a person wrote and the model has not seen, where there are some."""
    prompts = [[engine.tokenizer.bos]] * config.eval_samples
    written = engine.complete(prompts, [params_of(config, number) for number in range(len(prompts))])
    texts = {"samples": [text.text for text in written]}
    if data and data.val.tokens:
        texts["unseen"] = beginnings(data.val, engine.tokenizer, config.eval_samples, config.max_new_tokens)
    style = {name: style_of(some, language) for name, some in texts.items()}
    style["samples"]["stopped"] = stopped_share(written)
    copied = {}
    if data:
        splits = {"samples": data.train, "unseen": data.val}
        for name, some in texts.items():
            known = recited(engine, splits[name], config.eval_samples)
            copied[name] = {**copies(some, data.train, engine.tokenizer), "recited": known}
    drawn = {"count": len(written), "max_new_tokens": config.max_new_tokens, "temperature": config.temperature}
    return {"drawn": drawn, "style": style, "copies": copied, "samples": texts["samples"]}


def beginnings(split: Documents, tokenizer: Tokenizer, count: int, n_tokens: int) -> list[str]:
    """The beginnings of evenly chosen documents: what the samples are to be compared with."""
    tokens, ends = split.all_tokens(), np.cumsum(split.lengths)
    every = max(1, len(ends) // count)
    starts = (ends - split.lengths)[::every][:count] + 1
    return [
        tokenizer.decode(tokens[start : min(start + n_tokens, end - 1)].tolist())
        for start, end in zip(starts, ends[::every][:count], strict=True)
    ]


def style_of(texts: Sequence[str], language: str) -> dict[str, float | None]:
    """Repetition, and the share of the letters that are the language's; None for a language that is not known."""
    known = LANGUAGES.get(language)
    share = script_share("\n".join(texts), known.script) if known else None
    return {**asdict(repetition(texts)), "script_share": share}


def stopped_share(written: Sequence[Generation]) -> float:
    """Share of the texts that ended of themselves."""
    return sum(text.finish_reason == "stop" for text in written) / len(written)


def copies(texts: Sequence[str], train: Split, tokenizer: Tokenizer) -> dict[str, Any]:
    """The longest verbatim copy from the training text in each of `texts`, summed up."""
    ids = [tokenizer.encode(text) for text in texts]
    runs = longest_runs(ids, train.all_tokens())
    winner = max(range(len(runs)), key=lambda number: runs[number].tokens)
    longest = runs[winner]
    text = tokenizer.decode(ids[winner][longest.text_start :][: longest.tokens])
    number = int(np.searchsorted(np.cumsum(train.lengths), longest.corpus_start, side="right"))
    return {
        "texts": len(texts),
        "median_tokens": median(run.tokens for run in runs),
        "longest_tokens": longest.tokens,
        "longest_characters": len(text),
        "longest_text": text,
        "document": train.ids([number])[0] if longest.tokens else None,
    }


def recited(engine: Engine, split: Split, count: int) -> dict[str, float]:
    """How far the likeliest continuation of a document's beginning is the document itself (Carlini et al. 2023).

    Evenly chosen documents; `RECITED` tokens are given and as many wanted, or half a context where that is less.
    """
    size = min(RECITED, engine.block_size // 2)
    long = [number for number in range(len(split)) if split.lengths[number] > 2 * size]
    chosen = [split.document(number).tolist() for number in long[:: max(1, len(long) // count)][:count]]
    if not chosen:
        return {}
    greedy = SamplingParams(size, temperature=0)
    matched = []
    for document, answer in zip(chosen, engine.complete([d[:size] for d in chosen], greedy), strict=True):
        pairs = zip(answer.tokens, document[size : 2 * size], strict=False)
        matched.append(next((n for n, (said, stood) in enumerate(pairs) if said != stood), len(answer.tokens)))
    return {
        "texts": len(chosen),
        "wanted_tokens": size,
        "mean_tokens": sum(matched) / len(matched),
        "whole": sum(n == size for n in matched) / len(matched),
    }


def measure_speed(engine: Engine, config: Config) -> dict[str, float]:
    """Tokens per second of one text at a time, after a first one that is not counted."""
    engine.complete([[engine.tokenizer.bos]], params_of(config))
    speed = Speedometer(engine.network)
    number = written = 0
    while written < SPEED_TOKENS and number < SPEED_TOKENS:
        request = engine.submit([engine.tokenizer.bos], params_of(config, number))
        while not request.finish_reason and written < SPEED_TOKENS:
            before = len(request.tokens)
            engine.step()
            speed.step(len(request.tokens) - before)
            written += len(request.tokens) - before
        request.cancel()
        number += 1
    engine.step()  # lets a cancelled request go
    return {"tokens_per_second": speed.tokens_per_second, "bytes_per_token": engine.network.bytes_per_token}


def ask(engine: Engine, questions: Sequence[Question], config: Config) -> dict[str, Any]:
    """The share of right answers of a model with a conversation template, each the likeliest, and all that was said."""
    template = engine.template
    assert template
    prompts = [
        template.trimmed([{"role": "user", "content": text}], engine.block_size)[0] for text in wordings(questions)
    ]
    greedy = SamplingParams(config.max_new_tokens, temperature=0, stop_tokens=template.stop_tokens)
    written = engine.complete(prompts, greedy)
    result = mark(questions, [answer.text.strip() for answer in written])
    return {
        "accuracy": result.accuracy,
        "on_questions": result.on_questions,
        "on_paraphrases": result.on_paraphrases,
        "stopped": stopped_share(written),
        "transcript": [asdict(answer) for answer in result.transcript],
    }
