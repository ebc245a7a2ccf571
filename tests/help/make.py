"""Small data for tests: squares that move over a texture, as frames, as clips, and as a release in A2D's layout."""

import csv
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pyarrow as pa
import pytest

from benchmarks.workspace import CHECKOUT
from stages import frames as frames_stage
from stages import index as index_stage
from stages import optical_flow as flow_stage
from stages.core import items, schemas, workers
from stages.core.datasets import a2d, dataset, layouts
from stages.core.datasets.labels import A2D
from stages.core.generator.a2d import write_video
from stages.core.optical_flow import classical
from stages.core.packs import frames, masks

HEIGHT, WIDTH = 48, 64
FLOAT32 = {"precision": "float32"}
"""Parameters of ``stages.core.inference.label_maps.predict_clip``."""
SIDE = 16
"""Of a square, in pixels."""


@dataclass(frozen=True)
class Square:
    """One clip of a release: a square of ``colour`` that moves ``speed`` (x, y) pixels a frame."""

    video: str
    label: int = 17
    split: str = "train"
    speed: tuple[int, int] = (2, 1)
    colour: tuple[int, int, int] = (220, 40, 40)
    frames: int = 12
    annotated: tuple[int, ...] = (2, 6)

    def mask(self, frame: int) -> np.ndarray:
        """(H, W) bool: where the square is."""
        mask = np.zeros((HEIGHT, WIDTH), bool)
        left, top = 4 + self.speed[0] * frame, 6 + self.speed[1] * frame
        mask[max(top, 0) : top + SIDE, max(left, 0) : left + SIDE] = True
        return mask

    def pictures(self) -> np.ndarray:
        """(T, H, W, 3) uint8 RGB; the square has a texture of its own, so that its motion can be seen."""
        pictures = np.stack([texture(HEIGHT, WIDTH) // 3] * self.frames)
        pattern = texture(SIDE, SIDE, seed=1)[..., :1] / 255 * 0.5 + 0.5
        square = (pattern * self.colour).astype(np.uint8)
        for frame, picture in enumerate(pictures):
            picture[self.mask(frame)] = square[self._visible(frame)].reshape(-1, 3)
        return pictures

    def _visible(self, frame: int) -> tuple[slice, slice]:
        """Rows and columns of the square that lie inside the frame."""
        rows, columns = (self.mask(frame).any(axis).sum() for axis in (1, 0))
        return slice(0, rows), slice(0, columns)


RELEASE = (
    Square("--first_one", label=17, split="train"),
    Square("-second_one", label=66, split="train", speed=(0, 2), colour=(40, 200, 60)),
    Square("third_in_it", label=36, split="test", speed=(3, 0), colour=(60, 80, 230)),
)


@contextmanager
def no_mlflow(*_: Any, **__: Any) -> Iterator[Any]:
    """In the place of ``stages.core.tracking.live``: a training's curve goes nowhere."""

    class Live:
        @staticmethod
        def log(step: int, values: dict[str, float]) -> None:
            """Nowhere."""

    yield Live()


def texture(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8: smooth noise, in which optical flow finds its way."""
    noise = np.random.default_rng(seed).uniform(0, 255, (height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    return cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def write_annotation(
    folder: Path,
    name: str,
    labels: np.ndarray,
    masks: Sequence[np.ndarray],
    ids: Sequence[int],
    *,
    instances: Sequence[int] | None = None,
) -> None:
    """The .mat of ``name`` (<video>/<number>) as MATLAB leaves it: transposed, one instance's mask without its axis.

    With ``instances``, also the .h5 of A2D Sentences.
    """
    boxes = [[*np.argwhere(mask).min(0)[::-1], *(np.argwhere(mask).max(0)[::-1] + 1)] for mask in masks]
    arrays = {
        "reS_id": labels.T,
        "reMask": masks[0].T.astype(np.uint8) if len(masks) == 1 else np.stack([m.T for m in masks]).astype(np.uint8),
        "id": np.array([ids], np.float64),
        "reBBox": np.array(boxes, np.float64).T,
    }
    write_hdf5(folder / a2d.MAT_FOLDER / f"{name}.mat", arrays)
    if instances is not None:
        write_hdf5(folder / a2d.INSTANCE_FOLDER / f"{name}.h5", arrays | {"instance": np.array(instances, np.uint8)})


def write_hdf5(path: Path, arrays: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for key, values in arrays.items():
            file[key] = values


def write_release(folder: Path, squares: Sequence[Square] = RELEASE) -> Path:
    """A release of ``squares`` below ``folder``."""
    rows, sentences = [], []
    for square in squares:
        write_video(folder / a2d.CLIPS_FOLDER / f"{square.video}.mp4", square.pictures(), crf=10)
        for frame in square.annotated:
            name = f"{square.video}/{frame + 1:05d}"
            mask = square.mask(frame)
            labels = np.where(mask, square.label, 0).astype(np.uint8)
            write_annotation(folder, name, labels, [mask], [square.label], instances=[0])
            picture = folder / f"Release/Annotations/col/{name}.png"
            picture.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(picture), A2D.palette[labels][..., ::-1])
        test = int(square.split == "test")
        rows.append(
            (
                square.video,
                square.label,
                "00:00:00",
                "00:00:01",
                HEIGHT,
                WIDTH,
                square.frames,
                len(square.annotated),
                test,
            )
        )
        sentences.append((square.video, 0, "a square is moving"))
    (folder / "Release/README").write_text("NAME ID Valid R G B\n")
    with (folder / a2d.VIDEOSET).open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    with (folder / a2d.SENTENCES).open("w", newline="") as file:
        csv.writer(file).writerows([("video_id", "instance_id", "query"), *sentences])
    (folder / "a2d_missed_videos.txt").write_text("")
    return folder


def pack_frames(path: Path, pictures: np.ndarray) -> Path:
    """(T, H, W, 3) uint8 RGB as a packed clip without loss."""
    images = [frames.encode_image(picture[..., ::-1].copy(), encoding="png", quality=0) for picture in pictures]
    columns = {"frame": pa.array(range(len(images)), pa.int32()), "image": pa.array(images, pa.binary())}
    path.parent.mkdir(parents=True, exist_ok=True)
    schemas.write_pack(path, columns, schemas.FRAME_PACK, height=str(pictures.shape[1]), width=str(pictures.shape[2]))
    return path


def packed_dataset(
    folder: Path, squares: Sequence[Square] = RELEASE[:2], *, with_flow: bool = False
) -> dataset.Dataset:
    """The annotated frames of ``squares`` over packed clips, without any stage."""
    annotated = []
    for square in squares:
        clip = pack_frames(folder / "clips" / f"{square.video}.arrow", square.pictures())
        if with_flow:
            (folder / "flow").mkdir(exist_ok=True)
            parameters = {"backend": "dis", "preset": "fast", "direction": "forward", "height": None, "quantum": 0.0625}
            classical.pack_flow({"path": str(clip)}, parameters, folder / "flow" / f"{square.video}.arrow")
        for frame in square.annotated:
            labels = np.where(square.mask(frame), square.label, 0).astype(np.uint8)
            annotated.append(dataset.AnnotatedFrame(square.video, frame, masks.encode(labels)))
    return dataset.Dataset(
        split="train",
        frames=tuple(annotated),
        promised=len(annotated),
        clips_folder=folder / "clips",
        flow_folder=folder / "flow" if with_flow else None,
    )


@contextmanager
def workspace(folder: Path) -> Iterator[Path]:
    """Stages run in ``folder`` as in a checkout: its own params.yaml, item cache and checkpoints; serial workers."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(CHECKOUT / "params.yaml", folder / "params.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(items, "CACHE", folder / ".items")
        patch.setenv(workers.RUNNER_VARIABLE, "serial")
        yield folder


def run_to_frames(folder: Path, **index: Any) -> Path:
    """Stages index (parameters ``index``) and frames on ``folder``/data/raw, in a workspace.

    Returns ``folder``/data.
    """
    data = folder / "data"
    index_stage.run(layouts.Parameters(dataset="squares", **index), raw=data / "raw", output=data / "index")
    frames_stage.run(
        frames_stage.Parameters(encoding="png", quality=95),
        raw=data / "raw",
        index=data / "index",
        output=data / "frames",
    )
    return data


def run_to_flow(folder: Path, *, recipe: str = "dis-forward", **index: Any) -> Path:
    """The same and optical_flow."""
    data = run_to_frames(folder, **index)
    parameters = flow_stage.Parameters(recipes={}, dis=flow_stage.Dis(preset="fast"), height=None, quantum=0.0625)
    flow_stage.run(parameters, recipe=recipe, frames=data / "frames", output=data / "optical_flow")
    return data
