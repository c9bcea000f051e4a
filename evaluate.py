"""Measure a trained model, or several side by side, on one page.

    python evaluate.py out/demo
    python evaluate.py out/demo out/other --text=essays/ --text=speech.txt
    python evaluate.py out/demo-chat --questions=data/demo/questions.jsonl --dtype=int8
    python evaluate.py out/demo/checkpoints/step-00000250

How well it predicts text (the run's own validation and held-out text, and any other), grammar probes, how it repeats
itself, what it copies from its training text, how fast it writes, and, of a model that was taught to answer, how many
questions it answers rightly. Everything is measured on the weights in the format they write in (`--dtype`).
"""

import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from oracle import cli, scorecard
from oracle.cli import UsageError, UserError
from oracle.config import Call, load
from oracle.evaluate import Documents, Encoded, Validation, some_of
from oracle.files import write_text
from oracle.generate import Engine, open_engine
from oracle.hardware import device_name, setup_device
from oracle.probes import Probe, probe_file, read_probes, score
from oracle.quality import guess_language, language_of
from oracle.quiz import Question, mark, read_questions, wordings
from oracle.scoring import Scorer
from oracle.settings import Config
from oracle.subject import Subject, read_text
from oracle.writing import measure_samples, measure_speed, params_of

JSON, PAGE = "evaluation.json", "evaluation.md"
SLOTS = 8  # texts that are written, or scored, together
BATCH_TOKENS = 4096  # scored together
LANGUAGE_TOKENS = 20_000  # of the validation text, to tell its language by


def main(argv: Sequence[str]) -> None:
    call = load("evaluate.py", [a for a in argv if a.startswith("--")])
    config = call.config
    subjects = find_subjects([a for a in argv if not a.startswith("--")], call)
    texts = {name: read_text(name) for name in config.text}
    questions = read_questions(config.questions) if config.questions else []
    plans = [(subject, *prepare(subject, texts, config)) for subject in subjects]
    folder = Path(config.out or subjects[0].run)
    if call.dry_run:
        print(f"would evaluate {', '.join(s.name for s in subjects)} and write {PAGE} and {JSON} into {folder}")
        return
    device = setup_device(config)
    results = [evaluate(*plan, questions, config, device) for plan in plans]
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / JSON, json.dumps({"format": 1, "runs": results}, ensure_ascii=False, indent=1))
    page = scorecard.page(results)
    write_text(folder / PAGE, page)
    print(f"\n{page}\nwrote {PAGE} and {JSON} into {folder}")


def find_subjects(places: Sequence[str], call: Call) -> list[Subject]:
    """The checkpoints to measure, opened and verified; names that occur twice are told apart by their paths."""
    places = places or ([call.config.out_dir] if "out_dir" in call.changed else [])
    if not places:
        raise UsageError("no run given; name one or several: python evaluate.py out/<run> [out/<other> ...]")
    twice = [place for place in places if places.count(place) > 1]
    if twice:
        raise UsageError(f"{twice[0]}: given twice; name each run once")
    data_dir = call.config.data_dir if "data_dir" in call.changed else ""
    subjects = [Subject.open(place, call.config.checkpoint, data_dir) for place in places]
    names = [subject.name for subject in subjects]
    return [s if names.count(s.name) == 1 else replace(s, name=str(p)) for s, p in zip(subjects, places, strict=True)]


def prepare(subject: Subject, texts: dict[str, list[str]], config: Config) -> tuple[dict[str, Documents], str]:
    """What is to be scored, as the subject's tokens, and the language. Raises UserError for what cannot be."""
    if config.stride > subject.block_size:
        raise UserError(
            f"--stride={config.stride}: more than the context of {subject.name}, {subject.block_size} tokens, would"
            f" leave text out; give at most {subject.block_size}"
        )
    tokenizer, documents = subject.tokenizer, dict[str, Documents]()
    for name, split in subject.splits.items():
        documents[name] = some_of(split, config.eval_tokens, tokenizer)
    for name, text in texts.items():
        encoded = Encoded.of(text, tokenizer)
        if len(encoded.tokens) - 2 * len(encoded.lengths) < 2:
            raise UserError(f"{name}: fewer than 2 tokens of text, which says nothing of a model; give a longer one")
        documents[name] = encoded
    language = config.language
    if not language and documents:
        ids = next(iter(documents.values())).all_tokens()[:LANGUAGE_TOKENS]
        language = guess_language(tokenizer.decode(ids.tolist()))
    if config.language:
        language_of(language)
        if not config.probes:
            probe_file(language)
    return documents, language or "unknown"


def evaluate(
    subject: Subject, documents: dict[str, Documents], language: str, questions: Sequence[Question],
    config: Config, device: torch.device,
) -> dict[str, Any]:  # fmt: skip
    """Everything that is measured of one subject, ready for JSON."""
    engine = open_engine(subject.run, subject.which, config.dtype, SLOTS, device)
    stride = config.stride or max(1, engine.block_size // 2)
    notes = [subject.no_data] if subject.no_data else []
    result: dict[str, Any] = {
        "run": subject.name, "step": subject.checkpoint.progress.step, "parameters": subject.parameters,
        "device": device_name(device), "dtype": config.dtype, "context": engine.block_size, "stride": stride,
        "language": language, "tokenizer": subject.tokenizer.sha256, "notes": notes,
    }  # fmt: skip
    scorer = Scorer(engine)
    result["texts"] = {}
    for name, text in documents.items():
        report(subject, f"scoring {name}")
        result["texts"][name] = score_text(scorer, text, engine.block_size, stride)
    report(subject, "probes")
    result["probes"] = [asdict(s) for s in ask_probes(scorer, engine, find_probes(config, language, notes))]
    if config.eval_samples:
        report(subject, f"writing {config.eval_samples} texts")
        result |= measure_samples(engine, subject, language, config)
    report(subject, "speed")
    result["speed"] = measure_speed(engine, config)
    if questions:
        report(subject, f"asking {len(questions)} questions")
        result["questions"] = ask_questions(engine, questions, config, notes)
    return result


def report(subject: Subject, what: str) -> None:
    print(f"{subject.name}: {what} …", file=sys.stderr, flush=True)


def score_text(scorer: Scorer, documents: Documents, block_size: int, stride: int) -> dict[str, float]:
    batch_size = max(1, BATCH_TOKENS // block_size)
    validation = Validation(documents, block_size, batch_size, torch.device("cpu"), stride=stride)
    measured = {name.removeprefix("val_"): value for name, value in validation(scorer, nullcontext).items()}
    size = {"documents": len(documents.lengths), "tokens": validation.n_targets, "bytes": documents.bytes}
    return {**size, **measured}


def find_probes(config: Config, language: str, notes: list[str]) -> list[Probe]:
    """The probes of the settings, or of the language; none, and a note, if it has none."""
    if config.probes:
        return read_probes(Path(config.probes))
    try:
        return read_probes(probe_file(language))
    except UsageError as error:
        notes.append(f"No probes: {error}.")
        return []


def ask_probes(scorer: Scorer, engine: Engine, probes: Sequence[Probe]) -> list[scorecard.Score]:
    """The accuracy by kind. Sentences stand at the beginning of a text, and their ends of text are not scored."""
    tokenizer = engine.tokenizer
    return score(probes, lambda texts: scorer.nats([[tokenizer.bos, *tokenizer.encode(t)] for t in texts]))
