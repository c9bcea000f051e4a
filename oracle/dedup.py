"""Exact and near duplicates: which documents say again what another one said.

Two texts are exact duplicates when their `normal_form` is the same, near-duplicates when the sets of 5-word
shingles of their normal forms have a Jaccard similarity of at least 0.8. MinHash with banding (Broder 1997;
Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", chapter 3) proposes pairs and the true
similarity decides: nothing is dropped on an estimate.

One pass over the documents, in as many processes as there are cores. A document leaves some 600 bytes in
memory, and in a temporary file its shingles, 4 bytes each, which are read again for candidates only: the
texts are never all in memory.
"""

import hashlib
import re
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import lru_cache, partial
from itertools import product
from typing import NamedTuple

import numpy as np

from oracle.parallel import cores, ordered_map

SHINGLE_WORDS = 5
MIN_WORDS = 20  # a shorter text has too few shingles for a similarity to mean much: exact duplicates only
# A pair at Jaccard j has all rows of at least one band in common with probability 1 - (1 - j**ROWS)**BANDS:
#   j       0.5  0.6  0.7  0.8  0.85  0.9
#   caught   5%  21%  57%  92%   99%  100%
BANDS = 14
ROWS = 8
N_HASHES = BANDS * ROWS
THRESHOLD = 0.8
MIN_THRESHOLD = 0.7  # below it the bands would miss more pairs than they find

_SEED = 1
_LEAK_SEED = 2
_DIGEST_BYTES = 16
_CHUNK_CHARACTERS = 1 << 20  # what one process is given at a time
_MAX_WORKERS = 16  # about as many as one process can feed; each takes some 110 MB
_BLOCK = 4096  # shingles hashed at once: even a book's N_HASHES x _BLOCK x 4 bytes stay in a core's cache

_ACCENTS = re.compile("[\u0300-\u036f]+")
_DIGIT = re.compile(r"\d")
_PUNCTUATION = re.compile(r"[\W_]+")

Document = tuple[str, str]  # id, text


class Leak(NamedTuple):
    """A held-out document and the training document nearest to it, as positions."""

    held: int
    train: int
    jaccard: float


def find_duplicates(
    documents: Iterable[Document], *, threshold: float = THRESHOLD, workers: int | None = None
) -> dict[str, str]:
    """Map the id of every document to drop to the id of the one kept in its place; see `clusters`."""
    groups = clusters(documents, threshold=threshold, workers=workers)
    return {dropped: kept for kept, *others in groups for dropped in others}


def clusters(
    documents: Iterable[Document], *, threshold: float = THRESHOLD, workers: int | None = None
) -> list[list[str]]:
    """Return the groups of two or more duplicates, exact or near, as lists of ids.

    A group is connected, not complete: if A resembles B and B resembles C, the three are together. The
    longest text (in characters) comes first, of equally long ones the first given: give documents in order of
    date. The others follow in the order given. `documents` is read once; the result does not depend on
    `workers` (processes, 16 at most; None: one per core). Raises ValueError for an id given twice and for a
    threshold outside [MIN_THRESHOLD, 1].
    """
    with closing(Resemblance(documents, threshold=threshold, workers=workers, seeds=(_SEED,))) as found:
        return [[found.ids[i] for i in group] for group in found.groups()]


