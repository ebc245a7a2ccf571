"""What is asked of a trained run about a frame: the data set's sentences, and questions about nobody who is in it.

A network that understands a sentence shows an empty mask where nobody is meant (Gavrilyuk et al. 2018, figure 4, shows
by example that a sentence means one actor and not another). Six kinds of question, told apart in the scores:

    asked         a sentence of the data set, about an actor in the frame
    left          a sentence about an actor of the clip who is in another annotated frame and not in this one
    nobody        "cat running", where no annotated frame of the clip has a cat
    other_action  "dog rolling", where there are dogs in the frame and none of them rolls
    gone          a sentence of the data set, of whose frame only the part beside the actor is seen
    stopped       a sentence about an actor who does something, at a frame in which the clip stands still

``nobody`` and ``other_action`` are names of pairs (``stages.core.datasets.vocabulary``), one of each a frame where
there is one, chosen by the frame's name. A frame in which an actor's action is not told has no ``other_action``; data
of one kind of actor has no ``nobody``.

``gone`` and ``stopped`` are asked of any clip, whether or not somebody leaves it or stops: of its annotated frame in
the middle the window is cut or held (``seen``). Gone is who can be cut off on one side, with all places where annotated
frames of the clip have him, so that a third of the picture or more is left and nobody of his kind in it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np

from stages.core import items, schemas
from stages.core.batches import transforms
from stages.core.batches.windows import Sample
from stages.core.datasets import sentences
from stages.core.datasets.dataset import Dataset
from stages.core.datasets.labels import LabelSpace
from stages.core.datasets.vocabulary import queries

ASKED, LEFT, NOBODY, OTHER_ACTION, GONE, STOPPED = KINDS = (
    "asked", "left", "nobody", "other_action", "gone", "stopped"
)  # fmt: skip
UNTOLD = 255
"""For an actor of whom nobody told who it is."""
LEAST_PART = 1 / 3
"""Share of a frame's width that is left where an actor is gone."""

Pairs = Mapping[int, set[tuple[int, int]]]
"""Frame -> the actors and actions that are told in it; 0 or 255 for one that nobody told."""


@dataclass(frozen=True)
class Question:
    """``sentence`` about ``frame`` of a clip. ``key`` is an image id where the data set asks it."""

    key: str
    frame: int
    kind: str
    sentence: str
    columns: tuple[int, int] | None = None  # of the frame that are seen, first and behind the last; None: all


def seen(window: Sample, question: Question, *, position: int) -> Sample:
    """``window`` as ``question`` is asked of it; its frame is at ``position``."""
    if question.kind == STOPPED:
        still = np.repeat(window.frames[position : position + 1], len(window.frames), axis=0)
        return replace(window, frames=still, flow=None if window.flow is None else np.zeros_like(window.flow))
    if question.columns is not None:
        first, behind = question.columns
        return transforms.crop(window, 0, first, window.frames.shape[1], behind - first)
    return window


def by_view(asked: Iterable[Question]) -> list[list[Question]]:
    """``asked`` of one frame, in groups that see the same of it."""

    def view(question: Question) -> tuple[bool, tuple[int, int]]:
        return question.kind == STOPPED, question.columns or (0, 0)

    return [list(group) for _, group in groupby(sorted(asked, key=view), key=view)]


