"""Label maps that a trained run gives for one clip, the item of stage `evaluate`: one Arrow file, a row a frame.

A method that labels all frames of its window at once is given overlapping windows, one after the other, so memory does
not grow with the clip; others are given a window around each frame. What a method detects is kept beside the label maps
that it paints of it.

Axes: N maps, H height, W width.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pycocotools import mask as coco

from models.base import MultiLabelPredictions, Predictions
from models.parts.folding import Precision
from models.parts.network import to_device
from stages.core.batches import region_batches, windows
from stages.core.inference import predictor as predictors
from stages.core.inference.predictor import Predictor, locating
from stages.core.packs import masks as packed_masks
from stages.core.packs.frames import Clip
from stages.core.packs.regions import FrameRegions, detection_columns
from stages.core.schemas import DETECTIONS, MULTI_LABEL_PREDICTIONS, PREDICTIONS, write_pack

DETECTING_PREDICTIONS = PREDICTIONS.append(
    pa.field("detections", pa.list_(pa.struct([field for field in DETECTIONS if field.name not in ("video", "frame")])))
)
"""Of methods that find actors by boxes: what they found beside the maps made of it, best first."""


@locating
def predict_clip(argument: Mapping[str, Any], parameters: Mapping[str, Any], target: Path) -> None:
    """Label maps of the frames ``argument["frames"]`` of one clip, computed in ``parameters["precision"]``, packed at
    ``target``."""
    torch.set_num_threads(1)  # clips are the parallelism, and the number of threads decides the last bits
    predictor = predictors.load_predictor(Path(argument["run"]), argument["weights"])
    clip = Clip(Path(argument["folders"]["clip"]) / f"{argument['video']}.arrow")
    shape = (clip.height, clip.width)
    if hasattr(predictor.network, "detect"):  # in float32: mmcv's operators know no other on CPUs
        rows, schema = list(_detected_rows(argument, predictor, shape)), DETECTING_PREDICTIONS
    else:
        rows = [
            {"frame": frame, **_encode(predicted, position, shape)}
            for frames, predicted in _predictions(argument, predictor, parameters["precision"], length=len(clip))
            for position, frame in enumerate(frames)
        ]
        schema = MULTI_LABEL_PREDICTIONS if predictor.labels.multi_label else PREDICTIONS
    columns = {name: pa.array([row[name] for row in rows], schema.field(name).type) for name in schema.names}
    write_pack(target, columns, schema)


def _predictions(
    argument: Mapping[str, Any], predictor: Predictor, precision: Precision, *, length: int
) -> Iterator[tuple[list[int], Predictions | MultiLabelPredictions]]:
    """The wanted frames of a clip of ``length`` frames, some at a time, and what is predicted for them."""
    samples, video = predictors.clip_of(argument), argument["video"]
    network, config = predictor.network, predictor.config

    def labelled(predict: Callable[..., Any], numbers: Sequence[int], *arguments: Any) -> Any:
        batch = predictor.batch([windows.read(samples, video, numbers, labelled=False)])
        with predictor.checked(precision, predictor.device, batch["frames"]):
            return predict(batch, *arguments)

    if "regions" in argument["folders"]:
        for frame, batch in region_batches.of_clip(samples, video, config, true=argument["true"]):
            with predictor.checked(precision, predictor.device, batch["shape"]):
                predicted = network.predict(to_device(batch, predictor.device))
            yield [frame], predicted
    elif hasattr(network, "predict_frames"):
        for numbers, frames, positions in windows.tile(argument["frames"], frames=length, length=config.window.length):
            yield frames, labelled(network.predict_frames, numbers, positions)
    else:
        for frame in argument["frames"]:
            yield [frame], labelled(network.predict, windows.numbers(frame, config.window))


def _detected_rows(
    argument: Mapping[str, Any], predictor: Predictor, shape: tuple[int, int]
) -> Iterator[dict[str, Any]]:
    """A row a frame of ``shape``: what was detected, in its pixels, and the label maps that are painted of it."""
    network = predictor.network
    for frame, sample in predictors.read_windows(argument, predictor.config):
        batch = predictor.batch([sample])
        with predictor.checked("float32", predictor.device):
            (found,) = network.detect(batch)
        height, width = batch["frames"].shape[2:4]
        scale = found.boxes.new_tensor((shape[1] / width, shape[0] / height) * 2)
        found = replace(found, boxes=found.boxes * scale)
        regions = FrameRegions(
            boxes=found.boxes.cpu().numpy(),
            scores=found.scores.cpu().numpy(),
            actor_scores=found.actor_scores.cpu().numpy(),
            soft_masks=found.soft_masks.cpu().numpy(),
        )
        columns = detection_columns(regions, shape=shape, threshold=predictor.config.mask_threshold)
        columns["action_scores"] = list(found.action_scores.cpu().numpy())
        detections = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        yield {"frame": frame, **_encode(network.paint([found], shape), 0, shape), "detections": detections}


def _encode(
    predicted: Predictions | MultiLabelPredictions, position: int, shape: tuple[int, int]
) -> dict[str, bytes | list[dict[str, Any]]]:
    """The columns that hold what was predicted at ``position``, at the frame's size."""
    if isinstance(predicted, Predictions):
        maps = torch.stack([predicted.joint[position], predicted.actor[position], predicted.action[position]])
        return dict(zip(("joint", "actor", "action"), map(packed_masks.encode, _resize(maps, shape)), strict=True))
    masks = _resize(predicted.actions[position], shape)
    done = [action for action in range(1, len(masks)) if masks[action].any()]
    return {
        "actor": packed_masks.encode(_resize(predicted.actor[position][None], shape)[0]),
        "actions": [
            {"action": action, "mask": coco.encode(np.asfortranarray(masks[action]))["counts"]} for action in done
        ],
    }


def _resize(maps: torch.Tensor, shape: tuple[int, int]) -> np.ndarray:
    """Ids or masks (N, H, W) to ``shape`` by nearest neighbour, uint8."""
    maps = maps.byte().cpu()
    if maps.shape[1:] != shape:
        maps = torch.nn.functional.interpolate(maps[:, None], size=shape, mode="nearest-exact")[:, 0]
    return maps.numpy()
