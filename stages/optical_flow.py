"""Stage `optical_flow`: motion from frame to frame, one recipe <backend>-<direction> a run, one packed file per clip.

Reads data/frames and, for a FlowNet, data/train_flow/<network>. Writes data/optical_flow/<recipe>: clips/<video>.arrow,
manifest, quarantine.
"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from stages.core import cli, items
from stages.core.optical_flow import backends, classical, networks
from stages.core.params import Section, load
from stages.core.training import weights as trained_networks


class Dis(Section):
    """OpenCV's dense inverse search (Kroeger et al. 2016)."""

    preset: Literal["ultrafast", "fast", "medium"]


class Recipe(Section):
    """One entry of ``optical_flow.recipes``: what it reads beside frames (data/frames once more, where nothing)."""

    reads: Path


class Parameters(Section):
    """Section ``optical_flow`` of params.yaml."""

    recipes: dict[str, Recipe]
    dis: Dis
    height: int | None  # that frames are resized to for the estimate; values stay in pixels of the stored frame
    quantum: float


def run(
    parameters: Parameters,
    *,
    recipe: str,
    frames: Path = Path("data/frames"),
    trained: Path = Path("data/train_flow"),
    output: Path = Path("data/optical_flow"),
) -> items.Outcome:
    """Estimate flow for every decoded clip. Raises ``ValueError`` for a recipe that does not exist."""
    backend, direction = backends.parse_recipe(recipe)
    weights = trained / backend if backend in networks.NAMES else None
    learned = {}
    if weights is not None:
        learned = {"weights": str(weights.absolute()), "digest": trained_networks.digest(weights, stage="train_flow")}
    work = [
        items.Item(
            name=name,
            inputs={"frames": key, "weights": learned.get("digest", "")},
            argument={"path": str((frames / "clips" / f"{name}.arrow").absolute()), **learned},
        )
        for name, key in items.read_manifest(frames).items()
    ]
    matter = {
        "backend": backend, "direction": direction, "preset": parameters.dis.preset, "height": parameters.height,
        "quantum": parameters.quantum,
    }  # fmt: skip
    return items.run(
        f"optical_flow-{recipe}",
        classical.pack_flow if weights is None else networks.pack_flow,
        work,
        parameters=matter,
        libraries=["opencv-python-headless", "pyarrow", "scikit-image", *(["torch"] if weights else [])],
        output=output / recipe,
        gpu=weights is not None,
    )


def main(recipe: Annotated[str, typer.Option(help="<backend>-<direction>, one of optical_flow.recipes")]) -> None:
    """Estimate the optical flow of data/frames."""
    parameters = load("optical_flow", Parameters)
    if recipe not in parameters.recipes:
        raise ValueError(f"optical_flow.recipes has no `{recipe}`; there are {', '.join(parameters.recipes)}")
    backend, _ = backends.parse_recipe(recipe)
    reads = Path("data/train_flow") / backend if backend in networks.NAMES else Path("data/frames")
    if parameters.recipes[recipe].reads != reads:
        raise ValueError(
            f"optical_flow.recipes.{recipe} reads `{parameters.recipes[recipe].reads}`; make it {reads}: "
            "DVC runs the recipe again where that has changed"
        )
    run(parameters, recipe=recipe)


if __name__ == "__main__":
    cli.run(main)
