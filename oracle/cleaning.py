"""The funnel: raw documents pass named rules (`oracle/rules.py`), and what each rule does is counted.

    items ─ read ─► documents ─ rules ─► stage ─ duplicates ─► corpus.jsonl, rejects.jsonl, datacard.*

A source (`data/<name>/clean.py`) says what its items are and how one is read; everything else is here.
Reading and rules run on all cores, a bounded number of batches at a time, and results are written in the
order of the items: the corpus is the same for any number of workers.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeVar

from tqdm import tqdm

from oracle import quality
from oracle.cli import UsageError, UserError
from oracle.datacard import Tally, Totals, as_markdown
from oracle.dedup import find_duplicates
from oracle.files import atomic_file, sha256, write_text
from oracle.parallel import cores, ordered_map
from oracle.rules import Document, Rule, drop_headlines, standard_rules

Item = TypeVar("Item")

# Every line of corpus.jsonl opens with these, null where nothing is known; what a source adds (page, author)
# follows.
FIELDS = ("id", "date", "section", "title", "kicker", "text", "address")

# Items handed to a worker at once: enough to hide the hand-over, few enough for pages of 1 MB.
_BATCH = 32
_LANGUAGE_SAMPLE = 2000  # characters that are enough to tell the language of a document


@dataclass
class _Batch:
    """What a worker hands back for a batch of items."""

    items: int = 0
    empty: int = 0
    documents: int = 0
    characters: int = 0
    kept: list[tuple[str, str]] = field(default_factory=list)  # id, JSON line
    rejects: list[str] = field(default_factory=list)  # JSON lines
    tallies: dict[str, Tally] = field(default_factory=dict)


def _apply(rule: Rule, document: Document, tally: Tally) -> bool:
    """Apply one rule in place; False when it drops the document."""
    if rule.drop is not None:
        if rule.drop(document):
            tally.add_drop(document["id"], document["text"])
            return False
        return True
    assert rule.change is not None
    before, after = [], []
    for name in rule.fields:
        value = document.get(name)
        if value and (changed := rule.change(value)) != value:
            before.append(value)
            after.append(changed)
            document[name] = changed
    if before:
        tally.add_change(document["id"], before, after)
    return True


def _line(document: Document) -> str:
    ordered = dict.fromkeys(FIELDS) | document
    return json.dumps({name: None if value == "" else value for name, value in ordered.items()}, ensure_ascii=False)


def _reject(document: Document, rule: str, kept: str | None = None) -> str:
    reason = {"rule": rule} if kept is None else {"rule": rule, "kept": kept}
    return json.dumps(reason | document, ensure_ascii=False)


def _process(items: list[Any], read: Callable[[Any], Iterable[Document]], rules: list[Rule]) -> _Batch:
    batch = _Batch(items=len(items), tallies={rule.name: Tally() for rule in rules})
    for item in items:
        found = list(read(item))
        batch.empty += not found
        for document in found:
            batch.documents += 1
            batch.characters += len(document["text"])
            dropper = next((rule for rule in rules if not _apply(rule, document, batch.tallies[rule.name])), None)
            if dropper is None:
                batch.kept.append((document["id"], _line(document)))
            else:
                batch.rejects.append(_reject(document, dropper.name))
    return batch


def _batches(items: Iterable[Any]) -> Iterator[list[Any]]:
    iterator = iter(items)
    while batch := list(islice(iterator, _BATCH)):
        yield batch


def _process_all(
    items: Iterable[Any], read: Callable[[Any], Iterable[Document]], rules: list[Rule], workers: int
) -> Iterator[_Batch]:
    """Batches in the order of the items, a bounded number of them in memory."""
    work = ordered_map(partial(_process, read=read, rules=rules), _batches(items), workers)
    return (batch for _, batch in work)


def _read_stage(stage: Path) -> Iterator[tuple[str, Document]]:
    with stage.open(encoding="utf-8") as lines:
        for line in lines:
            yield line, json.loads(line)


def _duplicates(stage: Path, workers: int) -> dict[str, str]:
    """Id of each document to drop -> id of the one kept, exact and near duplicates."""
    texts = ((document["id"], document["text"]) for _, document in _read_stage(stage))
    return find_duplicates(texts, workers=workers)


@dataclass
class _Run:
    """What has been counted so far."""

    batch: _Batch
    totals: Totals = field(default_factory=Totals)
    seen: set[str] = field(default_factory=set)

    def add(self, part: _Batch) -> None:
        self.batch.items += part.items
        self.batch.empty += part.empty
        self.batch.documents += part.documents
        self.batch.characters += part.characters
        for name, tally in part.tallies.items():
            self.batch.tallies[name].merge(tally)


SAME_ID = Rule("same_id", "The same document was reached by a second address.")
DUPLICATE = Rule("duplicate", "The same or nearly the same text as another document, which was kept.")


def _write_stage(parts: Iterable[_Batch], run: _Run, stage: IO[bytes], rejects: IO[bytes], progress: Any) -> None:
    for part in parts:
        run.add(part)
        for identity, line in part.kept:
            if identity in run.seen:
                document = json.loads(line)
                run.batch.tallies[SAME_ID.name].add_drop(identity, document["text"])
                rejects.write(_reject(document, SAME_ID.name).encode() + b"\n")
            else:
                run.seen.add(identity)
                stage.write(line.encode() + b"\n")
        rejects.writelines(line.encode() + b"\n" for line in part.rejects)
        progress.update(part.items)


def _write_corpus(stage: Path, duplicates: dict[str, str], run: _Run, corpus: IO[bytes], rejects: IO[bytes]) -> None:
    """Copy the stage without its duplicates."""
    for line, document in _read_stage(stage):
        kept = duplicates.get(document["id"])
        if kept is not None:
            run.batch.tallies[DUPLICATE.name].add_drop(document["id"], document["text"], f"like {kept}")
            rejects.write(_reject(document, DUPLICATE.name, kept).encode() + b"\n")
            continue
        corpus.write(line.encode())
        run.totals.add(document, quality.guess_language(document["text"][:_LANGUAGE_SAMPLE]))


def clean(
    items: Iterable[Item],
    read: Callable[[Item], Iterable[Document]],
    out: Path,
    rules: list[Rule],
    *,
    about: dict[str, str],
    dedup: bool = True,
    workers: int | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Clean `items` into the corpus `out`; returns the data card.

    `read` turns an item into documents: dictionaries with `id` and `text`, and where known `date` (ISO),
    `section`, `title`, `kicker`, `address`. Beside `out`: `rejects.jsonl` (every dropped document with its
    rule), `datacard.json`, `datacard.md`. Files appear complete or not at all. `about` says name, language,
    source, licence. Memory is bounded by the batches in flight, the ids and what `oracle.dedup` holds.
    `workers=None` means all cores.
    """
    workers = workers or cores()
    out.parent.mkdir(parents=True, exist_ok=True)
    all_rules = [*rules, SAME_ID, DUPLICATE]
    run = _Run(_Batch(tallies={rule.name: Tally() for rule in all_rules}))
    stage_path = out.with_name(out.name + ".stage.tmp")
    try:
        with atomic_file(out.with_name("rejects.jsonl")) as rejects, atomic_file(out) as corpus:
            with stage_path.open("wb") as stage, tqdm(unit=" items", disable=not progress) as bar:
                _write_stage(_process_all(items, read, rules, workers), run, stage, rejects, bar)
            duplicates = _duplicates(stage_path, workers) if dedup else {}
            _write_corpus(stage_path, duplicates, run, corpus, rejects)
            if not run.totals.documents:
                worst = max(all_rules, key=lambda rule: run.batch.tallies[rule.name].documents_dropped)
                raise UserError(
                    f"{out}: not one of {run.batch.documents:,} documents was kept (the rule '{worst.name}' dropped most:"
                    f" {worst.why}) and nothing was written; is --language right, and the selection?"
                )
    finally:
        stage_path.unlink(missing_ok=True)
    card = _card(about, run, all_rules, out)
    write_text(out.with_name("datacard.json"), json.dumps(card, ensure_ascii=False, indent=1) + "\n")
    write_text(out.with_name("datacard.md"), as_markdown(card))
    return card


