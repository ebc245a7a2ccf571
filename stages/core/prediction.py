"""Predictions of one clip: the item that the evaluate stage computes.

Reads a clip's packed frames (and flow) and a trained run; writes one Arrow file of label maps, a row a frame.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from models import method as method_module
from models.base import Predictions, choose_device, configuration, to_device
from stages.core import loader, transforms, windows
from stages.core.dataset import AnnotatedFrame, Dataset
from stages.core.labels import label_space
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
        shape = samples[0].frames.shape[1:3]
        resized = [transforms.to_height(sample, self.config.height) for sample in samples]
        batch = loader.to_batch(resized, encoding=self.config.flow_encoding)
        predicted = self.network.predict(to_device(batch, self.device))
        maps = (predicted.joint, predicted.actor, predicted.action)
        return Predictions(*(_resize_labels(labels, shape) for labels in maps))


@lru_cache(maxsize=1)
def load_predictor(folder: Path, weights: str) -> Predictor:
    """The run at ``folder`` (model.pt, run.json). ``weights``, its digest, tells runs at one path apart."""
    del weights
    run = json.loads((folder / "run.json").read_text())
    module = method_module(run["method"])
    config = module.with_inputs(configuration(module, run["parameters"]["common"]["config"]), run["inputs"])
    network = module.build(config, label_space(run["label_space"]))
    network.load_state_dict(torch.load(folder / "model.pt", weights_only=True, map_location="cpu"))
    device = choose_device()
    return Predictor(network.to(device).eval(), config, device)


def predict_clip(argument: Mapping[str, Any], parameters: Mapping[str, Any], target: Path) -> None:
    """Label maps of the annotated frames ``argument["frames"]`` of one clip, packed at ``target``."""
    del parameters
    torch.set_num_threads(1)  # clips are the parallelism, and the number of threads decides the last bits
    predictor = load_predictor(Path(argument["run"]), argument["weights"])
    video = argument["video"]
    clip = Dataset(
        split="test",
        frames=tuple(AnnotatedFrame(video, frame, b"") for frame in argument["frames"]),
        promised=len(argument["frames"]),
        clips_folder=Path(argument["clips"]),
        flow_folder=Path(argument["flow"]) if argument["flow"] else None,
    )
    columns: dict[str, list[Any]] = {name: [] for name in PREDICTIONS.names}
    for frame in argument["frames"]:
        numbers = windows.numbers(frame, predictor.config.window)
        predicted = predictor([windows.read(clip, video, numbers, labelled=False)])
        columns["frame"].append(frame)
        for name in ("joint", "actor", "action"):
            columns[name].append(encode_png(getattr(predicted, name)[0].numpy()))
    arrays = {name: pa.array(values, PREDICTIONS.field(name).type) for name, values in columns.items()}
    write_pack(target, arrays, PREDICTIONS)


def _resize_labels(labels: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """(B, H, W) ids to ``shape`` by nearest neighbour."""
    if labels.shape[1:] == shape:
        return labels.cpu()
    resized = torch.nn.functional.interpolate(labels[:, None].float(), size=shape, mode="nearest-exact")
    return resized[:, 0].byte().cpu()
