"""Duplicates: recall on planted copies beside datasketch, speed, and memory.

    pip install datasketch
    python -m bench.dedup corpus.jsonl [more.jsonl.xz ...]

Real text, one {"text": ...} a line, is cut into stories. Copies edited to a Jaccard similarity of 0.9, 0.8
and 0.5 are planted among them; then the stories are repeated with changes to `--megabytes` and streamed
through. Megabytes are of UTF-8 text, 10**6 bytes.
"""

import argparse
import json
import multiprocessing
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import combinations
from pathlib import Path

try:
    from datasketch import MinHash, MinHashLSH
except ImportError:
    raise SystemExit("This comparison needs datasketch: pip install datasketch") from None

from oracle.corpus import CorpusReader
from oracle.dedup import BANDS, N_HASHES, ROWS, SHINGLE_WORDS, THRESHOLD, clusters, normal_form

STORY_CHARACTERS = 1700  # 1.6 GB of Greek in 0.5 million stories
MIN_STORY_WORDS = 120  # so that a single edit leaves a similarity over 0.9
LEVELS = (0.9, 0.8, 0.5)
FULL_MEGABYTES, FULL_DOCUMENTS = 1600, 550_000

Documents = list[tuple[str, str]]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", nargs="+", type=Path, help="JSON lines with a text each, .xz or plain")
    parser.add_argument("--pairs", type=int, default=1000, help="planted copies per level")
    parser.add_argument("--megabytes", type=int, default=100, help="text streamed for speed and memory")
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds of the speed comparison")
    args = parser.parse_args(argv)

    stories = read_stories(args.corpus)
    print(f"{len(stories)} different stories of {STORY_CHARACTERS} characters at most")
    result: dict[str, object] = {"stories": len(stories)}
    result["planted"] = planted(stories, args.pairs)
    result["speed"] = speed(stories, args.rounds)
    result["streamed"] = streamed(stories, args.megabytes, args.rounds)
    print(json.dumps(result))


def read_stories(paths: list[Path]) -> list[str]:
    """Return the texts cut into stories, those in a group of duplicates left out, shuffled."""
    pieces: Documents = []
    for path in paths:
        for document in CorpusReader(path, keep_titles=False):
            words, size, start = document.text.split(), 0, 0
            for end, word in enumerate(words, 1):
                size += len(word) + 1
                if size >= STORY_CHARACTERS or end == len(words):
                    if end - start >= MIN_STORY_WORDS:
                        pieces.append((str(len(pieces)), " ".join(words[start:end])))
                    start, size = end, 0
    doubled = {name for group in clusters(pieces) for name in group}
    stories = [text for name, text in pieces if name not in doubled]
    random.Random(0).shuffle(stories)
    return stories


# --- planted copies ---


def shingle_set(text: str) -> set[str]:
    words = normal_form(text).split()
    return {" ".join(words[i : i + SHINGLE_WORDS]) for i in range(len(words) - SHINGLE_WORDS + 1)}


def jaccard(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b)


def edited(text: str, level: float, vocabulary: list[str], rng: random.Random) -> tuple[str, float]:
    """Return a copy with its true similarity: the last at or above `level`, for 0.5 the first at or below.

    Half of the copies have words replaced all over, half a passage rewritten from some point on.
    """
    original, words = shingle_set(text), text.split()
    places = rng.sample(range(len(words)), len(words))
    if rng.random() < 0.5:
        start = rng.randrange(len(words))
        places = [(start + k) % len(words) for k in range(len(words))]
    before = (text, 1.0)
    for place in places:
        words[place] = rng.choice(vocabulary)
        copy = " ".join(words)
        similarity = jaccard(original, shingle_set(copy))
        if similarity < level or (level < THRESHOLD and similarity == level):
            return (copy, similarity) if level < THRESHOLD else before
        before = (copy, similarity)
    return before