def _card(about: dict[str, str], run: _Run, rules: list[Rule], out: Path) -> dict[str, Any]:
    batch = run.batch
    return {
        **about,
        "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "bytes": out.stat().st_size,
        "sha256": sha256(out),
        "read": {name: getattr(batch, name) for name in ("items", "empty", "documents", "characters")},
        "kept": run.totals.as_json(),
        "rules": [{"name": rule.name, "why": rule.why, **batch.tallies[rule.name].as_json()} for rule in rules],
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that every source's `clean.py` shares."""
    known = ", ".join(sorted(quality.LANGUAGES))
    parser.add_argument("--out", type=Path, required=True, help="corpus to write, such as corpus.jsonl")
    parser.add_argument("--language", default="el", help=f"language of the text: {known} (default: el)")
    parser.add_argument(
        "--titles",
        choices=("keep", "drop"),
        default="keep",
        help="keep titles and kickers as fields, or empty them",
    )
    parser.add_argument("--no_dedup", action="store_true", help="keep exact and near duplicates")
    parser.add_argument("--workers", type=int, help="processes (default: all cores)")
    parser.add_argument("--name", help="of the corpus, for the data card (default: the newspaper or folder)")
    parser.add_argument("--source", default="not stated", help="where the text is from, for the data card")
    parser.add_argument("--licence", default="not stated", help="its licence, for the data card")


def run(
    args: argparse.Namespace,
    name: str,
    items: Iterable[Item],
    read: Callable[[Item], Iterable[Document]],
    *,
    before: Iterable[Rule] = (),
    extra: Iterable[Rule] = (),
) -> dict[str, Any]:
    """Clean with the options of `add_arguments` and say what came of it; returns the data card.

    `before` are rules that select documents and run first, `extra` those of `standard_rules`. Raises
    UsageError for a wrong option.
    """
    if args.workers is not None and args.workers < 1:
        raise UsageError(f"--workers={args.workers} is not possible; give 1 or more, or leave it out for all cores")
    if args.out.suffix != ".jsonl":  # and so never one of the pages or texts it was given
        raise UsageError(
            f"--out={args.out}: a corpus is a .jsonl file; name one such as {args.out.with_suffix('') / 'corpus.jsonl'}"
        )
    rules = [*before, *standard_rules(args.language, extra)]
    if args.titles == "drop":
        rules.append(drop_headlines())
    about = {"name": args.name or name, "source": args.source, "licence": args.licence, "language": args.language}
    progress = sys.stderr.isatty()
    card = clean(
        items,
        read,
        args.out,
        rules,
        about=about,
        dedup=not args.no_dedup,
        workers=args.workers,
        progress=progress,
    )
    counts, kept = card["read"], card["kept"]
    print(f"read {counts['documents']:,} documents ({counts['characters']:,} characters)")
    print(f"kept {kept['documents']:,} documents ({kept['characters']:,} characters): {args.out}")
    print(f"what each rule did, with examples: {args.out.with_name('datacard.md')}")
    return card