class Resemblance:
    """Documents read and signed once, then asked for their groups and, split into sides, for leaks.

    Documents are named by their position; `ids` has their ids. `close` removes the temporary file. Raises
    ValueError as `clusters` does.
    """

    def __init__(
        self,
        documents: Iterable[Document],
        *,
        threshold: float = THRESHOLD,
        workers: int | None = None,
        seeds: tuple[int, ...] = (_SEED, _LEAK_SEED),
    ) -> None:
        if not MIN_THRESHOLD <= threshold <= 1:
            raise ValueError(
                f"The similarity threshold was {threshold}, but {BANDS} bands of {ROWS} hashes find pairs from "
                f"{MIN_THRESHOLD} to 1 only: give a number in that range."
            )
        self._threshold = threshold
        self._index = _Index(*seeds)
        try:
            self._index.add(documents, workers)
            self._index.finish()
        except BaseException:
            self._index.close()
            raise
        self.ids = self._index.ids

    def close(self) -> None:
        self._index.close()

    def groups(self) -> list[list[int]]:
        """The groups of `clusters`, as positions."""
        groups = []
        for members in _connected(self._index, self._threshold):
            kept = max(members, key=self._index.lengths.__getitem__)
            members.remove(kept)
            groups.append([kept, *members])
        return groups

    def leaks(self, train: np.ndarray, held: np.ndarray) -> list[Leak]:
        """Return every document of `held` that has a duplicate in `train`, once, with the nearest one found.

        `train` and `held` are boolean masks over the documents. The hash functions are not those of `groups`,
        which would only repeat its own misses: a pair missed there is found here with the full probability. So
        a split that keeps groups together may still leak a little; join the groups of each pair named here,
        split again, and ask until none is named.
        """
        first = self._index.first
        train_of = np.full(len(first), -1)  # normal form (its first document) -> first document of it in train
        positions = np.flatnonzero(train)[::-1]
        train_of[first[positions]] = positions
        is_held: np.ndarray = np.zeros(len(first), bool)
        is_held[first[held]] = True
        nearest: dict[int, tuple[float, int]] = {}  # normal form of held -> (jaccard, -document of train)
        for run in self._index.candidates(_LEAK_SEED):
            in_train, in_held = [i for i in run if train_of[i] >= 0], [i for i in run if is_held[i]]
            for h, t in product(in_held, in_train):
                if h != t:
                    pair = self._index.jaccard(t, h, self._threshold), -int(train_of[t])
                    nearest[h] = max(nearest.get(h, (0.0, 0)), pair)
        named = []
        for h in np.flatnonzero(held).tolist():
            same, form = int(train_of[first[h]]), int(first[h])
            jaccard, minus_train = (1.0, -same) if same >= 0 else nearest.get(form, (0.0, 0))
            if jaccard >= self._threshold:
                named.append(Leak(h, -minus_train, jaccard))
        return named


def normal_form(text: str) -> str:
    """Return `text` as it is compared: words without case or accents, digits as 0, single blanks between.

    Case is folded, so that a final sigma is no difference; accents are U+0300..U+036F after decomposition.
    """
    text = _ACCENTS.sub("", unicodedata.normalize("NFD", text)).casefold()
    return _PUNCTUATION.sub(" ", _DIGIT.sub("0", text)).strip()


class _Signatures(NamedTuple):
    """What stays in memory of D documents."""

    digests: np.ndarray  # D, 16 bytes each: blake2b of the normal form
    keys: np.ndarray  # D x (BANDS for each seed) uint64: equal keys for equal bands
    lengths: np.ndarray  # D int64: characters of the text as given
    sizes: np.ndarray  # D int64: shingles


