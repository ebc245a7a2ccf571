"""Stage `optical_flow`: motion from frame to frame, one recipe <backend>-<direction> a run, one packed file per clip.

Reads data/frames. Writes data/optical_flow/<recipe>: clips/<video>.arrow, manifest, quarantine.
"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from stages.core import cli, items
from stages.core.flow import packs
from stages.core.params import Section, load


class Dis(Section):
    """OpenCV's dense inverse search (Kroeger et al. 2016)."""

    preset: Literal["ultrafast", "fast", "medium"]


class Parameters(Section):
    """Section ``optical_flow`` of params.yaml."""

    recipes: list[str]
    dis: Dis
    quantum: float


def run(
    parameters: Parameters,
    *,
    recipe: str,
    frames: Path = Path("data/frames"),
    output: Path = Path("data/optical_flow"),
) -> items.Outcome:
    """Estimate flow for every decoded clip. Raises ``ValueError`` for a recipe that does not exist."""
    _, direction = packs.parse_recipe(recipe)
    work = [
        items.Item(
            name=name, inputs={"frames": key}, argument={"path": str((frames / "clips" / f"{name}.arrow").absolute())}
        )
        for name, key in items.read_manifest(frames).items()
    ]
    matter = {"direction": direction, "preset": parameters.dis.preset, "quantum": parameters.quantum}
    libraries = ["opencv-python-headless", "pyarrow"]
    return items.run(
        f"optical_flow-{recipe}", packs.pack_flow, work, parameters=matter, libraries=libraries, output=output / recipe
    )


def main(recipe: Annotated[str, typer.Option(help="<backend>-<direction>, one of optical_flow.recipes")]) -> None:
    """Estimate the optical flow of data/frames."""
    run(load("optical_flow", Parameters), recipe=recipe)


if __name__ == "__main__":
    cli.run(main)
