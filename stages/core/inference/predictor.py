"""A trained run, opened to predict, and the clips that it is given: an item each, with its windows.

Reads what the run reads of a clip: packed frames, flow, features, regions. What it gives is in the modules beside:
label maps, features, answers to sentences, scores of videos.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from models.base import Batch, configuration
from models.methods import METHODS, ON_SENTENCES
from models.methods import method as method_module
from models.parts.folding import for_inference
from models.parts.network import choose_device, to_device
from stages.core import items, numerics
from stages.core.batches import region_batches, transforms, window_batches, windows
from stages.core.batches.windows import Sample
from stages.core.closure import import_closure
from stages.core.datasets.dataset import AnnotatedFrame, Dataset
from stages.core.datasets.labels import LabelSpace, label_space
from stages.core.runs import Run, split_variant


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
        batch: Batch = to_device(window_batches.to_batch(resized, encoding=self.config.flow_encoding), self.device)
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


def read_windows(argument: Mapping[str, Any], config: Any) -> Iterator[tuple[int, Sample]]:
    """The windows that ``config`` asks for around the frames ``argument["frames"]`` of the clip ``argument["video"]``,
    without labels, and the frames' numbers."""
    clip = clip_of(argument)
    for frame in argument["frames"]:
        numbers = windows.numbers(frame, config.window)
        yield frame, windows.read(clip, argument["video"], numbers, labelled=False)


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
