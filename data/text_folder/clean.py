"""A folder of plain text files, articles or whole books -> corpus.jsonl with its data card.

python -m data.text_folder.clean --texts books/ --out data/text_folder/corpus.jsonl --words 2000
"""

import argparse
import re
import statistics
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from oracle import cleaning, cli, html, quality
from oracle.cli import UsageError
from oracle.corpus import OPENERS, kind
from oracle.rules import Document

_LONGEST_WRAPPED = 100  # characters: a typewriter line, and an e-book's, is shorter
_SHORTEST_WRAPPED = 40  # median below it: verse or a list, whose line ends mean something
_SENTENCE_ENDS = (".", "!", "?", ";", "…", "»")  # most lines of a text with a line per paragraph end so
_HYPHEN = re.compile(r"(?<=[^\W\d_])-\n(?=[^\W\d_])")
_PARAGRAPH_END = re.compile(r"\n[ \t]*\n\s*")


def unwrap(text: str) -> str:
    """Join the lines of paragraphs that were cut at a fixed width and set apart by empty lines.

    A hyphen at the end of a line goes when small letters stand on both sides, else it stays («ΕΑΜ-ΕΛΑΣ»).
    Text that is not wrapped, and verse, comes back as it is.
    """
    paragraphs = _PARAGRAPH_END.split(text.strip())
    lines = [line.strip() for paragraph in paragraphs for line in paragraph.split("\n")[:-1]]
    lengths = [len(line) for line in lines]
    if not lengths or max(lengths) > _LONGEST_WRAPPED or statistics.median(lengths) < _SHORTEST_WRAPPED:
        return text
    if sum(line.endswith(_SENTENCE_ENDS) for line in lines) > len(lines) / 2:
        return text
    joined = (_HYPHEN.sub(_join_small, paragraph) for paragraph in paragraphs)
    return "\n".join(" ".join(paragraph.split()) for paragraph in joined)


def _join_small(match: re.Match[str]) -> str:
    before, after = match.string[match.start() - 1], match.string[match.end()]
    return "" if before.islower() and after.islower() else "-"


def cut(text: str, words: int) -> Iterator[str]:
    """Pieces of about `words` words, cut only between lines; 0 words: the whole text as one piece."""
    piece: list[str] = []
    count = 0
    for line in text.split("\n"):
        piece.append(line)
        count += len(line.split())
        if words and count >= words:
            yield "\n".join(piece)
            piece, count = [], 0
    if count:
        yield "\n".join(piece)


def read_file(path: Path, folder: Path, code_page: str, words: int) -> Iterable[Document]:
    """The pieces of a text file as documents; the folder inside `folder` is their section."""
    with OPENERS.get(path.suffix, Path.open)(path, "rb") as file:
        data = file.read()
    text = html.decode(data, code_page=code_page)[0].replace("\r\n", "\n")
    name = path.relative_to(folder).as_posix()
    for number, piece in enumerate(cut(unwrap(text), words)):
        yield {
            "id": f"{name}#{number}" if words else name,
            "date": None,
            "section": path.parent.name if path.parent != folder else None,
            "title": path.name.partition(".")[0],
            "kicker": None,
            "text": piece,
            "address": None,
        }


def main(argv: Sequence[str]) -> None:
    """Parse the command line and clean."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--texts", type=Path, required=True, help="folder of .txt files, plain or .gz, .bz2, .xz, searched through"
    )
    parser.add_argument(
        "--words",
        type=int,
        default=0,
        help="cut books into documents of about so many words (default 0: do not cut)",
    )
    cleaning.add_arguments(parser)
    args = parser.parse_args(argv)
    if args.words < 0:
        raise UsageError(f"--words={args.words} is not possible; give the words of a document, or 0 for whole files")
    paths = sorted(path for path in args.texts.rglob("*") if kind(path) == ".txt")
    if not paths:
        raise UsageError(f"{args.texts} holds no .txt file, plain or .gz, .bz2 or .xz; give the folder of the texts")
    code_page = quality.language_of(args.language).code_page
    read = partial(read_file, folder=args.texts, code_page=code_page, words=args.words)
    cleaning.run(args, args.texts.resolve().name, paths, read)


if __name__ == "__main__":
    sys.exit(cli.run(main))
