"""The embedded newspaper -> corpus.jsonl, in the form prepare.py reads.

python -m data.demo.clean
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from oracle import cli
from oracle.cli import UsageError
from oracle.shards import write_text
from oracle.text import normalize

HERE = Path(__file__).parent
ARTICLES, CORPUS = HERE / "articles.jsonl", HERE / "corpus.jsonl"
KEPT = ("id", "date", "section", "title", "text")


def main(argv: Sequence[str]) -> None:
    if argv:
        raise UsageError(f"{argv[0]}: no arguments here; usage: python -m data.demo.clean")
    articles = [json.loads(line) for line in ARTICLES.read_text(encoding="utf-8").splitlines()]
    cleaned = [{key: normalize(article[key]) for key in KEPT} for article in articles]
    write_text(CORPUS, "".join(json.dumps(a, ensure_ascii=False) + "\n" for a in cleaned))
    size = sum(len(a["text"].encode()) for a in cleaned)
    print(f"{len(cleaned)} articles, {size:,} bytes of text -> data/demo/{CORPUS.name}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
