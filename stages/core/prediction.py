"""What a trained run gives for one clip: label maps, the item of stage `evaluate`, or features, that of `features`.

Reads what the run reads of a clip (packed frames, flow, features, regions); writes one Arrow file, a row a frame. A
method that labels all frames of its window at once is given overlapping windows, one after the other, so memory does
not grow with the clip; others are given a window around each frame. What a method detects is kept beside the label maps
that it paints of it.

Axes: N maps, H height, W width.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pycocotools import mask as coco

from models.base import Batch, MultiLabelPredictions, Predictions, configuration
from models.inference import Precision, for_inference
from models.methods import METHODS, ON_SENTENCES
from models.methods import method as method_module
from models.network import choose_device, finite, to_device
from stages.core import features, items, loader, numerics, png, region_batches, transforms, windows
from stages.core.closure import import_closure
from stages.core.dataset import AnnotatedFrame, Dataset
from stages.core.labels import LabelSpace, label_space
from stages.core.regions.packs import FrameRegions, detection_columns
from stages.core.runs import Run, split_variant
from stages.core.tables import DETECTIONS, MULTI_LABEL_PREDICTIONS, PREDICTIONS, write_pack
from stages.core.video import Clip
from stages.core.windows import Sample

DETECTING_PREDICTIONS = PREDICTIONS.append(
    pa.field("detections", pa.list_(pa.struct([field for field in DETECTIONS if field.name not in ("video", "frame")])))
)
"""Of methods that find actors by boxes: what they found beside the maps made of it, best first."""


@dataclass(frozen=True)
class Predictor:
    """A trained network and the configuration it was trained with."""

    network: Any
    config: Any
    labels: LabelSpace
    device: torch.device
    fits: bool = False  # frames are made small enough for `crop`, as methods on sentences see them in training
    checked: numerics.Checked = field(default_factory=numerics.Checked, compare=False)

    def batch(self, samples: list[Sample]) -> Batch:
        """Windows of one size as the network takes them."""
        resized = [self._resized(sample) for sample in samples]
        batch: Batch = to_device(loader.to_batch(resized, encoding=self.config.flow_encoding), self.device)
        return batch

    def _resized(self, sample: Sample) -> Sample:
        height, crop = self.config.height, self.config.crop if self.fits else None
        if crop is None:
            return transforms.to_height(sample, height)
        return transforms.to_fit(sample, height=height, size=crop)


@lru_cache(maxsize=2)  # a front-end and its back-end take turns
def load_predictor(folder: Path, weights: str) -> Predictor:
    """The run at ``folder`` (model.pt, run.json). ``weights``, its digest, tells runs at one path apart."""
    del weights
    run = json.loads((folder / "run.json").read_text())
    module = method_module(run["method"])
    size = run["parameters"]["common"]["config"]
    variant, _ = split_variant(run["method"], run["variant"])
    config = configuration(module, size, inputs=run["inputs"], variant=variant)
    labels = label_space(run["label_space"])
    network = module.build(config, labels)
    network.load_state_dict(torch.load(folder / "model.pt", weights_only=True, map_location="cpu"))
    device = choose_device()
    return Predictor(for_inference(network.to(device)), config, labels, device, fits=run["method"] in ON_SENTENCES)


def clip_items(run: Run, samples: Dataset, data: Path) -> list[items.Item]:
    """One item for each clip of ``samples``: what a function that opens ``run`` by ``load_predictor`` is given."""
    trained = (data / "train" / run.name).absolute()
    weights = items.file_digest(trained / "model.pt")
    folders = {
        "clip": samples.clips_folder,
        "flow": samples.flow_folder,
        "features": samples.features_folder,
        "regions": samples.regions_folder,
    }
    keys = {name: items.read_manifest(folder.parent) for name, folder in folders.items() if folder is not None}
    assert samples.index is not None, "only a data set with its tables has items"
    true = run.variant == region_batches.TRUE_MASKS
    instances = {"instances": items.file_digest(samples.index / "instances.parquet")} if true else {}
    shared = {
        "weights": weights,
        "run": items.file_digest(trained / "run.json"),
        "method": items.digest(import_closure(METHODS[run.method])),
        **instances,
    }
    work = []
    for video in samples.videos:
        frames = samples.annotated(video)
        inputs = shared | {name: found[video] for name, found in keys.items()} | {"frames": str(frames)}
        argument = {"video": video, "frames": frames, "run": str(trained), "weights": weights, "true": true}
        read = folders | {"index": samples.index}
        paths = {name: str(folder.absolute()) for name, folder in read.items() if folder is not None}
        work.append(items.Item(name=video, inputs=inputs, argument=argument | {"folders": paths}))
    return work


locating = numerics.located(lambda run, weights: load_predictor(run, weights), folder="run", digest="weights")
"""For the items' functions that open a run by ``load_predictor``."""


