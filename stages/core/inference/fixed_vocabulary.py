"""A trained run on sentences asked about a fixed vocabulary: label maps of one clip, an item of stage `evaluate`.

Gavrilyuk et al. 2018, section 5.3: the scores of a classifier of videos choose what is asked
(``stages.core.datasets.vocabulary``), and a pixel gets "the class label with the highest response". Reads a clip's
packed frames and flow, and the scores that an evaluated run on videos has left; writes what
``stages.core.inference.label_maps`` writes of a method that labels pixels.

Decided here: a query without a known word is not asked, since the answer would be that to no sentence. Responses are
compared at the size of the frame, to which they are resized first: a label map resized afterwards has coarser edges.

Axes: N queries, L words, H height, W width.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stages.core import items
from stages.core.datasets import vocabulary
from stages.core.datasets.dataset import Dataset
from stages.core.datasets.labels import LabelSpace
from stages.core.datasets.vocabulary import KINDS, queries
from stages.core.inference import answers, video_scores
from stages.core.inference import predictor as predictors
from stages.core.items import BadItem
from stages.core.packs import masks
from stages.core.packs.frames import Clip
from stages.core.runs import Run
from stages.core.schemas import PREDICTIONS, write_pack
from stages.core.scores import classification


def clip_items(run: Run, samples: Dataset, data: Path) -> list[items.Item]:
    """``predictor.clip_items`` with what each clip is asked: ``queries``, kind -> id -> query (None: no scores say
    what to ask), and ``words``, query -> (L, 300) float32.

    Raises ``ValueError`` where the scores are not there, or an actor does several things at once.
    """
    labels = samples.label_space
    vocabulary.check(labels, run=run.name)
    scores = _scores(run, samples)
    possible = {kind: queries(labels, kind) for kind in KINDS}
    asked = list(dict.fromkeys(query for of_kind in possible.values() for query in of_kind.values()))
    known = answers.vectors_of(data / "train" / run.name, sentences=asked)
    words = {query: matrix for query in asked if len(matrix := known.of(query)[0])}
    if unknown := [query for query in asked if query not in words]:
        print(f"{run.name}: not asked, since no word of it is known: {', '.join(unknown)}")
    work = []
    for item in predictors.clip_items(run, samples, data):
        chosen = None
        if item.name in scores:
            ids = selected(scores[item.name], labels)
            chosen = {
                kind: {label: of_kind[label] for label in ids[kind] if of_kind[label] in words}
                for kind, of_kind in possible.items()
            }
        own = {query: words[query] for of_kind in (chosen or {}).values() for query in of_kind.values()}
        digests = items.digest({query: matrix.tobytes().hex() for query, matrix in own.items()})
        inputs = {**item.inputs, "queries": json.dumps(chosen), "words": digests}
        work.append(replace(item, inputs=inputs, argument={**item.argument, "queries": chosen, "words": own}))
    return work


@predictors.locating
def label_clip(argument: Mapping[str, Any], parameters: Mapping[str, Any], target: Path) -> None:
    """Label maps of the frames ``argument["frames"]`` of one clip, computed in ``parameters["precision"]``, packed at
    ``target``. Raises ``BadItem`` for a clip without scores."""
    if argument["queries"] is None:
        raise BadItem("the run on videos has no scores of it, which say what to ask: it was in quarantine there")
    torch.set_num_threads(1)  # clips are the parallelism, and the number of threads decides the last bits
    predictor = predictors.load_predictor(Path(argument["run"]), argument["weights"])
    clip = Clip(Path(argument["folders"]["clip"]) / f"{argument['video']}.arrow")
    shape, words = (clip.height, clip.width), argument["words"]
    rows = []
    for frame, sample in predictors.read_windows(argument, predictor.config):
        asked = list(words.values())
        responses = answers.respond(predictor, sample, asked, parameters["precision"]).numpy() if asked else ()
        found = dict(zip(words, responses, strict=True))
        maps = {
            kind: label_map({label: found[query] for label, query in of_kind.items()}, shape=shape)
            for kind, of_kind in argument["queries"].items()
        }
        rows.append({"frame": frame, **{kind: masks.encode(labels) for kind, labels in maps.items()}})
    write_pack(target, {name: [row[name] for row in rows] for name in PREDICTIONS.names}, PREDICTIONS)


def selected(scores: np.ndarray, labels: LabelSpace, *, threshold: float = 0.5) -> dict[str, list[int]]:
    """What to ask of a video: kind -> ids of ``queries``, ascending, of the pairs that score above ``threshold``.

    ``scores`` (P,) are the video's, in the order of ``labels.valid_ids``. Where none is above, the best pair is asked
    for: the paper says nothing of such videos, and each shows something.
    """
    above = np.flatnonzero(scores > threshold)
    chosen = 1 + (above if len(above) else scores.argmax(axis=0, keepdims=True))
    return {
        "actor": np.unique(labels.valid_actors[chosen]).tolist(),
        "action": np.unique(labels.valid_actions[chosen]).tolist(),
        "joint": np.array(labels.valid_ids)[chosen].tolist(),
    }


def label_map(responses: Mapping[int, np.ndarray], *, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) uint8 of ``shape``: the id of the highest of the ``responses``, id -> (H, W) float32.

    0 where none is above 0, or nothing was asked. Of equal responses the lower id is taken.
    """
    labels, highest = np.zeros(shape, np.uint8), np.zeros(shape, np.float32)
    for label in sorted(responses):
        labels[responses[label] > highest] = label
        np.maximum(highest, responses[label], out=highest)
    return labels


def _scores(run: Run, samples: Dataset) -> dict[str, np.ndarray]:
    """Video -> (P,) scores of the run on videos that ``run`` reads."""
    assert run.video_scores is not None, "every run of this variant has them"
    path = run.video_scores / "predictions" / video_scores.FILE
    if not path.exists():
        raise ValueError(f"{path} not found: run `dvc repro evaluate@{run.video_scores.name}`")
    return classification.load_scores(path, labels=samples.label_space)
