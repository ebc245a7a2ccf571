"""What a trained run gives for one clip: label maps, the item of stage `evaluate`, or features, that of `features`.

Reads what the run reads of a clip (packed frames, flow, features, regions); writes one Arrow file, a row a frame.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from models import METHODS
from models import method as method_module
from models.base import Batch, Predictions, choose_device, configuration, to_device
from stages.core import features, items, loader, region_batches, transforms, windows
from stages.core.closure import import_closure
from stages.core.dataset import AnnotatedFrame, Dataset
from stages.core.labels import label_space
from stages.core.runs import Run
from stages.core.tables import PREDICTIONS, encode_png, write_pack
from stages.core.windows import Sample


@dataclass(frozen=True)
class Predictor:
    """A trained network and the configuration it was trained with."""

    network: Any
    config: Any
    device: torch.device

    def __call__(self, samples: list[Sample]) -> Predictions:
        """Label maps (B, H, W) for windows of one size, at the size of their frames."""
        return self.label(self.batch(samples), samples[0].frames.shape[1:3])

    def label(self, batch: Any, shape: tuple[int, ...]) -> Predictions:
        """Label maps (B, H, W) of ``batch``, resized to ``shape``."""
        predicted = self.network.predict(to_device(batch, self.device))
        maps = (predicted.joint, predicted.actor, predicted.action)
        return Predictions(*(_resize_labels(labels, shape) for labels in maps))

    def batch(self, samples: list[Sample]) -> Batch:
        """Windows of one size as the network takes them."""
        resized = [transforms.to_height(sample, self.config.height) for sample in samples]
        batch: Batch = to_device(loader.to_batch(resized, encoding=self.config.flow_encoding), self.device)
        return batch


@lru_cache(maxsize=1)
def load_predictor(folder: Path, weights: str) -> Predictor:
    """The run at ``folder`` (model.pt, run.json). ``weights``, its digest, tells runs at one path apart."""
    del weights
    run = json.loads((folder / "run.json").read_text())
    module = method_module(run["method"])
    size = run["parameters"]["common"]["config"]
    config = configuration(module, size, inputs=run["inputs"], variant=run["variant"])
    network = module.build(config, label_space(run["label_space"]))
    network.load_state_dict(torch.load(folder / "model.pt", weights_only=True, map_location="cpu"))
    device = choose_device()
    return Predictor(network.to(device).eval(), config, device)


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


def predict_clip(argument: Mapping[str, Any], parameters: Mapping[str, Any], target: Path) -> None:
    """Label maps of the annotated frames ``argument["frames"]`` of one clip, packed at ``target``."""
    del parameters
    torch.set_num_threads(1)  # clips are the parallelism, and the number of threads decides the last bits
    predictor = load_predictor(Path(argument["run"]), argument["weights"])
    columns: dict[str, list[Any]] = {name: [] for name in PREDICTIONS.names}
    for frame, predicted in _predictions(argument, predictor):
        columns["frame"].append(frame)
        for name in ("joint", "actor", "action"):
            columns[name].append(encode_png(getattr(predicted, name)[0].numpy()))
    arrays = {name: pa.array(values, PREDICTIONS.field(name).type) for name, values in columns.items()}
    write_pack(target, arrays, PREDICTIONS)


def pack_features(argument: Mapping[str, Any], parameters: Mapping[str, Any], target: Path) -> None:
    """What the front-end at ``argument["run"]`` gives its back-end at the frames ``argument["frames"]``, packed."""
    del parameters
    torch.set_num_threads(1)  # as above
    predictor = load_predictor(Path(argument["run"]), argument["weights"])
    found = {}
    for frame, sample in read_windows(argument, predictor.config):
        with torch.no_grad():
            found[frame] = predictor.network.features(predictor.batch([sample])).cpu().numpy()[0]
    features.write_features(target, found)


def read_windows(argument: Mapping[str, Any], config: Any) -> Iterator[tuple[int, Sample]]:
    """The windows that ``config`` asks for around the frames ``argument["frames"]`` of the clip ``argument["video"]``,
    without labels, and the frames' numbers."""
    clip = _clip(argument)
    for frame in argument["frames"]:
        numbers = windows.numbers(frame, config.window)
        yield frame, windows.read(clip, argument["video"], numbers, labelled=False)


def _predictions(argument: Mapping[str, Any], predictor: Predictor) -> Iterator[tuple[int, Predictions]]:
    if "regions" not in argument["folders"]:
        for frame, sample in read_windows(argument, predictor.config):
            yield frame, predictor([sample])
        return
    clip, video = _clip(argument), argument["video"]
    shape = windows.read(clip, video, argument["frames"][:1], labelled=False).frames.shape[1:3]
    for frame, batch in region_batches.of_clip(clip, video, predictor.config, true=argument["true"]):
        yield frame, predictor.label(batch, shape)


def _clip(argument: Mapping[str, Any]) -> Dataset:
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


def _resize_labels(labels: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """(B, H, W) ids to ``shape`` by nearest neighbour."""
    if labels.shape[1:] == shape:
        return labels.cpu()
    resized = torch.nn.functional.interpolate(labels[:, None].float(), size=shape, mode="nearest-exact")
    return resized[:, 0].byte().cpu()
