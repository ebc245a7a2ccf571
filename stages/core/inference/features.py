"""Features of a trained front-end at the annotated frames of one clip: the item of stage `features`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from models.base import finite
from stages.core.inference import predictor as predictors
from stages.core.inference.predictor import locating
from stages.core.packs import features


@locating
def pack_features(argument: Mapping[str, Any], parameters: Mapping[str, Any], target: Path) -> None:
    """What the front-end at ``argument["run"]`` gives its back-end at the frames ``argument["frames"]``, packed."""
    del parameters
    torch.set_num_threads(1)  # clips are the parallelism, and the number of threads decides the last bits
    predictor = predictors.load_predictor(Path(argument["run"]), argument["weights"])
    found = {}
    for frame, sample in predictors.read_windows(argument, predictor.config):
        batch = predictor.batch([sample])
        with predictor.checked("float32", predictor.device, batch["frames"]), torch.no_grad():
            found[frame] = finite(predictor.network.features(batch), "features").cpu().numpy()[0]
    features.write_features(target, found)
