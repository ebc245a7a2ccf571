"""What readers share: lists, folders and arrays that others wrote, read so that whatever is in them is a reason.

Every function raises ``ValueError`` that names the file where it can't be read; nothing here follows a path that it
finds inside a file.
"""

import csv
import json
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import h5py
import numpy as np
import scipy.io
from PIL import Image

from stages.core.datasets.release import Reasons
from stages.core.packs import frames

LARGEST_PICTURE = 2**25
"""Pixels of the largest picture that is believed, 8K video; a broken header can claim any size."""
LARGEST_ARRAY = 2**27
"""Values of the largest array that is believed; A2D's 19 masks of a frame are 3.5 million."""

# What a library raises for broken bytes depends on where they are, and none promises a kind: these occur.
HDF5_ERRORS = (OSError, KeyError, RuntimeError, TypeError, ValueError, OverflowError, MemoryError)
MATLAB_ERRORS = (
    OSError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, NotImplementedError, MemoryError,
    OverflowError, zlib.error, scipy.io.matlab.MatReadError,
)  # fmt: skip
PNG_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, text) of each line that is not blank; bytes that are no UTF-8 become U+FFFD."""
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line
    except OSError as error:
        raise ValueError(f"{path} can't be read: {error.strerror}") from error


def csv_rows(
    path: Path, columns: Sequence[str], bad: Reasons, *, header: bool = True
) -> Iterator[tuple[str, list[str]]]:
    """(place, fields) of each line that has ``columns``; the other lines go to ``bad``, place -> reason.

    Line by line: a stray quote costs its own line, not all that follow. Raises ``ValueError`` where the first line is
    not the header that it should be.
    """
    rows = lines(path)
    if header:
        _, first = next(rows, (1, ""))
        if [name.strip() for name in next(csv.reader([first[:1000]]), [])] != list(columns):
            raise ValueError(f"{path}: the first line must be {','.join(columns)}, found {first.strip()[:80]!r}")
    for number, line in rows:
        place = f"{path.name}:{number}"
        try:
            fields = next(csv.reader([line]), [])
        except csv.Error as error:
            bad[place] = f"not a line of csv: {error}"
            continue
        if len(fields) != len(columns):
            bad[place] = f"{len(fields)} fields where {len(columns)} are expected"
            continue
        yield place, fields


def read_json(path: Path) -> Any:
    """What a JSON file holds."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ValueError(f"{path.name} is missing") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} can't be read: {error}") from error


def hdf5_arrays(path: Path, keys: Sequence[str]) -> tuple[np.ndarray, ...]:
    """The arrays ``keys`` of an HDF5 file, finite numbers, with their axes as stored."""
    try:
        with h5py.File(path, "r") as file:
            return tuple(_hdf5_array(file, key) for key in keys)
    except FileNotFoundError as error:
        raise ValueError(f"annotation {path.name} is missing") from error
    except HDF5_ERRORS as error:
        raise ValueError(f"annotation {path.name} can't be read: {error}") from error


def _hdf5_array(file: h5py.File, key: str) -> np.ndarray:
    # A link or a storage of another file would read what is outside the data set.
    if not isinstance(file.get(key, getlink=True), h5py.HardLink) or not isinstance(file[key], h5py.Dataset):
        raise KeyError(f"`{key}` is no array of this file")
    stored = file[key]
    if stored.is_virtual or stored.external:
        raise ValueError(f"`{key}` is stored in another file")
    if stored.dtype.kind not in "buif":
        raise ValueError(f"`{key}` holds no numbers but {stored.dtype}")
    if stored.size is None or stored.size > LARGEST_ARRAY:
        raise ValueError(f"`{key}` claims to have the shape {stored.shape}")
    array = np.asarray(stored[()])
    if not _are_plain(array):
        raise ValueError(f"`{key}` holds values that are not finite, or huge")
    return array


def _are_plain(array: np.ndarray) -> bool:
    """Numbers that no cast to whole ones would change beyond rounding?"""
    return array.dtype.kind in "bui" or (array.dtype.kind == "f" and bool((np.abs(array) < 2**53).all()))


def matlab_array(path: Path, key: str) -> np.ndarray:
    """The array ``key`` of a .mat file of MATLAB 5 or 7.3, finite numbers, with MATLAB's order of axes."""
    if h5py.is_hdf5(path):
        return hdf5_arrays(path, (key,))[0].transpose()  # 7.3 is HDF5 with its axes in reverse
    try:
        with path.open("rb") as file:
            content = scipy.io.loadmat(file, variable_names=[key])
    except FileNotFoundError as error:
        raise ValueError(f"{path.name} is missing") from error
    except MATLAB_ERRORS as error:
        raise ValueError(f"{path.name} can't be read: {error}") from error
    array = content.get(key)
    if not isinstance(array, np.ndarray) or not _are_plain(array):
        raise ValueError(f"{path.name} has no array of numbers called {key}")
    return array


def subfolders(folder: Path) -> list[Path]:
    """Folders in ``folder`` that are not hidden, in the order of their names."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_dir())
    except OSError as error:
        raise ValueError(f"{folder} can't be listed: {error.strerror}") from error


def pictures(folder: Path) -> list[Path]:
    """The pictures in ``folder`` in the order in which they are frames."""
    try:
        return frames.pictures(folder)
    except OSError as error:
        raise ValueError(f"{folder} can't be listed: {error.strerror}") from error


def frame_pictures(folder: Path) -> list[Path]:
    """The pictures in ``folder``, at least one, in an order about which names and numbers agree."""
    found = pictures(folder)
    names = [path.name for path in found]
    if not names:
        raise ValueError("no pictures")
    if len({path.stem for path in found}) < len(names):
        raise ValueError("two pictures of one name and another suffix; keep one of them")
    if sorted(names, key=_by_numbers) != names:
        raise ValueError("frames would be in another order by name than by number; give all numbers leading zeros")
    return found


def _by_numbers(name: str) -> list[str | int]:
    return [int(part) if position % 2 else part for position, part in enumerate(re.split(r"([0-9]+)", name))]


def picture_shape(path: Path) -> tuple[int, int]:
    """Height and width of a picture, as it will be decoded."""
    try:
        image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    except (OSError, cv2.error) as error:
        raise ValueError(f"{printable(path.name)} is no picture") from error
    if image is None:
        raise ValueError(f"{printable(path.name)} is no picture")
    return image.shape[0], image.shape[1]


def png_values(path: Path) -> np.ndarray:
    """(H, W) uint8 of a PNG: indices where it has a palette (not colours), else grey values; 0 and 1 of a bitmap."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            if picture.mode not in {"P", "L", "1"}:
                raise ValueError(f"it holds colours ({picture.mode}), not ids; save it as an indexed or grey PNG")
            if picture.width * picture.height > LARGEST_PICTURE:
                raise ValueError(f"it claims {picture.width} x {picture.height} pixels")
            return np.array(picture).astype(np.uint8)
    except PNG_ERRORS as error:
        raise ValueError(f"{printable(path.name)} can't be used: {error}") from error


def printable(name: str) -> str:
    """``name`` of a file as a table can hold it: names may be any bytes."""
    return name if name.isprintable() else ascii(name)


def nameable(path: PurePosixPath) -> PurePosixPath:
    """``path`` if a table can hold it."""
    if not str(path).isprintable():
        raise ValueError(f"{str(path)!a} can't be written in a table; rename it")
    return path


def mask_boxes(masks: np.ndarray) -> np.ndarray:
    """(N, H, W) bool, none empty, to their (N, 4) float32 boxes x1, y1, x2, y2, half open."""
    boxes = np.zeros((len(masks), 4), np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes
