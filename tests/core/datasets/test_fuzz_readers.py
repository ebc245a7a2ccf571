"""Readers of raw data sets against anything that a file may hold: a reason or a ``ValueError``, and nothing beyond.

Whatever is broken, no other exception leaves a reader, no reason is empty, every annotation that it does give can go
into the tables, and no path outside the data set is opened or named.
"""

import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.core.datasets import layouts
from stages.core.datasets.release import Annotation, Reader, check_video_id
from tests.help import make
from tests.help.make_datasets import write_clips, write_davis, write_jhmdb, write_vidor

EXAMPLES = 12
fuzz = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))

PARAMETERS = layouts.Parameters.model_validate({"dataset": "fuzzed", "jhmdb": {"split": 1}})
FIXED = layouts.Parameters.model_validate({"dataset": "fuzzed", "jhmdb": {"sampling": "fixed"}})
MINIATURES: dict[str, tuple[str, layouts.Parameters, Callable[[Path], Path]]] = {
    "a2d": ("a2d", PARAMETERS, lambda folder: make.write_release(folder, make.RELEASE[::2])),
    "jhmdb": ("jhmdb", PARAMETERS, write_jhmdb),
    "jhmdb-fixed": ("jhmdb", FIXED, write_jhmdb),
    "vidor": ("vidor", PARAMETERS, write_vidor),
    "vidor-ssa2d": ("vidor", PARAMETERS, lambda folder: write_vidor(folder, ssa2d=True, group="")),
    "davis": ("davis", PARAMETERS, write_davis),
    "clips": ("clips", PARAMETERS, write_clips),
}


@pytest.fixture(scope="module")
def miniatures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: write(tmp_path_factory.mktemp(name)) for name, (_, _, write) in MINIATURES.items()}


@contextlib.contextmanager
def copy_of(miniature: Path) -> Iterator[Path]:
    """A copy to break, at the end of a path with nothing else in it. Hard links: write with ``put``."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(shutil.copytree(miniature, Path(folder) / "data/raw", copy_function=os.link))


def put(path: Path, content: bytes) -> None:
    """A new file in the place of ``path``."""
    path.unlink()
    path.write_bytes(content)


# What every reader promises

_WATCHED: list[list[str]] = []
"""The list that takes the paths that are opened now, if any: an audit hook can't be taken away."""


def _audit(event: str, arguments: tuple) -> None:
    if _WATCHED and event in {"open", "os.listdir", "os.scandir"}:
        _record(_WATCHED[-1], arguments[0])


def _record(opened: list[str], path: Any) -> None:
    if isinstance(path, str | bytes | os.PathLike):  # else an open file
        opened.append(os.fsdecode(path))


sys.addaudithook(_audit)


@contextlib.contextmanager
def watched() -> Iterator[list[str]]:
    """Paths that are opened or listed inside, by Python or by HDF5's library, except Python's own files."""
    opened: list[str] = []
    own = (sys.prefix, sys.base_prefix, "/dev/", "/proc/", "/sys/")
    with pytest.MonkeyPatch.context() as patch:
        original = h5py.File.__init__

        def recorded(self: h5py.File, name: Any, *args: Any, **kwargs: Any) -> None:
            _record(opened, name)
            original(self, name, *args, **kwargs)

        patch.setattr(h5py.File, "__init__", recorded)
        _WATCHED.append(opened)
        try:
            yield opened
        finally:
            _WATCHED.pop()
            opened[:] = [path for path in opened if not path.startswith(own) and not path.endswith((".py", ".pyc"))]


def read_everything(name: str, folder: Path) -> tuple[int, int]:
    """Run the whole reader of miniature ``name`` at ``folder``; numbers of good annotations and of reasons."""
    layout, parameters, _ = MINIATURES[name]
    with watched() as opened:
        with contextlib.suppress(ValueError):
            layouts.open_release(folder, parameters)
        counts = _read(layouts.reader(layout, folder, parameters), folder)
    outside = [path for path in opened if not Path(os.path.abspath(path)).is_relative_to(folder)]
    assert outside == []
    return counts


