"""Scores of A2D Sentences' test set (made-up masks of its number and size) over pycocotools' COCOeval."""

import contextlib
import io
from typing import Annotated, Any

import numpy as np
import typer
from pycocotools import mask as coco
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.ratio import Ratio, seconds
from stages.core import cli
from stages.core.datasets.sentences import Sample, coco_truth, predicted_masks, true_masks
from stages.core.scores import resampling
from stages.core.scores.sentences import EPSILON, compare

PRECISIONS = (0.5, 0.6, 0.7, 0.8, 0.9)
DISTINCT = 200
"""Pairs of masks that are made; the samples go round them."""


def measure(*, samples: int = 3800, height: int = 320, width: int = 568) -> Ratio:
    """Score ``samples`` predictions both ways. Raises ``AssertionError`` where a score differs by more than 1e-9."""
    truth, predictions = _made_up(samples, height, width)
    ours: dict[str, float] = {}
    theirs: dict[str, float] = {}

    def score() -> None:
        masks = true_masks(truth, where="truth")
        ours.update(resampling.values(compare(masks, predicted_masks(predictions, masks, where="prediction")).evidence))

    def score_by_pycocotools() -> None:
        theirs.update(by_pycocotools(truth, [dict(prediction) for prediction in predictions]))

    ratio = Ratio(
        name="sentences",
        claim="our scores over pycocotools' COCOeval and precision from its overlaps, on one core",
        seconds=seconds(score),
        against=seconds(score_by_pycocotools),
        of=f"{samples} masks of {height} x {width}",
    )
    assert ours.keys() >= theirs.keys()
    differing = {name: (ours[name], value) for name, value in theirs.items() if abs(ours[name] - value) > 1e-9}
    assert not differing, f"the scores differ: {differing}"
    return ratio


def by_pycocotools(truth: dict[str, Any], predictions: list[dict[str, Any]]) -> dict[str, float]:
    """COCO's mAP, and MTTR's other scores from pycocotools' overlaps, in percent."""
    with contextlib.redirect_stdout(io.StringIO()):
        true = COCO()
        true.dataset = truth
        true.createIndex()
        predicted = true.loadRes(predictions)
        found = COCOeval(true, predicted, "segm")
        found.params.useCats = 0
        found.evaluate()
        found.accumulate()
        found.summarize()
    pixels = []
    for image_id in true.imgs:
        mask = true.imgToAnns[image_id][0]["segmentation"]
        best = sorted(predicted.imgToAnns[image_id], key=lambda prediction: prediction["score"])[-1]["segmentation"]
        overlap, both = float(coco.iou([best], [mask], [0])[0, 0]), int(coco.area(best)) + int(coco.area(mask))
        intersection = round(overlap * both / (1 + overlap))
        pixels.append((intersection, both - intersection))
    intersections, unions = np.array(pixels).T
    # Without MTTR's epsilon, which in float32 lifts an overlap of exactly K above it in masks below 32 pixels alone.
    overlaps = np.where(unions > 0, intersections / np.maximum(unions, 1), 1)
    shares = {
        "coco_map": found.stats[0],
        **{f"precision@{least}": np.mean(overlaps > least) for least in PRECISIONS},
        "overall_iou": intersections.sum() / unions.sum(),
        "mean_iou": np.mean((intersections + EPSILON) / (unions + EPSILON)),
    }
    return {name: 100 * float(share) for name, share in shares.items()}


def _made_up(samples: int, height: int, width: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """COCO json of the truth, ellipses, and of predictions: the truth shifted, with a score."""
    random = np.random.default_rng(0)
    rows, columns = np.ogrid[:height, :width]
    pairs = []
    for _ in range(min(DISTINCT, samples)):
        middle, radii = random.uniform(0.2, 0.8, 2), random.uniform(0.05, 0.4, 2)
        ellipse = ((rows / height - middle[0]) / radii[0]) ** 2 + ((columns / width - middle[1]) / radii[1]) ** 2 < 1
        shifted = np.roll(ellipse, random.integers(0, 1 + width // 10), axis=1)
        pairs.append([coco.encode(np.asfortranarray(mask, np.uint8))["counts"] for mask in (ellipse, shifted)])
    asked, predictions = [], []
    for number in range(samples):
        true, predicted = pairs[number % len(pairs)]
        video, frame = f"made-up_{number // 5}", number % 5
        sample = Sample(f"v_{video}_f_{frame + 1}_i_0", video, frame, 0, "it is moving", true, height, width)
        asked.append(sample)
        segmentation = {"size": [height, width], "counts": predicted.decode("ascii")}
        score = random.uniform()
        predictions.append(
            {"image_id": sample.image_id, "category_id": 1, "segmentation": segmentation, "score": score}
        )
    return coco_truth(asked), predictions


def main(samples: Annotated[int, typer.Option(help="sentences with a mask each", min=1)] = 3800) -> None:
    """Scores of segmentation from a sentence against pycocotools."""
    print(measure(samples=samples))


if __name__ == "__main__":
    cli.run(main)
