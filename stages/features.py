"""Stage `features`: what a trained front-end, fixed, gives the back-end of another method at the annotated frames.

Reads data/index, data/frames, the front-end's flow recipe and data/train/<front-end>. Writes data/features/<front-end>:
clips/<video>.arrow, manifest, quarantine. At the published size a frame of 320 x 568 takes 23 MB (12 MB of one
stream): all 11,926 annotated frames of A2D 280 GB.
"""

from pathlib import Path
from typing import Annotated

import typer

from stages.core import cli, items, runs
from stages.core.datasets import dataset
from stages.core.inference import features, predictor
from stages.core.params import Section, load


class Front(Section):
    """One entry of ``features.fronts``: what the front-end, a run of the same name, reads beside frames."""

    reads: str


class Parameters(Section):
    """Section ``features`` of params.yaml."""

    fronts: dict[str, Front]


def run(front: runs.Run, *, data: Path = Path("data"), output: Path = Path("data/features")) -> items.Outcome:
    """Features of every annotated frame, train and test, by the run ``front``."""
    work = []
    for split in ("train", "test"):
        samples = dataset.load(data / "index", data / "frames", split=split, **front.folders)
        work += predictor.clip_items(front, samples, data)
    return items.run(
        f"features-{front.name}",
        features.pack_features,
        work,
        parameters={},
        libraries=["torch", "opencv-python-headless", "pyarrow"],
        output=output / front.name,
        gpu=True,
    )


def main(front: Annotated[str, typer.Option(help="one of features.fronts, for example deeplab-rgb-full-0")]) -> None:
    """Compute the features of one front-end."""
    parameters = load("features", Parameters)
    if front not in parameters.fronts:
        raise ValueError(f"features.fronts has no `{front}`; there are {', '.join(parameters.fronts)}")
    chosen = runs.named(front)
    if Path(parameters.fronts[front].reads) != (chosen.flow or Path("data/frames")):
        raise ValueError(f"features.fronts.{front} reads another folder than the run `{front}`; make them the same")
    run(chosen)


if __name__ == "__main__":
    cli.run(main)