def questions(samples: Dataset) -> dict[str, list[Question]]:
    """Video -> what is asked about it, in order."""
    assert samples.index is not None, "loaded with its tables"
    spoken: dict[str, list[sentences.Sample]] = {video: [] for video in samples.videos}
    for one in samples.sentences:
        spoken[one.video].append(one)
    table = schemas.read_parquet(samples.index / "instances.parquet", schemas.INSTANCES)
    instances: dict[str, list[dict[str, Any]]] = {}
    shown: dict[str, dict[int, set[tuple[int, int]]]] = {}
    for row in table.select(["video", "frame", "instance", "actor", "actions", "x1", "x2"]).to_pylist():
        instances.setdefault(row["video"], []).append(row)
        told = shown.setdefault(row["video"], {}).setdefault(row["frame"], set())
        told |= {(row["actor"], action) for action in row["actions"] or [0]}
    names = queries(samples.label_space, "joint")
    asked = {}
    for video, of_video in spoken.items():
        frames = samples.annotated(video)
        asked[video] = [
            *(Question(one.image_id, one.frame, ASKED, one.sentence) for one in of_video),
            *_left(of_video, frames),
            *_of_pairs(video, frames, shown.get(video, {}), samples.label_space, names),
            *_staged(of_video, frames[len(frames) // 2], instances.get(video, []), samples.label_space),
        ]
    return asked


def _left(spoken: Iterable[sentences.Sample], frames: list[int]) -> list[Question]:
    """Sentences at the annotated ``frames`` of the clip that their actor is not in."""
    of_instance: dict[tuple[int, str], set[int]] = {}
    for one in spoken:
        of_instance.setdefault((one.instance, one.sentence), set()).add(one.frame)
    return [
        Question(f"{LEFT} {instance} {number} {frame}", frame, LEFT, sentence)
        for number, ((instance, sentence), present) in enumerate(of_instance.items())
        for frame in frames
        if frame not in present
    ]


def _of_pairs(
    video: str, frames: list[int], shown: Pairs, space: LabelSpace, names: Mapping[int, str]
) -> list[Question]:
    in_clip = {actor for told in shown.values() for actor, _ in told}
    pairs = {pair: divmod(pair, space.stride) for pair in space.valid_ids[1:]}
    somebody = any(actor >= len(space.actors) for actor in in_clip)  # nobody told who, so it may be anybody
    absent = [] if somebody else [pair for pair, (actor, _) in pairs.items() if actor not in in_clip]
    found = []
    for frame in frames:
        told = shown.get(frame, set())
        known = {actor for actor, _ in told if all(0 < does < space.stride for who, does in told if who == actor)}
        other = [pair for pair, (actor, does) in pairs.items() if actor in known and (actor, does) not in told]
        random = np.random.default_rng(int(items.digest([video, frame])[:16], 16))
        for kind, possible in ((NOBODY, absent), (OTHER_ACTION, other)):
            if possible:
                found.append(Question(f"{kind} {frame}", frame, kind, names[int(random.choice(possible))]))
    return found


def _staged(
    spoken: Iterable[sentences.Sample], frame: int, instances: Sequence[Mapping[str, Any]], space: LabelSpace
) -> Iterator[Question]:
    """Sentences about the actors in ``frame``: who is cut off, and who does something until the clip stands still."""
    does = {row["instance"]: row["actions"] for row in instances if row["frame"] == frame}
    for one in spoken:
        if one.frame != frame:
            continue
        columns = _beside(one, instances)
        if columns is not None:
            yield Question(f"{GONE} {one.image_id}", frame, GONE, one.sentence, columns)
        if does[one.instance] and all(space.actions[action] != "none" for action in does[one.instance]):
            yield Question(f"{STOPPED} {one.image_id}", frame, STOPPED, one.sentence)


def _beside(asked: sentences.Sample, instances: Sequence[Mapping[str, Any]]) -> tuple[int, int] | None:
    """The columns on the wider side of an actor, None where they are too few or show another whom one may mean."""
    own = [row for row in instances if row["instance"] == asked.instance]
    kind = own[0]["actor"]
    left, right = int(min(row["x1"] for row in own)), int(np.ceil(max(row["x2"] for row in own)))
    first, behind = (0, left) if left >= asked.width - right else (right, asked.width)
    others = [row for row in instances if row["instance"] != asked.instance]
    alike = [row for row in others if row["actor"] == kind or UNTOLD in (row["actor"], kind)]
    if behind - first < LEAST_PART * asked.width or any(row["x1"] < behind and first < row["x2"] for row in alike):
        return None
    return first, behind