@locating
def predict_clip(argument: Mapping[str, Any], parameters: Mapping[str, Any], target: Path) -> None:
    """Label maps of the frames ``argument["frames"]`` of one clip, computed in ``parameters["precision"]``, packed at
    ``target``."""
    torch.set_num_threads(1)  # clips are the parallelism, and the number of threads decides the last bits
    predictor = load_predictor(Path(argument["run"]), argument["weights"])
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


@locating
def pack_features(argument: Mapping[str, Any], parameters: Mapping[str, Any], target: Path) -> None:
    """What the front-end at ``argument["run"]`` gives its back-end at the frames ``argument["frames"]``, packed."""
    del parameters
    torch.set_num_threads(1)  # as above
    predictor = load_predictor(Path(argument["run"]), argument["weights"])
    found = {}
    for frame, sample in read_windows(argument, predictor.config):
        batch = predictor.batch([sample])
        with predictor.checked("float32", predictor.device, batch["frames"]), torch.no_grad():
            found[frame] = finite(predictor.network.features(batch), "features").cpu().numpy()[0]
    features.write_features(target, found)


def read_windows(argument: Mapping[str, Any], config: Any) -> Iterator[tuple[int, Sample]]:
    """The windows that ``config`` asks for around the frames ``argument["frames"]`` of the clip ``argument["video"]``,
    without labels, and the frames' numbers."""
    clip = clip_of(argument)
    for frame in argument["frames"]:
        numbers = windows.numbers(frame, config.window)
        yield frame, windows.read(clip, argument["video"], numbers, labelled=False)


def _predictions(
    argument: Mapping[str, Any], predictor: Predictor, precision: Precision, *, length: int
) -> Iterator[tuple[list[int], Predictions | MultiLabelPredictions]]:
    """The wanted frames of a clip of ``length`` frames, some at a time, and what is predicted for them."""
    samples, video = clip_of(argument), argument["video"]
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
    for frame, sample in read_windows(argument, predictor.config):
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
        return dict(zip(("joint", "actor", "action"), map(png.encode, _resize(maps, shape)), strict=True))
    masks = _resize(predicted.actions[position], shape)
    done = [action for action in range(1, len(masks)) if masks[action].any()]
    return {
        "actor": png.encode(_resize(predicted.actor[position][None], shape)[0]),
        "actions": [
            {"action": action, "mask": coco.encode(np.asfortranarray(masks[action]))["counts"]} for action in done
        ],
    }


def clip_of(argument: Mapping[str, Any]) -> Dataset:
    """The clip ``argument["video"]`` as a data set of its own, without labels."""
    video, folders = argument["video"], {name: Path(path) for name, path in argument["folders"].items()}
    return Dataset(
        split="test",
        frames=tuple(AnnotatedFrame(video, frame, b"") for frame in argument["frames"]),
        promised=len(argument["frames"]),
        clips_folder=folders["clip"],
        flow_folder=folders.get("flow"),
        features_folder=folders.get("features"),
        regions_folder=folders.get("regions"),
        index=folders["index"],
    )


def _resize(maps: torch.Tensor, shape: tuple[int, int]) -> np.ndarray:
    """Ids or masks (N, H, W) to ``shape`` by nearest neighbour, uint8."""
    maps = maps.byte().cpu()
    if maps.shape[1:] != shape:
        maps = torch.nn.functional.interpolate(maps[:, None], size=shape, mode="nearest-exact")[:, 0]
    return maps.numpy()
