"""What a trained run answers to sentences about clips, and how right it is.

Reads what the run reads of a clip, and the sentences of data/index. A frame is encoded once for all that is asked about
it as it is. Beside every sentence of the data set there are questions about nobody in the frame
(``stages.core.inference.questions``), whose masks should be empty. Writes predictions/: a pack a clip, and the answers
to the data set's sentences as COCO json.

Axes: N sentences about one frame, L words of one, H height, W width.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pycocotools import mask as coco
from torch.nn import functional as F

from models.base import finite
from models.parts.folding import Precision
from models.parts.network import to_device
from stages.core import items
from stages.core.batches import window_batches, words
from stages.core.batches.windows import Sample
from stages.core.datasets import sentences
from stages.core.datasets.dataset import Dataset
from stages.core.inference import predictor as predictors
from stages.core.inference import questions as frame_questions
from stages.core.inference.predictor import Predictor
from stages.core.inference.questions import ASKED, Question
from stages.core.runs import Run
from stages.core.schemas import write_pack
from stages.core.scores import emptiness
from stages.core.scores import sentences as scores
from stages.core.scores.segmentation import Parameters
from stages.core.scores.sentences import ANSWERS, TRUTH

AT_ONCE = 64
"""Sentences about one frame that a network answers together: each has maps of its own in memory."""

ANSWER_PACK = pa.schema(
    [
        ("key", pa.string()),  # an image id, or another name of the question within its clip
        ("kind", pa.string()),  # of questions.KINDS
        ("mask", pa.binary()),  # counts of a COCO RLE of the frame's size
        ("pixels", pa.int64()),  # of the mask
        ("of", pa.int64()),  # of the frame
        ("score", pa.float32()),  # mean probability within the mask, 0 for an empty one
    ]
)
"""One clip's answers: a question a row."""


def respond(predictor: Predictor, window: Sample, asked: Sequence[np.ndarray], precision: Precision) -> torch.Tensor:
    """(N, H, W) float32 responses of every pixel of the labelled frame of ``window`` to sentences of words (L, 300).

    They are computed in ``precision`` at the size that the network works at and resized, bilinearly, to that of the
    frame.
    """
    shape, seen = window.frames.shape[1:3], predictor.batch([window])
    found = []
    for start in range(0, len(asked), AT_ONCE):
        said = to_device(window_batches.padded(asked[start : start + AT_ONCE]), predictor.device)
        with predictor.checked(precision, predictor.device, seen["frames"], said["words"]):
            response = finite(predictor.network.response({**seen, **said}), "responses")  # (N, h, w)
        found.append(F.interpolate(response.float()[:, None], size=shape, mode="bilinear")[:, 0].cpu())
    return torch.cat(found)


@predictors.locating
def answer_clip(argument: Mapping[str, Any], parameters: Mapping[str, Any], target: Path) -> None:
    """Answers to ``argument["questions"]`` about one clip, whose sentences have ``argument["words"]``, packed."""
    torch.set_num_threads(1)  # clips are the parallelism, and the number of threads decides the last bits
    predictor = predictors.load_predictor(Path(argument["run"]), argument["weights"])
    of_frame: dict[int, list[Question]] = {}
    for question in argument["questions"]:
        of_frame.setdefault(question.frame, []).append(question)
    rows = []
    for frame, window in predictors.read_windows({**argument, "frames": sorted(of_frame)}, predictor.config):
        for asked in frame_questions.by_view(of_frame[frame]):
            view = frame_questions.seen(window, asked[0], position=predictor.config.window.before)
            said = [argument["words"][one.sentence] for one in asked]
            responses = respond(predictor, view, said, parameters["precision"])
            rows += [_row(one, response) for one, response in zip(asked, responses, strict=True)]
    write_pack(target, {name: [row[name] for row in rows] for name in ANSWER_PACK.names}, ANSWER_PACK)