class _Index:
    """The signatures of all documents added; their shingles lie in a temporary file (TMPDIR says where).

    Use: `add` once or more, `finish` once, then the rest.
    """

    def __init__(self, *seeds: int) -> None:
        self.ids: list[str] = []
        self._seeds = seeds
        self._parts: list[_Signatures] = []
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 -- `close` closes it

    def close(self) -> None:
        self._file.close()

    def add(self, documents: Iterable[Document], workers: int | None) -> None:
        """Read `documents` once; the order is kept."""
        for ids, (signatures, shingles) in _signed(_chunks(documents), self._seeds, workers):
            self.ids += ids
            self._parts.append(signatures)
            self._file.write(shingles)

    def finish(self) -> None:
        """Check the ids and lay the signatures out for the queries below."""
        if len(set(self.ids)) < len(self.ids):
            raise ValueError(
                f"The document id {Counter(self.ids).most_common(1)[0][0]!r} was given more than once, but "
                "duplicates are named by id: give every document an id of its own."
            )
        digests, self.keys, self.lengths, self.sizes = map(np.concatenate, zip(*self._parts, strict=True))
        self._parts.clear()
        self._ends = np.cumsum(self.sizes)
        self.first = np.arange(len(self.ids))  # the first document of the same normal form stands for all
        for run in _runs(digests):
            self.first[run] = run[0]

    def candidates(self, seed: int) -> Iterator[list[int]]:
        """Yield, band by band, documents whose keys are equal: ascending, one per normal form."""
        standing = np.flatnonzero((self.first == np.arange(len(self.ids))) & (self.sizes > 0))
        start = self._seeds.index(seed) * BANDS
        for band in range(start, start + BANDS):
            for run in _runs(self.keys[standing, band]):
                yield standing[run].tolist()

    def jaccard(self, a: int, b: int, at_least: float) -> float:
        """Return the Jaccard similarity of the shingles of documents a and b, or 0 if under `at_least`."""
        small, large = sorted((int(self.sizes[a]), int(self.sizes[b])))
        if small < at_least * large:  # even a subset would be too unlike: spare the reading
            return 0.0
        shared = np.intersect1d(self._shingles(a), self._shingles(b), assume_unique=True).size
        jaccard = shared / (small + large - shared)
        return jaccard if jaccard >= at_least else 0.0

    def _shingles(self, i: int) -> np.ndarray:
        size = int(self.sizes[i])
        self._file.seek((int(self._ends[i]) - size) * 4)
        return np.frombuffer(self._file.read(size * 4), np.uint32)


def _connected(index: _Index, threshold: float) -> list[list[int]]:
    """Return the connected components of two or more documents, each ascending, in order of their first."""
    parent = index.first.tolist()  # exact duplicates are joined from the start

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    for run in index.candidates(_SEED):
        # Members of one component are not compared among themselves: a notice printed 5,000 times costs some
        # 5,000 comparisons instead of 12 million.
        members: dict[int, list[int]] = {}  # root: its documents, of those of the run met so far
        for i in run:
            joined = [i]
            for other, group in list(members.items()):
                if root(i) == other or any(index.jaccard(j, i, threshold) for j in group):
                    parent[root(i)] = other
                    joined = members.pop(other) + joined
            members[root(i)] = joined

    components: dict[int, list[int]] = {}
    for i in range(len(parent)):
        components.setdefault(root(i), []).append(i)
    return [component for component in components.values() if len(component) > 1]