def _read(reader: Reader, folder: Path) -> tuple[int, int]:
    good = 0
    reasons: list[str] = []
    try:
        sentences, bad = reader.sentences()
        reasons += [*bad, *bad.values()]
        for video, instance, sentence in sentences:
            assert check_video_id(video) and 0 <= instance < 2**31
            sentence.encode()
    except ValueError as error:
        reasons.append(str(error))
    try:
        reader.check()
        rows, bad = reader.clips()
    except ValueError as error:
        rows, bad = [], {"all": str(error)}
    reasons += [*bad, *bad.values()]
    assert rows or reasons
    assert len({row.video for row in rows}) == len(rows)
    for row in rows:
        assert check_video_id(row.video) and row.split in {"train", "test"} and 0 <= row.annotated < 2**31
        assert all(count is None or 0 < count < 2**31 for count in (row.frames, row.height, row.width))
        assert str(row.path).encode()
        for path in (folder / row.path, *reader.annotation_files(row)):
            assert ".." not in path.parts and Path(os.path.abspath(path)).is_relative_to(folder)
        try:
            for frame, annotation in reader.annotations(row):
                assert 0 <= frame < 2**31
                if isinstance(annotation, str):
                    reasons.append(annotation)
                else:
                    _check_annotation(annotation, reader)
                    good += 1
        except ValueError as error:
            reasons.append(str(error))
    for reason in reasons:
        assert reason.strip() and reason.encode()
    return good, len(reasons)


def _check_annotation(annotation: Annotation, reader: Reader) -> None:
    space, count = reader.label_space, len(annotation.masks)
    assert annotation.labels.dtype == np.uint8 and annotation.labels.ndim == 2 and annotation.labels.size
    space.require_known(annotation.labels, where="labels")
    assert annotation.masks.dtype == bool and annotation.masks.shape == (count, *annotation.labels.shape)
    assert annotation.boxes.shape == (count, 4) and np.isfinite(annotation.boxes).all()
    assert len(annotation.actors) == len(annotation.actions) == len(annotation.instances) == count
    assert all(0 < actor < len(space.actors) or actor == 255 for actor in annotation.actors)
    assert all(0 < action < len(space.actions) for actions in annotation.actions for action in actions)
    assert ((annotation.instances >= 0) & (annotation.instances < 2**31)).all()


@pytest.mark.parametrize("name", MINIATURES)
def test_nothing_is_wrong_with_a_miniature(name: str, miniatures: dict[str, Path]) -> None:
    good, reasons = read_everything(name, miniatures[name])
    assert reasons == 0 and (good > 0 or name == "clips")


def test_a_path_outside_would_be_seen(tmp_path: Path) -> None:
    make.write_hdf5(tmp_path / "some.h5", {"key": np.zeros(1)})
    with watched() as opened:
        (tmp_path / "some.h5").read_bytes()
        h5py.File(tmp_path / "some.h5").close()
        list(tmp_path.iterdir())
    assert opened == [str(tmp_path / "some.h5")] * 2 + [str(tmp_path)]


# Broken files


def _truncated(data: st.DataObject, content: bytes) -> bytes:
    return content[: data.draw(st.integers(0, max(len(content) - 1, 0)), label="length")]


def _flipped(data: st.DataObject, content: bytes) -> bytes:
    broken = bytearray(content or b"\0")
    for _ in range(data.draw(st.integers(1, 8), label="flips")):
        position = data.draw(st.integers(0, len(broken) - 1), label="position")
        broken[position] = data.draw(st.integers(0, 255), label="byte")
    return bytes(broken)


def _random(data: st.DataObject, content: bytes) -> bytes:
    return data.draw(st.sampled_from([b"", content[:8], content[:128]])) + data.draw(st.binary(max_size=400))


@pytest.mark.parametrize("name", MINIATURES)
@fuzz
@given(data=st.data())
def test_broken_bytes_in_any_file_are_a_reason(name: str, miniatures: dict[str, Path], data: st.DataObject) -> None:
    with copy_of(miniatures[name]) as folder:
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".mp4")
        path = data.draw(st.sampled_from(files), label="file")
        change = data.draw(st.sampled_from([_truncated, _flipped, _random]))
        put(path, change(data, path.read_bytes()))
        read_everything(name, folder)


