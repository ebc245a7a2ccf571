"""``python -m stages.commands.score KIND --truth=... --prediction=...``: the papers' scores of anybody's predictions,
as JSON.

Every score comes with its 95 % interval over clips, once more by the actor's size, with the coverage, and with
``--against`` as a paired difference to a second method. docs/scores.md says what the files hold and what is counted.
No stage of dvc.yaml: the evaluate stage computes the same scores, with the same code, for the runs of params.yaml.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from stages.core.scores import classification as video_scores
from stages.core.scores import detection as detection_scores
from stages.core.scores import multi_label as multi_label_scores
from stages.core.scores import resampling
from stages.core.scores import segmentation as segmentation_scores
from stages.core.scores import sentences as sentence_scores
from stages.core.scores import zero_shot as zero_shot_scores

app = typer.Typer(add_completion=False, help=__doc__, rich_markup_mode=None, pretty_exceptions_enable=False)

Index = Annotated[Path, typer.Option("--truth", help="data/index of the data set")]
Against = Annotated[Path | None, typer.Option(help="a second method's predictions, to be compared with")]
CountMissing = Annotated[
    bool, typer.Option("--count-missing", help="what has no prediction lowers the coverage; else it is an error")
]
Resamples = Annotated[int, typer.Option(help="draws of the clips, for intervals and tests", min=1)]
Seed = Annotated[int, typer.Option(help="of the draws")]


@app.callback()
def scores() -> None:
    """The papers' scores of anybody's predictions, as JSON."""


@app.command()
def segmentation(
    truth: Annotated[Path, typer.Option(help="folder of <video>/<frame>.png (uint8, A2D's ids), or data/index")],
    prediction: Annotated[Path, typer.Option(help="folder of <video>/<frame>.png, or of <video>.arrow (evaluate's)")],
    actor: Annotated[Path | None, typer.Option(help="folder of the actor head's own maps (ids 0 to 7)")] = None,
    action: Annotated[Path | None, typer.Option(help="folder of the action head's own maps (ids 0 to 9)")] = None,
    against: Against = None,
    non_boundary: Annotated[
        int, typer.Option(help="score once more outside a band of so many pixels around label changes", min=0)
    ] = 0,
    count_missing: CountMissing = False,
    resamples: Resamples = 1000,
    seed: Seed = 0,
) -> None:
    """Global accuracy, class accuracy and mean IoU of actor, action and joint, in percent, and class by class.

    Actor and action are marginals of the joint map, and once more of each head's own map where there is one. Dang et
    al. leave out a band of 15 pixels: 7 to each side; for a radius of 15 write 31.
    """
    heads = {kind: folder for kind, folder in (("actor", actor), ("action", action)) if folder is not None}
    parameters = segmentation_scores.Parameters(resamples=resamples, seed=seed, non_boundary=non_boundary)
    _print(
        segmentation_scores.run(
            truth, prediction, heads=heads, against=against, count_missing=count_missing, parameters=parameters
        )
    )


@app.command()
def sentences(
    truth: Annotated[Path, typer.Option(help="COCO json, an image a sample (data/index/sentences.json)")],
    prediction: Annotated[Path, typer.Option(help="COCO json: a list of image_id, segmentation (RLE) and score")],
    against: Against = None,
    at_least: Annotated[bool, typer.Option("--at-least", help="precision counts IoU >= K, as ACGA; else > K")] = False,
    count_missing: CountMissing = False,
    resamples: Resamples = 1000,
    seed: Seed = 0,
) -> None:
    """Precision at 0.5 to 0.9, overall and mean IoU, and both mAPs: the paper's (`map`) and COCO's (`coco_map`)."""
    parameters = resampling.Parameters(resamples=resamples, seed=seed)
    _print(
        sentence_scores.run(
            truth, prediction, against=against, count_missing=count_missing, at_least=at_least, parameters=parameters
        )
    )


@app.command()
def detection(
    truth: Index,
    prediction: Annotated[Path, typer.Option(help="a parquet file of boxes with scores, or a folder of them")],
    against: Against = None,
    variant: Annotated[
        detection_scores.Variant, typer.Option(help="tsmt (Kalogeiton et al.), or csc249: IoU above 0.5, `none` in")
    ] = "tsmt",
    count_missing: CountMissing = False,
    resamples: Resamples = 1000,
    seed: Seed = 0,
) -> None:
    """AP of boxes (VOC 2007, IoU 0.5) for pairs, actors and actions."""
    parameters = resampling.Parameters(resamples=resamples, seed=seed)
    _print(
        detection_scores.run(
            truth, prediction, against=against, variant=variant, count_missing=count_missing, parameters=parameters
        )
    )


@app.command("zero-shot")
def zero_shot(
    truth: Index,
    prediction: Annotated[Path, typer.Option(help="a folder: <actor>/ or <actor>.parquet, held-out actor by actor")],
    kind: Annotated[zero_shot_scores.Kind, typer.Option(help="what the entries hold")] = "detection",
    against: Against = None,
    count_missing: CountMissing = False,
    resamples: Resamples = 1000,
    seed: Seed = 0,
) -> None:
    """Leave one actor out: the pairs of each actor, scored on the model that never saw its actions."""
    parameters = resampling.Parameters(resamples=resamples, seed=seed)
    _print(
        zero_shot_scores.run(
            truth, prediction, kind=kind, against=against, count_missing=count_missing, parameters=parameters
        )
    )


@app.command()
def classification(
    truth: Index,
    prediction: Annotated[Path, typer.Option(help="csv (video and the names of the pairs) or parquet of video scores")],
    against: Against = None,
    voc07: Annotated[bool, typer.Option("--voc07", help="AP by 11 points; else the area")] = False,
    count_missing: CountMissing = False,
    resamples: Resamples = 1000,
    seed: Seed = 0,
) -> None:
    """Multi-label mAP of videos over the pairs."""
    parameters = resampling.Parameters(resamples=resamples, seed=seed)
    _print(
        video_scores.run(
            truth, prediction, against=against, count_missing=count_missing, voc07=voc07, parameters=parameters
        )
    )


@app.command("multi-label")
def multi_label(
    truth: Index,
    prediction: Annotated[Path, typer.Option(help="folder of <video>.arrow: actors and a mask an action")],
    against: Against = None,
    count_missing: CountMissing = False,
    resamples: Resamples = 1000,
    seed: Seed = 0,
) -> None:
    """VidOR: per-pixel scores of objects, actions and pairs where an actor can do several things at once."""
    parameters = resampling.Parameters(resamples=resamples, seed=seed)
    _print(
        multi_label_scores.run(truth, prediction, against=against, count_missing=count_missing, parameters=parameters)
    )


def _print(result: dict[str, Any]) -> None:
    typer.echo(json.dumps(resampling.rounded(result), indent=2))


def main() -> None:
    """Score predictions."""
    try:
        app()
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
