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
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from oracle import cli, scorecard
from oracle.cli import UsageError, UserError
from oracle.config import Call, load
from oracle.evaluate import Documents, Encoded, Validation, some_of
from oracle.files import write_text
from oracle.generate import open_engine, prompt_ids
from oracle.hardware import device_name, pick_dtype, setup_device
from oracle.probes import Probe, Score, probe_file, read_probes, score
from oracle.quality import guess_language, language_of
from oracle.quiz import Question, read_questions
from oracle.scoring import Scorer
from oracle.settings import Config
from oracle.subject import Subject, read_text
from oracle.tokenizer import Tokenizer
from oracle.writing import ask, measure_samples, measure_speed

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
    plans = [prepare(subject, texts, config) for subject in subjects]
    folder = Path(config.out or subjects[0].run)
    if call.dry_run:
        print(f"would evaluate {', '.join(s.name for s in subjects)} and write {PAGE} and {JSON} into {folder}")
        return
    device = setup_device(config)
    folder.mkdir(parents=True, exist_ok=True)
    results: list[dict[str, Any]] = []
    for plan in plans:
        results.append(evaluate(plan, questions, config, device))
        page = scorecard.page(results)  # after each run: what was measured is kept if the next one fails
        write_text(folder / JSON, json.dumps({"format": 1, "runs": results}, ensure_ascii=False, indent=1))
        write_text(folder / PAGE, page)
    print(f"\n{page}\nwrote {PAGE} and {JSON} into {folder}")


@dataclass(frozen=True)
class Plan:
    """What is to be measured of one subject."""

    subject: Subject
    documents: dict[str, Documents]  # by name
    language: str  # a code of oracle/quality.py, or "unknown"
    probes: list[Probe]
    notes: list[str]  # on what cannot be measured


def find_subjects(places: Sequence[str], call: Call) -> list[Subject]:
    """The checkpoints to measure, opened and verified; names that occur twice are told apart by their paths."""
    places = places or ([call.config.out_dir] if "out_dir" in call.changed else [])
    if not places:
        raise UsageError("no run given; name one or several: python evaluate.py out/<run> [out/<other> ...]")
    resolved = [Path(place).resolve() for place in places]
    if twice := [place for place, path in zip(places, resolved, strict=True) if resolved.count(path) > 1]:
        raise UsageError(f"{twice[0]}: given twice; name each run once")
    data_dir = call.config.data_dir if "data_dir" in call.changed else ""
    subjects = [Subject.open(place, call.config.checkpoint, data_dir) for place in places]
    names = [subject.name for subject in subjects]
    return [s if names.count(s.name) == 1 else replace(s, name=str(p)) for s, p in zip(subjects, places, strict=True)]


def prepare(subject: Subject, texts: dict[str, list[str]], config: Config) -> Plan:
    """What can be measured of a subject. Raises UserError for what was asked for and cannot be."""
    if config.stride > subject.block_size:
        raise UserError(
            f"--stride={config.stride}: more than the context of {subject.name}, {subject.block_size} tokens, would"
            f" leave text out; give at most {subject.block_size}"
        )
    notes = [subject.no_data] if subject.no_data else []
    tokenizer, documents = subject.tokenizer, dict[str, Documents]()
    for name, split in subject.splits.items():
        documents[name] = some_of(split, config.eval_tokens, tokenizer)
    for name, text in texts.items():
        encoded = Encoded.of(text, tokenizer)
        if len(encoded.tokens) - 2 * len(encoded.lengths) < 2:
            raise UserError(f"{name}: fewer than 2 tokens of text, which says nothing of a model; give a longer one")
        documents[name] = encoded
    language = config.language or "unknown"
    if not config.language and documents:
        ids = next(iter(documents.values())).all_tokens()[:LANGUAGE_TOKENS]
        language = guess_language(tokenizer.decode(ids.tolist()))
    found = find_probes(config, language, notes)
    probes = [p for p in found if max(len(prompt_ids(tokenizer, s)) for s in p.sentences) <= subject.block_size]
    if len(probes) < len(found):
        notes.append(f"{len(found) - len(probes)} probes are longer than the context and were left out.")
    return Plan(subject, documents, language, probes, notes)


def find_probes(config: Config, language: str, notes: list[str]) -> list[Probe]:
    """Those of the settings, or of the language; none, and a note, for a guessed language that has none."""
    if config.language:
        language_of(language)
    try:
        return read_probes(Path(config.probes) if config.probes else probe_file(language))
    except UsageError as error:
        if config.language:
            raise
        notes.append(f"No probes: {error}.")
        return []


def evaluate(plan: Plan, questions: Sequence[Question], config: Config, device: torch.device) -> dict[str, Any]:
    """Everything that is measured of one subject, ready for JSON."""
    subject, notes = plan.subject, plan.notes
    engine = open_engine(subject.run, subject.which, config.dtype, SLOTS, device)
    stride = config.stride or max(1, engine.block_size // 2)
    dtype = str(pick_dtype("auto", device)).removeprefix("torch.") if config.dtype == "auto" else config.dtype
    result: dict[str, Any] = {
        "run": subject.name, "step": subject.checkpoint.progress.step, "parameters": subject.parameters,
        "device": device_name(device), "dtype": dtype, "context": engine.block_size, "stride": stride,
        "language": plan.language, "tokenizer": subject.tokenizer.sha256, "notes": notes,
    }  # fmt: skip
    scorer, result["texts"] = Scorer(engine), {}
    for name, text in plan.documents.items():
        report(subject, f"scoring {name}")
        result["texts"][name] = score_text(scorer, text, engine.block_size, stride)
    report(subject, "probes")
    result["probes"] = [asdict(s) for s in ask_probes(scorer, subject.tokenizer, plan.probes)]
    if config.eval_samples:
        report(subject, f"writing {config.eval_samples} texts")
        result["writing"] = measure_samples(engine, plan.language, config, subject.data)
    report(subject, "speed")
    result["speed"] = measure_speed(engine, config)
    if questions and engine.template:
        report(subject, f"asking {len(questions)} questions")
        result["questions"] = ask(engine, questions, config)
    elif questions:
        notes.append("No questions: this model was not taught to answer; python finetune_chat.py teaches it.")
    return result


def report(subject: Subject, what: str) -> None:
    print(f"{subject.name}: {what} …", file=sys.stderr, flush=True)


def score_text(scorer: Scorer, documents: Documents, block_size: int, stride: int) -> dict[str, float]:
    batch_size = max(1, BATCH_TOKENS // block_size)
    validation = Validation(documents, block_size, batch_size, torch.device("cpu"), stride=stride)
    measured = {name.removeprefix("val_"): value for name, value in validation(scorer, nullcontext).items()}
    size = {"documents": len(documents.lengths), "tokens": validation.n_targets, "bytes": documents.bytes}
    return {**size, **measured}


def ask_probes(scorer: Scorer, tokenizer: Tokenizer, probes: Sequence[Probe]) -> list[Score]:
    """Accuracy by kind. Sentences stand at the beginning of a text, and whether it ends after them is not scored."""
    return score(
        probes,
        nats=lambda sentences: scorer.nats([prompt_ids(tokenizer, sentence) for sentence in sentences]),
        lengths=lambda sentences: [len(tokenizer.encode(sentence)) for sentence in sentences],
    )


if __name__ == "__main__":
    sys.exit(cli.run(main))
