"""Stage `evaluate`: predictions of one run on the test clips, and their scores.

Reads data/index, data/frames, the run's flow recipe and data/train/<run>. Writes data/evaluate/<run>: metrics.json,
classes.csv, confusion.parquet (a clip at a time, for intervals), detections.parquet and
predictions/clips/<video>.arrow. Where an actor does several things at once (VidOR) a pixel has no one class to be
confused: confusion.parquet has no rows. Neither has detections.parquet, where the method finds no boxes.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer

from models.methods import ON_INSTANCES
from stages.core import cli, dataset, detections, items, prediction, runs, tables
from stages.core.params import load
from stages.core.scores import confusion, consistency, maps, multi_label, resampling, segmentation

Scored = tuple[dict[str, Any], list[tuple[str, int, str, float, float]], list[dict[str, Any]]]
"""What goes into metrics.json, classes.csv and confusion.parquet."""


def run(
    run_: runs.Run,
    parameters: segmentation.Parameters,
    *,
    data: Path = Path("data"),
    output: Path = Path("data/evaluate"),
) -> dict[str, Any]:
    """Predict and score ``run_``. Raises ``ValueError`` when no test frame can be scored."""
    samples = dataset.load(data / "index", data / "frames", split="test", **run_.folders)
    if not samples.frames:
        raise ValueError(f"{run_.name}: no annotated test frame can be used; see data/index/quarantine.parquet")
    _check_label_space(run_, samples, data)
    folder = output / run_.name
    detects = run_.method in ON_INSTANCES
    items.run(
        f"evaluate-{run_.name}",
        prediction.predict_clip,
        prediction.clip_items(run_, samples, data),
        parameters={"precision": parameters.precision},
        libraries=["torch", "opencv-python-headless", "pyarrow", *(["onedl-mmcv"] if detects else [])],
        output=folder / "predictions",
        gpu=True,
    )
    score = _several_actions if samples.label_space.multi_label else _one_action
    result, classes, cells = score(samples, folder / "predictions", parameters)
    tables.write_parquet(folder / "detections.parquet", detections.collect(folder / "predictions", samples.videos))
    if detects:
        assert samples.index is not None, "loaded with its tables"
        result |= detections.score(samples.index, folder / "detections.parquet", parameters)
    _write(folder, result, classes, cells)
    print(
        f"{run_.name}: mean IoU actor {result['actor']['mean_iou']:.1f}, action {result['action']['mean_iou']:.1f}, "
        f"joint {result['joint']['mean_iou']:.1f} over {result['coverage']['scored']} of {samples.promised} frames"
    )
    return result


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


def _write(folder: Path, result: dict[str, Any], classes: list[Any], cells: list[dict[str, Any]]) -> None:
    columns = ["kind", "id", "class", "accuracy", "iou"]
    pd.DataFrame(classes, columns=columns).round(4).to_csv(folder / "classes.csv", index=False)
    tables.write_parquet(folder / "confusion.parquet", tables.rows_to_table(cells, tables.CONFUSION))
    (folder / "metrics.json").write_text(json.dumps(resampling.rounded(result), indent=2) + "\n")


def main(
    run_name: Annotated[str, typer.Option("--run", help="a run of params.yaml, for example ssa2d-rgb-full-0")],
) -> None:
    """Evaluate one run of params.yaml."""
    run(runs.named(run_name), load("evaluate", segmentation.Parameters))


if __name__ == "__main__":
    cli.run(main)
