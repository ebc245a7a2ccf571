"""Samples of A2D Sentences and J-HMDB Sentences (Gavrilyuk et al. 2018, section 4): one sentence about one frame.

A sample is an annotated frame and a sentence whose instance is in it. A frame without the instance is no sample, not
one with an empty mask. Both conventions, and the ids, are those of MTTR and ReferFormer, so that files can be traded.
"""

import difflib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pycocotools import mask as coco
from pydantic import BaseModel, FiniteFloat, PositiveInt, TypeAdapter, ValidationError

from stages.core.datasets.release import Reasons
from stages.core.packs.masks import Rle

IMAGE_ID = re.compile(r"v_(?P<video>.+)_f_\d+(_i_\d+(_s_\d+)?)?")
"""MTTR's ids of J-HMDB Sentences have no instance."""

Scored = tuple[float, Rle]
"""A predicted mask and its score."""


@dataclass(frozen=True)
class Sample:
    """What a method is asked (find ``sentence`` in ``frame`` of ``video``) and what is right: ``mask``.

    ``image_id`` is ``v_<video>_f_<frame, from 1>_i_<instance>``. Where an instance has several sentences, the second
    and later ones have ``_s_<n>`` appended, n from 2: ids must differ, and the usual single sentence keeps MTTR's id.
    """

    image_id: str
    video: str
    frame: int  # from 0
    instance: int
    sentence: str
    mask: bytes  # counts of a COCO RLE
    height: int
    width: int

    @property
    def rle(self) -> Rle:
        """The mask as pycocotools takes it."""
        return {"size": [self.height, self.width], "counts": self.mask}


def samples(instances: pa.Table, sentences: pa.Table) -> tuple[list[Sample], Reasons]:
    """The samples of ``schemas.INSTANCES`` and ``schemas.SENTENCES``, both of the same videos, and what was left out.

    In the order of the sentences, then of the frames. Left out with a reason: an instance id that stands a second time
    in a frame (the real release: video EadxBPmQvtg, frame 25; MTTR and ReferFormer drop the last one too), an all-zero
    mask, a sentence whose instance is in no annotated frame.
    """
    shown, left_out = _by_instance(instances)
    found: list[Sample] = []
    told: dict[tuple[str, int], int] = {}
    for row in sentences.to_pylist():
        video, instance = row["video"], row["instance"]
        number = told[video, instance] = told.get((video, instance), 0) + 1
        frames = shown.get((video, instance), {})
        if not frames:
            left_out[f"{video}, instance {instance}"] = "its sentence names an instance that is in no annotated frame"
        for frame, annotated in sorted(frames.items()):
            image_id = f"v_{video}_f_{frame + 1}_i_{instance}" + (f"_s_{number}" if number > 1 else "")
            height, width, mask = annotated["height"], annotated["width"], annotated["mask"]
            sample = Sample(image_id, video, frame, instance, row["sentence"], mask, height, width)
            if coco.area(sample.rle) == 0:
                left_out[f"{video}/{frame + 1:05d}, instance {instance}"] = "its mask is all zero"
                continue
            found.append(sample)
    return found, left_out


def coco_truth(asked: Sequence[Sample]) -> dict[str, Any]:
    """The samples as COCO json in the form that MTTR and ReferFormer read, each an image with one annotation.

    Annotations count from 1: COCOeval takes a match with annotation 0 for none. The images have their ``sentence``
    too; boxes are x, y, width, height.
    """
    images = [
        {"id": sample.image_id, "height": sample.height, "width": sample.width, "sentence": sample.sentence}
        for sample in asked
    ]
    annotations = [
        {
            "id": number,
            "image_id": sample.image_id,
            "category_id": 1,
            "segmentation": {"size": [sample.height, sample.width], "counts": sample.mask.decode("ascii")},
            "area": float(coco.area(sample.rle)),
            "bbox": coco.toBbox(sample.rle).tolist(),
            "iscrowd": 0,
        }
        for number, sample in enumerate(asked, start=1)
    ]
    return {
        "categories": [{"id": 1, "name": "referred"}],  # a dummy: nobody predicts categories
        "images": images,
        "annotations": annotations,
    }


