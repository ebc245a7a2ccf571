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

from models import METHODS
from stages.core import cli, dataset, items, metrics, prediction, runs, tables
from stages.core.closure import import_closure
from stages.core.labels import A2D, IGNORE
from stages.core.params import load

KINDS = {"joint": metrics.JOINT_IDS, "actor": len(A2D.actors), "action": len(A2D.actions)}
"""The maps of a prediction -> number of ids."""


def run(
    run_: runs.Run, parameters: metrics.Parameters, *, data: Path = Path("data"), output: Path = Path("data/evaluate")
) -> dict[str, Any]:
    """Predict and score ``run_``. Raises ``ValueError`` when no test frame can be scored."""
    samples = dataset.load(data / "index", data / "frames", split="test", flow=run_.flow)
    if not samples.frames:
        raise ValueError(f"{run_.name}: no annotated test frame can be used; see data/index/quarantine.parquet")
    folder = output / run_.name
    outcome = items.run(
        f"evaluate-{run_.name}",
        prediction.predict_clip,
        _work(run_, samples, data),
        parameters={},
        libraries=["torch", "opencv-python-headless", "pyarrow"],
        output=folder / "predictions",
        gpu=True,
    )
    scored = [video for video in samples.videos if video not in outcome.quarantined]
    matrices = {kind: np.zeros((len(scored), classes, classes), np.int64) for kind, classes in KINDS.items()}
    frames = 0
    for position, video in enumerate(scored):
        predicted = prediction.read_predictions(folder / "predictions" / "clips" / f"{video}.arrow")
        for frame in samples.annotated(video):
            truth = samples.labels(video, frame)
            for kind, classes in KINDS.items():
                matrices[kind][position] += metrics.confusion(
                    _kind_of(truth, kind), predicted[frame][kind], classes=classes
                )
            frames += 1
    result = _metrics(matrices, parameters)
    result["coverage"] = {"scored": frames, "of": samples.promised, "clips": len(scored)}
    _write(folder, result, matrices, scored)
    print(
        f"{run_.name}: mean IoU actor {result['actor']['mean_iou']:.1f}, action {result['action']['mean_iou']:.1f}, "
        f"joint {result['joint']['mean_iou']:.1f} over {frames} of {samples.promised} frames"
    )
    return result


def _work(run_: runs.Run, samples: dataset.Dataset, data: Path) -> list[items.Item]:
    trained = (data / "train" / run_.name).absolute()
    weights = items.file_digest(trained / "model.pt")
    clips = items.read_manifest(data / "frames")
    flow = {} if run_.flow is None else items.read_manifest(run_.flow)
    shared = {
        "weights": weights,
        "run": items.file_digest(trained / "run.json"),
        "method": items.digest(import_closure(METHODS[run_.method])),
    }
    work = []
    for video in samples.videos:
        frames = samples.annotated(video)
        inputs = shared | {"clip": clips[video], "flow": flow.get(video, ""), "frames": str(frames)}
        argument = {
            "video": video,
            "frames": frames,
            "run": str(trained),
            "weights": weights,
            "clips": str(samples.clips_folder.absolute()),
            "flow": str(samples.flow_folder.absolute()) if samples.flow_folder else None,
        }
        work.append(items.Item(name=video, inputs=inputs, argument=argument))
    return work


def _kind_of(truth: np.ndarray, kind: str) -> np.ndarray:
    if kind == "joint":
        return truth
    part = truth // 10 if kind == "actor" else truth % 10
    return np.where(truth == IGNORE, truth, part)


def _metrics(matrices: dict[str, np.ndarray], parameters: metrics.Parameters) -> dict[str, Any]:
    """Scores as marginals of the joint map (the papers' evaluator) and of each head's own map, with intervals."""
    total = matrices["joint"].sum(0)
    result: dict[str, Any] = {}
    for kind, found in metrics.all_scores(total, A2D).items():
        low, high = metrics.bootstrap(
            matrices["joint"], metrics.mean_iou(kind, A2D), resamples=parameters.resamples, seed=parameters.seed
        )
        result[kind] = found.summary() | {"mean_iou_low": low, "mean_iou_high": high, "classes": found.classes}
    for kind in ("actor", "action"):
        result[f"{kind}_head"] = metrics.scores(matrices[kind].sum(0)).summary()
    return result


def _write(folder: Path, result: dict[str, Any], matrices: dict[str, np.ndarray], videos: list[str]) -> None:
    rows = []
    for kind, found in metrics.all_scores(matrices["joint"].sum(0), A2D).items():
        names = {"actor": A2D.actors, "action": A2D.actions}.get(kind)
        for label in np.flatnonzero(~np.isnan(found.iou)):
            name = A2D.name(int(label)) if names is None else names[label]
            rows.append((kind, int(label), name, round(found.accuracy[label], 4), round(found.iou[label], 4)))
    pd.DataFrame(rows, columns=["kind", "id", "class", "accuracy", "iou"]).to_csv(folder / "classes.csv", index=False)
    cells = []
    for kind, matrix in matrices.items():
        for clip, truth, predicted in np.argwhere(matrix):
            pixels = int(matrix[clip, truth, predicted])
            cells.append(
                {"video": videos[clip], "kind": kind, "truth": truth, "predicted": predicted, "pixels": pixels}
            )
    tables.write_parquet(folder / "confusion.parquet", tables.rows_to_table(cells, tables.CONFUSION))
    (folder / "metrics.json").write_text(json.dumps(_rounded(result), indent=2) + "\n")


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def main(
    run_name: Annotated[str, typer.Option("--run", help="a run of params.yaml, for example ssa2d-rgb-full-0")],
) -> None:
    """Evaluate one run of params.yaml."""
    run(runs.named(run_name), load("evaluate", metrics.Parameters))


if __name__ == "__main__":
    cli.run(main)
