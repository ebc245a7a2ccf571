"""How good region masks are: COCO's average precision and recall of masks on the test frames, in percent.

Of all regions, whatever they are called (COCOeval without categories; 100 regions a frame):

    ap, ap50        average precision, mean over IoU .50, .55, ..., .95 and at .50
    recall          average recall over the same overlaps
    covered         recall at .50: the share of actors that a region covers at least half, each region counted for one

``by_size`` has the same for actors by the area of their mask, thirds of the ground truth's; by COCO's rule regions
that find none count only if they have that size themselves. ``by_actor`` has ``ap`` and ``ap50`` of regions that are
called so, ``actor_ap`` and ``actor_ap50`` are their means over the actors that are there. An instance whose actor
nobody told counts in the first four alone. A frame whose clip has no regions is left out, and lowers the coverage.

Axes of COCOeval: T overlaps, R recalls, K categories, A ranges of area, 1 number of regions.
"""

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from stages.core.datasets import instances
from stages.core.datasets.dataset import Dataset
from stages.core.datasets.instances import UNTOLD, Frame, Instance
from stages.core.packs.masks import Rle
from stages.core.packs.regions import ClipRegions
from stages.core.scores import sizes

MOST = 100
ANY_AREA = 1e10


@dataclass(frozen=True)
class Found:
    """The regions of one frame."""

    masks: Sequence[Rle]
    scores: Sequence[float]
    actors: Sequence[int]  # what each is called


def run(samples: Dataset, clips: Path) -> dict[str, Any]:
    """``measure`` of the packed regions <video>.arrow in ``clips`` on the annotated frames of ``samples``."""
    found: dict[Frame, Found] = {}
    for video in samples.videos:
        regions = ClipRegions(clips / f"{video}.arrow")
        for number in samples.annotated(video):
            frame = regions.frame(number)
            # One of no actor (true, but nobody told which) is called UNTOLD, too.
            named = frame.actor_scores[:, 1:]
            actors = np.where(named.any(1), named.argmax(1) + 1, UNTOLD).tolist()
            found[video, number] = Found(regions.masks(number), frame.scores.tolist(), actors)
    result = measure(instances.read(samples), found, samples.label_space.actors)
    return result | {"coverage": {"scored": len(found), "of": samples.promised, "clips": len(samples.videos)}}


def measure(
    truth: Mapping[Frame, Sequence[Instance]], found: Mapping[Frame, Found], actors: Sequence[str]
) -> dict[str, Any]:
    """The scores of the regions that were ``found`` in the same frames as ``truth``; NaN where there is no actor.

    ``actors`` are their names, background first.
    """
    annotations = [
        {"image_id": image, "category_id": seen.actor, "segmentation": seen.rle}
        for image, frame in enumerate(truth, start=1)
        for seen in truth[frame]
    ]
    regions = [
        {"image_id": image, "category_id": actor, "segmentation": mask, "score": score}
        for image, frame in enumerate(truth, start=1)
        for mask, score, actor in zip(found[frame].masks, found[frame].scores, found[frame].actors, strict=True)
    ]
    result: dict[str, Any] = {"instances": len(annotations), "regions_per_frame": len(regions) / max(1, len(truth))}
    if not annotations:
        return result
    areas = [float(coco.area(annotation["segmentation"])) for annotation in annotations]
    thirds = sizes.thirds(areas)
    # Areas are whole numbers, and both ends of a range belong to it.
    ranges = [(0, ANY_AREA), (0, thirds.low), (thirds.low + 1, thirds.high), (thirds.high + 1, ANY_AREA)]
    any_kind = _evaluated(annotations, regions, images=len(truth), ranges=ranges, categories=None)
    result |= _agnostic(any_kind, 0)
    by_size = {size: _agnostic(any_kind, position) for position, size in enumerate(sizes.SIZES, start=1)}
    result["by_size"] = {"thirds": [thirds.low, thirds.high], **by_size}
    by_kind = _evaluated(annotations, regions, images=len(truth), ranges=ranges[:1], categories=range(1, len(actors)))[
        "precision"
    ]
    result["by_actor"] = {
        name: {"ap": _percent(by_kind[:, :, kind]), "ap50": _percent(by_kind[0, :, kind])}
        for kind, name in enumerate(actors[1:])
    }
    return result | {"actor_ap": _percent(by_kind), "actor_ap50": _percent(by_kind[0])}


def _agnostic(evaluated: dict[str, np.ndarray], area: int) -> dict[str, float]:
    precision, recall = evaluated["precision"][:, :, :, area], evaluated["recall"][:, :, area]
    return {
        "ap": _percent(precision),
        "ap50": _percent(precision[0]),
        "recall": _percent(recall),
        "covered": _percent(recall[0]),
    }


def _percent(values: np.ndarray) -> float:
    """Mean of what COCOeval defines; it marks the rest by -1."""
    defined = values[values > -1]
    return 100 * float(defined.mean()) if len(defined) else float("nan")


def _evaluated(
    truth: Sequence[dict[str, Any]],
    found: Sequence[dict[str, Any]],
    *,
    images: int,
    ranges: Sequence[tuple[float, float]],
    categories: Sequence[int] | None,
) -> dict[str, np.ndarray]:
    """``precision`` (T, R, K, A, 1) and ``recall`` (T, K, A, 1) by COCOeval; ``categories`` None: all are one."""
    with contextlib.redirect_stdout(io.StringIO()):  # it reports its progress
        evaluation = COCOeval(_coco(truth, images, categories), _coco(found, images, categories), "segm")
        evaluation.params.areaRng = [list(ends) for ends in ranges]
        evaluation.params.maxDets = [MOST]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval


def _coco(annotations: Sequence[dict[str, Any]], images: int, categories: Sequence[int] | None) -> COCO:
    """Ids count from 1: COCOeval takes a match with 0 for none."""
    content = COCO()
    content.dataset = {
        # It asks for the height and the width, but takes those that a mask has.
        "images": [{"id": image, "height": None, "width": None} for image in range(1, images + 1)],
        "categories": [{"id": category} for category in categories or [1]],
        "annotations": [
            annotation
            | {"id": number, "iscrowd": 0, "area": float(coco.area(annotation["segmentation"]))}
            | ({} if categories else {"category_id": 1})
            for number, annotation in enumerate(annotations, start=1)
        ],
    }
    content.createIndex()
    return content