def planted(stories: list[str], n_pairs: int) -> list[dict[str, float]]:
    """Print and return, per level, which share of the planted pairs each method reports as duplicates."""
    if len(stories) < n_pairs * len(LEVELS):
        sys.exit(f"{len(stories)} stories for {n_pairs} pairs of each level: give more text or a smaller --pairs.")
    rng = random.Random(1)
    vocabulary = [word for text in stories[:2000] for word in text.split()]
    documents: Documents = []
    true: dict[float, list[float]] = {level: [] for level in LEVELS}
    for i, text in enumerate(stories):
        documents.append((f"{i}", text))
        if i < n_pairs * len(LEVELS):
            level = LEVELS[i % len(LEVELS)]
            copy, similarity = edited(text, level, vocabulary, rng)
            documents.append((f"{i}+", copy))
            true[level].append(similarity)

    ours = {pair for group in clusters(documents) for pair in combinations(sorted(group), 2)}
    proposed = datasketch_pairs(documents)
    sets = {name: shingle_set(text) for name, text in documents}
    verified = {pair for pair in proposed if jaccard(sets[pair[0]], sets[pair[1]]) >= THRESHOLD}
    methods = {"ours": ours, "datasketch": proposed, "datasketch_verified": verified}

    print(f"\n{n_pairs} planted copies per level among {len(stories)} stories, {BANDS} bands x {ROWS} rows")
    print(f"{'true Jaccard':>20}{'formula':>9}" + "".join(f"{name:>21}" for name in methods))
    rows = []
    for k, level in enumerate(LEVELS):
        row: dict[str, float] = {"level": level, "jaccard": statistics.mean(true[level])}
        row["formula"] = statistics.mean(1 - (1 - j**ROWS) ** BANDS for j in true[level])
        pairs = [(f"{i}", f"{i}+") for i in range(k, n_pairs * len(LEVELS), len(LEVELS))]
        row |= {name: sum(pair in found for pair in pairs) / n_pairs for name, found in methods.items()}
        spread = f"{min(true[level]):.3f}..{max(true[level]):.3f}"
        print(f"{spread:>20}{row['formula']:>9.1%}" + "".join(f"{row[name]:>21.1%}" for name in methods))
        rows.append(row)
    wrong = {
        name: sum(jaccard(sets[a], sets[b]) < THRESHOLD for a, b in found) / max(1, len(found))
        for name, found in methods.items()
    }
    print(f"{f'reported, but < {THRESHOLD}':>29}" + "".join(f"{wrong[name]:>21.1%}" for name in methods))
    return [*rows, {"level": 0.0, **wrong}]


def datasketch_pairs(documents: Documents) -> set[tuple[str, str]]:
    """Return the pairs its LSH proposes, with the same shingles, bands and rows."""
    lsh = MinHashLSH(num_perm=N_HASHES, params=(BANDS, ROWS))
    pairs = set()
    for name, text in documents:
        minhash = MinHash(num_perm=N_HASHES)
        minhash.update_batch([shingle.encode() for shingle in shingle_set(text)])
        pairs |= {(min(other, name), max(other, name)) for other in lsh.query(minhash)}
        lsh.insert(name, minhash)
    return pairs


# --- speed and memory ---


def speed(stories: list[str], rounds: int, megabytes: float = 8) -> dict[str, float]:
    """Print and return MB/s of one process on the same text in memory: alternating, medians."""
    documents: Documents = []
    size = 0.0
    for i, text in enumerate(stories):
        if size < megabytes:
            documents.append((str(i), text))
            size += len(text.encode()) / 1e6
    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: clusters(documents, workers=1),
        "datasketch": lambda: datasketch_pairs(documents),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, work in ways.items():
            start = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - start)
    result = {name: size / statistics.median(times) for name, times in seconds.items()}
    print(f"\n{size:.1f} MB in memory, one process: " + ", ".join(f"{n} {v:.1f} MB/s" for n, v in result.items()))
    return result