@pytest.mark.parametrize("name", MINIATURES)
@fuzz
@given(data=st.data())
def test_a_file_that_is_gone_or_a_folder_is_a_reason(
    name: str, miniatures: dict[str, Path], data: st.DataObject
) -> None:
    with copy_of(miniatures[name]) as folder:
        path = data.draw(st.sampled_from(sorted(folder.rglob("*"))), label="path")
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
        if data.draw(st.booleans(), label="replaced"):
            path.touch() if not path.suffix else path.mkdir()
        read_everything(name, folder)


# Hostile arrays

SHAPES = st.lists(st.sampled_from([0, 1, 2, 4, 48, 64]), max_size=4).map(tuple)
TYPES = st.sampled_from(["u1", "i8", "u8", "f4", "f8", "c8", "S3", "?"])
VALUES_OF_ARRAYS = st.sampled_from([0, 1, 17, 255, 1e300, -1, float("nan")])


@fuzz
@given(data=st.data())
def test_arrays_of_any_shape_and_type_are_a_reason(miniatures: dict[str, Path], data: st.DataObject) -> None:
    """One array of one annotation of A2D is another one, a group, or gone."""
    with copy_of(miniatures["a2d"]) as folder:
        path = data.draw(st.sampled_from(sorted([*folder.rglob("*.mat"), *folder.rglob("*.h5")])), label="file")
        put(path, path.read_bytes())
        with h5py.File(path, "a") as file:
            key = data.draw(st.sampled_from(sorted(file)), label="key")
            del file[key]
            kind = data.draw(st.sampled_from(["array", "array", "array", "group", "gone", "link"]), label="kind")
            if kind == "array":
                with np.errstate(all="ignore"):
                    value = np.float64(data.draw(VALUES_OF_ARRAYS)).astype(data.draw(TYPES, label="type"))
                file[key] = np.full(data.draw(SHAPES, label="shape"), value)
            elif kind == "group":
                file.create_group(key)
            elif kind == "link":
                file[key] = h5py.ExternalLink("/etc/elsewhere.h5", "reMask")
        read_everything("a2d", folder)


# Hostile text

IDS = [
    "../x",
    "/etc/x",
    "..",
    ".",
    "",
    "a\0b",
    "x" * 5000,
    "a\\b",
    "-",
    "\u202e",
    "\ud800",
    "a\nb",
    "~/x",
    "é" * 150,
    " ",
]
FIELDS = st.one_of(
    st.sampled_from(
        [
            *IDS,
            '"',
            '""',
            "'",
            "1",
            "0",
            "-1",
            "77",
            "9" * 5000,
            "1e9",
            "nan",
            "\u0663",
            "x" * 200_000,
            "\t",
            "a,b",
            "\r",
        ]
    ),
    st.text(max_size=8),
)
TEXTS = (
    "Release/videoset.csv", "Release/README", "a2d_annotation.txt", "jhmdb_annotation.txt",
    "splits/jump_test_split1.txt", "labels.csv", "sentences.csv", "ImageSets/2017/train.txt", "ImageSets/2017/val.txt",
)  # fmt: skip


@pytest.mark.parametrize("name", ["a2d", "jhmdb", "davis"])
@fuzz
@given(data=st.data())
def test_hostile_lines_cost_themselves(name: str, miniatures: dict[str, Path], data: st.DataObject) -> None:
    """Fields of a good line are replaced, joined as they are, in an encoding that need not be the right one."""
    with copy_of(miniatures[name]) as folder:
        path = folder / data.draw(st.sampled_from([text for text in TEXTS if (folder / text).exists()]), label="file")
        lines = path.read_text().splitlines() or [""]
        fields = lines[-1].split(",")
        for position in data.draw(st.sets(st.integers(0, len(fields)), min_size=1), label="positions"):
            fields[position : position + 1] = [data.draw(FIELDS, label="field")]
        keep = data.draw(st.booleans(), label="keep the line")
        text = "\n".join([*(lines if keep else lines[:-1]), ",".join(fields)])
        encoding = data.draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"]), label="encoding")
        put(path, text.encode(encoding, "surrogatepass" if encoding.startswith("utf") else "replace"))
        read_everything(name, folder)


