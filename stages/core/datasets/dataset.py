"""The data set as stages see it, whatever layout it came in: annotated frames whose clip could be decoded.

Reads the tables of data/index; clips are read by ``stages.core.batches.windows``.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from pycocotools import mask as coco

from stages.core import items, schemas
from stages.core.datasets import sentences
from stages.core.datasets.labels import A2D, IGNORE, LabelSpace, label_space
from stages.core.packs import masks as packed_masks
from stages.core.packs.frames import Clip
from stages.core.params import read

DESCRIPTION = "dataset.json"


@dataclass(frozen=True)
class Description:
    """What kind of data set was indexed (data/index/dataset.json)."""

    layout: str
    label_space: LabelSpace


@dataclass(frozen=True)
class AnnotatedFrame:
    """One labelled frame."""

    video: str
    frame: int
    labels: bytes  # PNG of uint8 (H, W)
    actions: tuple[tuple[int, bytes], ...] = ()  # multi-label data: action, counts of a COCO RLE


@dataclass(frozen=True)
class Dataset:
    """Annotated frames of one split, and what of them can't be used."""

    split: str
    frames: tuple[AnnotatedFrame, ...]
    promised: int  # annotated frames that the data set promises for this split
    clips_folder: Path
    flow_folder: Path | None = None
    features_folder: Path | None = None  # of a front-end, where a method starts from them
    regions_folder: Path | None = None
    label_space: LabelSpace = A2D
    missing: Mapping[str, str] = field(default_factory=dict)  # video/frame -> why it is left out
    index: Path | None = None  # the folder of its tables; None where there are no instances
    held_out: int | None = None  # the actor whose actions nobody may learn (zero-shot)

    @property
    def videos(self) -> list[str]:
        """Clips with at least one usable annotated frame, in order."""
        return list(dict.fromkeys(frame.video for frame in self.frames))

    @cached_property
    def _by_video(self) -> dict[str, dict[int, AnnotatedFrame]]:
        found: dict[str, dict[int, AnnotatedFrame]] = {}
        for frame in self.frames:
            found.setdefault(frame.video, {})[frame.frame] = frame
        return found

    @cached_property
    def _masks(self) -> dict[tuple[str, int], list[dict[str, Any]]]:
        assert self.index is not None, "this data set was made without its tables"
        table = schemas.read_parquet(self.index / "instances.parquet", schemas.INSTANCES)
        table = table.filter(pc.is_in(table["video"], pc.unique(schemas.strings(self._by_video))))
        found: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for row in table.select(["video", "frame", "height", "width", "mask"]).to_pylist():
            rle = {"size": [row["height"], row["width"]], "counts": row["mask"]}
            found.setdefault((row["video"], row["frame"]), []).append(rle)
        return found

    @cached_property
    def sentences(self) -> tuple[sentences.Sample, ...]:
        """A sample for each annotated frame and each sentence whose instance is in it."""
        assert self.index is not None, "this data set was made without its tables"
        instances = schemas.read_parquet(self.index / "instances.parquet", schemas.INSTANCES)
        spoken = schemas.read_parquet(self.index / "sentences.parquet", schemas.SENTENCES)
        found, _ = sentences.samples(instances, spoken)
        return tuple(sample for sample in found if self.is_annotated(sample.video, sample.frame))

    def annotated(self, video: str) -> list[int]:
        """Annotated frame numbers of ``video``."""
        return sorted(self._by_video[video])

    def is_annotated(self, video: str, frame: int) -> bool:
        """Is ``frame`` of ``video`` one of this split's usable annotated frames?"""
        return frame in self._by_video.get(video, {})

    def labels(self, video: str, frame: int) -> np.ndarray:
        """(H, W) uint8 label map of an annotated frame: joint ids, actors in multi-label data."""
        labels = packed_masks.decode(self._by_video[video][frame].labels)
        if self.held_out is None:
            return labels
        stride = self.label_space.stride
        of_actor = (labels // stride == self.held_out) & (labels != IGNORE)
        return np.where(of_actor, np.uint8(self.held_out * stride), labels)

    def actions(self, video: str, frame: int) -> np.ndarray:
        """(K, H, W) uint8, 1 where an action is done, of an annotated frame of multi-label data."""
        annotated = self._by_video[video][frame]
        height, width = packed_masks.shape(annotated.labels)
        masks = np.zeros((len(self.label_space.actions), height, width), np.uint8)
        for action, counts in annotated.actions:
            masks[action] = coco.decode({"size": [height, width], "counts": counts})
        return masks

    def actors(self, video: str, frame: int) -> list[np.ndarray]:
        """Masks (H, W) bool of the instances in an annotated frame."""
        return [coco.decode(rle).astype(bool) for rle in self._masks.get((video, frame), [])]


def hold_out(samples: Dataset, actor: str) -> Dataset:
    """``samples`` without the actions of ``actor``: its pixels tell who is there and not what they do.

    Raises ``ValueError`` for an actor that does not exist.
    """
    actors = samples.label_space.actors
    if samples.label_space.multi_label:
        raise ValueError("an actor does several things at once in this data set: none can be held out")
    if actor not in actors[1:]:
        raise ValueError(f"no actor `{actor}` to hold out; there are {', '.join(actors[1:])}")
    return replace(samples, held_out=actors.index(actor))


def name() -> str:
    """What tables call the data set: ``index.dataset`` of params.yaml."""
    return str(read()["index"]["dataset"])


def write_description(index: Path, description: Description) -> None:
    """Say in ``index`` what kind of data set it is of."""
    content = {"layout": description.layout, "label_space": description.label_space.key}
    (index / DESCRIPTION).write_text(json.dumps(content, indent=2) + "\n")


def read_description(index: Path) -> Description:
    """What kind of data set ``index`` is of. Raises ``ValueError`` when the index stage has not run."""
    path = index / DESCRIPTION
    if not path.exists():
        raise ValueError(f"{path} not found: run `dvc repro index`")
    content = json.loads(path.read_text())
    return Description(content["layout"], label_space(content["label_space"]))


def load(
    index: Path,
    frames: Path,
    *,
    split: str,
    flow: Path | None = None,
    features: Path | None = None,
    regions: Path | None = None,
) -> Dataset:
    """The annotated frames of ``split`` that can be used, from the outputs of index and frames, and of optical_flow,
    features and regions where they are given.

    A frame whose clip is in quarantine in one of them, or that lies past the clip's decoded end, is left out and
    counted in ``missing``.
    """
    clips = schemas.read_parquet(index / "clips.parquet", schemas.CLIPS).to_pylist()
    decoded = items.read_manifest(frames)
    also = {"optical flow": flow, "features": features, "region masks": regions}
    manifests = {what: items.read_manifest(folder) for what, folder in also.items() if folder is not None}
    usable = []
    missing = {}
    opened: dict[str, Clip] = {}
    for row in schemas.read_parquet(index / "frames.parquet", schemas.FRAMES).to_pylist():
        if row["split"] != split:
            continue
        name = f"{row['video']}/{row['frame'] + 1:05d}"
        if row["video"] not in decoded:
            missing[name] = "its clip could not be decoded"
        elif lacking := [what for what, manifest in manifests.items() if row["video"] not in manifest]:
            missing[name] = f"its clip has no {lacking[0]}"
        else:
            if row["video"] not in opened:
                opened = {row["video"]: Clip(frames / "clips" / f"{row['video']}.arrow")}  # rows come clip by clip
            if reason := _misfit(row, opened[row["video"]]):
                missing[name] = reason
            else:
                usable.append(annotated_frame(row))
    return Dataset(
        split=split,
        frames=tuple(usable),
        promised=sum(clip["annotated"] for clip in clips if clip["split"] == split),
        clips_folder=frames / "clips",
        flow_folder=None if flow is None else flow / "clips",
        features_folder=None if features is None else features / "clips",
        regions_folder=None if regions is None else regions / "clips",
        label_space=read_description(index).label_space,
        missing=missing,
        index=index,
    )


def annotated_frame(row: Mapping[str, Any]) -> AnnotatedFrame:
    """A row of the table ``frames``."""
    actions = tuple((done["action"], done["mask"]) for done in row["actions"] or ())
    return AnnotatedFrame(row["video"], row["frame"], row["labels"], actions)


def _misfit(row: Mapping[str, Any], clip: Clip) -> str:
    """Why an annotation does not fit its clip; empty where it does."""
    if row["frame"] >= len(clip):
        return "past the clip's last decoded frame"
    shape = packed_masks.shape(row["labels"])
    if shape != (clip.height, clip.width):
        return f"labels of {shape[0]} x {shape[1]} for frames of {clip.height} x {clip.width}"
    return ""
