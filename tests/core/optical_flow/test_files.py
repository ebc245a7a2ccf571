"""Files of flow and of image pairs: what is written is read back, and nothing broken is believed."""

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stages.core.optical_flow.files import SPLIT_FILE, Pair, chairs, read_flo, read_pair, read_ppm
from tests.help.chairs import write_flo, write_pair, write_ppm

SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 6))
READERS = [(read_flo, ".flo"), (read_ppm, ".ppm")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("flow")


def _pair(height: int = 4, width: int = 6) -> Pair:
    picture = np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)
    return Pair(picture, picture + 1, np.ones((height, width, 2), np.float32))


def test_a_flo_file_has_the_bytes_of_middlebury(tmp_path: Path) -> None:
    path = tmp_path / "one.flo"
    path.write_bytes(b"PIEH" + struct.pack("<ii", 2, 1) + struct.pack("<4f", 1.5, -2.5, 3.0, 0.25))
    flow = read_flo(path)
    assert flow.shape == (1, 2, 2) and flow.dtype == np.float32
    assert flow[0].tolist() == [[1.5, -2.5], [3.0, 0.25]]
    write_flo(tmp_path / "two.flo", flow)
    assert (tmp_path / "two.flo").read_bytes() == path.read_bytes()


def test_values_over_a_billion_are_unknown(tmp_path: Path) -> None:
    path = tmp_path / "one.flo"
    values = (1e9, 0.0, 1.1e9, 0.0, 0.0, -1e10, float("inf"), 2.0)
    path.write_bytes(b"PIEH" + struct.pack("<ii", 4, 1) + struct.pack("<8f", *values))
    assert np.isnan(read_flo(path)).tolist() == [[[False] * 2, [True] * 2, [True] * 2, [True] * 2]]


@settings(deadline=None, max_examples=40)
@given(SHAPES.flatmap(lambda shape: arrays(np.float32, (*shape, 2), elements=st.floats(-500, 500, width=32))))
def test_flow_is_read_back_as_it_was_written(folder: Path, flow: np.ndarray) -> None:
    flow[0, 0] = np.nan
    write_flo(folder / "back.flo", flow)
    np.testing.assert_array_equal(read_flo(folder / "back.flo"), flow)


@settings(deadline=None, max_examples=40)
@given(SHAPES.flatmap(lambda shape: arrays(np.uint8, (*shape, 3))))
def test_a_picture_is_read_back_as_it_was_written(folder: Path, picture: np.ndarray) -> None:
    write_ppm(folder / "back.ppm", picture)
    np.testing.assert_array_equal(read_ppm(folder / "back.ppm"), picture)


def test_a_ppm_that_opencv_wrote_and_one_with_a_comment_are_read(tmp_path: Path) -> None:
    picture = _pair().first
    assert cv2.imwrite(str(tmp_path / "cv.ppm"), picture[..., ::-1])
    assert np.array_equal(read_ppm(tmp_path / "cv.ppm"), picture)
    (tmp_path / "comment.ppm").write_bytes(b"P6\n# by hand\n6 4\n255\n" + picture.tobytes())
    assert np.array_equal(read_ppm(tmp_path / "comment.ppm"), picture)


@pytest.mark.parametrize(("reader", "suffix"), READERS)
@settings(deadline=None, max_examples=60)
@given(content=st.binary(max_size=80), headed=st.booleans())
def test_random_bytes_are_a_value_error_that_names_the_file(
    folder: Path, reader, suffix: str, content: bytes, headed: bool
) -> None:
    path = folder / f"random{suffix}"
    start = {".flo": b"PIEH", ".ppm": b"P6\n"}[suffix] if headed else b""
    path.write_bytes(start + content)
    with pytest.raises(ValueError, match=f"random{suffix}"):
        reader(path)


@pytest.mark.parametrize(("reader", "suffix"), READERS)
@settings(deadline=None, max_examples=40)
@given(kept=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_a_value_error_that_names_it(folder: Path, reader, suffix: str, kept: float) -> None:
    path = folder / f"cut{suffix}"
    if suffix == ".flo":
        write_flo(path, _pair().flow)
    else:
        write_ppm(path, _pair().first)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match=f"cut{suffix}"):
        reader(path)


