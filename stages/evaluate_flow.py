"""Stage `evaluate_flow`: how wrong each backend of optical flow is, on exact flow that no training saw.

Reads data/train_flow, for FlowNets, and generates pairs (another seed and another pool than training's). Writes
data/evaluate_flow: metrics.json (endpoint error and Fl-all by backend, size of the frame and speed), scores.csv (the
same, a figure a row) and sheet.png (frames, true flow, and each backend's). FlyingChairs' validation pairs are scored
too, where they are.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stages.core import cli
from stages.core.batches.flow_encodings import colour_wheel
from stages.core.generator.pairs import make_pair
from stages.core.optical_flow import backends, files
from stages.core.optical_flow.estimation import Estimator
from stages.core.optical_flow.files import Pair
from stages.core.params import Section, load
from stages.core.reporting import pictures
from stages.core.scores import flow as flow_scores
from stages.core.scores import resampling
from stages.optical_flow import Dis

POOL = "flow-test"
ZERO = "zero"
"""The estimate that nothing moves: what every backend must beat."""


class Shape(Section):
    """Frames of one size."""

    height: int
    width: int
    pairs: int


class Parameters(Section):
    """Section ``evaluate_flow`` of params.yaml."""

    backends: list[str]
    shapes: list[Shape]
    seed: int
    resamples: int
    chairs: Path | None  # the folder of FlyingChairs, if you have it


def run(
    parameters: Parameters,
    *,
    preset: str,
    trained: Path = Path("data/train_flow"),
    output: Path = Path("data/evaluate_flow"),
) -> dict[str, Any]:
    """Score every backend, and the estimate zero, on the same pairs."""
    estimators = {ZERO: lambda first, second: np.zeros((*first.shape[:3], 2), np.float32)} | {
        name: backends.open_trained(name, trained, preset=preset) for name in parameters.backends
    }
    bootstrap = resampling.Parameters(resamples=parameters.resamples, seed=parameters.seed)
    result: dict[str, Any] = {}
    sheet: list[list[np.ndarray]] = []
    for title, pairs in _sets(parameters):
        errors = {name: flow_scores.FlowErrors() for name in estimators}
        for number, pair in enumerate(pairs):
            where = f"{title}, pair {number}"
            found = {name: _estimated(name, estimate, pair, where) for name, estimate in estimators.items()}
            for name, flow in found.items():
                errors[name].add(str(number), pair.flow, flow)
            if number == 0:
                sheet.append(_pictures(pair, found))
        result[title] = {name: resampling.summary(error.evidence(), bootstrap) for name, error in errors.items()}
        result[title]["pixels"] = next(iter(errors.values())).pixels
    output.mkdir(parents=True, exist_ok=True)
    (output / "metrics.json").write_text(json.dumps(resampling.rounded(result), indent=2) + "\n")
    _table(result).to_csv(output / "scores.csv", index=False, float_format="%.4f")
    pictures.write_sheet(output / "sheet.png", sheet, titles=["frame", "true flow", *estimators])
    for title, found in result.items():
        for name in estimators:
            print(f"evaluate_flow: {title}: {name}: endpoint error {found[name]['all/endpoint_error']:.2f} pixels")
    return result


def _estimated(name: str, estimate: Estimator, pair: Pair, where: str) -> np.ndarray:
    """Flow (H, W, 2) of one pair."""
    try:
        return estimate(pair.first[None], pair.second[None])[0]
    except FloatingPointError as error:
        raise ValueError(f"evaluate_flow: {name} gives {error} ({where}); train it again") from error


def _sets(parameters: Parameters) -> Iterator[tuple[str, Iterator[Pair]]]:
    """Name of a set of pairs, and the pairs, one in memory at a time."""
    for shape in parameters.shapes:
        generated = (
            make_pair(parameters.seed, number, height=shape.height, width=shape.width, pool=POOL)
            for number in range(shape.pairs)
        )
        yield f"generated {shape.height} x {shape.width}", generated
    if parameters.chairs is not None:
        folder = parameters.chairs
        numbers = files.chairs(folder, split="validation" if files.split_list(folder) else None)
        yield "FlyingChairs", (files.read_pair(folder, number) for number in numbers)


def _pictures(pair: Pair, found: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Frame, truth and estimates; all flow at the scale of the truth's largest vector, so that pictures compare."""
    largest = float(np.nanmax(np.linalg.norm(pair.flow, axis=-1)))
    images = [pair.first]
    for flow in (np.nan_to_num(pair.flow), *found.values()):
        speed = np.linalg.norm(flow, axis=-1, keepdims=True)
        shown = flow * np.minimum(1, largest / np.maximum(speed, 1e-9))
        shown = np.pad(shown, ((0, 1), (0, 0), (0, 0)))
        shown[-1, 0] = (largest, 0)  # sets the scale; cut off again
        images.append(colour_wheel(shown.astype(np.float32))[:-1])
    return images


def _table(result: dict[str, Any]) -> pd.DataFrame:
    rows = [
        (title, backend, *metric.split("/"), value)
        for title, found in result.items()
        for backend, scores in found.items()
        if backend != "pixels"
        for metric, value in scores.items()
    ]
    return pd.DataFrame(rows, columns=["pairs", "backend", "speed", "metric", "value"])


def main() -> None:
    """Score the backends of optical flow."""
    run(load("evaluate_flow", Parameters), preset=load("optical_flow.dis", Dis).preset)


if __name__ == "__main__":
    cli.run(main)
