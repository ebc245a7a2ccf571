"""Every backend of optical flow by its name, and recipes: a backend and a direction."""

from pathlib import Path

from stages.core.optical_flow import classical, networks
from stages.core.optical_flow.estimation import DIRECTIONS, Estimator
from stages.core.training import weights

BACKENDS = (*classical.NAMES, *networks.NAMES)


def open_backend(name: str, *, weights: Path | None = None, digest: str = "", preset: str = "medium") -> Estimator:
    """The estimator called ``name``.

    ``weights`` is the folder that `train_flow` wrote and ``digest`` that of its model, for a network; ``preset`` is
    that of `dis`. Raises ``ValueError`` for a name that does not exist and a network without weights.
    """
    if name in classical.NAMES:
        return classical.open_classical(name, preset=preset)
    if name not in networks.NAMES:
        raise ValueError(f"no backend `{name}`; there are {', '.join(BACKENDS)}")
    if weights is None:
        raise ValueError(f"backend `{name}` needs weights: the folder data/train_flow/{name}")
    return networks.open_network(weights, digest)


def open_trained(name: str, folder: Path, *, preset: str = "medium") -> Estimator:
    """``open_backend``, with the weights that `train_flow` left in ``folder``/``name`` where it is a network."""
    if name not in networks.NAMES:
        return open_backend(name, preset=preset)
    return open_backend(name, weights=folder / name, digest=weights.digest(folder / name, stage="train_flow"))


def parse_recipe(recipe: str) -> tuple[str, str]:
    """``dis-forward`` -> (``dis``, ``forward``). Raises ``ValueError`` that names what there is."""
    backend, _, direction = recipe.partition("-")
    if backend not in BACKENDS or direction not in DIRECTIONS:
        raise ValueError(
            f"optical_flow.recipes: `{recipe}` is no recipe; write <backend>-<direction> with a backend of "
            f"{', '.join(BACKENDS)} and a direction of {', '.join(DIRECTIONS)}"
        )
    return backend, direction