@pytest.mark.parametrize("video", IDS)
def test_hostile_ids_in_any_column_of_ids_name_nothing(video: str, miniatures: dict[str, Path], tmp_path: Path) -> None:
    encoded = video.encode("utf-8", "surrogatepass")
    rows = {
        "a2d": {"Release/videoset.csv": b"%s,17,0,0,48,64,12,2,0\n", "a2d_annotation.txt": b"%s,0,a square\n"},
        "jhmdb": {"jhmdb_annotation.txt": b"%s,a square\n", "splits/jump_test_split1.txt": b"%s.avi 1\n"},
        "davis": {
            "labels.csv": b"%s,1,77\n", "sentences.csv": b"%s,1,a square\n", "ImageSets/2017/train.txt": b"%s\n",
        },
    }  # fmt: skip
    for name, texts in rows.items():
        folder = Path(shutil.copytree(miniatures[name], tmp_path / name))
        for text, row in texts.items():
            with (folder / text).open("ab") as file:
                file.write(row % encoded)
        before, _ = read_everything(name, miniatures[name])
        good, _ = read_everything(name, folder)
        assert good == before


# Hostile JSON

ODD_VALUES = (
    None, True, False, 0, -1, 3, 7, 2**31, 10**400, 1.5, float("nan"), float("inf"), [], {}, [[]], *IDS, "dog",
)  # fmt: skip
VALUES = st.sampled_from(ODD_VALUES) | st.recursive(
    st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every value below ``value``."""
    found = []
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        found += [(value, key), *_places(inner)]
    return found


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("vidor", "annotation/training/1025/2401075277.json"),
        ("vidor-ssa2d", "Annotations/validation/5159741010.json"),
        ("jhmdb-fixed", "jhmdb_sentences_samples_metadata.json"),
    ],
)
@fuzz
@given(data=st.data())
def test_hostile_values_anywhere_in_json_cost_the_smallest_part(
    name: str, file: str, miniatures: dict[str, Path], data: st.DataObject
) -> None:
    with copy_of(miniatures[name]) as folder:
        content = json.loads((folder / file).read_text())
        # Few of a document's values are in its head: draw the top's own as often as all others.
        top = [(content, key) for key in (content if isinstance(content, dict) else range(len(content)))]
        for _ in range(data.draw(st.integers(1, 4), label="changes")):
            container, key = data.draw(st.sampled_from(top) | st.sampled_from(_places(content)), label="place")
            if data.draw(st.booleans(), label="removed") and isinstance(container, dict):
                container.pop(key, None)
            else:
                container[key] = data.draw(VALUES, label="value")
        put(folder / file, json.dumps(content).encode())
        good, reasons = read_everything(name, folder)
        assert good or reasons


# Hostile names of files

NAMES = (
    b"\xff\xfe", b"new\nline", b"a\\b", b"x" * 220, b"*", b"[ab]", b"-rf", b" ", "\u202e".encode(), b".hidden", b"~",
)  # fmt: skip


@pytest.mark.parametrize("name", ["jhmdb", "vidor", "davis", "clips"])
@fuzz
@given(data=st.data())
def test_hostile_names_of_files_and_folders_are_a_reason(
    name: str, miniatures: dict[str, Path], data: st.DataObject
) -> None:
    with copy_of(miniatures[name]) as folder:
        path = data.draw(st.sampled_from(sorted(folder.rglob("*"))), label="path")
        suffix = data.draw(st.sampled_from([path.suffix, "", ".mp4", ".json", ".png", ".jpg"]), label="suffix")
        target = path.parent / os.fsdecode(data.draw(st.sampled_from(NAMES), label="name") + suffix.encode())
        path.rename(target)
        read_everything(name, folder)
