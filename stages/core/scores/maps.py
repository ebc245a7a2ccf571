"""Label maps on disk, a data set's truth or a method's prediction.

Maps are (H, W) uint8 of ids ``actor * 10 + action``. They lie in a folder as ``<video>/<frame>.png``, frames numbered
from 1 as A2D's annotation files are, or packed: data/index for the truth, ``<video>.arrow`` for predictions.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np

from stages.core import schemas
from stages.core.datasets.dataset import AnnotatedFrame, Dataset, read_description
from stages.core.datasets.labels import A2D, LabelSpace
from stages.core.packs import masks
from stages.core.scores import sizes

KINDS = ("joint", "actor", "action")
"""The maps of a prediction; ``actor`` and ``action`` are of heads of their own."""


class Truth(Protocol):
    """Annotated frames of a data set; ``stages.core.datasets.dataset.Dataset`` is one."""

    @property
    def label_space(self) -> LabelSpace:
        """What the ids mean."""
        ...

    @property
    def videos(self) -> Sequence[str]:
        """Clips with annotated frames."""
        ...

    def annotated(self, video: str) -> list[int]:
        """Annotated frames of ``video``, from 0."""
        ...

    def labels(self, video: str, frame: int) -> np.ndarray:
        """(H, W) uint8 ids."""
        ...

    def actors(self, video: str, frame: int) -> list[np.ndarray]:
        """Masks (H, W) bool of the actors in a frame."""
        ...


class Prediction(Protocol):
    """Label maps of a method."""

    def maps(self, video: str, frame: int) -> Mapping[str, np.ndarray] | None:
        """``joint`` and, of heads of their own, ``actor`` and ``action``; None where the frame was not predicted."""
        ...


class PngMaps:
    """A folder ``<video>/<frame>.png``: truth, or prediction with the heads' maps in folders of their own."""

    label_space = A2D

    def __init__(self, folder: Path, *, heads: Mapping[str, Path] | None = None) -> None:
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder; give one that holds <video>/<frame>.png")
        self._folders = {"joint": folder, **(heads or {})}
        self._frames: dict[str, dict[int, Path]] = {}
        for path in sorted(folder.glob("*/*.png")):
            if not path.stem.isdecimal() or int(path.stem) < 1:
                raise ValueError(f"{path}: the name is no frame number; write <video>/<frame>.png, frames from 1")
            frames = self._frames.setdefault(path.parent.name, {})
            if int(path.stem) - 1 in frames:
                raise ValueError(f"{path} and {frames[int(path.stem) - 1].name} are one frame; remove one of them")
            frames[int(path.stem) - 1] = path
        if not self._frames:
            raise ValueError(f"{folder} holds no <video>/<frame>.png")

    @property
    def videos(self) -> list[str]:
        """Clips with a map."""
        return list(self._frames)

    def annotated(self, video: str) -> list[int]:
        """Frames with a map, from 0."""
        return sorted(self._frames[video])

    def labels(self, video: str, frame: int) -> np.ndarray:
        """(H, W) uint8 ids."""
        return _read_png(self._frames[video][frame])

    def actors(self, video: str, frame: int) -> list[np.ndarray]:
        """Connected pixels of one id: label maps alone tell no two actors apart that touch and do the same."""
        return sizes.components(self.labels(video, frame))

    def maps(self, video: str, frame: int) -> Mapping[str, np.ndarray] | None:
        """The joint map and those of the heads that have a folder."""
        path = self._frames.get(video, {}).get(frame)
        if path is None:
            return None
        return {
            kind: _read_png(folder / path.relative_to(self._folders["joint"])) for kind, folder in self._folders.items()
        }


class PackedMaps:
    """A folder of ``<video>.arrow``, or one that holds it as ``clips``, as the evaluate stage writes predictions."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "clips" if (folder / "clips").is_dir() else folder

    def maps(self, video: str, frame: int) -> Mapping[str, np.ndarray] | None:
        """The joint map and both heads' own maps."""
        path = self._folder / f"{video}.arrow"
        row = _rows(path).get(frame) if path.exists() else None
        if row is None:
            return None
        pack = schemas.Pack(path)
        return {kind: masks.decode(pack.column(row, kind)[0].as_py()) for kind in KINDS}


def open_truth(folder: Path) -> Truth:
    """The annotated frames at ``folder``, of either form. Raises ``ValueError`` where there are none."""
    table = folder / "frames.parquet"
    if not table.exists():
        return PngMaps(folder)
    rows = schemas.read_parquet(table, schemas.FRAMES).to_pylist()
    frames = tuple(AnnotatedFrame(row["video"], row["frame"], row["labels"]) for row in rows if row["split"] == "test")
    if not frames:
        raise ValueError(f"{folder} holds no annotated frame of split `test`")
    space = read_description(folder).label_space
    # Its clips are not read.
    return Dataset("test", frames, label_space=space, promised=len(frames), clips_folder=folder, index=folder)


def open_prediction(folder: Path, *, heads: Mapping[str, Path]) -> Prediction:
    """The label maps at ``folder``, of either form. Raises ``ValueError`` where there are none."""
    if next((folder / "clips").glob("*.arrow"), None) or next(folder.glob("*.arrow"), None):
        if heads:
            raise ValueError(f"{folder} is packed and holds the heads' maps itself; leave --actor and --action out")
        return PackedMaps(folder)
    return PngMaps(folder, heads=heads)


def _read_png(path: Path) -> np.ndarray:
    try:
        return masks.decode(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


@lru_cache(maxsize=1)
def _rows(path: Path) -> dict[int, int]:
    """Frame -> row of a packed clip; the clips are asked for one after the other."""
    pack = schemas.Pack(path)
    return {pack.column(row, "frame")[0].as_py(): row for row in range(len(pack))}
