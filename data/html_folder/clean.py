"""A folder of saved HTML pages, from any site -> corpus.jsonl with its data card.

python -m data.html_folder.clean --pages saved/ --out data/html_folder/corpus.jsonl --language el
"""

import argparse
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from oracle import cleaning, cli, html, quality
from oracle.cli import UsageError
from oracle.rules import Document

_PATH_DATE = re.compile(r"(?<!\d)((?:19|20)\d\d)[-_/]?([01]\d)[-_/]?([0-3]\d)(?!\d)")


def read_page(path: Path, folder: Path, code_page: str) -> list[Document]:
    """The article on a saved page, or none. The folder inside `folder` is its section.

    Its date is what the page says, else a date in the path (`2020-08-19`, `2020/08/19`, `20200819`).
    """
    article = html.extract(html.decode(path.read_bytes(), code_page=code_page)[0])
    if not article.text:
        return []
    name = path.relative_to(folder).as_posix()
    in_path = _PATH_DATE.search(name)
    return [
        {
            "id": name,
            "date": article.date or ("-".join(in_path.groups()) if in_path else None),
            "section": path.parent.name if path.parent != folder else None,
            "title": article.title,
            "kicker": None,
            "text": article.text,
            "address": article.address,
        }
    ]


def main(argv: Sequence[str]) -> None:
    """Parse the command line and clean."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=Path, required=True, help="folder of .html and .htm files, searched through")
    cleaning.add_arguments(parser)
    args = parser.parse_args(argv)
    paths = sorted(path for path in args.pages.rglob("*") if path.suffix.lower() in (".html", ".htm", ".xhtml"))
    if not paths:
        raise UsageError(f"{args.pages} holds no .html, .htm or .xhtml file; give the folder of the saved pages")
    code_page = quality.language_of(args.language).code_page
    read = partial(read_page, folder=args.pages, code_page=code_page)
    cleaning.run(args, args.pages.resolve().name, paths, read)


if __name__ == "__main__":
    sys.exit(cli.run(main))
