"""Stage `evaluate`: predictions of one run on the test clips, and their scores.

Reads data/index, data/frames, the run's flow recipe and data/train/<run>. Writes data/evaluate/<run>: metrics.json,
classes.csv, confusion.parquet (a clip at a time, for intervals), detections.parquet and
predictions/clips/<video>.arrow. Where an actor does several things at once (VidOR) a pixel has no one class to be
confused: confusion.parquet has no rows. Neither has detections.parquet, where the method finds no boxes. Methods on
sentences and on videos label no pixels: all three are empty, and predictions/ has the answers or the videos' scores
beside.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer

from models.methods import FIXED_VOCABULARY, ON_INSTANCES, ON_SENTENCES, ON_VIDEOS
from stages.core import cli, items, runs, schemas
from stages.core.datasets import dataset
from stages.core.inference import answers, detections, fixed_vocabulary, label_maps, predictor, video_scores
from stages.core.params import load
from stages.core.scores import confusion, consistency, maps, multi_label, resampling, segmentation
from stages.core.training import weights

Scored = tuple[dict[str, Any], list[tuple[str, int, str, float, float]], list[dict[str, Any]]]
"""What goes into metrics.json, classes.csv and confusion.parquet."""


def run(
    run_: runs.Run,
    parameters: segmentation.Parameters,
    *,
    data: Path = Path("data"),
    output: Path = Path("data/evaluate"),
) -> dict[str, Any]:
    """Predict and score ``run_``. Raises ``ValueError`` when it is not trained or no test frame can be scored."""
    samples = dataset.load(data / "index", data / "frames", split="test", **run_.folders)
    if not samples.frames:
        raise ValueError(f"{run_.name}: no annotated test frame can be used; see data/index/quarantine.parquet")
    weights.digest(data / "train" / run_.name, stage="train")  # raises where nothing is trained
    folder = output / run_.name
    classes: list[Any] = []
    cells: list[dict[str, Any]] = []
    if run_.method in ON_SENTENCES and run_.variant != FIXED_VOCABULARY:
        stage = f"evaluate-{run_.name}"
        result = answers.evaluate(run_, samples, parameters, data=data, folder=folder, stage=stage)
    else:
        result, classes, cells = _by_classes(run_, samples, parameters, folder / "predictions", data)
    schemas.write_parquet(folder / "detections.parquet", detections.collect(folder / "predictions", samples.videos))
    if run_.method in ON_INSTANCES:
        assert samples.index is not None, "loaded with its tables"
        result |= detections.score(samples.index, folder / "detections.parquet", parameters)
    _write(folder, result, classes, cells)
    print(f"{run_.name}: {_headline(result)}; scored {result['coverage']['scored']} of {result['coverage']['of']}")
    return result


def _by_classes(
    run_: runs.Run, samples: dataset.Dataset, parameters: segmentation.Parameters, predictions: Path, data: Path
) -> Scored:
    """Of what knows the data set's classes: label maps, with what was detected, or scores of videos."""
    _check_label_space(run_, samples, data)
    function, work = label_maps.predict_clip, predictor.clip_items
    score = _several_actions if samples.label_space.multi_label else _one_action
    if run_.variant == FIXED_VOCABULARY:
        function, work = fixed_vocabulary.label_clip, fixed_vocabulary.clip_items
    elif run_.method in ON_VIDEOS:
        function, score = video_scores.score_clip, _videos
    libraries = ["torch", "opencv-python-headless", "pyarrow", *(["onedl-mmcv"] if run_.method in ON_INSTANCES else [])]
    items.run(
        f"evaluate-{run_.name}",
        function,
        work(run_, samples, data),
        parameters={"precision": parameters.precision},
        libraries=libraries,
        output=predictions,
        gpu=True,
    )
    return score(samples, predictions, parameters)


def _headline(result: dict[str, Any]) -> str:
    if "sentences" in result:
        return f"overall IoU {result['sentences']['overall_iou']:.1f}"
    if "classification" in result:
        return f"mean average precision {result['classification']['mean_average_precision']:.1f}"
    return "mean IoU " + ", ".join(f"{kind} {result[kind]['mean_iou']:.1f}" for kind in ("actor", "action", "joint"))


def _check_label_space(run_: runs.Run, samples: dataset.Dataset, data: Path) -> None:
    learned = json.loads((data / "train" / run_.name / "run.json").read_text())["label_space"]
    if learned != samples.label_space.key:
        raise ValueError(
            f"{run_.name} learned the labels of `{learned}`, this data set has those of `{samples.label_space.key}`; "
            "train it again"
        )


def _one_action(samples: dataset.Dataset, predictions: Path, parameters: segmentation.Parameters) -> Scored:
    found = maps.PackedMaps(predictions)
    compared = segmentation.compare(samples, found, non_boundary=parameters.non_boundary, count_missing=True)
    result = segmentation.summary(compared, parameters)
    agreement = consistency.compare(samples, found, count_missing=True)
    result["consistency"] = resampling.summary(agreement, parameters)
    confusions = compared.confusions
    result["coverage"] = {"scored": compared.scored, "of": samples.promised, "clips": len(confusions.clips)}
    cells = []
    for kind, matrix in confusions.matrices.items():
        for clip, truth, predicted in np.argwhere(matrix):
            pixels = int(matrix[clip, truth, predicted])
            video = confusions.clips[clip]
            cells.append({"video": video, "kind": kind, "truth": truth, "predicted": predicted, "pixels": pixels})
    return result, confusion.class_rows(confusions), cells


def _several_actions(samples: dataset.Dataset, predictions: Path, parameters: segmentation.Parameters) -> Scored:
    assert samples.index is not None, "loaded with its tables"
    result = multi_label.run(samples.index, predictions, count_missing=True, parameters=parameters)
    classes = multi_label.class_rows(result, samples.label_space)
    for scores in result.values():
        scores.pop("per_class", None)
    result["coverage"]["of"] = samples.promised
    return result, classes, []


def _videos(samples: dataset.Dataset, predictions: Path, parameters: segmentation.Parameters) -> Scored:
    assert samples.index is not None, "loaded with its tables"
    path = predictions / video_scores.FILE
    schemas.write_parquet(path, video_scores.collect(predictions, samples.videos))
    return video_scores.score(samples.index, path, parameters), [], []


def _write(folder: Path, result: dict[str, Any], classes: list[Any], cells: list[dict[str, Any]]) -> None:
    columns = ["kind", "id", "class", "accuracy", "iou"]
    pd.DataFrame(classes, columns=columns).round(4).to_csv(folder / "classes.csv", index=False)
    schemas.write_parquet(folder / "confusion.parquet", schemas.rows_to_table(cells, schemas.CONFUSION))
    (folder / "metrics.json").write_text(json.dumps(resampling.rounded(result), indent=2) + "\n")


def main(
    run_name: Annotated[str, typer.Option("--run", help="a run of params.yaml, for example ssa2d-rgb-full-0")],
) -> None:
    """Evaluate one run of params.yaml."""
    run(runs.named(run_name), load("evaluate", segmentation.Parameters))


if __name__ == "__main__":
    cli.run(main)