def write_coco(path: Path, content: Any) -> None:
    """Write COCO json, truth or predictions, atomically; the same content gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False) + "\n")
    os.replace(part, path)


def true_masks(content: Any, *, where: str) -> dict[str, Rle]:
    """Image id -> mask, of ``coco_truth``'s form: json's bytes, or what they hold.

    Raises ``ValueError``, beginning with ``where``, for another form, an image without one mask of its own size, and
    counts that are no RLE.
    """
    truth = _checked(TypeAdapter(_Truth), content, where=where)
    images = {image.id: (image.height, image.width) for image in truth.images}
    masks: dict[str, Rle] = {}
    for annotation in truth.annotations:
        name = f"{where}: image `{annotation.image_id}`"
        if annotation.image_id in masks:
            raise ValueError(f"{name} has two annotations; a sample is one image with one mask")
        if images.get(annotation.image_id) != annotation.segmentation.size:
            raise ValueError(f"{name}: not listed in `images` with its mask's size {annotation.segmentation.size}")
        masks[annotation.image_id] = _rle(annotation.segmentation, where=name)
    if without := sorted(images.keys() - masks.keys()):
        raise ValueError(f"{where}: {len(without)} images have no annotation, `{without[0]}` first")
    return masks


def predicted_masks(content: Any, truth: Mapping[str, Rle], *, where: str) -> dict[str, list[Scored]]:
    """Image id -> its predictions in their order, of a list of them: json's bytes, or what they hold.

    Raises ``ValueError``, beginning with ``where``, for another form, an image id that is not in ``truth``, another
    resolution than its mask's, counts that are no RLE, and a score that is no finite number.
    """
    predictions: dict[str, list[Scored]] = {}
    for predicted in _checked(TypeAdapter(list[_Predicted]), content, where=where):
        image_id = predicted.image_id
        if image_id not in truth:
            like = difflib.get_close_matches(image_id, truth, n=1) or list(truth)[:1]
            raise ValueError(f"{where}: image id `{image_id}` is not in the truth; did you mean one like {like}?")
        rle = _rle(predicted.segmentation, where=f"{where}: image `{image_id}`")
        if rle["size"] != truth[image_id]["size"]:
            raise ValueError(
                f"{where}: image `{image_id}`: mask of {rle['size']} for a truth of {truth[image_id]['size']} (height, "
                "width); resize it to the frame"
            )
        predictions.setdefault(image_id, []).append((predicted.score, rle))
    return predictions


def video_of(image_id: str) -> str:
    """The video in an image id. Raises ``ValueError`` for an id of another form."""
    parts = IMAGE_ID.fullmatch(image_id)
    if parts is None:
        raise ValueError(f"image id `{image_id}` is not v_<video>_f_<frame>_i_<instance>; the scores need its video")
    return parts["video"]


class _Segmentation(BaseModel):
    size: tuple[PositiveInt, PositiveInt]
    counts: str  # bytes are taken too


class _Image(BaseModel):
    id: str
    height: int
    width: int


class _Annotation(BaseModel):
    image_id: str
    segmentation: _Segmentation
    iscrowd: Literal[0] = 0


class _Truth(BaseModel):
    images: list[_Image]
    annotations: list[_Annotation]


class _Predicted(BaseModel):
    image_id: str
    segmentation: _Segmentation
    score: FiniteFloat


def _checked(form: TypeAdapter[Any], content: Any, *, where: str) -> Any:
    try:
        return form.validate_json(content) if isinstance(content, bytes) else form.validate_python(content)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        at = ".".join(str(part) for part in fault["loc"])
        raise ValueError(f"{where}: not COCO json as expected here: {f'{at}: ' if at else ''}{fault['msg']}") from error


def _rle(segmentation: _Segmentation, *, where: str) -> Rle:
    counts, (height, width) = segmentation.counts.encode(), segmentation.size
    if not _is_rle(counts, height * width):
        raise ValueError(
            f"{where}: its counts are no compressed RLE of {height} x {width} pixels; encode the mask again"
        )
    return {"size": [height, width], "counts": counts}


def _is_rle(counts: bytes, pixels: int) -> bool:
    """Do the run lengths in ``counts`` add up? pycocotools reads on past the end of those that don't, or never ends."""
    codes = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    # Five bits a character, lowest first; 32 says that more follow, and 16 in the last one that the number is negative.
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return False
    ends = np.flatnonzero(codes < 32)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 6:
        return False
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    runs = np.add.reduceat((codes & 31) << shifts, starts) - (
        ((codes[ends] & 16) > 0).astype(np.int64) << (5 * lengths)
    )
    # From the fourth on, a run is told as the difference to the one before the last.
    runs[1::2], runs[2::2] = np.cumsum(runs[1::2]), np.cumsum(runs[2::2])
    return bool(runs.min() >= 0 and runs.sum() == pixels)


def _by_instance(instances: pa.Table) -> tuple[dict[tuple[str, int], dict[int, dict[str, Any]]], Reasons]:
    """(video, instance) -> frame -> its row, the first where an id stands twice."""
    shown: dict[tuple[str, int], dict[int, dict[str, Any]]] = {}
    left_out: Reasons = {}
    for row in instances.select(["video", "frame", "instance", "height", "width", "mask"]).to_pylist():
        frames = shown.setdefault((row["video"], row["instance"]), {})
        if row["frame"] in frames:
            name = f"{row['video']}/{row['frame'] + 1:05d}, instance {row['instance']}"
            left_out[name] = "the id stands twice in this frame; the first one counts"
            continue
        frames[row["frame"]] = row
    return shown, left_out
