"""One annotation of VidOR: its .json read and checked, so that whatever is wrong costs the smallest part around it.

The format is that of the data set's page: tids in any order, boxes with inclusive whole corners, relations from
``begin_fid`` to before ``end_fid``.
"""

import reprlib
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from stages.core.datasets.files import LARGEST_PICTURE, read_json
from stages.core.datasets.labels import VIDOR_PREDICATES, LabelSpace
from stages.core.datasets.release import Reasons

LONGEST_CLIP = 1_000_000
"""Frames that are believed, nine hours; a broken file can claim any number."""

_Faults = defaultdict[str, list[str]]
"""Part of the document -> what is wrong in it."""


class Box(NamedTuple):
    """Where ``tid`` is in one frame, in pixels; the last column and row are inside."""

    tid: int
    xmin: int
    ymin: int
    xmax: int
    ymax: int


class Relation(NamedTuple):
    """What ``subject`` does from frame ``begin`` to before ``end``."""

    subject: int
    action: int
    begin: int
    end: int


@dataclass(frozen=True)
class Document:
    """What can be used of one annotation. Boxes are checked as they are asked for: a clip has thousands of frames."""

    frames: int
    height: int
    width: int
    categories: Mapping[int, int]  # tid -> id of its category in the label space; 0 where the category is unknown
    trajectories: Sequence[Any]  # of each frame, as the file has them; may end early
    relations: tuple[Relation, ...]
    faults: Mapping[str, Sequence[str]] = field(default_factory=dict)  # part -> what is wrong in it, boxes apart

    def actions(self, tid: int, frame: int) -> tuple[int, ...]:
        """What ``tid`` does at ``frame``, sorted."""
        return tuple(sorted({r.action for r in self.relations if r.subject == tid and r.begin <= frame < r.end}))

    def boxes(self, frame: int) -> tuple[Box, ...]:
        """The usable boxes of ``frame`` in the order of annotation; none past the end of ``trajectories``."""
        return self._look(frame)[0]

    def faults_at(self, frames: Iterable[int]) -> Reasons:
        """Part -> what can't be used of it, and why; of boxes, those of ``frames``."""
        told = {part: list(reasons) for part, reasons in self.faults.items()}
        told.setdefault("trajectories", []).extend(fault for frame in frames for fault in self._look(frame)[1])
        return {part: _summary(reasons) for part, reasons in told.items() if reasons}

    def _look(self, frame: int) -> tuple[tuple[Box, ...], list[str]]:
        boxes: dict[int, Box] = {}
        told = []
        entries = self.trajectories[frame] if frame < len(self.trajectories) else []
        for entry in entries if isinstance(entries, list) else [entries]:
            try:
                box = _box(entry, self.categories, (self.height, self.width))
                if box.tid in boxes:
                    raise ValueError(f"tid {box.tid} has two boxes; the first one counts")
            except ValueError as error:
                told.append(f"frame {frame}: {error}")
                continue
            boxes[box.tid] = box
        return tuple(box for box in boxes.values() if self.categories[box.tid]), told


