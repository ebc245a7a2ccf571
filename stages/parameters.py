"""Stage `parameters`: check params.yaml before any other stage runs or is restored.

Reads params.yaml as a file: each section as the model of the stage that uses it, and each run. DVC's run cache finds a
stage by its parameters, but leaves `size` and `nfiles` out: it would restore a stage that was given such a parameter,
and the stage's own check would never run. What this stage writes is always the same, so a change of params.yaml makes
no other stage stale.
"""

import pkgutil
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from models.methods import METHODS
from stages.core import cli, params, runs

SECTIONS = {
    "index": "stages.core.datasets.layouts:Parameters",
    "frames": "stages.frames:Parameters",
    "train_flow": "stages.train_flow:Parameters",
    "evaluate_flow": "stages.evaluate_flow:Parameters",
    "optical_flow": "stages.optical_flow:Parameters",
    "pretrain": "stages.pretrain:Parameters",
    "train_regions": "stages.train_regions:Parameters",
    "regions": "stages.regions:Parameters",
    "features": "stages.features:Parameters",
    "train.common": "stages.train:Common",
    "evaluate": "stages.core.scores.segmentation:Parameters",
    "miniature": "stages.miniature:Parameters",
    "transfer_data": "stages.transfer_data:Parameters",
    "transfer": "stages.transfer:Parameters",
    "report": "stages.report:Parameters",
    "workers": "stages.core.workers:Workers",
}
"""Section -> its model, by name: imported, it would make this stage depend on all code and run at each change of it."""
NAMED = (
    "train_flow.networks", "optical_flow.recipes", "train_regions.segmenters", "regions.sources", "features.fronts",
    "runs",
)  # fmt: skip
"""Sections whose keys dvc.yaml puts into commands and paths: DVC hands them to a shell as they are."""
NAME = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9_+.-]*")
METHOD = "stages.train:Method"
"""The model of `train.<method>`."""


def run(*, path: Path = params.PARAMS, output: Path = Path("data/parameters")) -> None:
    """Check ``path``. Raises ``ValueError`` that lists everything that is wrong, a line each."""
    if found := faults(params.read(path), path):
        raise ValueError("\n".join(found))
    output.mkdir(parents=True, exist_ok=True)
    # Other words here would make every stage stale.
    (output / "checked.txt").write_text("The names in params.yaml can be used.\n")


def faults(content: dict[str, Any], path: Path) -> list[str]:
    """What is wrong with the ``content`` of ``path``."""
    known = [*dict.fromkeys(section.split(".")[0] for section in SECTIONS), "runs"]
    found = [
        f"{path}: unknown section `{section}`{params.nearest(str(section), known)}"
        for section in content
        if section not in known
    ]
    found += _foreign_names(content, path)
    training, entries = (_mapping(content.get(section)) for section in ("train", "runs"))
    if content.get("runs") and not entries:
        found.append(f"{path}: section `runs` must be a mapping of names to what each run reads")
    found += [
        f"{path}: section `train`: no method `{method}`{params.nearest(str(method), list(METHODS))}"
        for method in training
        if method not in ("common", *METHODS)
    ]
    used = {*training, *(str(name).split("-")[0] for name in entries)}
    models = SECTIONS | {f"train.{method}": METHOD for method in METHODS if method in used}
    for section, model in models.items():
        with _collected(found):
            params.select(content, section, pkgutil.resolve_name(model), path=path)
    for name, entry in entries.items():
        with _collected(found):
            where = f"{path}: section `runs.{name}`"
            runs.parse(str(name), params.validate(entry or {}, runs.Entry, where=where))
    return found


def _foreign_names(content: dict[str, Any], path: Path) -> list[str]:
    found = []
    for section in NAMED:
        names: Any = content
        for key in section.split("."):
            names = _mapping(names).get(key)
        found += [
            f"{path}: section `{section}`: {str(name)!r} can't be a name, which goes into commands and paths: "
            "a letter or digit, then letters, digits and _ + . - (no ..)"
            for name in _mapping(names)
            if not NAME.fullmatch(str(name))
        ]
    return found


def _mapping(section: Any) -> dict[Any, Any]:
    return section if isinstance(section, dict) else {}


@contextmanager
def _collected(found: list[str]) -> Iterator[None]:
    """Adds the message of a ``ValueError`` to ``found`` and goes on."""
    try:
        yield
    except ValueError as error:
        found.append(str(error))


def main() -> None:
    """Check params.yaml."""
    run()


if __name__ == "__main__":
    cli.run(main)
