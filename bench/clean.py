"""Speed and memory of cleaning on one core, on a corpus made of real text.

    python -m bench.clean FOLDER --megabytes 100     # FOLDER: any corpus that prepare.py reads

The documents of FOLDER are repeated until there are enough; in each round a twentieth of the words are
replaced, so that no round is the duplicate of another. Prints MB/s of text on one process, with and without
duplicate removal, the peak memory, and what that means for a newspaper of 1.6 GB.
"""

import argparse
import json
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from oracle import cleaning
from oracle.corpus import CorpusReader
from oracle.rules import Document, standard_rules

NEWSPAPER_MB = 1600
CHANGED_WORDS = 0.05  # per round: Jaccard on 5-word shingles falls to about 0.6


def texts(folder: Path) -> list[str]:
    """Every text in the folder."""
    return [document.text for document in CorpusReader(folder, keep_titles=False)]


def documents(originals: list[str], megabytes: float, seed: int = 0) -> Iterator[Document]:
    """Changed copies of the originals, `megabytes` of UTF-8 in all."""
    chance = random.Random(seed)
    vocabulary = sorted({word for text in originals for word in text.split(" ")})
    size, number = 0, 0
    while size < megabytes * 1e6:
        words = originals[number % len(originals)].split(" ")
        for place in chance.sample(range(len(words)), int(CHANGED_WORDS * len(words))):
            words[place] = chance.choice(vocabulary)
        text = " ".join(words)
        yield {"id": str(number), "date": f"20{number % 17 + 8:02}-01-01", "text": text}
        size += len(text.encode())
        number += 1


def peak_megabytes() -> float:
    """The most memory that this process, and the largest of those it started, have held so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    parts = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(resource.getrusage(part).ru_maxrss for part in parts) * unit / 1e6


def measure(raw: Path, megabytes: float, dedup: bool) -> dict[str, float]:
    """Clean the file `raw` in this process."""
    about = {"name": "bench", "source": "", "licence": "", "language": "el"}
    with tempfile.TemporaryDirectory() as folder, raw.open(encoding="utf-8") as lines:
        before, started = os.times(), time.perf_counter()
        card = cleaning.clean(
            lines,
            read_line,
            Path(folder) / "corpus.jsonl",
            standard_rules("el"),
            about=about,
            dedup=dedup,
            workers=1,
        )
        seconds = time.perf_counter() - started
        cpu = sum(os.times()[:4]) - sum(before[:4])
    return {
        "documents": card["read"]["documents"],
        "kept": card["kept"]["documents"],
        "seconds": seconds,
        "MB/s": megabytes / seconds,
        "MB/s of CPU": megabytes / cpu,
        "peak MB": peak_megabytes(),
        "minutes for 1.6 GB on one core": NEWSPAPER_MB / megabytes * cpu / 60,
    }


def read_line(line: str) -> list[Document]:
    return [json.loads(line)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--megabytes", type=float, default=100)
    parser.add_argument("--no_dedup", action="store_true", help="only the rules")
    args = parser.parse_args()
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".jsonl") as raw:
        for document in documents(texts(args.folder), args.megabytes):
            raw.write(json.dumps(document, ensure_ascii=False) + "\n")
        raw.flush()
        idle = peak_megabytes()
        # The rules first: peak memory only ever grows.
        runs = {"rules": measure(Path(raw.name), args.megabytes, dedup=False)}
        if not args.no_dedup:
            runs["rules + duplicates"] = measure(Path(raw.name), args.megabytes, dedup=True)
    for name in next(iter(runs.values())):
        print(f"{name:32}", *(f"{run[name]:>20,.2f}" for run in runs.values()))
    print(json.dumps({"megabytes": args.megabytes, "peak MB before": idle, **runs}))


if __name__ == "__main__":
    main()