def streamed(stories: list[str], megabytes: int, rounds: int) -> dict[str, float]:
    """Print and return speed and peak memory from a file, and what they mean for the full corpus."""
    settings = [(0.25, 1), (1.0, 1), (1.0, 2)]  # share of the file, processes
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "corpus.jsonl"
        write_repeated(stories, path, megabytes)
        runs = [[apart(path, *setting) for setting in settings] for _ in range(rounds)]
    header = (
        "streamed",
        "processes",
        "documents",
        "groups",
        "MB/s",
        "CPU s",
        "of parent",
        "parent MiB",
        "worker MiB",
    )
    print("\n" + "".join(f"{name:>12}" for name in header))
    medians = []
    for (_, workers), column in zip(settings, zip(*runs, strict=True), strict=True):
        run = {key: statistics.median(one[key] for one in column) for key in column[0]}
        run["rate"] = run["megabytes"] / run["seconds"]
        print(f"{run['megabytes']:>9.0f} MB{workers:>12}{run['documents']:>12.0f}{run['groups']:>12.0f}", end="")
        print(f"{run['rate']:>12.1f}{run['cpu']:>12.1f}{run['parent_cpu']:>12.1f}", end="")
        print(f"{run['parent']:>12.0f}{run['worker']:>12.0f}")
        medians.append(run)
    small, large, two = medians
    per_document = (large["parent"] - small["parent"]) / (large["documents"] - small["documents"])
    result = {
        "megabytes": large["megabytes"],
        "mb_per_s_one": large["rate"],
        "mb_per_s_two": two["rate"],
        "two_cpu_s": two["cpu"],
        "two_parent_cpu_s": two["parent_cpu"],
        "parent_mib": two["parent"],
        "worker_mib": two["worker"],
        "full_minutes_one": FULL_MEGABYTES / large["rate"] / 60,
        "full_parent_mib": two["parent"] + per_document * (FULL_DOCUMENTS - two["documents"]),
    }
    print(
        f"{FULL_MEGABYTES} MB in {FULL_DOCUMENTS} documents: {result['full_minutes_one']:.1f} minutes on one "
        f"core, {result['full_parent_mib']:.0f} MiB, and {two['worker']:.0f} MiB for each further process"
    )
    return result


def write_repeated(stories: list[str], path: Path, megabytes: int) -> None:
    """Write the stories again and again with every fifth word another one; every tenth comes twice."""
    rng = random.Random(2)
    vocabulary = [word for text in stories[:2000] for word in text.split()]
    size, n = 0, 0
    with path.open("w", encoding="utf-8") as f:
        while size < megabytes * 1e6:
            words = stories[n % len(stories)].split()
            words[::SHINGLE_WORDS] = rng.choices(vocabulary, k=len(words[::SHINGLE_WORDS]))
            for _ in range(2 if n % 10 == 0 else 1):
                words[rng.randrange(len(words))] = rng.choice(vocabulary)
                text = " ".join(words)
                f.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
                size += len(text.encode())
            n += 1


def apart(path: Path, part: float, workers: int) -> dict[str, float]:
    """Return what `stream_through` measures in a process of its own: the peak memory is then its own too."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(stream_through, path, part, workers).result()


def stream_through(path: Path, part: float, workers: int) -> dict[str, float]:
    size = 0
    count = 0

    def documents() -> Iterator[tuple[str, str]]:
        nonlocal size, count
        limit = part * path.stat().st_size
        with path.open(encoding="utf-8") as f:
            for line in f:
                text = json.loads(line)["text"]
                size += len(text.encode())
                count += 1
                yield str(count), text
                if size > limit:
                    return

    start, before = time.perf_counter(), os.times()
    groups = clusters(documents(), workers=workers)
    seconds, after = time.perf_counter() - start, os.times()
    cpu = [now - then for now, then in zip(after, before, strict=True)][:4]  # user, system; the same of workers
    # VmHWM, not ru_maxrss: that one is inherited from the process that started this one.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "megabytes": size / 1e6,
        "documents": count,
        "groups": len(groups),
        "seconds": seconds,
        "cpu": sum(cpu),  # what the machine's other load leaves alone
        "parent_cpu": sum(cpu[:2]),  # what more processes cannot share
        "parent": int(status["VmHWM"].split()[0]) / 1024,
        "worker": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
    }


if __name__ == "__main__":
    main()
