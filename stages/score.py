"""``python -m stages.score KIND --truth=... --prediction=...``: the papers' scores of anybody's predictions, as JSON.

No stage of dvc.yaml: the evaluate stage computes the same scores, with the same code, for the runs of params.yaml.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from stages.core import maps, metrics, scoring

app = typer.Typer(add_completion=False, help=__doc__, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.callback()
def scores() -> None:
    """The papers' scores of anybody's predictions, as JSON."""


@app.command()
def segmentation(
    truth: Annotated[Path, typer.Option(help="folder of <video>/<frame>.png (uint8, A2D's ids), or data/index")],
    prediction: Annotated[Path, typer.Option(help="folder of <video>/<frame>.png, or of <video>.arrow (evaluate's)")],
    actor: Annotated[Path | None, typer.Option(help="folder of the actor head's own maps (ids 0 to 7)")] = None,
    action: Annotated[Path | None, typer.Option(help="folder of the action head's own maps (ids 0 to 9)")] = None,
    non_boundary: Annotated[
        int, typer.Option(help="leave a band of so many pixels around label changes out (Dang et al.: 15)", min=0)
    ] = 0,
    count_missing: Annotated[
        bool, typer.Option("--count-missing", help="a frame without prediction lowers the coverage; else an error")
    ] = False,
    resamples: Annotated[int, typer.Option(help="of the bootstrap over clips", min=1)] = 1000,
    seed: Annotated[int, typer.Option(help="of the bootstrap")] = 0,
) -> None:
    """Global accuracy, class accuracy and mean IoU of actor, action and joint, in percent, and class by class.

    Actor and action are marginals of the joint map, and once more of each head's own map where there is one.
    """
    heads = {kind: folder for kind, folder in (("actor", actor), ("action", action)) if folder is not None}
    compared = scoring.compare(
        maps.open_truth(truth),
        maps.open_prediction(prediction, heads=heads),
        non_boundary=non_boundary,
        count_missing=count_missing,
    )
    result = scoring.summary(compared, metrics.Parameters(resamples=resamples, seed=seed))
    for kind, label, name, accuracy, iou in scoring.class_rows(compared):
        result[kind].setdefault("per_class", {})[name] = {"id": label, "accuracy": accuracy, "iou": iou}
    result["coverage"] = {"scored": compared.scored, "of": compared.annotated, "clips": len(compared.videos)}
    result["non_boundary"] = non_boundary
    typer.echo(json.dumps(scoring.rounded(result), indent=2))


def main() -> None:
    """Score predictions."""
    try:
        app()
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