def vectors_of(trained: Path, *, sentences: Iterable[str]) -> words.Vectors:
    """Vectors of the words of ``sentences``, from where the run at ``trained`` has learned its own."""
    content = json.loads((trained / "run.json").read_text())
    return words.vectors(content["parameters"]["common"]["word_vectors"], sentences=sentences)


def evaluate(
    run_: Run, samples: Dataset, parameters: Parameters, *, data: Path, folder: Path, stage: str
) -> dict[str, Any]:
    """Ask ``run_``, which lies in ``data``/train, every sentence of ``samples`` and score the answers.

    Writes ``folder``/predictions; ``stage`` is the name of the item cache. Gives ``sentences`` (as
    ``scores.sentences.run``), ``emptiness``, ``unknown_words`` (word -> how often) and ``coverage``.
    Raises ``ValueError`` where there is no sentence.
    """
    assert samples.index is not None and samples.split == "test", "loaded with its tables"
    if not samples.sentences:
        raise ValueError(f"{run_.name}: no sentence about an actor in an annotated {samples.split} frame")
    questions = frame_questions.questions(samples)
    asked_of = {one.sentence for asked in questions.values() for one in asked}
    vectors = vectors_of(data / "train" / run_.name, sentences=asked_of)
    output = folder / "predictions"
    items.run(
        stage,
        answer_clip,
        clip_items(run_, samples, questions, vectors, data),
        parameters={"precision": parameters.precision},
        libraries=["torch", "opencv-python-headless", "pyarrow", "pycocotools"],
        output=output,
        gpu=True,
    )
    found = {video: _read(output / "clips" / f"{video}.arrow") for video in items.read_manifest(output)}
    sentences.write_coco(output / ANSWERS, _coco_answers(samples, found))
    result = scores.run(samples.index / TRUTH, output / ANSWERS, count_missing=True, parameters=parameters)
    unknown = words.report_unknown(vectors, [asked.sentence for asked in samples.sentences], where=run_.name)
    return {
        "sentences": result,
        "emptiness": emptiness.run(found, parameters),
        "unknown_words": unknown,
        "coverage": result["coverage"],
    }


def clip_items(
    run_: Run, samples: Dataset, questions: Mapping[str, Sequence[Question]], vectors: words.Vectors, data: Path
) -> list[items.Item]:
    """One item for each clip of ``samples`` that is asked about: what ``answer_clip`` is given."""
    found = []
    for item in predictors.clip_items(run_, samples, data):
        asked = questions.get(item.name, ())
        if not asked:
            continue
        said = {one.sentence: vectors.of(one.sentence)[0] for one in asked}
        inputs = {
            "questions": items.digest([str(one) for one in asked]),
            "words": items.digest({sentence: matrix.tobytes().hex() for sentence, matrix in said.items()}),
        }
        argument = {"questions": asked, "words": said}
        found.append(replace(item, inputs={**item.inputs, **inputs}, argument={**item.argument, **argument}))
    return found


def _row(question: Question, response: torch.Tensor) -> dict[str, Any]:
    inside = response > 0  # (H, W)
    mask = inside.numpy().astype(np.uint8)
    pixels = int(mask.sum())
    return {
        "key": question.key,
        "kind": question.kind,
        "mask": coco.encode(np.asfortranarray(mask))["counts"],
        "pixels": pixels,
        "of": mask.size,
        "score": float(response[inside].sigmoid().mean()) if pixels else 0.0,
    }


def _read(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pa.ipc.open_file(pa.memory_map(str(path))).read_all().to_pylist()
    return rows


def _coco_answers(samples: Dataset, found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    rows = {row["key"]: row for of_clip in found.values() for row in of_clip if row["kind"] == ASKED}
    return [
        {
            "image_id": asked.image_id,
            "category_id": 1,
            "segmentation": {"size": [asked.height, asked.width], "counts": rows[asked.image_id]["mask"].decode()},
            "score": round(rows[asked.image_id]["score"], 6),
        }
        for asked in samples.sentences
        if asked.image_id in rows
    ]