def _runs(keys: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the positions, ascending, of every value that occurs more than once in `keys`."""
    order: np.ndarray = np.argsort(keys, kind="stable")
    ordered = keys[order]
    changes: np.ndarray = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    bounds = np.concatenate([[0], changes, [len(keys)]])
    for i in np.flatnonzero(np.diff(bounds) > 1):
        yield order[bounds[i] : bounds[i + 1]]


def _chunks(documents: Iterable[Document]) -> Iterator[tuple[list[str], list[str]]]:
    """Yield ids and texts of successive documents, some `_CHUNK_CHARACTERS` at a time; at least one chunk."""
    ids: list[str] = []
    texts: list[str] = []
    size = 0
    for name, text in documents:
        ids.append(name)
        texts.append(text)
        size += len(text)
        if size >= _CHUNK_CHARACTERS:
            yield ids, texts
            ids, texts, size = [], [], 0
    yield ids, texts


def _signed(
    chunks: Iterable[tuple[list[str], list[str]]], seeds: tuple[int, ...], workers: int | None
) -> Iterator[tuple[list[str], tuple[_Signatures, bytes]]]:
    """Yield the ids of every chunk with what `_sign` says of its texts, in order."""
    work = ordered_map(partial(_sign_chunk, seeds), chunks, min(workers or cores(), _MAX_WORKERS))
    return ((ids, signed) for (ids, _), signed in work)


def _sign_chunk(seeds: tuple[int, ...], chunk: tuple[list[str], list[str]]) -> tuple[_Signatures, bytes]:
    return _sign(chunk[1], seeds)


def _sign(texts: list[str], seeds: tuple[int, ...]) -> tuple[_Signatures, bytes]:
    """Return the signatures of `texts` and their shingles, one document after the other, as uint32 bytes."""
    normal = [normal_form(text) for text in texts]
    digests = [hashlib.blake2b(_utf8(form), digest_size=_DIGEST_BYTES).digest() for form in normal]
    shingles = [_shingles(form.split(" ")) for form in normal]
    signatures = _Signatures(
        digests=np.array(digests, f"S{_DIGEST_BYTES}"),
        keys=np.hstack([_band_keys(shingles, seed) for seed in seeds]),
        lengths=np.array([len(text) for text in texts], np.int64),
        sizes=np.array([len(s) for s in shingles], np.int64),
    )
    return signatures, b"".join(s.tobytes() for s in shingles)


def _band_keys(shingles: list[np.ndarray], seed: int) -> np.ndarray:
    """Return D x BANDS uint64: equal keys where all rows of a band are equal."""
    minima = np.array([_minhash(s, seed) for s in shingles], np.uint32).reshape(-1, BANDS, ROWS)
    keys: np.ndarray = (minima * _odd_numbers(seed, ROWS, 64)).sum(axis=2, dtype=np.uint64)
    return keys


def _shingles(words: list[str]) -> np.ndarray:
    """Return the set of hashed runs of `SHINGLE_WORDS` words: sorted uint32, none under `MIN_WORDS` words.

    32 bits: of the 1,000 shingles of a long story one in four million is taken for another.
    """
    if len(words) < MIN_WORDS:
        return np.empty(0, np.uint32)
    hashes = np.fromiter(map(_word_hash, words), np.uint64, len(words))
    n = len(words) - SHINGLE_WORDS + 1
    multipliers = _odd_numbers(_SEED, SHINGLE_WORDS, 64)
    mixed = sum(hashes[k : k + n] * multipliers[k] for k in range(SHINGLE_WORDS))
    mixed ^= mixed >> np.uint64(32)
    mixed *= np.uint64(0x9E3779B97F4A7C15)  # the golden ratio: carries every bit into the upper half
    return np.unique((mixed >> np.uint64(32)).astype(np.uint32))


def _minhash(shingles: np.ndarray, seed: int) -> np.ndarray:
    """Return the least value of each of the N_HASHES hash functions over `shingles`: uint32.

    The functions are a x + b modulo 2**32 with a odd: permutations, of values that are well mixed already.
    """
    a, b = _odd_numbers(seed, 2 * N_HASHES, 32).reshape(2, N_HASHES, 1)
    least: np.ndarray = np.full(N_HASHES, 2**32 - 1, np.uint32)
    for start in range(0, len(shingles), _BLOCK):
        least = np.minimum(least, (shingles[start : start + _BLOCK] * a + b).min(axis=1))
    return least


@lru_cache(maxsize=1 << 17)  # about 30 MB; a newspaper's words are mostly the same ones
def _word_hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(_utf8(word), digest_size=8).digest(), "little")


def _utf8(text: str) -> bytes:
    # Half a surrogate pair, as a broken JSON escape leaves it, is no reason to stop.
    return text.encode("utf-8", "surrogatepass")


@lru_cache(maxsize=8)
def _odd_numbers(seed: int, n: int, bits: int) -> np.ndarray:
    """Return n odd random numbers of 32 or 64 bits, the same on every machine."""
    drawn = np.random.PCG64(seed).random_raw(n)
    return (drawn >> np.uint64(64 - bits) | np.uint64(1)).astype(f"uint{bits}")
