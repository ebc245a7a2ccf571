"""Stage `evaluate`: predictions of one run on the test clips, and their scores.

Reads data/index, data/frames, the run's flow recipe and data/train/<run>. Writes data/evaluate/<run>: metrics.json,
classes.csv, confusion.parquet (a clip at a time, for intervals) and predictions/clips/<video>.arrow.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer

from stages.core import cli, dataset, items, prediction, runs, tables
from stages.core.params import load
from stages.core.scores import confusion, consistency, maps, resampling, segmentation


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
    items.run(
        f"evaluate-{run_.name}",
        prediction.predict_clip,
        prediction.clip_items(run_, samples, data),
        parameters={},
        libraries=["torch", "opencv-python-headless", "pyarrow"],
        output=folder / "predictions",
        gpu=True,
    )
    predicted = maps.PackedMaps(folder / "predictions")
    compared = segmentation.compare(samples, predicted, non_boundary=parameters.non_boundary, count_missing=True)
    result = segmentation.summary(compared, parameters)
    agreement = consistency.compare(samples, predicted, count_missing=True)
    result["consistency"] = resampling.summary(agreement, parameters)
    result["coverage"] = {"scored": compared.scored, "of": samples.promised, "clips": len(compared.confusions.clips)}
    _write(folder, result, compared.confusions)
    print(
        f"{run_.name}: mean IoU actor {result['actor']['mean_iou']:.1f}, action {result['action']['mean_iou']:.1f}, "
        f"joint {result['joint']['mean_iou']:.1f} over {compared.scored} of {samples.promised} frames"
    )
    return result


def _check_label_space(run_: runs.Run, samples: dataset.Dataset, data: Path) -> None:
    learned = json.loads((data / "train" / run_.name / "run.json").read_text())["label_space"]
    if learned != samples.label_space.key:
        raise ValueError(
            f"{run_.name} learned the labels of `{learned}`, this data set has those of `{samples.label_space.key}`; "
            "train it again"
        )


def _write(folder: Path, result: dict[str, Any], confusions: confusion.Confusions) -> None:
    columns = ["kind", "id", "class", "accuracy", "iou"]
    classes = pd.DataFrame(confusion.class_rows(confusions), columns=columns)
    classes.round(4).to_csv(folder / "classes.csv", index=False)
    cells = []
    for kind, matrix in confusions.matrices.items():
        for clip, truth, predicted in np.argwhere(matrix):
            pixels = int(matrix[clip, truth, predicted])
            video = confusions.clips[clip]
            cells.append({"video": video, "kind": kind, "truth": truth, "predicted": predicted, "pixels": pixels})
    tables.write_parquet(folder / "confusion.parquet", tables.rows_to_table(cells, tables.CONFUSION))
    (folder / "metrics.json").write_text(json.dumps(resampling.rounded(result), indent=2) + "\n")


def main(
    run_name: Annotated[str, typer.Option("--run", help="a run of params.yaml, for example ssa2d-rgb-full-0")],
) -> None:
    """Evaluate one run of params.yaml."""
    run(runs.named(run_name), load("evaluate", segmentation.Parameters))


if __name__ == "__main__":
    cli.run(main)
