"""Stage `transfer_data`: the data set that trained runs on sentences are tested on beside their own, J-HMDB Sentences.

Reads the folder `transfer_data.folder` (data/miniature, or J-HMDB) and, for a FlowNet, data/train_flow. Writes
data/transfer_data: index, frames and optical_flow/<recipe>, each as the stage of that name writes it.
"""

from pathlib import Path

from stages import frames, index, optical_flow
from stages.core import cli
from stages.core.datasets import layouts
from stages.core.datasets.jhmdb import SENTENCES, JHMDBRelease
from stages.core.datasets.jhmdb import Parameters as JHMDBParameters
from stages.core.params import Section, load


class Parameters(Section):
    """Section ``transfer_data`` of params.yaml."""

    dataset: str  # its name in tables
    folder: Path
    jhmdb: JHMDBParameters
    recipes: tuple[str, ...]  # of optical flow


def run(
    parameters: Parameters,
    encoding: frames.Parameters,
    flow: optical_flow.Parameters,
    *,
    trained: Path = Path("data/train_flow"),
    output: Path = Path("data/transfer_data"),
) -> None:
    """Index, decode and estimate the flow of the data set at ``parameters.folder``.

    Raises ``ValueError`` where that is no J-HMDB, or one without sentences.
    """
    release = JHMDBRelease(parameters.folder, parameters.jhmdb)
    try:
        release.check()
        spoken, _ = release.sentences()
    except ValueError as error:
        raise ValueError(f"transfer_data.folder: {error}") from error
    if not spoken:
        raise ValueError(
            f"transfer_data.folder: {parameters.folder} has no sentence; put {SENTENCES} of J-HMDB Sentences there"
        )
    index.run(
        layouts.Parameters(dataset=parameters.dataset, jhmdb=parameters.jhmdb),
        raw=parameters.folder,
        output=output / "index",
    )
    frames.run(encoding, raw=parameters.folder, index=output / "index", output=output / "frames")
    for recipe in parameters.recipes:
        optical_flow.run(flow, recipe=recipe, frames=output / "frames", trained=trained, output=output / "optical_flow")


def main() -> None:
    """Prepare the data set of `transfer_data.folder`."""
    run(
        load("transfer_data", Parameters),
        load("frames", frames.Parameters),
        load("optical_flow", optical_flow.Parameters),
    )


if __name__ == "__main__":
    cli.run(main)
