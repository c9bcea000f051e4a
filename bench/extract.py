"""Article extraction from real saved pages: precision and recall against reference texts, beside trafilatura.

    pip install trafilatura lxml_html_clean
    python -m bench.extract FOLDER      # FOLDER/pages/*.htm*, FOLDER/text/<same name>.txt (UTF-8)

Two measures per page, both on words: as multisets (which words), and the longest common subsequence (in which
order).
"""

import argparse
import json
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from oracle import html

MEASURES = ("words precision", "words recall", "order precision", "order recall")


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


def longest_common_subsequence(one: list[str], other: list[str]) -> int:
    """Its length, by the bit-parallel method of Hyyrö (2004): a row of the table is one integer."""
    places: dict[str, int] = {}
    for index, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << index
    everything = (1 << len(one)) - 1
    row = everything
    for word in other:
        matched = row & places.get(word, 0)
        row = ((row + matched) | (row - matched)) & everything
    return len(one) - row.bit_count()


def compare(text: str, reference: str) -> tuple[float, ...]:
    found, wanted = words(text), words(reference)
    common = (Counter(found) & Counter(wanted)).total()
    ordered = longest_common_subsequence(found, wanted)
    sizes = (max(1, len(found)), max(1, len(wanted)))
    return (common / sizes[0], common / sizes[1], ordered / sizes[0], ordered / sizes[1])


def ours(data: bytes) -> str:
    return html.extract(html.decode(data, code_page="cp1253")[0]).text


def trafilatura_text(data: bytes) -> str:
    import trafilatura

    # Given characters, not bytes: the codec is not what is compared here.
    page = html.decode(data, code_page="cp1253")[0]
    return trafilatura.extract(page, include_comments=False) or ""


def measure(name: str, extract: Callable[[bytes], str], pages: list[tuple[bytes, str]]) -> dict[str, float | str]:
    rows, times = [], []
    for data, reference in pages:
        started = time.perf_counter()
        text = extract(data)
        times.append(time.perf_counter() - started)
        rows.append(compare(text, reference))
    means = {
        measure: statistics.mean(column) for measure, column in zip(MEASURES, zip(*rows, strict=True), strict=True)
    }
    worst = min(min(row) for row in rows)
    return {"extractor": name, **means, "worst": worst, "ms per page": 1000 * statistics.median(times)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted((folder / "text").glob("*.txt"))}
    pages = [
        (path.read_bytes(), texts[path.stem])
        for path in sorted((folder / "pages").glob("*.htm*"))
        if path.stem in texts
    ]
    results = [measure("oracle.html", ours, pages), measure("trafilatura", trafilatura_text, pages)]
    print(f"{len(pages)} pages, means")
    for key in results[0]:
        print(
            f"{key:16}",
            *(f"{row[key]:>12.4f}" if isinstance(row[key], float) else f"{row[key]:>12}" for row in results),
        )
    print(json.dumps({"pages": len(pages), "results": results}))


if __name__ == "__main__":
    main()