def read_document(path: Path, space: LabelSpace) -> Document:
    """The annotation at ``path``, predicates of ``space``. Raises ``ValueError`` where none of it can be used."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds no object with video_id, frame_count, trajectories, ...")
    if content.get("video_id") != path.stem:
        raise ValueError(f"{path.name} says that it is of video {_shown(content.get('video_id'))}: one must be mended")
    frames, height, width = (_count(content, key, path) for key in ("frame_count", "height", "width"))
    if frames > LONGEST_CLIP or height * width > LARGEST_PICTURE:
        raise ValueError(f"{path.name}: {frames} frames of {width} x {height} can't be true")
    faults: _Faults = defaultdict(list)
    categories = _categories(content, space, faults["subject/objects"])
    trajectories = content.get("trajectories")
    if not isinstance(trajectories, list):
        faults["trajectories"].append("it is no list")
        trajectories = []
    elif len(trajectories) != frames:
        faults["trajectories"].append(f"boxes of {len(trajectories)} frames where `frame_count` says {frames}")
    relations = tuple(_relations(content, set(categories), space, faults["relation_instances"]))
    return Document(frames, height, width, categories, trajectories[:frames], relations, faults)


def _categories(content: dict[str, Any], space: LabelSpace, told: list[str]) -> dict[int, int]:
    """Every tid that is listed -> its category, 0 where that is unknown."""
    found: dict[int, int] = {}
    for entry in _entries(content, "subject/objects", told):
        tid, category = entry.get("tid"), entry.get("category")
        if not _is_number(tid) or tid < 0:
            told.append(f"tid {_shown(tid)} is no number")
        elif tid in found:
            told.append(f"tid {tid} is listed twice; the first one counts")
        elif isinstance(category, str) and category in space.actors[1:]:
            found[tid] = space.actors.index(category)
        else:
            found[tid] = 0
            told.append(f"tid {tid} is of the unknown category {_shown(category)}")
    return found


def _box(entry: Any, listed: Container[int], shape: tuple[int, int]) -> Box:
    if not isinstance(entry, dict) or not isinstance(entry.get("bbox"), dict):
        raise ValueError(f"{_shown(entry)} is no box")
    tid, corners = entry.get("tid"), [entry["bbox"].get(name) for name in Box._fields[1:]]
    if not _is_number(tid) or tid not in listed:
        raise ValueError(f"box of tid {_shown(tid)}, which `subject/objects` does not list")
    if not all(map(_is_number, corners)):
        raise ValueError(f"box of tid {tid}: corners {_shown(corners)} are no whole numbers")
    box = Box(tid, *corners)
    if box.xmin > box.xmax or box.ymin > box.ymax:
        raise ValueError(f"box of tid {tid} is inside out: {corners}")
    height, width = shape
    if box.xmax < 0 or box.ymax < 0 or box.xmin >= width or box.ymin >= height:
        raise ValueError(f"box of tid {tid} is outside the picture: {corners}")
    return box


def _relations(content: dict[str, Any], listed: set[int], space: LabelSpace, told: list[str]) -> Iterator[Relation]:
    for entry in _entries(content, "relation_instances", told):
        names = ("subject_tid", "object_tid", "predicate", "begin_fid", "end_fid")
        subject, target, predicate, begin, end = map(entry.get, names)
        if not isinstance(predicate, str) or predicate not in VIDOR_PREDICATES.actions[1:]:
            told.append(f"unknown predicate {_shown(predicate)}")
        elif not (_is_number(subject) and _is_number(target) and {subject, target} <= listed):
            told.append(f"`{predicate}` of tids {_shown(subject)} and {_shown(target)}, which are not both listed")
        elif not (_is_number(begin) and _is_number(end) and 0 <= begin < end):
            told.append(f"`{predicate}` from frame {_shown(begin)} to {_shown(end)}")
        elif predicate in space.actions:
            yield Relation(subject, space.actions.index(predicate), begin, end)


def _entries(content: dict[str, Any], part: str, told: list[str]) -> Iterator[dict[str, Any]]:
    entries = content.get(part)
    if not isinstance(entries, list):
        told.append("it is no list")
        return
    for entry in entries:
        if isinstance(entry, dict):
            yield entry
        else:
            told.append(f"{_shown(entry)} is no object")


def _count(content: dict[str, Any], key: str, path: Path) -> int:
    value = content.get(key)
    if not _is_number(value) or value < 1:
        raise ValueError(f"{path.name}: `{key}` is {_shown(value)}, a positive number expected")
    return value


def _is_number(value: Any) -> TypeGuard[int]:
    """A whole number that a table can hold; ``True`` is none."""
    return type(value) is int and abs(value) < 2**31


def _shown(value: Any) -> str:
    return reprlib.repr(value)


def _summary(told: list[str]) -> str:
    return told[0] if len(told) == 1 else f"{told[0]} (and {len(told) - 1} more)"