@settings(deadline=None, max_examples=60)
@given(st.integers(-(2**31), 2**31 - 1), st.integers(-(2**31), 2**31 - 1))
def test_sizes_that_the_file_cannot_hold_are_refused(folder: Path, width: int, height: int) -> None:
    flo, ppm = folder / "huge.flo", folder / "huge.ppm"
    flo.write_bytes(b"PIEH" + struct.pack("<ii", width, height) + bytes(40))
    ppm.write_bytes(f"P6\n{width} {height}\n255\n".encode() + bytes(40))
    for reader, path in ((read_flo, flo), (read_ppm, ppm)):
        with pytest.raises(ValueError, match=path.name):
            reader(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"HEIP" + struct.pack("<ii", 1, 1) + bytes(8), "begins with b'HEIP'"),
        (struct.pack(">fii", 202021.25, 1, 1) + bytes(8), "little endian"),
        (b"PIEH" + struct.pack("<ii", 0, 1), "claims to be 1 x 0"),
        (b"PIEH" + struct.pack("<ii", 100_000, 100_000) + bytes(8), "claims to be 100000 x 100000"),
        (b"PIEH" + struct.pack("<ii", 1, 1) + bytes(7), "7 bytes follow its header, where 8 should"),
        (b"PIEH" + struct.pack("<ii", 1, 1) + bytes(9), "9 bytes follow its header, where 8 should"),
        (b"PIEH", "too few"),
    ],
)
def test_the_message_says_what_is_wrong_with_a_flo_file(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "bad.flo").write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        read_flo(tmp_path / "bad.flo")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"P5\n1 1\n255\n\0", "no binary .ppm"),
        (b"P6\n1 1\n65535\n" + bytes(6), "8 bits"),
        (b"P6\n0 1\n255\n", "claims to be 1 x 0"),
        (b"P6\n99999 99999\n255\n" + bytes(6), "claims to be 99999 x 99999"),
        (b"P6\n1 1\n255\n" + bytes(4), "4 bytes follow its header, where 3 should"),
    ],
)
def test_the_message_says_what_is_wrong_with_a_picture(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "bad.ppm").write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        read_ppm(tmp_path / "bad.ppm")


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    for reader, suffix in READERS:
        with pytest.raises(ValueError, match=f"none{suffix} can't be read: No such file"):
            reader(tmp_path / f"none{suffix}")


def test_pairs_are_listed_and_read_in_the_layout_of_flying_chairs(tmp_path: Path) -> None:
    for number in (3, 1, 20):
        write_pair(tmp_path, number, _pair())
    (tmp_path / "README.txt").write_text("x")
    assert {path.name for path in tmp_path.glob("00003*")} == {"00003_img1.ppm", "00003_img2.ppm", "00003_flow.flo"}
    assert chairs(tmp_path) == [1, 3, 20]
    for name in ("first", "second", "flow"):
        assert np.array_equal(getattr(read_pair(tmp_path, 20), name), getattr(_pair(), name))


@pytest.mark.parametrize("above", [False, True])
def test_the_list_of_the_split_says_which_pairs_are_for_training(tmp_path: Path, above: bool) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for number in (1, 2, 4):
        write_pair(data, number, _pair())
    ((tmp_path if above else data) / SPLIT_FILE).write_text("1\n2\n2\n1\n")
    assert chairs(data, split="train") == [1, 4]
    assert chairs(data, split="validation") == [2]


def test_a_folder_that_is_not_flying_chairs_says_how_to_mend_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no folder"):
        chairs(tmp_path / "none")
    with pytest.raises(ValueError, match=r"holds no 00001_flow\.flo"):
        chairs(tmp_path)
    write_pair(tmp_path, 2, _pair())
    with pytest.raises(ValueError, match=f"{SPLIT_FILE} not found"):
        chairs(tmp_path, split="train")
    (tmp_path / SPLIT_FILE).write_text("1\n")
    with pytest.raises(ValueError, match="has 1 lines, and there is a pair 2"):
        chairs(tmp_path, split="train")
    (tmp_path / SPLIT_FILE).write_text("1\n3\n")
    with pytest.raises(ValueError, match="found '3'"):
        chairs(tmp_path, split="train")
    (tmp_path / "00002_img2.ppm").unlink()
    with pytest.raises(ValueError, match=r"00002_img2\.ppm missing"):
        chairs(tmp_path)


def test_a_pair_of_several_sizes_is_refused(tmp_path: Path) -> None:
    write_pair(tmp_path, 1, _pair())
    write_ppm(tmp_path / "00001_img2.ppm", _pair(height=5).first)
    with pytest.raises(ValueError, match="different sizes"):
        read_pair(tmp_path, 1)


@pytest.mark.needs_shared
def test_the_real_pair_of_flying_chairs_is_read(shared: Path) -> None:
    folder = shared / "data/flyingchairs"
    assert chairs(folder) == [1]
    pair = read_pair(folder, 1)
    assert pair.first.shape == pair.second.shape == (384, 512, 3) and pair.flow.shape == (384, 512, 2)
    assert np.isfinite(pair.flow).all()
    # Where the second frame is fetched along the flow, it is the first, but for what is hidden.
    places = pair.flow + np.stack(np.meshgrid(np.arange(512), np.arange(384)), axis=-1).astype(np.float32)
    fetched = cv2.remap(pair.second, places[..., 0], places[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    error, still = (np.median(np.abs(frame.astype(float) - pair.first).max(-1)) for frame in (fetched, pair.second))
    assert error < 0.4 * still
