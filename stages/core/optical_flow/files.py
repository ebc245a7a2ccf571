"""Image pairs with their optical flow, as files: Middlebury's .flo (Baker et al. 2011), and FlyingChairs' layout of it.

FlyingChairs (Dosovitskiy et al. 2015, section 4.2) is a folder of ``00001_img1.ppm``, ``00001_img2.ppm`` and
``00001_flow.flo`` for each pair, numbered from 1, and one list for all of them, ``FlyingChairs_train_val.txt``: line n
is 1 where pair n is for training, 2 where it is for validation.

Every reader raises ``ValueError`` that names the file where it can't be read. Axes: H rows, W columns.
"""

import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

MAGIC = 202021.25
"""First four bytes of a .flo: "PIEH" as a float32, little endian."""
UNKNOWN = 1e9
"""Values larger than this stand for flow that nobody knows; Middlebury writes ten times as much."""
LARGEST = 2**25
"""Pixels of the largest picture that is believed, 8K video; a broken header can claim any size."""
SPLIT_FILE = "FlyingChairs_train_val.txt"
SPLITS = {"train": "1", "validation": "2"}

_FLO_HEADER = struct.Struct("<fii")
_SEPARATOR = rb"(?:\s|#[^\n]*\n)+"
_PPM_HEADER = re.compile(
    rb"P6" + _SEPARATOR + rb"(\d{1,9})" + _SEPARATOR + rb"(\d{1,9})" + _SEPARATOR + rb"(\d{1,5})\s"
)


@dataclass(frozen=True)
class Pair:
    """Two frames and the flow that leads from the first to the second.

    ``first`` and ``second`` (H, W, 3) uint8 RGB; ``flow`` (H, W, 2) float32 pixels, u right and v down, at the first
    frame's pixels, NaN where it is not known.
    """

    first: np.ndarray
    second: np.ndarray
    flow: np.ndarray


def read_flo(path: Path) -> np.ndarray:
    """(H, W, 2) float32 pixels; both components are NaN where one of them is not known."""
    content = _content(path)
    if len(content) < _FLO_HEADER.size:
        raise ValueError(f"{path}: {len(content)} bytes are too few for a .flo file; copy it again")
    magic, width, height = _FLO_HEADER.unpack_from(content)
    if magic != MAGIC:
        raise ValueError(
            f"{path} is no .flo file: it begins with {content[:4]!r}, not with b'PIEH'; give it the format of "
            "Middlebury (little endian), or another suffix"
        )
    _check_size(path, height, width)
    _check_length(path, len(content) - _FLO_HEADER.size, height * width * 8)
    flow = np.frombuffer(content, "<f4", offset=_FLO_HEADER.size).reshape(height, width, 2).astype(np.float32)
    flow[~(np.abs(flow) <= UNKNOWN).all(-1)] = np.nan
    return flow


def read_ppm(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a binary .ppm (P6) of 8 bits."""
    content = _content(path)
    header = _PPM_HEADER.match(content[:1000])
    if header is None:
        raise ValueError(f"{path} is no binary .ppm file (P6); convert it, or give it another suffix")
    width, height, largest = (int(number) for number in header.groups())
    if largest != 255:
        raise ValueError(f"{path}: its largest value is {largest}; convert it to 8 bits, with 255")
    _check_size(path, height, width)
    _check_length(path, len(content) - header.end(), height * width * 3)
    try:
        picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ValueError(f"{path} can't be decoded: {error}") from error
    if picture is None or picture.shape[:2] != (height, width):
        raise ValueError(f"{path} can't be decoded; write it again, without comments in its header")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def chairs(folder: Path, *, split: Literal["train", "validation"] | None = None) -> list[int]:
    """Numbers of the pairs in ``folder``, in FlyingChairs' layout, in order.

    ``split`` None gives all; the list of the split lies in ``folder`` or in the one above it.
    Raises ``ValueError`` where there are no pairs, a pair lacks a picture, or the list is missing or wrong.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; it should hold 00001_img1.ppm, 00001_img2.ppm, 00001_flow.flo, ...")
    names = {path.name for path in folder.iterdir()}
    numbers = sorted(int(name[:5]) for name in names if re.fullmatch(r"[0-9]{5}_flow\.flo", name))
    if not numbers:
        raise ValueError(f"{folder} holds no 00001_flow.flo; name the folder of FlyingChairs that holds its pairs")
    if lost := [path.name for number in numbers for path in _paths(folder, number) if path.name not in names]:
        raise ValueError(f"{folder}: {', '.join(lost[:5])} missing ({len(lost)} in all); unpack the archive again")
    if split is None:
        return numbers
    marks = _split_marks(folder)
    if len(marks) < numbers[-1]:
        raise ValueError(f"{SPLIT_FILE} has {len(marks)} lines, and there is a pair {numbers[-1]}; download it again")
    return [number for number in numbers if marks[number - 1] == SPLITS[split]]


def read_pair(folder: Path, number: int) -> Pair:
    """Pair ``number`` of FlyingChairs. Raises ``ValueError`` where pictures and flow have different sizes."""
    first_path, second_path, flow_path = _paths(folder, number)
    pair = Pair(read_ppm(first_path), read_ppm(second_path), read_flo(flow_path))
    sizes = {array.shape[:2] for array in (pair.first, pair.second, pair.flow)}
    if len(sizes) > 1:
        raise ValueError(f"{flow_path}: pictures and flow have different sizes, {sorted(sizes)}; unpack the pair again")
    return pair


def _paths(folder: Path, number: int) -> tuple[Path, Path, Path]:
    """First and second picture and flow of a pair."""
    stem = f"{number:05d}"
    return folder / f"{stem}_img1.ppm", folder / f"{stem}_img2.ppm", folder / f"{stem}_flow.flo"


def split_list(folder: Path) -> Path | None:
    """The list of the split, in ``folder`` or in the one above it; None where there is none."""
    return next((path for path in (folder / SPLIT_FILE, folder.parent / SPLIT_FILE) if path.is_file()), None)


def _split_marks(folder: Path) -> list[str]:
    """`1` or `2` of each pair, in order."""
    path = split_list(folder)
    if path is None:
        raise ValueError(f"{folder / SPLIT_FILE} not found; FlyingChairs' site has it, put it beside the pairs")
    marks = path.read_text(encoding="utf-8", errors="replace").split()
    if wrong := set(marks) - set(SPLITS.values()):
        raise ValueError(f"{path}: every line is 1 (train) or 2 (validation), found {sorted(wrong)[0][:20]!r}")
    return marks


def _content(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > LARGEST * 8 + 1000:
            raise ValueError(f"{path}: {size} bytes are more than any picture of up to {LARGEST} pixels has")
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} can't be read: {error.strerror}; check its name and its rights") from error


def _check_size(path: Path, height: int, width: int) -> None:
    if height < 1 or width < 1 or height * width > LARGEST:
        raise ValueError(f"{path} claims to be {height} x {width}; its header is broken: write or copy it again")


def _check_length(path: Path, length: int, expected: int) -> None:
    if length != expected:
        raise ValueError(
            f"{path}: {length} bytes follow its header, where {expected} should; it was cut or joined: copy it again"
        )
