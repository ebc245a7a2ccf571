"""Segmentation of a fixed vocabulary by a network that takes sentences (Gavrilyuk et al. 2018, section 5.3, table 3).

"Adult walking" is a sentence, too: names of actors, of actions or of both are asked about one by one, those that
``models.video_classifier`` finds in the video, and a pixel gets the name with the highest response. Table 3 has each of
the three as an input of its own, so a clip has three label maps. The network learns from such names "instead of input
sentences": each frame is shown with each name that fits, and the mask of all who bear it.

What the paper leaves open, decided here: the three sets of queries are the names of the data set as they stand, `none`
too ("adult none"), and one training learns all three (the paper speaks of the pairs), so that nothing is asked that was
never learned; what is asked of actors and of actions alone follows from the chosen pairs; a pixel that no query claims,
by a response above 0 as in the network's loss, is background.

Axes: P pairs without background, H height, W width.
"""

from collections.abc import Iterator
from dataclasses import fields
from functools import cached_property

import numpy as np
from pycocotools import mask as coco

from stages.core.datasets.dataset import Dataset
from stages.core.datasets.labels import IGNORE, LabelSpace
from stages.core.datasets.sentences import Sample

KINDS = ("actor", "action", "joint")
"""Sets of queries, named as the label maps that they give."""


def queries(labels: LabelSpace, kind: str) -> dict[int, str]:
    """What can be asked: id in the label map of ``kind`` -> sentence ("adult", "running", "adult running").

    Background is not asked about. Raises ``ValueError`` for a kind that is none of ``KINDS``.
    """
    if kind not in KINDS:
        raise ValueError(f"no queries of kind `{kind}`; there are {', '.join(KINDS)}")
    if kind == "joint":
        names = {pair: labels.name(pair).replace("-", " ") for pair in labels.valid_ids[1:]}
    else:
        names = dict(enumerate(labels.actors[1:] if kind == "actor" else labels.actions[1:], start=1))
    return {label: name.replace("_", " ") for label, name in names.items()}


class NamedDataset(Dataset):
    """A data set whose sentences are the names of what its frames show."""

    @cached_property
    def sentences(self) -> tuple[Sample, ...]:
        """A sample for each annotated frame and each query of any kind that fits some pixels, and these its mask."""
        return tuple(sample for frame in self.frames for sample in self._named(frame.video, frame.frame))

    def _named(self, video: str, frame: int) -> Iterator[Sample]:
        pairs = self.labels(video, frame)
        known, (actors, actions) = pairs != IGNORE, np.divmod(pairs, self.label_space.stride)
        for kind, labels in zip(KINDS, (actors, actions, pairs), strict=True):
            asked = queries(self.label_space, kind)
            for label in np.unique(labels[known & (pairs > 0)]).tolist():
                if label not in asked:
                    continue
                counts = coco.encode(np.asfortranarray(known & (labels == label), dtype=np.uint8))["counts"]
                name = f"v_{video}_f_{frame + 1}_{kind}_{label}"
                yield Sample(name, video, frame, 0, asked[label], counts, *pairs.shape)


def named(samples: Dataset) -> NamedDataset:
    """``samples`` with the vocabulary's queries for sentences."""
    return NamedDataset(**{field.name: getattr(samples, field.name) for field in fields(samples)})


def check(labels: LabelSpace, *, run: str) -> None:
    """Raises ``ValueError`` where an actor of ``labels`` does several things at once."""
    if labels.multi_label:
        raise ValueError(
            f"{run}: an actor does several things at once in this data set, and a fixed vocabulary gives a pixel one; "
            "leave this run out of params.yaml"
        )
