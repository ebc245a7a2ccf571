"""Miniatures of the data sets beside A2D, each in its exact layout and with its quirks: the squares of
tests.help.make."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import scipy.io
from PIL import Image

from stages.core.datasets import jhmdb
from stages.core.datasets.labels import A2D
from stages.core.generator.a2d import write_video
from tests.help.make import HEIGHT, WIDTH, Square

JUMP = Square("Jumping_at_home_jump_f_nm_np1_fr_med_0", speed=(2, 1))
WAVE = Square("#20_-Rhythm_wave_u_nm_np1_fr_goo_1", speed=(0, 2), colour=(40, 200, 60))
JHMDB = {"jump": JUMP, "wave": WAVE}
"""Action -> its one clip, of 12 frames; the second one's masks end two frames early."""
SHORT = 10

VIDOR = (Square("2401075277", frames=40), Square("5159741010", frames=40, split="test", speed=(0, 0)))
DOG, CHILD = 3, 7
"""Their tids."""

DAVIS = (Square("dog-agility", label=77, speed=(3, 0)), Square("bear", label=49, split="test", speed=(0, 2)))


def write_pictures(folder: Path, pictures: np.ndarray, *, first: int = 1, suffix: str = ".png") -> None:
    """(T, H, W, 3) uint8 RGB as <number:05d><suffix>."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pictures, start=first):
        assert cv2.imwrite(str(folder / f"{number:05d}{suffix}"), picture[..., ::-1])


def write_jhmdb(folder: Path, *, sentences: bool = True) -> Path:
    """J-HMDB with its official splits; with ``sentences``, Gavrilyuk's, and the fixed samples of later papers."""
    samples = []
    for action, square in JHMDB.items():
        write_pictures(folder / jhmdb.IMAGES_FOLDER / action / square.video, square.pictures())
        frames = SHORT if square is WAVE else square.frames
        masks = np.stack([square.mask(frame) for frame in range(frames)], axis=-1).astype(np.uint8)
        write_puppet_mask(folder, action, square.video, masks)
        for split in (1, 2, 3):
            path = folder / jhmdb.SPLITS_FOLDER / f"{action}_test_split{split}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{square.video}.avi {1 if square is JUMP else 2}\n")
        for number in (2, 7, 9):
            image = f"./jhmdb_sentences/Rename_Images/{action}/{square.video}/{number:05d}.png"
            mask = f"./jhmdb_sentences/puppet_mask/{action}/{square.video}/puppet_mask.mat"
            samples.append([square.video, image, mask, frames, f"a square that does {action}"])
    if sentences:
        rows = [f"{square.video},a square that does {action}\n" for action, square in JHMDB.items()]
        (folder / jhmdb.SENTENCES).write_text("video_id,query\n" + "".join(rows))
        (folder / jhmdb.SAMPLES).write_text(json.dumps(samples))
    return folder


def write_puppet_mask(folder: Path, action: str, video: str, masks: np.ndarray) -> Path:
    """(H, W, T) as MATLAB 5 leaves it."""
    path = folder / jhmdb.MASKS_FOLDER / action / video / "puppet_mask.mat"
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {"part_mask": masks}, do_compression=True)
    return path


def vidor_document(square: Square) -> dict[str, Any]:
    """A dog (the square) chases a child that stands still and watches; they are listed in no order."""
    trajectories = []
    for frame in range(square.frames):
        rows, columns = np.nonzero(square.mask(frame))
        boxes = [{"tid": CHILD, "bbox": {"xmin": 10, "ymin": 20, "xmax": 29, "ymax": 39}, "generated": 0}]
        if len(rows):
            corners = {"xmin": columns.min(), "ymin": rows.min(), "xmax": columns.max(), "ymax": rows.max()}
            dog = {"tid": DOG, "bbox": {name: int(value) for name, value in corners.items()}, "generated": 1}
            boxes.append(dog | {"tracker": "none"})
        trajectories.append(boxes)
    relations = [(DOG, CHILD, "chase", 0, 20), (CHILD, DOG, "watch", 8, 40), (DOG, CHILD, "next_to", 0, 40)]
    return {
        "version": "VERSION 1.0", "video_id": square.video, "video_hash": "0", "frame_count": square.frames,
        "video_path": f"1025/{square.video}.mp4", "fps": 24, "width": WIDTH, "height": HEIGHT,
        "subject/objects": [{"tid": CHILD, "category": "child"}, {"tid": DOG, "category": "dog"}],
        "trajectories": trajectories,
        "relation_instances": [
            dict(zip(("subject_tid", "object_tid", "predicate", "begin_fid", "end_fid"), relation, strict=True))
            for relation in relations
        ],
    }  # fmt: skip


def write_vidor(folder: Path, *, ssa2d: bool = False, group: str = "1025") -> Path:
    """VidOR as it is published, or as SSA2D has it; with ``group`` empty, without group folders."""
    for square in VIDOR:
        subset = "training" if square.split == "train" else "validation"
        annotations, videos = (
            (f"Annotations/{subset}", f"Videos/{subset}") if ssa2d else (f"annotation/{subset}", "video")
        )
        path = folder / annotations / group / f"{square.video}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(vidor_document(square)))
        write_video(folder / videos / group / f"{square.video}.mp4", square.pictures(), crf=10)
    return folder


def write_davis(folder: Path, squares: Sequence[Square] = DAVIS, *, resolution: str = "480p") -> Path:
    """Own videos with indexed masks of instance 1, labels, sentences and lists, as DAVIS 2017 has them."""
    for square in squares:
        write_pictures(folder / "JPEGImages" / resolution / square.video, square.pictures(), first=0, suffix=".jpg")
        for frame in square.annotated:
            path = folder / "Annotations" / resolution / square.video / f"{frame:05d}.png"
            write_indexed_png(path, square.mask(frame).astype(np.uint8))
    rows = [f"{square.video},1,{A2D.name(square.label)}\n" for square in squares]
    (folder / "labels.csv").write_text("video,instance,label\n" + "".join(rows))
    rows = [f"{square.video},1,a square is moving\n" for square in squares]
    (folder / "sentences.csv").write_text("video,instance,sentence\n" + "".join(rows))
    lists = folder / "ImageSets/2017"
    lists.mkdir(parents=True, exist_ok=True)
    for name, split in (("train", "train"), ("val", "test")):
        (lists / f"{name}.txt").write_text("".join(f"{s.video}\n" for s in squares if s.split == split))
    return folder


def write_indexed_png(path: Path, ids: np.ndarray) -> None:
    """(H, W) uint8 ids as a PNG with a palette like DAVIS's, in which no colour is its id."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(ids)
    picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0] * 64)
    picture.save(path)


def write_clips(folder: Path) -> Path:
    """A video file at the top and one deeper, and a folder of pictures."""
    write_video(folder / "holiday.mp4", VIDOR[0].pictures()[:12], crf=10)
    write_video(folder / "2024/beach/dog.1.MOV", VIDOR[1].pictures()[:12], crf=10)
    write_pictures(folder / "2024/garden", JUMP.pictures(), suffix=".jpg")
    return folder
