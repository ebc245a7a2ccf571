"""What is asked of a trained run about a frame: the data set's sentences, and questions about nobody who is in it.

A network that understands a sentence shows an empty mask where nobody is meant (Gavrilyuk et al. 2018, figure 4, shows
by example that a sentence means one actor and not another). Four kinds of question, told apart in the scores:

    asked         a sentence of the data set, about an actor in the frame
    left          a sentence about an actor of the clip who is in another annotated frame and not in this one
    nobody        "cat running", where no annotated frame of the clip has a cat
    other_action  "dog rolling", where there are dogs in the frame and none of them rolls

The last two are names of pairs (``stages.core.vocabulary``), one of each a frame where there is one, chosen by the
frame's name. A frame in which an actor's action is not told has no ``other_action``; data of one kind of actor has no
``nobody``.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from stages.core import items, sentences, tables
from stages.core.dataset import Dataset
from stages.core.labels import LabelSpace
from stages.core.vocabulary import queries

ASKED, LEFT, NOBODY, OTHER_ACTION = KINDS = ("asked", "left", "nobody", "other_action")

Pairs = Mapping[int, set[tuple[int, int]]]
"""Frame -> the actors and actions that are told in it; 0 or 255 for one that nobody told."""


@dataclass(frozen=True)
class Question:
    """``sentence`` about ``frame`` of a clip. ``key`` is an image id where the data set asks it."""

    key: str
    frame: int
    kind: str
    sentence: str


def questions(samples: Dataset) -> dict[str, list[Question]]:
    """Video -> what is asked about it, in order."""
    assert samples.index is not None, "loaded with its tables"
    spoken: dict[str, list[sentences.Sample]] = {video: [] for video in samples.videos}
    for one in samples.sentences:
        spoken[one.video].append(one)
    rows = tables.read_parquet(samples.index / "instances.parquet", tables.INSTANCES)
    shown: dict[str, dict[int, set[tuple[int, int]]]] = {}
    for row in rows.select(["video", "frame", "actor", "actions"]).to_pylist():
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
