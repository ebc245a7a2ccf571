"""Label maps by a trained run on sentences that is asked about names of classes (Gavrilyuk et al. 2018, section 5.3).

What is asked of a video follows from its scores by a classifier of videos; how answers become label maps:
``stages.core.vocabulary``. A frame is encoded once for all that is asked about it.

Axes: N queries about one frame, L words of one, H height, W width.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.inference import computing_in
from stages.core import answers, items, png, prediction, video_scores, vocabulary, words
from stages.core.dataset import Dataset
from stages.core.items import BadItem
from stages.core.runs import Run
from stages.core.scores import classification
from stages.core.tables import PREDICTIONS, write_pack


def clip_items(run: Run, samples: Dataset, data: Path) -> list[items.Item]:
    """One item for each clip of ``samples``: what ``label_clip`` is given.

    Raises ``ValueError`` where the run on videos has no scores, or a name of a class no known word.
    """
    assert run.video_scores is not None, "a run of this variant names its classifier"
    space = samples.label_space
    scores = classification.load_scores(run.video_scores / "predictions" / video_scores.FILE, labels=space)
    names = {kind: vocabulary.queries(space, kind) for kind in vocabulary.KINDS}
    source = json.loads((data / "train" / run.name / "run.json").read_text())["parameters"]["common"]["word_vectors"]
    said = {name for of_kind in names.values() for name in of_kind.values()}
    vectors = words.vectors(source, sentences=said)
    if unknown := sorted(name for name in said if not len(vectors.of(name)[0])):
        raise ValueError(f"{run.name}: none of the words of {', '.join(unknown)} has a vector: nothing can be asked")
    found = []
    for item in prediction.clip_items(run, samples, data):
        asked: dict[str, dict[int, np.ndarray]] = {}
        if item.name in scores:
            chosen = vocabulary.selected(scores[item.name], space)
            asked = {kind: {label: vectors.of(names[kind][label])[0] for label in chosen[kind]} for kind in names}
        digest = items.digest([(kind, i, w.tobytes().hex()) for kind, one in asked.items() for i, w in one.items()])
        found.append(items.Item(item.name, {**item.inputs, "asked": digest}, {**item.argument, "asked": asked}))
    return found


def label_clip(argument: Mapping[str, Any], parameters: Mapping[str, Any], target: Path) -> None:
    """Label maps of the frames ``argument["frames"]`` of one clip, asked ``argument["asked"]`` (kind -> id in its label
    map -> words (L, 300)), packed at ``target``.

    Responses are compared at the size of the frame. Raises ``BadItem`` for a video whose scores are not known.
    """
    if not argument["asked"]:
        raise BadItem("the run on videos has no scores of it: see its quarantine")
    torch.set_num_threads(1)  # clips are the parallelism, and the number of threads decides the last bits
    predictor = prediction.load_predictor(Path(argument["run"]), argument["weights"])
    asked = [(kind, label, said) for kind, of_kind in argument["asked"].items() for label, said in of_kind.items()]
    rows = []
    with computing_in(parameters["precision"], predictor.device):
        for frame, window in prediction.read_windows(argument, predictor.config):
            responses: dict[str, dict[int, np.ndarray]] = {}
            for start in range(0, len(asked), answers.AT_ONCE):
                together = asked[start : start + answers.AT_ONCE]
                found = answers.respond(predictor, window, [said for _, _, said in together]).cpu().numpy()
                for (kind, label, _), response in zip(together, found, strict=True):
                    responses.setdefault(kind, {})[label] = response
            maps = {kind: png.encode(vocabulary.label_map(of_kind)) for kind, of_kind in responses.items()}
            rows.append({"frame": frame, **maps})
    write_pack(target, {name: [row[name] for row in rows] for name in PREDICTIONS.names}, PREDICTIONS)
